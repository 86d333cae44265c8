//! Columns for a person: as wide as they need to be, the last one cut at the width of a line.

use std::io::Write;

/// Characters of the last column that are shown.
const LAST_MAX: usize = 120;

/// Rows under a heading; prints nothing when there are none.
pub fn print(heading: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading.get(column).map_or(0, |name| name.len())]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
    for cells in std::iter::once(&heading).chain(&rows) {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        say(padded.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Prints a line; to whoever has stopped listening (`| head`) nothing is said.
pub fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

/// The text on one line, without anything that a terminal would obey.
pub fn printable(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LAST_MAX + 1).collect();
    if shown.chars().count() <= LAST_MAX { shown } else { shown.chars().take(LAST_MAX).chain(['…']).collect() }
}

/// A size as a person reads it.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
