//! What the beginning of a table says about it: delimiter, columns, and the type of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::csv::Splitter;

/// Rows of the sample that are looked at.
const ROWS_MAX: usize = 1_000;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Whole numbers.
    Long,
    /// Numbers.
    Double,
    /// `true` and `false`.
    Boolean,
    /// Dates and times as in ISO 8601.
    Date,
    /// Anything.
    Text,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its cells are made into.
    pub kind: Kind,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Between two cells.
    pub delimiter: u8,
    /// In order.
    pub columns: Vec<Column>,
}

/// Reads a table's shape from its beginning; `whole` says that the sample is all there is. `None` if there is no complete
/// header. Types that the index already has come before those of the sample.
pub(super) fn table(
    sample: &[u8],
    whole: bool,
    delimiter: Option<u8>,
    field_types: &BTreeMap<String, String>,
) -> Option<Table> {
    let delimiter = delimiter.or_else(|| guess(sample, whole).map(|guess| guess.delimiter)).unwrap_or(b',');
    let mut records = records(sample, whole, delimiter, ROWS_MAX + 1).into_iter();
    let names = names(&records.next()?);
    let rows: Vec<Vec<String>> = records.filter(|row| row.len() == names.len()).collect();
    let column = |(position, name): (usize, String)| {
        let kind = match field_types.get(&name) {
            Some(field_type) => kind_of_type(field_type),
            None => kind_of_cells(rows.iter().filter_map(|row| row.get(position)).map(String::as_str)),
        };
        Column { name, kind }
    };
    Some(Table { delimiter, columns: names.into_iter().enumerate().map(column).collect() })
}

/// A delimiter, and whether it cuts every record of the sample into as many fields.
pub(super) struct Guess {
    pub(super) delimiter: u8,
    pub(super) consistent: bool,
}

/// The delimiter that fits best; `None` when no line has any.
pub(super) fn guess(sample: &[u8], whole: bool) -> Option<Guess> {
    let mut best: Option<(f64, usize, u8, bool)> = None;
    for delimiter in [b',', b'\t', b';', b'|'] {
        let records = records(sample, whole, delimiter, 100);
        let Some(columns) = records.first().map(Vec::len).filter(|columns| *columns > 1) else { continue };
        let equal = records.iter().filter(|record| record.len() == columns).count();
        let share = equal as f64 / records.len() as f64;
        let consistent = equal == records.len() && records.len() > 1;
        if best.is_none_or(|(best_share, best_columns, ..)| (share, columns) > (best_share, best_columns)) {
            best = Some((share, columns, delimiter, consistent));
        }
    }
    best.map(|(.., delimiter, consistent)| Guess { delimiter, consistent })
}

/// Complete records of the sample that are not blank, at most so many.
fn records(sample: &[u8], whole: bool, delimiter: u8, records_max: usize) -> Vec<Vec<String>> {
    let sample = sample.strip_prefix(b"\xef\xbb\xbf").unwrap_or(sample);
    // The last line of a sample is cut, unless the sample is everything.
    let complete = match sample.iter().rposition(|byte| *byte == b'\n') {
        Some(end) if !whole || end + 1 == sample.len() => &sample[..end],
        None if !whole => &[],
        _ => sample,
    };
    let mut splitter = Splitter::new(delimiter);
    let mut records = Vec::new();
    for line in complete.split(|byte| *byte == b'\n') {
        if !splitter.line(line) {
            continue;
        }
        if !splitter.is_blank() {
            records.push(splitter.fields().map(|field| String::from_utf8_lossy(field).into_owned()).collect());
        }
        splitter.clear();
        if records.len() == records_max {
            break;
        }
    }
    records
}

/// Names of columns: not empty, each once.
fn names(header: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(header.len());
    for (position, name) in header.iter().enumerate() {
        let name = name.trim();
        let base = if name.is_empty() { format!("column_{}", position + 1) } else { name.to_owned() };
        let mut unique = base.clone();
        let mut number = 2;
        while names.contains(&unique) {
            unique = format!("{base}_{number}");
            number += 1;
        }
        names.push(unique);
    }
    names
}

fn kind_of_type(field_type: &str) -> Kind {
    match field_type {
        "long" | "integer" | "short" | "byte" => Kind::Long,
        "double" | "float" => Kind::Double,
        "boolean" => Kind::Boolean,
        "date" => Kind::Date,
        _ => Kind::Text,
    }
}

fn kind_of_cells<'c>(cells: impl Iterator<Item = &'c str>) -> Kind {
    let (mut long, mut double, mut boolean, mut date) = (true, true, true, true);
    let mut any = false;
    for cell in cells.map(str::trim).filter(|cell| !cell.is_empty()) {
        any = true;
        double &= is_number(cell);
        long &= double && cell.parse::<i64>().is_ok();
        boolean &= cell.eq_ignore_ascii_case("true") || cell.eq_ignore_ascii_case("false");
        date &= is_date(cell);
        if !(double || boolean || date) {
            return Kind::Text;
        }
    }
    match (any, long, double, boolean, date) {
        (false, ..) => Kind::Text,
        (_, true, ..) => Kind::Long,
        (_, _, true, ..) => Kind::Double,
        (_, _, _, true, _) => Kind::Boolean,
        _ => Kind::Date,
    }
}

/// Whether the text is a number as JSON writes it: so `007` and `+1` are none, and a column of telephone numbers or
/// postal codes with leading zeros stays text.
pub(super) fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let first = digits.as_bytes().first();
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    // 30 characters hold every number that a double or long can tell from its neighbours.
    first.is_some_and(u8::is_ascii_digit)
        && !leading_zero
        && text.len() <= 30
        && text.parse::<f64>().is_ok_and(f64::is_finite)
        && !text.ends_with('.')
        && !text.contains(".e")
        && !text.contains(".E")
}

/// Whether the text is a date, or a date and a time, as in ISO 8601 (`2024-05-17`, `2024-05-17T08:30:00Z`).
pub(super) fn is_date(text: &str) -> bool {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let mut part = |digits: usize, from: u32, to: u32| {
        let part = parts.next().unwrap_or_default();
        let plain = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        plain && part.parse::<u32>().is_ok_and(|number| (from..=to).contains(&number))
    };
    let fits = part(4, 0, 9999) && part(2, 1, 12) && part(2, 1, 31) && parts.next().is_none();
    fits && time.is_none_or(is_time)
}

fn is_time(text: &str) -> bool {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let clock = match text.find(['+', '-']) {
        Some(offset) => &text[..offset],
        None => text,
    };
    let (clock, fraction) = clock.split_once(['.', ',']).unwrap_or((clock, "0"));
    let two = |part: &str, to: u32| part.len() == 2 && part.parse::<u32>().is_ok_and(|number| number <= to);
    let parts: Vec<&str> = clock.split(':').collect();
    let fits = match parts.as_slice() {
        [hour, minute] => two(hour, 23) && two(minute, 59),
        [hour, minute, second] => two(hour, 23) && two(minute, 59) && two(second, 59),
        _ => false,
    };
    fits && !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_and_dates() {
        for text in ["0", "-1", "1.10", "1e5", "12345678901234567890"] {
            assert!(is_number(text), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).unwrap().is_number());
        }
        for text in ["", "-", "007", "+1", ".5", "5.", "1.e5", "inf", "NaN", "1e999", "1,5", "0x10"] {
            assert!(!is_number(text), "{text}");
        }
        for text in ["2024-05-17", "2024-05-17T08:30", "2024-05-17T08:30:00Z", "2024-05-17T08:30:00.123+02:00"] {
            assert!(is_date(text), "{text}");
        }
        for text in ["2024-5-17", "2024-13-01", "2024-05", "17-05-2024", "2024-05-17T", "2024-05-17T25:00", "T"] {
            assert!(!is_date(text), "{text}");
        }
    }

    #[test]
    fn tables_are_recognised() {
        let text = b"name;year;price;open;since;code;empty\r\nA, B;1999;1.10;true;2024-05-17;007;\nC;2001;3;False;2024-05-18;8;\n";
        let table = table(text, true, None, &BTreeMap::new()).unwrap();
        assert_eq!(table.delimiter, b';');
        let kinds: Vec<Kind> = table.columns.iter().map(|column| column.kind).collect();
        assert_eq!(kinds, [Kind::Text, Kind::Long, Kind::Double, Kind::Boolean, Kind::Date, Kind::Text, Kind::Text]);
        assert!(guess(text, true).unwrap().consistent);
        assert!(!guess(b"Well, here is some prose.\nIt has, as prose has, commas.\n", true).unwrap().consistent);
        assert!(guess(b"no delimiter\nat all\n", true).is_none());
    }

    #[test]
    fn columns_are_named_and_known_types_win() {
        let types = BTreeMap::from([("a".to_owned(), "keyword".to_owned())]);
        let table = table(b"a,,a\n1,2,3\n", true, None, &types).unwrap();
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["a", "column_2", "a_2"]);
        assert_eq!(table.columns[0].kind, Kind::Text);
        assert_eq!(table.columns[1].kind, Kind::Long);
    }
}
