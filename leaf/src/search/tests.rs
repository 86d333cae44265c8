//! Search against brute force.
