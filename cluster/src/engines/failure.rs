//! Errors of engines, made into the crate's.

use std::fmt;
use std::sync::Arc;

use crate::Error;

/// What was being done when the engine failed, and how it failed.
#[derive(Debug)]
struct Failure {
    doing: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// An engine error, out of what was being done and the cause.
pub(super) fn unavailable(
    doing: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Unavailable(Box::new(Failure { doing: doing.into(), source: source.into() }))
}

/// One failure told to several callers.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Error>);

impl Shared {
    pub(super) fn new(error: Error) -> Self {
        Self(Arc::new(error))
    }

    /// The same error for one more caller.
    pub(super) fn again(&self) -> Error {
        match &*self.0 {
            Error::Corrupt(reason) => Error::Corrupt(reason.clone()),
            _ => Error::Unavailable(Box::new(self.clone())),
        }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            // The caller wraps it in the same words again.
            Error::Unavailable(source) => source.fmt(f),
            error => error.fmt(f),
        }
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}
