//! Highlighting: the parts of a stored text that a query matched.
//!
//! The text is analysed again with its field's analyzer and its tokens are compared with the query's
//! terms for the same field, so any analysed field can be highlighted without storing more.

mod matcher;

use serde_json::Value;
use trawl_data::analysis::{Analyzer, Token};
use trawl_data::mapping::FieldType;
use trawl_proto::v1;

use crate::ShardSearcher;
use matcher::Matcher;

/// Bytes of one value that are looked at.
const TEXT_MAX: usize = 1_000_000;
/// Fragment size when the request says 0.
const FRAGMENT_SIZE: usize = 100;

/// Highlights documents for one query.
pub struct Highlighter {
    fields: Vec<Field>,
    pre_tag: String,
    post_tag: String,
}

struct Field {
    name: String,
    source_path: String,
    /// `None` for a field whose value is one term.
    analyzer: Option<Analyzer>,
    matcher: Matcher,
    fragment_size: usize,
    fragments_max: usize,
    no_match_size: usize,
}

impl Highlighter {
    /// What a request asks for; fields that the shard does not know are left out.
    pub fn new(searcher: &ShardSearcher, query: Option<&v1::Query>, highlight: &v1::Highlight) -> Self {
        let mapping = searcher.fields.mapping();
        let fields = highlight
            .fields
            .iter()
            .filter_map(|wanted| {
                let field = mapping.field(&wanted.field)?;
                let analyzer = match &field.field_type {
                    FieldType::Text { analyzer } => Some(*analyzer),
                    _ => None,
                };
                Some(Field {
                    name: wanted.field.clone(),
                    source_path: field.source_path.clone(),
                    analyzer,
                    matcher: Matcher::new(query, &wanted.field),
                    fragment_size: if wanted.fragment_size == 0 {
                        FRAGMENT_SIZE
                    } else {
                        wanted.fragment_size as usize
                    },
                    fragments_max: wanted.fragments_max as usize,
                    no_match_size: wanted.no_match_size as usize,
                })
            })
            .collect();
        Self { fields, pre_tag: highlight.pre_tag.clone(), post_tag: highlight.post_tag.clone() }
    }

    /// The fragments of a document's fields, in the order asked; fields without any are left out.
    pub fn highlight(&self, source: &Value) -> Vec<v1::FieldHighlight> {
        self.fields
            .iter()
            .filter_map(|field| {
                let mut values = Vec::new();
                texts(source, &field.source_path, &mut values);
                let fragments = field.fragments(&values, &self.pre_tag, &self.post_tag);
                (!fragments.is_empty()).then(|| v1::FieldHighlight { field: field.name.clone(), fragments })
            })
            .collect()
    }
}

/// A piece of a text with how well it matches.
struct Fragment {
    score: usize,
    text: String,
}

impl Field {
    fn fragments(&self, values: &[String], pre: &str, post: &str) -> Vec<String> {
        let mut fragments = Vec::new();
        for value in values {
            let end = value.floor_char_boundary(TEXT_MAX);
            let text = value.get(..end).unwrap_or_default();
            let tokens = match &self.analyzer {
                Some(analyzer) => analyzer.tokens(text),
                None => vec![Token { text: text.to_owned(), position: 0, start: 0, end: text.len() }],
            };
            let marked = self.matcher.marks(&tokens);
            self.cut(text, &tokens, &marked, pre, post, &mut fragments);
        }
        // The best first; among equals, in the order of the text.
        fragments.sort_by_key(|fragment| std::cmp::Reverse(fragment.score));
        if self.fragments_max > 0 {
            fragments.truncate(self.fragments_max);
        }
        let mut fragments: Vec<String> = fragments.into_iter().map(|fragment| fragment.text).collect();
        if fragments.is_empty()
            && self.no_match_size > 0
            && let Some(first) = values.first()
        {
            fragments.push(start_of(first, self.no_match_size));
        }
        fragments
    }

    /// Cuts a text into fragments of about the wanted size between tokens, and keeps those with marks.
    fn cut(&self, text: &str, tokens: &[Token], marked: &[bool], pre: &str, post: &str, fragments: &mut Vec<Fragment>) {
        if !marked.contains(&true) {
            return;
        }
        let whole = self.fragments_max == 0 || self.analyzer.is_none();
        let mut from = 0;
        let mut first = 0;
        let mut characters = 0;
        let mut last_end = 0;
        for (at, token) in tokens.iter().enumerate() {
            characters += text.get(last_end..token.end).map_or(0, |piece| piece.chars().count());
            if !whole && at > first && characters > self.fragment_size {
                self.keep(text, (from, token.start), tokens, marked, (first, at), (pre, post), fragments);
                from = token.start;
                first = at;
                characters = text.get(token.start..token.end).map_or(0, |piece| piece.chars().count());
            }
            last_end = last_end.max(token.end);
        }
        self.keep(text, (from, text.len()), tokens, marked, (first, tokens.len()), (pre, post), fragments);
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of `cut`")]
    fn keep(
        &self,
        text: &str,
        (from, to): (usize, usize),
        tokens: &[Token],
        marked: &[bool],
        (first, end): (usize, usize),
        (pre, post): (&str, &str),
        fragments: &mut Vec<Fragment>,
    ) {
        let mut out = String::new();
        let mut written = from;
        let mut seen: Vec<&str> = Vec::new();
        for at in first..end {
            let (Some(token), Some(true)) = (tokens.get(at), marked.get(at)) else { continue };
            if token.start < written || token.end > to {
                continue;
            }
            let (Some(before), Some(inside)) = (text.get(written..token.start), text.get(token.start..token.end))
            else {
                continue;
            };
            out.extend([before, pre, inside, post]);
            written = token.end;
            seen.push(&token.text);
        }
        if seen.is_empty() {
            return;
        }
        out.push_str(text.get(written..to).unwrap_or_default());
        let marks = seen.len();
        seen.sort_unstable();
        seen.dedup();
        let text = if self.fragments_max == 0 { out } else { out.trim().to_owned() };
        // Different terms count more than the same one again.
        fragments.push(Fragment { score: seen.len() * 1_000 + marks.min(999), text });
    }
}

fn start_of(text: &str, characters: usize) -> String {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at);
    let start = text.get(..end).unwrap_or_default();
    let cut = if end < text.len() { start.rfind(char::is_whitespace).unwrap_or(end) } else { end };
    start.get(..cut).unwrap_or(start).trim_end().to_owned()
}

/// The texts at a dotted path; objects and arrays are walked, and keys may contain dots.
fn texts(source: &Value, path: &str, found: &mut Vec<String>) {
    match source {
        Value::Array(values) => values.iter().for_each(|value| texts(value, path, found)),
        _ if path.is_empty() => match source {
            Value::String(text) => found.push(text.clone()),
            Value::Number(number) => found.push(number.to_string()),
            Value::Bool(flag) => found.push(flag.to_string()),
            _ => {}
        },
        Value::Object(object) => {
            for (key, value) in object {
                if let Some(rest) = path.strip_prefix(key.as_str()) {
                    if rest.is_empty() {
                        texts(value, "", found);
                    } else if let Some(rest) = rest.strip_prefix('.') {
                        texts(value, rest, found);
                    }
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trawl_proto::v1::{query, value};

    use super::*;

    fn term(text: &str) -> v1::Query {
        let value = Some(v1::Value { kind: Some(value::Kind::String(text.to_owned())) });
        v1::Query { kind: Some(query::Kind::Term(v1::Term { field: "t".to_owned(), value })), boost: None }
    }

    fn field(query: &v1::Query, fragment_size: usize, fragments_max: usize) -> Field {
        Field {
            name: "t".to_owned(),
            source_path: "t".to_owned(),
            analyzer: Some(Analyzer::Standard),
            matcher: Matcher::new(Some(query), "t"),
            fragment_size,
            fragments_max,
            no_match_size: 0,
        }
    }

    #[test]
    fn matches_are_tagged_and_the_best_fragment_comes_first() {
        let boolean = v1::Boolean { should: vec![term("fox"), term("dog")], ..Default::default() };
        let query = v1::Query { kind: Some(query::Kind::Boolean(boolean)), boost: None };
        let text = "The Fox was here long ago, nobody knows why. And then the dog met the fox again.".to_owned();
        let whole = field(&query, 100, 0).fragments(std::slice::from_ref(&text), "<em>", "</em>");
        assert_eq!(
            whole,
            [
                "The <em>Fox</em> was here long ago, nobody knows why. And then the <em>dog</em> met the <em>fox</em> again."
            ]
        );
        let best = field(&query, 40, 1).fragments(&[text], "<b>", "</b>");
        assert_eq!(best.len(), 1);
        assert!(best[0].contains("<b>dog</b> met the <b>fox</b>"), "{best:?}");
    }

    #[test]
    fn values_are_found_in_arrays_and_under_dotted_keys() {
        let mut found = Vec::new();
        texts(&json!({"a": [{"b": "x"}, {"b": ["y", 3]}], "a.b": "z"}), "a.b", &mut found);
        found.sort();
        assert_eq!(found, ["3", "x", "y", "z"]);
    }

    #[test]
    fn the_start_of_a_text_ends_at_a_word() {
        assert_eq!(start_of("some words here", 8), "some");
        assert_eq!(start_of("ééé", 2), "éé");
        assert_eq!(start_of("short", 80), "short");
    }
}
