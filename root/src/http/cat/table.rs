//! Tables of `_cat`: choice and order of columns, units, text and JSON.

use std::cmp::Ordering;

use http::{HeaderMap, header::ACCEPT};

use super::super::{
    error::{ApiError, illegal},
    filter_path::matches,
    json::{Json, Members},
    params::Params,
    respond::Answer,
};

/// Content type of text.
pub(super) const PLAIN: &str = "text/plain; charset=UTF-8";

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    name: &'static str,
    aliases: &'static [&'static str],
    right: bool,
    hidden: bool,
}

impl Column {
    pub(super) const fn left(name: &'static str, aliases: &'static [&'static str]) -> Self {
        Self { name, aliases, right: false, hidden: false }
    }

    pub(super) const fn right(name: &'static str, aliases: &'static [&'static str]) -> Self {
        Self { name, aliases, right: true, hidden: false }
    }

    /// Shown only when asked for by `h`.
    pub(super) const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// A value in a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Empty,
    Text(String),
    Number(u64),
    Bytes(u64),
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn number(number: u64) -> Self {
        Self::Number(number)
    }

    fn show(&self, unit: Unit) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Bytes(bytes) => unit.show(*bytes),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one) | Self::Bytes(one), Self::Number(two) | Self::Bytes(two)) => one.cmp(two),
            _ => self.show(Unit::Exact(1)).cmp(&other.show(Unit::Exact(1))),
        }
    }
}

/// How bytes are shown.
#[derive(Clone, Copy, Debug)]
enum Unit {
    /// `1.2kb`
    Human,
    /// Whole numbers of so many bytes.
    Exact(u64),
}

impl Unit {
    fn parse(params: &Params) -> Result<Self, ApiError> {
        Ok(match params.get("bytes") {
            None => Self::Human,
            Some("b") => Self::Exact(1),
            Some("k" | "kb") => Self::Exact(1 << 10),
            Some("m" | "mb") => Self::Exact(1 << 20),
            Some("g" | "gb") => Self::Exact(1 << 30),
            Some("t" | "tb") => Self::Exact(1 << 40),
            Some(other) => return Err(illegal(format!("Unknown value for bytes: [{other}]")).into()),
        })
    }

    fn show(self, bytes: u64) -> String {
        if let Self::Exact(unit) = self {
            return (bytes / unit).to_string();
        }
        for (unit, name) in [(1_u64 << 40, "tb"), (1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")] {
            if bytes >= unit {
                let value = bytes as f64 / unit as f64;
                let text = format!("{value:.1}");
                return format!("{}{name}", text.strip_suffix(".0").unwrap_or(&text));
            }
        }
        format!("{bytes}b")
    }
}

/// Columns and rows; every row has a cell per column.
pub(super) struct Table {
    columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// The answer as the request wants it.
    pub(super) fn answer(mut self, params: &Params, headers: &HeaderMap) -> Result<Answer, ApiError> {
        let unit = Unit::parse(params)?;
        if params.flag("help")? == Some(true) {
            let lines = self.columns.iter().map(|column| format!("{} | {} |\n", column.name, column.aliases.join(",")));
            return Ok(Answer::text(lines.collect(), PLAIN));
        }
        self.sort(params)?;
        let chosen = self.chosen(params)?;
        if wants_json(params, headers)? {
            let rows = self.rows.iter().map(|row| {
                let members: Members = chosen
                    .iter()
                    .map(|at| {
                        let cell = &row[*at];
                        let value = if *cell == Cell::Empty { Json::Null } else { cell.show(unit).into() };
                        (self.columns[*at].name.to_owned(), value)
                    })
                    .collect();
                Json::Object(members)
            });
            return Ok(Answer::ok(Json::Array(rows.collect())));
        }
        let header = params.flag("v")?.unwrap_or(false);
        Ok(Answer::text(self.text(&chosen, unit, header), PLAIN))
    }

    /// Numbers of the columns to show.
    fn chosen(&self, params: &Params) -> Result<Vec<usize>, ApiError> {
        let all = || self.columns.iter().enumerate();
        let Some(wanted) = params.list("h") else {
            return Ok(all().filter(|(_, column)| !column.hidden).map(|(at, _)| at).collect());
        };
        let mut chosen = Vec::new();
        for name in wanted {
            let before = chosen.len();
            if name.contains('*') {
                chosen.extend(all().filter(|(_, column)| matches(&name, column.name)).map(|(at, _)| at));
            } else {
                chosen.extend(all().find(|(_, column)| column.is(&name)).map(|(at, _)| at));
            }
            if chosen.len() == before {
                return Err(illegal(format!("unknown column [{name}] in [h]")).into());
            }
        }
        Ok(chosen)
    }

    fn sort(&mut self, params: &Params) -> Result<(), ApiError> {
        let mut keys = Vec::new();
        for part in params.list("s").unwrap_or_default() {
            let (name, descending) = match part.rsplit_once(':') {
                Some((name, "desc")) => (name, true),
                Some((name, "asc")) => (name, false),
                _ => (part.as_str(), false),
            };
            let at = self.columns.iter().position(|column| column.is(name)).ok_or_else(|| {
                ApiError::from(Error::invalid(
                    "unsupported_operation_exception",
                    format!("Unable to sort by unknown sort key `{name}`"),
                ))
            })?;
            keys.push((at, descending));
        }
        self.rows.sort_by(|one, two| {
            keys.iter().fold(Ordering::Equal, |order, (at, descending)| {
                let next = one[*at].compare(&two[*at]);
                order.then(if *descending { next.reverse() } else { next })
            })
        });
        Ok(())
    }

    fn text(&self, chosen: &[usize], unit: Unit, header: bool) -> String {
        let mut lines: Vec<Vec<String>> = Vec::new();
        if header {
            lines.push(chosen.iter().map(|at| self.columns[*at].name.to_owned()).collect());
        }
        for row in &self.rows {
            lines.push(chosen.iter().map(|at| row[*at].show(unit)).collect());
        }
        let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..chosen.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let cells = line.iter().zip(chosen).zip(&widths).map(|((cell, at), width)| {
                if self.columns[*at].right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let joined = cells.collect::<Vec<_>>().join(" ");
            text.push_str(joined.trim_end());
            text.push('\n');
        }
        text
    }
}

fn wants_json(params: &Params, headers: &HeaderMap) -> Result<bool, ApiError> {
    match params.get("format") {
        Some("json") => return Ok(true),
        Some("text" | "txt") => return Ok(false),
        Some(other) => {
            return Err(illegal(format!("format [{other}] is not supported, only [json] and [text] are")).into());
        }
        None => {}
    }
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(accepts.contains("json") && !accepts.contains("text/plain") && !accepts.contains("*/*"))
}

use crate::error::Error;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::respond::Content;

    const COLUMNS: &[Column] =
        &[Column::left("name", &["n"]), Column::right("size", &["s"]), Column::left("id", &[]).hidden()];

    fn shown(query: &str) -> String {
        let mut table = Table::new(COLUMNS);
        table.rows.push(vec![Cell::text("long-name"), Cell::Bytes(1536), Cell::text("x")]);
        table.rows.push(vec![Cell::text("b"), Cell::Bytes(5), Cell::Empty]);
        match table.answer(&Params::parse(query), &HeaderMap::new()).unwrap().content {
            Content::Text(text, _) => text,
            Content::Json(json) => String::from_utf8(json.to_bytes()).unwrap(),
        }
    }

    #[test]
    fn text_and_json() {
        assert_eq!(shown("v"), "name       size\nlong-name 1.5kb\nb            5b\n");
        assert_eq!(shown("h=s,n&s=size&bytes=b"), "   5 b\n1536 long-name\n");
        assert_eq!(shown("format=json&h=name,id"), r#"[{"name":"long-name","id":"x"},{"name":"b","id":null}]"#);
        assert!(shown("help").starts_with("name | n |\n"));
    }

    #[test]
    fn unknown_columns_are_named() {
        let table = || Table::new(COLUMNS);
        let error =
            |query: &str| table().answer(&Params::parse(query), &HeaderMap::new()).err().unwrap().reason.clone();
        assert_eq!(error("h=foo"), "unknown column [foo] in [h]");
        assert_eq!(error("s=foo"), "Unable to sort by unknown sort key `foo`");
        assert_eq!(error("bytes=x"), "Unknown value for bytes: [x]");
    }
}
