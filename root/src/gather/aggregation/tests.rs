//! Merging one partial result or several gives the same.
