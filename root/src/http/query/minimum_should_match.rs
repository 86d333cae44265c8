//! `minimum_should_match`: how many optional clauses have to match, as Elasticsearch computes it.

use super::super::{error::illegal, json::Json};
use crate::error::Error;

/// A checked specification such as `2`, `-1`, `75%`, `-25%`, `2<-25%` or `2<-25% 9<-3`.
#[derive(Clone, Debug, PartialEq)]
pub struct MinimumShouldMatch {
    /// In order: up to this many clauses, all are needed; above, the rule (until the next bound).
    conditions: Vec<(i64, Amount)>,
    always: Option<Amount>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Number(i64),
    Percent(i64),
}

impl MinimumShouldMatch {
    /// From a body's value: a number or a text.
    pub fn from_json(json: &Json) -> Result<Self, Error> {
        match json.scalar_text() {
            Some(text) => Self::parse(&text),
            None => Err(illegal("[minimum_should_match] must be a number or a string")),
        }
    }

    /// From a text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let failed = || illegal(format!("Failed to parse [minimum_should_match] with value [{text}]"));
        let compact = text.trim().replace("< ", "<").replace(" <", "<");
        if !compact.contains('<') {
            return Ok(Self { conditions: Vec::new(), always: Some(amount(&compact).ok_or_else(failed)?) });
        }
        let conditions: Option<Vec<(i64, Amount)>> = compact
            .split_ascii_whitespace()
            .map(|part| {
                let (bound, rule) = part.split_once('<')?;
                Some((bound.trim().parse().ok()?, amount(rule)?))
            })
            .collect();
        Ok(Self { conditions: conditions.ok_or_else(failed)?, always: None })
    }

    /// How many of this many optional clauses; may be more than there are (then nothing matches).
    pub fn of(&self, clauses: usize) -> u32 {
        let clauses = clauses as i64;
        let needed = match self.always {
            Some(amount) => amount.of(clauses),
            None => {
                let mut needed = clauses;
                for (bound, amount) in &self.conditions {
                    if clauses <= *bound {
                        break;
                    }
                    needed = amount.of(clauses);
                }
                needed
            }
        };
        u32::try_from(needed.max(0)).unwrap_or(u32::MAX)
    }
}

impl Amount {
    fn of(self, clauses: i64) -> i64 {
        match self {
            Self::Number(number) if number < 0 => clauses.saturating_add(number),
            Self::Number(number) => number,
            // Cut towards zero, as Java's cast does.
            Self::Percent(percent) => {
                let part = clauses.saturating_mul(percent) / 100;
                if part < 0 {
                    clauses + part
                } else if percent < 0 {
                    clauses
                } else {
                    part
                }
            }
        }
    }
}

fn amount(text: &str) -> Option<Amount> {
    let text = text.trim();
    let percent: Option<i64> = text.strip_suffix('%').map(|number| number.trim().parse().ok()).unwrap_or_default();
    if let Some(percent) = percent {
        return (-100..=100).contains(&percent).then_some(Amount::Percent(percent));
    }
    text.parse().ok().map(Amount::Number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_elasticsearch_documents_it() {
        for (text, clauses, expected) in [
            ("3", 5, 3),
            ("3", 2, 3),
            ("-2", 5, 3),
            ("75%", 5, 3),
            ("75%", 4, 3),
            ("-25%", 4, 3),
            ("-25%", 3, 3),
            ("100%", 7, 7),
            ("3<90%", 3, 3),
            ("3<90%", 10, 9),
            ("2<-25%", 2, 2),
            ("2<-25% 9<-3", 2, 2),
            ("2<-25% 9<-3", 9, 7),
            ("2<-25% 9<-3", 10, 7),
            ("2 < -25%", 8, 6),
            ("-9", 3, 0),
        ] {
            assert_eq!(MinimumShouldMatch::parse(text).unwrap().of(clauses), expected, "{text} of {clauses}");
        }
        for text in ["", "x", "5%x", "<", "2<", "1.5", "200%"] {
            assert!(MinimumShouldMatch::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_handled(text in "[0-9<% -]{0,12}", clauses in 0_usize..2000) {
            if let Ok(minimum) = MinimumShouldMatch::parse(&text) {
                minimum.of(clauses);
            }
        }
    }
}
