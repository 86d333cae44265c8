//! What happened, line by line, in virtual time: the checks' story when a seed fails, and the proof that a seed
//! repeats itself.

use std::cell::RefCell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Subscriber};
use tracing::{Event, Level, Metadata};

#[derive(Default)]
struct Trace {
    lines: Vec<String>,
    now_ms: u64,
    who: String,
    panics: Vec<String>,
    is_on: bool,
    is_detailed: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Begins a new trace on this thread: the logs of everything that runs on it go there, too; every call and connection if
/// it is to be detailed.
pub fn begin(is_detailed: bool) -> DefaultGuard {
    TRACE.with_borrow_mut(|trace| *trace = Trace { is_on: true, is_detailed, ..Trace::default() });
    tracing::subscriber::set_default(Logs)
}

/// Sets the time, and who acts from now on.
pub fn act(now_ms: u64, who: &str) {
    TRACE.with_borrow_mut(|trace| {
        trace.now_ms = now_ms;
        trace.who.clear();
        trace.who.push_str(who);
    });
}

/// Adds a line.
pub fn note(text: impl fmt::Display) {
    TRACE.with_borrow_mut(|trace| {
        let line = format!("{:>7} {:<8} {text}", trace.now_ms, trace.who);
        trace.lines.push(line);
    });
}

/// Adds a line to a detailed trace.
pub fn detail(text: impl FnOnce() -> String) {
    if TRACE.with_borrow(|trace| trace.is_detailed) {
        note(text());
    }
}

/// Ends the trace.
pub fn end() {
    TRACE.with_borrow_mut(|trace| trace.is_on = false);
}

/// Remembers that something panicked, which a runtime would keep to itself; false where there is no trace.
pub fn note_panic(text: &str) -> bool {
    TRACE.with_borrow_mut(|trace| {
        trace.panics.push(text.to_owned());
        trace.is_on
    })
}

/// The panics so far.
pub fn panics() -> Vec<String> {
    TRACE.with_borrow(|trace| trace.panics.clone())
}

/// All lines so far.
pub fn lines() -> Vec<String> {
    TRACE.with_borrow(|trace| trace.lines.clone())
}

/// Takes the logs of this project's crates into the trace.
struct Logs;

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = |target: &str| target.starts_with("trawl") || target.starts_with("simulation");
        metadata.is_event() && *metadata.level() <= Level::INFO && is_ours(metadata.target())
            // Said once in ten seconds of a real process, of which there are many here.
            && metadata.target() != "trawl_cluster::outage"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{}: ", event.metadata().level()));
        event.record(&mut line);
        note(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}
