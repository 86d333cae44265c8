//! A fault hook for tests: operations whose document contains a pattern panic or hang while drafted.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `PATTERN=panic`, `PATTERN=hang` or `PATTERN=panic-once`.
#[derive(Debug)]
pub struct Fault {
    pattern: String,
    what: What,
    struck: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Panic,
    PanicOnce,
    Hang,
}

impl Fault {
    /// Does what was asked for when the document contains the pattern.
    pub(super) fn strike(&self, source: &[u8]) {
        let found = source.windows(self.pattern.len()).any(|window| window == self.pattern.as_bytes());
        if !found {
            return;
        }
        match self.what {
            What::Hang => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            What::PanicOnce if self.struck.swap(true, Ordering::Relaxed) => {}
            What::Panic | What::PanicOnce => std::panic::panic_any(format!("the document contains {}", self.pattern)),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not PATTERN=panic, PATTERN=hang or PATTERN=panic-once");
        let (pattern, what) = text.rsplit_once('=').filter(|(pattern, _)| !pattern.is_empty()).ok_or_else(wrong)?;
        let what = match what {
            "panic" => What::Panic,
            "panic-once" => What::PanicOnce,
            "hang" => What::Hang,
            _ => return Err(wrong()),
        };
        Ok(Self { pattern: pattern.to_owned(), what, struck: AtomicBool::new(false) })
    }
}
