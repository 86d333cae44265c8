//! Intervals of values, and the documents whose column values lie in them.
//!
//! One interval serves columns of every type: a number meets `i64`, `u64` and `f64` columns, each with
//! bounds made exact for its type, and no column of another kind.

use std::net::Ipv6Addr;
use std::ops::{Bound, Range, RangeInclusive};

use tantivy::columnar::{Column, DynamicColumn, MonotonicallyMappableToU64};
use tantivy::{DateTime, DocId};
use trawl_proto::v1;

use crate::schema::fields::ip_key;

/// An interval of values of one kind.
#[derive(Clone, Debug)]
pub enum Interval {
    /// Numbers of any width.
    Number(Bound<Number>, Bound<Number>),
    /// Milliseconds since the epoch.
    Date(Bound<i64>, Bound<i64>),
    /// Strings, bytewise.
    Text(Bound<String>, Bound<String>),
    /// Booleans: false is less than true.
    Boolean(Bound<bool>, Bound<bool>),
    /// Addresses, also those kept as strings in the JSON field.
    Ip(Bound<Ipv6Addr>, Bound<Ipv6Addr>),
}

/// A number as it was written.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// Without a fraction.
    Long(i64),
    /// With one.
    Double(f64),
}

impl Interval {
    /// The interval between two bounds; `None` when they are of different kinds or both unset.
    pub fn new(lower: Option<&v1::Bound>, upper: Option<&v1::Bound>) -> Option<Self> {
        use v1::value::Kind;
        let kind = |bound: Option<&v1::Bound>| bound.and_then(|b| b.value.as_ref()).and_then(|v| v.kind.clone());
        let (low, high) = (kind(lower), kind(upper));
        let (low_in, high_in) = (lower.is_some_and(|b| b.inclusive), upper.is_some_and(|b| b.inclusive));
        macro_rules! both {
            ($make:path, $of:expr) => {{
                let of = $of;
                let low = match low {
                    None => Bound::Unbounded,
                    Some(kind) => bound(of(kind)?, low_in),
                };
                let high = match high {
                    None => Bound::Unbounded,
                    Some(kind) => bound(of(kind)?, high_in),
                };
                Some($make(low, high))
            }};
        }
        match low.as_ref().or(high.as_ref())? {
            Kind::Long(_) | Kind::Double(_) => both!(Self::Number, |kind| match kind {
                Kind::Long(value) => Some(Number::Long(value)),
                Kind::Double(value) => Some(Number::Double(value)),
                _ => None,
            }),
            Kind::DateMs(_) => both!(Self::Date, |kind| match kind {
                Kind::DateMs(value) => Some(value),
                _ => None,
            }),
            Kind::String(_) => both!(Self::Text, |kind| match kind {
                Kind::String(value) => Some(value),
                _ => None,
            }),
            Kind::Boolean(_) => both!(Self::Boolean, |kind| match kind {
                Kind::Boolean(value) => Some(value),
                _ => None,
            }),
            Kind::Ip(_) => both!(Self::Ip, |kind| match kind {
                Kind::Ip(value) => ip(&value),
                _ => None,
            }),
        }
    }

    /// Exactly this value; `None` when it has no kind.
    pub fn of(value: &v1::Value) -> Option<Self> {
        let bound = v1::Bound { value: Some(value.clone()), inclusive: true };
        Self::new(Some(&bound), Some(&bound))
    }

    /// The interval over one column, when the column is of its kind and any value can be inside.
    pub fn select(&self, column: DynamicColumn) -> tantivy::Result<Option<Selected>> {
        Ok(match (self, column) {
            (Self::Number(low, high), DynamicColumn::I64(column)) => longs(*low, *high).and_then(|r| coded(column, r)),
            (Self::Number(low, high), DynamicColumn::U64(column)) => longs(*low, *high)
                .filter(|range| *range.end() >= 0)
                .and_then(|r| coded(column, r.start().max(&0).unsigned_abs()..=r.end().unsigned_abs())),
            (Self::Number(low, high), DynamicColumn::F64(column)) => {
                doubles(*low, *high).and_then(|r| coded(column, r))
            }
            (Self::Date(low, high), DynamicColumn::DateTime(column)) => {
                dates(*low, *high).and_then(|r| coded(column, r))
            }
            (Self::Boolean(low, high), DynamicColumn::Bool(column)) => {
                booleans(*low, *high).and_then(|r| coded(column, r))
            }
            (Self::Ip(low, high), DynamicColumn::IpAddr(column)) => addresses(*low, *high)
                .and_then(|range| clamped(&column, range))
                .map(|range| Selected::Ip(column, range)),
            (Self::Ip(low, high), DynamicColumn::Str(column)) => {
                let (low, high) = (low.map(ip_key), high.map(ip_key));
                ordinals(&column, low.as_ref(), high.as_ref())?
            }
            (Self::Text(low, high), DynamicColumn::Str(column)) => ordinals(&column, low.as_ref(), high.as_ref())?,
            _ => None,
        })
    }
}

/// A column and the values wanted of it.
pub enum Selected {
    /// Any column whose values tantivy keeps as `u64`.
    Coded(Column<u64>, RangeInclusive<u64>),
    /// An address column.
    Ip(Column<Ipv6Addr>, RangeInclusive<Ipv6Addr>),
    /// Any value will do.
    Any(DynamicColumn),
}

impl Selected {
    /// Documents with any value.
    pub fn all(column: DynamicColumn) -> Self {
        Self::Any(column)
    }

    /// Appends the documents of a range, in order, possibly with repetitions.
    pub fn docs(&self, range: Range<DocId>, found: &mut Vec<DocId>) {
        match self {
            Self::Coded(column, values) => column.get_docids_for_value_range(values.clone(), range, found),
            Self::Ip(column, values) => column.get_docids_for_value_range(values.clone(), range, found),
            Self::Any(column) => {
                let index = column.column_index();
                found.extend(range.filter(|doc| index.has_value(*doc)));
            }
        }
    }
}

fn bound<T>(value: T, inclusive: bool) -> Bound<T> {
    if inclusive { Bound::Included(value) } else { Bound::Excluded(value) }
}

/// An address from 16 bytes in network order.
pub fn ip(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

fn coded<T: MonotonicallyMappableToU64 + PartialOrd + Copy + std::fmt::Debug>(
    column: Column<T>,
    values: RangeInclusive<T>,
) -> Option<Selected> {
    let column = column.to_u64_monotonic();
    let range = clamped(&column, values.start().to_u64()..=values.end().to_u64())?;
    Some(Selected::Coded(column, range))
}

/// The part of a range where the column has values. Tantivy takes a range that lies below the least
/// value for one that begins there.
fn clamped<T: PartialOrd + Copy + std::fmt::Debug + Send + Sync + 'static>(
    column: &Column<T>,
    range: RangeInclusive<T>,
) -> Option<RangeInclusive<T>> {
    let (least, greatest) = (column.min_value(), column.max_value());
    let low = if *range.start() < least { least } else { *range.start() };
    let high = if *range.end() > greatest { greatest } else { *range.end() };
    non_empty(low, high)
}

fn non_empty<T: PartialOrd>(low: T, high: T) -> Option<RangeInclusive<T>> {
    (low <= high).then_some(low..=high)
}

fn longs(low: Bound<Number>, high: Bound<Number>) -> Option<RangeInclusive<i64>> {
    let low = match low {
        Bound::Unbounded => i64::MIN,
        Bound::Included(Number::Long(value)) => value,
        Bound::Excluded(Number::Long(value)) => value.checked_add(1)?,
        Bound::Included(Number::Double(value)) => least_long(value.ceil())?,
        Bound::Excluded(Number::Double(value)) => least_long(value.floor() + 1.0)?,
    };
    let high = match high {
        Bound::Unbounded => i64::MAX,
        Bound::Included(Number::Long(value)) => value,
        Bound::Excluded(Number::Long(value)) => value.checked_sub(1)?,
        Bound::Included(Number::Double(value)) => greatest_long(value.floor())?,
        Bound::Excluded(Number::Double(value)) => greatest_long(value.ceil() - 1.0)?,
    };
    non_empty(low, high)
}

/// 2^63, the first double beyond all `i64`.
const LONG_END: f64 = 9_223_372_036_854_775_808.0;

/// The least `i64` that is not below a whole number.
fn least_long(value: f64) -> Option<i64> {
    if value.is_nan() || value >= LONG_END {
        return None;
    }
    Some(if value < -LONG_END { i64::MIN } else { value as i64 })
}

/// The greatest `i64` that is not above a whole number.
fn greatest_long(value: f64) -> Option<i64> {
    if value.is_nan() || value < -LONG_END {
        return None;
    }
    Some(if value >= LONG_END { i64::MAX } else { value as i64 })
}

fn doubles(low: Bound<Number>, high: Bound<Number>) -> Option<RangeInclusive<f64>> {
    let double = |number| match number {
        Number::Long(value) => value as f64,
        Number::Double(value) => value,
    };
    let low = match low {
        Bound::Unbounded => f64::NEG_INFINITY,
        // -0.0 is another value than 0.0 in a column.
        Bound::Included(value) => {
            if double(value) == 0.0 {
                -0.0
            } else {
                double(value)
            }
        }
        Bound::Excluded(value) => {
            if double(value) == 0.0 {
                f64::from_bits(1)
            } else {
                double(value).next_up()
            }
        }
    };
    let high = match high {
        Bound::Unbounded => f64::INFINITY,
        Bound::Included(value) => {
            if double(value) == 0.0 {
                0.0
            } else {
                double(value)
            }
        }
        Bound::Excluded(value) => {
            if double(value) == 0.0 {
                -f64::from_bits(1)
            } else {
                double(value).next_down()
            }
        }
    };
    non_empty(low, high)
}

fn dates(low: Bound<i64>, high: Bound<i64>) -> Option<RangeInclusive<DateTime>> {
    // Nanoseconds in an `i64` reach from 1677 to 2262.
    let nanos = |ms: i64| ms.saturating_mul(1_000_000);
    let low = match low {
        Bound::Unbounded => i64::MIN,
        Bound::Included(ms) => nanos(ms),
        Bound::Excluded(ms) => nanos(ms.checked_add(1)?),
    };
    let high = match high {
        Bound::Unbounded => i64::MAX,
        Bound::Included(ms) => nanos(ms).saturating_add(999_999),
        Bound::Excluded(ms) => nanos(ms).checked_sub(1)?,
    };
    (low <= high).then(|| DateTime::from_timestamp_nanos(low)..=DateTime::from_timestamp_nanos(high))
}

fn booleans(low: Bound<bool>, high: Bound<bool>) -> Option<RangeInclusive<bool>> {
    let low = match low {
        Bound::Unbounded => false,
        Bound::Included(value) => value,
        Bound::Excluded(value) => {
            if value {
                return None;
            } else {
                true
            }
        }
    };
    let high = match high {
        Bound::Unbounded => true,
        Bound::Included(value) => value,
        Bound::Excluded(value) => {
            if value {
                false
            } else {
                return None;
            }
        }
    };
    non_empty(low, high)
}

fn addresses(low: Bound<Ipv6Addr>, high: Bound<Ipv6Addr>) -> Option<RangeInclusive<Ipv6Addr>> {
    let low = match low {
        Bound::Unbounded => Ipv6Addr::UNSPECIFIED,
        Bound::Included(value) => value,
        Bound::Excluded(value) => Ipv6Addr::from_bits(value.to_bits().checked_add(1)?),
    };
    let high = match high {
        Bound::Unbounded => Ipv6Addr::from_bits(u128::MAX),
        Bound::Included(value) => value,
        Bound::Excluded(value) => Ipv6Addr::from_bits(value.to_bits().checked_sub(1)?),
    };
    non_empty(low, high)
}

/// The ordinals of the strings within bounds.
fn ordinals(
    column: &tantivy::columnar::StrColumn,
    low: Bound<&String>,
    high: Bound<&String>,
) -> tantivy::Result<Option<Selected>> {
    let bounds = column.dictionary().term_bounds_to_ord(low, high)?;
    let terms = column.num_terms() as u64;
    let first = match bounds.0 {
        Bound::Unbounded => 0,
        Bound::Included(ord) => ord,
        Bound::Excluded(ord) => ord.saturating_add(1),
    };
    let end = match bounds.1 {
        Bound::Unbounded => terms,
        Bound::Included(ord) => ord.saturating_add(1),
        Bound::Excluded(ord) => ord,
    }
    .min(terms);
    Ok((first < end).then(|| Selected::Coded(column.ords().clone(), first..=end - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_with_fractions_are_exact_for_whole_numbers() {
        let number = |value| Number::Double(value);
        assert_eq!(longs(Bound::Included(number(1.5)), Bound::Excluded(number(4.0))), Some(2..=3));
        assert_eq!(longs(Bound::Excluded(number(-2.5)), Bound::Included(number(-1.5))), Some(-2..=-2));
        assert_eq!(longs(Bound::Included(number(1.2)), Bound::Included(number(1.8))), None);
        assert_eq!(longs(Bound::Included(number(1e300)), Bound::Unbounded), None);
        assert_eq!(longs(Bound::Unbounded, Bound::Included(number(1e300))), Some(i64::MIN..=i64::MAX));
        assert_eq!(longs(Bound::Excluded(Number::Long(i64::MAX)), Bound::Unbounded), None);
    }

    #[test]
    fn zero_has_two_doubles() {
        let zero = || Number::Double(0.0);
        let both =
            doubles(Bound::Included(zero()), Bound::Included(zero())).map(|r| (r.start().to_bits(), r.end().to_bits()));
        assert_eq!(both, Some(((-0.0f64).to_bits(), 0)));
        assert_eq!(doubles(Bound::Excluded(zero()), Bound::Excluded(zero())), None);
    }

    #[test]
    fn booleans_outside_are_nothing() {
        assert_eq!(booleans(Bound::Excluded(true), Bound::Unbounded), None);
        assert_eq!(booleans(Bound::Excluded(false), Bound::Unbounded), Some(true..=true));
    }
}
