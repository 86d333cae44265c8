//! The order of hits: sort keys or score, then `_tie`, then `_id`, then index and shard.
//!
//! Leaves keep the same order within a shard; whatever changes here has to change there. Values of one
//! sort key compare as numbers before addresses before strings; whole and floating numbers compare by
//! their exact values, dates and booleans as the numbers they are.

use std::cmp::Ordering;

use trawl_proto::v1;
use v1::value::Kind;

/// Compares two hits of any shards; `Less` comes first.
pub fn compare_hits(sort: &[v1::SortKey], left: &v1::Hit, right: &v1::Hit) -> Ordering {
    let keys = if sort.is_empty() {
        right.score.total_cmp(&left.score)
    } else {
        let values = left.sort.iter().zip(&right.sort);
        sort.iter()
            .zip(values)
            .fold(Ordering::Equal, |order, (key, (left, right))| order.then_with(|| compare_values(key, left, right)))
    };
    keys.then_with(|| left.tie.cmp(&right.tie)).then_with(|| left.id.cmp(&right.id))
}

/// Compares two hits' values for one sort key, direction and missing values included.
pub fn compare_values(key: &v1::SortKey, left: &v1::SortValue, right: &v1::SortValue) -> Ordering {
    use v1::sort_value::Kind as Sort;
    let missing = |value: &v1::SortValue| matches!(value.kind, None | Some(Sort::Null(_)));
    let order = match (missing(left), missing(right)) {
        (true, true) => return Ordering::Equal,
        (true, false) => return if key.missing_first { Ordering::Less } else { Ordering::Greater },
        (false, true) => return if key.missing_first { Ordering::Greater } else { Ordering::Less },
        (false, false) => match (&left.kind, &right.kind) {
            (Some(Sort::Value(left)), Some(Sort::Value(right))) => compare(left, right),
            (Some(Sort::Score(left)), Some(Sort::Score(right))) => left.total_cmp(right),
            (Some(Sort::Tie(left)), Some(Sort::Tie(right))) => left.cmp(right),
            _ => Ordering::Equal,
        },
    };
    if key.descending { order.reverse() } else { order }
}

fn compare(left: &v1::Value, right: &v1::Value) -> Ordering {
    let (Some(left), Some(right)) = (&left.kind, &right.kind) else { return Ordering::Equal };
    match (left, right) {
        (Kind::String(left), Kind::String(right)) => left.cmp(right),
        (Kind::Ip(left), Kind::Ip(right)) => left.cmp(right),
        _ => match (number(left), number(right)) {
            (Some(left), Some(right)) => left.compare(&right),
            _ => rank(left).cmp(&rank(right)),
        },
    }
}

fn rank(value: &Kind) -> u8 {
    match value {
        Kind::Long(_) | Kind::Double(_) | Kind::Boolean(_) | Kind::DateMs(_) => 0,
        Kind::Ip(_) => 1,
        Kind::String(_) => 2,
    }
}

enum Number {
    Long(i64),
    Double(f64),
}

fn number(value: &Kind) -> Option<Number> {
    match value {
        Kind::Long(number) | Kind::DateMs(number) => Some(Number::Long(*number)),
        Kind::Boolean(flag) => Some(Number::Long(i64::from(*flag))),
        // Zero has no sign here.
        Kind::Double(number) => Some(Number::Double(*number + 0.0)),
        Kind::Ip(_) | Kind::String(_) => None,
    }
}

impl Number {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Long(left), Self::Long(right)) => left.cmp(right),
            (Self::Double(left), Self::Double(right)) => left.total_cmp(right),
            (Self::Long(left), Self::Double(right)) => compare_mixed(*left, *right),
            (Self::Double(left), Self::Long(right)) => compare_mixed(*right, *left).reverse(),
        }
    }
}

/// Exact comparison of a whole number with a floating one: no rounding to either type.
fn compare_mixed(left: i64, right: f64) -> Ordering {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if right.is_nan() || right >= BEYOND {
        return Ordering::Less;
    }
    if right < -BEYOND {
        return Ordering::Greater;
    }
    let whole = right.trunc();
    left.cmp(&(whole as i64)).then_with(|| 0.0f64.total_cmp(&(right - whole + 0.0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use v1::sort_value::Kind as Sort;

    use super::*;

    fn sort_value(kind: Kind) -> v1::SortValue {
        v1::SortValue { kind: Some(Sort::Value(v1::Value { kind: Some(kind) })) }
    }

    fn any_value() -> impl Strategy<Value = v1::SortValue> {
        prop_oneof![
            Just(v1::SortValue { kind: Some(Sort::Null(true)) }),
            any::<i64>().prop_map(|number| sort_value(Kind::Long(number))),
            (-3i64..3).prop_map(|number| sort_value(Kind::Long(number))),
            any::<f64>().prop_map(|number| sort_value(Kind::Double(number))),
            (-6i64..6).prop_map(|number| sort_value(Kind::Double(number as f64 / 2.0))),
            "[a-c]{0,2}".prop_map(|text| sort_value(Kind::String(text))),
            any::<bool>().prop_map(|flag| sort_value(Kind::Boolean(flag))),
        ]
    }

    proptest! {
        #[test]
        fn values_are_totally_ordered(
            a in any_value(), b in any_value(), c in any_value(), descending: bool, missing_first: bool,
        ) {
            let key = v1::SortKey { descending, missing_first, ..Default::default() };
            prop_assert_eq!(compare_values(&key, &a, &b), compare_values(&key, &b, &a).reverse());
            let mut sorted = [&a, &b, &c];
            sorted.sort_by(|left, right| compare_values(&key, left, right));
            prop_assert_ne!(compare_values(&key, sorted[0], sorted[2]), Ordering::Greater);
        }
    }

    #[test]
    fn mixed_numbers_compare_exactly() {
        let big = 9_007_199_254_740_993; // 2^53 + 1 has no f64 of its own.
        assert_eq!(compare_mixed(big, 9_007_199_254_740_992.0), Ordering::Greater);
        assert_eq!(compare_mixed(1, 1.5), Ordering::Less);
        assert_eq!(compare_mixed(-1, -1.5), Ordering::Greater);
        assert_eq!(compare_mixed(0, -0.0), Ordering::Equal);
        assert_eq!(compare_mixed(i64::MAX, f64::INFINITY), Ordering::Less);
        assert_eq!(compare_mixed(i64::MIN, f64::NEG_INFINITY), Ordering::Greater);
    }

    #[test]
    fn missing_values_go_where_they_are_told_in_either_direction() {
        let null = v1::SortValue { kind: Some(Sort::Null(true)) };
        let one = sort_value(Kind::Long(1));
        for descending in [false, true] {
            let last = v1::SortKey { descending, ..Default::default() };
            assert_eq!(compare_values(&last, &null, &one), Ordering::Greater);
            let first = v1::SortKey { descending, missing_first: true, ..Default::default() };
            assert_eq!(compare_values(&first, &null, &one), Ordering::Less);
        }
    }
}
