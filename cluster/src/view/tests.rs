#![allow(clippy::unwrap_used)]
//! The picture follows the store.
