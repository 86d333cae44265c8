//! `fuzziness`: how many edits a term may be away, depending on its length.

use super::super::{error::illegal, json::Json};
use crate::error::Error;

/// A checked fuzziness.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fuzziness {
    /// Always this many edits, 0 to 2.
    Edits(u32),
    /// None below `low` characters, one below `high`, else two.
    Auto {
        /// Terms of at least this length may have one edit.
        low: usize,
        /// Terms of at least this length may have two.
        high: usize,
    },
}

impl Fuzziness {
    /// `AUTO`
    pub const AUTO: Self = Self::Auto { low: 3, high: 6 };

    /// From a body's value: `0`, `1`, `2`, `"AUTO"` or `"AUTO:low,high"`.
    pub fn from_json(json: &Json) -> Result<Self, Error> {
        let text = json.scalar_text().ok_or_else(|| illegal("[fuzziness] must be a number or a string"))?;
        Self::parse(&text)
    }

    /// From a text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let failed = || illegal(format!("Invalid fuzziness value: {text}"));
        let upper = text.trim().to_ascii_uppercase();
        if upper == "AUTO" {
            return Ok(Self::AUTO);
        }
        if let Some(bounds) = upper.strip_prefix("AUTO:") {
            let (low, high) = bounds.split_once(',').ok_or_else(failed)?;
            let low = low.trim().parse().map_err(|_| failed())?;
            let high = high.trim().parse().map_err(|_| failed())?;
            return if low <= high { Ok(Self::Auto { low, high }) } else { Err(failed()) };
        }
        match upper.parse::<f64>() {
            Ok(edits) if edits == 0.0 || edits == 1.0 || edits == 2.0 => Ok(Self::Edits(edits as u32)),
            _ => Err(failed()),
        }
    }

    /// The edits that a term may be away.
    pub fn distance(self, term: &str) -> u32 {
        match self {
            Self::Edits(edits) => edits,
            Self::Auto { low, high } => {
                let length = term.chars().count();
                if length < low {
                    0
                } else if length < high {
                    1
                } else {
                    2
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(Fuzziness::parse("auto").unwrap(), Fuzziness::AUTO);
        assert_eq!(Fuzziness::parse("AUTO:4,8").unwrap().distance("seven"), 1);
        assert_eq!(Fuzziness::parse("2").unwrap().distance("a"), 2);
        assert_eq!(Fuzziness::parse("1.0").unwrap(), Fuzziness::Edits(1));
        for text in ["3", "-1", "x", "AUTO:5", "AUTO:9,2"] {
            assert!(Fuzziness::parse(text).is_err(), "{text}");
        }
        for (term, distance) in [("ab", 0), ("abc", 1), ("abcde", 1), ("abcdef", 2)] {
            assert_eq!(Fuzziness::AUTO.distance(term), distance);
        }
    }
}
