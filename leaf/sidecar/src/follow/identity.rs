//! Which file is which: pure decisions on first bytes and sizes.

/// What a file that appeared is to a generation that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// Something else.
    None,
    /// A copy, whole or so far: rotation copies before it truncates, and compresses.
    Copy,
    /// Its beginning is the same, but it is too short to tell; it may be being written.
    Unclear,
}

/// Heads shorter than this do not identify a file by themselves.
const HEAD_BYTES_MIN: usize = 64;

/// Compares a file that appeared with what is known of a generation, by the first bytes of both.
pub fn kinship(known: &[u8], head: &[u8]) -> Kinship {
    let common = known.len().min(head.len());
    if known.len() < HEAD_BYTES_MIN || known[..common] != head[..common] {
        return Kinship::None;
    }
    if head.len() < known.len() { Kinship::Unclear } else { Kinship::Copy }
}

/// Whether an open file is still the generation that it was: not shorter than what was read, and with the same first
/// bytes.
pub fn goes_on(known_head: &[u8], read: u64, head: &[u8], size: u64) -> bool {
    size >= read && head.starts_with(known_head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_recognised_and_others_are_not() {
        let long = [b'x'; 256];
        assert_eq!(kinship(&long, &long), Kinship::Copy);
        assert_eq!(kinship(&long[..100], &long), Kinship::Copy);
        assert_eq!(kinship(&long, &long[..100]), Kinship::Unclear);
        assert_eq!(kinship(&long, b"y"), Kinship::None);
        // Two files that say little may well say the same.
        assert_eq!(kinship(b"started\n", b"started\n"), Kinship::None);
        assert_eq!(kinship(b"", b"x"), Kinship::None);
    }

    #[test]
    fn truncation_is_noticed_by_size_or_by_content() {
        assert!(goes_on(b"abc", 10, b"abcd", 12));
        assert!(!goes_on(b"abc", 10, b"abcd", 9));
        assert!(!goes_on(b"abc", 10, b"abd", 12));
    }
}
