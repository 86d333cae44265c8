//! Progress for a person: a bar on a terminal, a plain line every few seconds elsewhere. All of it on standard error.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::report::{Observer, Progress, Rejection};
use super::task::Tally;
use crate::readers::{Compression, Format, Place};

/// Rejections, unreadable files and files that are shown, of each; the rest is only counted.
const LINES_SHOWN: u64 = 20;
/// Time between plain lines, also between lines about pauses.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Shorter pauses are not shown.
const PAUSE_SHOWN_MIN: Duration = Duration::from_secs(1);

/// Shows progress on standard error.
pub struct Console {
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rejections: u64,
    unread: u64,
    files: u64,
    last_line: Option<Instant>,
    last_pause: Option<Instant>,
}

impl Console {
    /// A bar if standard error is a terminal, else lines.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        if let Some(bar) = &bar {
            bar.set_style(style("{spinner} {bytes} {wide_msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar, state: Mutex::default() }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Console {
    fn opened(&self, file: &str, format: Format, compression: Compression) {
        let Ok(mut state) = self.state.lock() else { return };
        state.files += 1;
        // A directory may hold a million files.
        if state.files <= LINES_SHOWN {
            let compressed = if compression == Compression::Plain { String::new() } else { format!(", {compression}") };
            self.line(&format!("reading {file} ({format}{compressed})"));
        }
    }

    fn progress(&self, progress: &Progress) {
        let seconds = progress.elapsed.as_secs_f64().max(1e-3);
        let documents_rate = progress.loaded as f64 / seconds;
        let megabytes_rate = progress.bytes_loaded as f64 / 1e6 / seconds;
        let mut text = format!("{} docs, {documents_rate:.0} docs/s, {megabytes_rate:.1} MB/s", progress.loaded);
        if progress.rejected > 0 {
            text.push_str(&format!(", {} rejected", progress.rejected));
        }
        if let Some(bar) = &self.bar {
            if let (Some(total), None) = (progress.bytes_total, bar.length()) {
                bar.set_style(style("{bar:20} {percent:>3}% {wide_msg} {eta} to go"));
                bar.set_length(total);
            }
            bar.set_position(progress.bytes_read);
            bar.set_message(text);
            return;
        }
        let Ok(mut state) = self.state.lock() else { return };
        let now = Instant::now();
        // Nothing in the first seconds: a short load has its final line only.
        let last = *state.last_line.get_or_insert(now);
        if now.duration_since(last) >= LINE_EVERY {
            state.last_line = Some(now);
            eprintln!("{text}{}", remaining(progress));
        }
    }

    fn rejected(&self, rejection: &Rejection) {
        let Ok(mut state) = self.state.lock() else { return };
        state.rejections += 1;
        if state.rejections <= LINES_SHOWN {
            // A reason may quote the document.
            let reason: String = rejection.reason.chars().take(500).collect();
            self.line(&format!("{}: rejected: {}: {reason}", rejection.place, rejection.kind));
        }
        if state.rejections == LINES_SHOWN {
            self.line("further rejections are counted only");
        }
    }

    fn unread(&self, place: &Place, reason: &str) {
        let Ok(mut state) = self.state.lock() else { return };
        state.unread += 1;
        if state.unread <= LINES_SHOWN {
            self.line(&format!("{place}: could not be read: {reason}"));
        }
        if state.unread == LINES_SHOWN {
            self.line("further files that cannot be read are counted only");
        }
    }

    fn resuming(&self, earlier: &Tally) {
        self.line(&format!("going on with an interrupted load: {} documents were loaded before", earlier.loaded));
    }

    fn retaking(&self) {
        self.line(
            "the claim on this load ran out while the cluster was away or this process was paused: taking it up again",
        );
    }

    fn retrying(&self, reason: &str, pause: Duration) {
        // A short pause is the ordinary way of a busy cluster.
        if pause < PAUSE_SHOWN_MIN {
            return;
        }
        let Ok(mut state) = self.state.lock() else { return };
        let now = Instant::now();
        if state.last_pause.is_none_or(|last| now.duration_since(last) >= LINE_EVERY) {
            state.last_pause = Some(now);
            self.line(&format!("trying again in {:.1} s: {reason}", pause.as_secs_f64()));
        }
    }
}

/// The share done and the time it will still take, from the bytes read.
fn remaining(progress: &Progress) -> String {
    let Some(total) = progress.bytes_total.filter(|total| *total > 0) else { return String::new() };
    let share = (progress.bytes_read as f64 / total as f64).min(1.0);
    if share <= 0.0 {
        return String::new();
    }
    let seconds = progress.elapsed.as_secs_f64() * (1.0 - share) / share;
    format!(", {:.0} %, {seconds:.0} s to go", share * 100.0)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
