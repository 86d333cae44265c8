//! Plain text: a time and a level where they stand at the start, and which lines belong together.

use super::{level, time};
use crate::record::Record;

/// A record of text.
pub fn parse(text: &str) -> Record<'_> {
    let mut record = Record::text(text);
    record.time_ns = stamp(text);
    record.severity = level::in_text(text);
    record
}

fn stamp(line: &str) -> Option<i64> {
    let bare = line.strip_prefix('[').unwrap_or(line);
    time::at_start(bare.as_bytes()).map(|(time, _)| time)
}

/// What the first line of a record says of those that follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// It begins with a time, so whatever does not belongs to it.
    stamped: bool,
    /// Within a trace of Python, whose last line is not indented.
    traceback: bool,
    /// A panic of Rust: the message stands on the next line.
    panic: bool,
}

impl Head {
    /// Looks at a record's first line.
    pub fn of(line: &str) -> Self {
        Self {
            stamped: stamp(line).is_some(),
            traceback: line.starts_with("Traceback (most recent call last)"),
            panic: line.starts_with("thread '") && line.contains("panicked at"),
        }
    }

    /// Whether the next line belongs to the same record.
    pub fn takes(&mut self, line: &str) -> bool {
        if line.starts_with("Traceback (most recent call last)") && self.stamped {
            return true;
        }
        if self.stamped {
            return stamp(line).is_none();
        }
        let indented = line.is_empty() || line.starts_with([' ', '\t']);
        if self.traceback {
            // The line that ends a trace is the first that is not indented.
            self.traceback = indented;
            return true;
        }
        if std::mem::take(&mut self.panic) {
            return true;
        }
        let known = ["Caused by:", "Suppressed:", "stack backtrace:", "note: run with"];
        indented || known.iter().any(|start| line.starts_with(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_and_a_level_are_found() {
        let record = parse("2026-11-23 03:01:41,123 ERROR [main] c.e.App - boom");
        assert_eq!((record.severity, record.time_ns), (17, Some(1_795_402_901_123_000_000)));
        assert_eq!(parse("[2026-11-23T03:01:41Z INFO  x] y").time_ns, Some(1_795_402_901_000_000_000));
        assert_eq!(parse("hello").time_ns, None);
    }
}
