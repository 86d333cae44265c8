//! Open columns of a searcher, kept so that a query does not open them again.

/// The columns opened so far.
#[derive(Default)]
pub struct ColumnCache {}
