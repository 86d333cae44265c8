//! Analysed text on its way into tantivy.
//!
//! A leaf analyses a text once, while applying the operation: that gives the exact token count and
//! the positions (with Elasticsearch's gap of 100 between the values of one field). The tokens travel
//! to tantivy's indexing thread as one string, `position;length;term` after each other, and
//! [`DecodeTokenizer`] takes them apart there. So every text field, spare or not, has the same
//! tokenizer in the schema, and no text is analysed twice.

use std::collections::HashMap;
use std::fmt::Write;

use tantivy::tokenizer::{TextAnalyzer, Token, TokenStream, Tokenizer};
use trawl_data::analysis::Analyzer;

/// Name of the tokenizer of every text field.
pub const TOKENIZER: &str = "analysed";
/// Distance between the last position of a value and the first of the next, as in Elasticsearch.
const POSITION_GAP: usize = 100;
/// Longer terms are dropped by tantivy, so they are neither written nor counted.
const TERM_BYTES_MAX: usize = u16::MAX as usize - 5;

/// Analysers that have been used, ready to be used again.
#[derive(Default)]
pub struct Analyzers(HashMap<Analyzer, TextAnalyzer>);

/// The tokens of all values of one field of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedTokens {
    /// What goes into tantivy.
    pub text: String,
    /// How many tokens there are.
    pub count: u64,
    next_position: usize,
}

impl EncodedTokens {
    /// Adds one value.
    pub fn push(&mut self, value: &str, analyzer: Analyzer, analyzers: &mut Analyzers) {
        let analyzer = analyzers.0.entry(analyzer).or_insert_with(|| analyzer.text_analyzer());
        let base = self.next_position;
        let mut end = base;
        self.text.reserve(value.len() + value.len() / 2);
        let mut stream = analyzer.token_stream(value);
        while stream.advance() {
            let token = stream.token();
            if token.text.len() > TERM_BYTES_MAX {
                continue;
            }
            let position = base + token.position;
            end = end.max(position + 1);
            self.count += 1;
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{position};{};{}", token.text.len(), token.text);
        }
        self.next_position = end + POSITION_GAP;
    }
}

/// Takes the tokens out of [`EncodedTokens::text`].
#[derive(Clone, Debug, Default)]
pub struct DecodeTokenizer {
    token: Token,
}

impl Tokenizer for DecodeTokenizer {
    type TokenStream<'a> = DecodeStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> DecodeStream<'a> {
        self.token.reset();
        DecodeStream { rest: text, token: &mut self.token }
    }
}

/// The stream of a [`DecodeTokenizer`].
pub struct DecodeStream<'a> {
    rest: &'a str,
    token: &'a mut Token,
}

impl DecodeStream<'_> {
    fn step(&mut self) -> Option<()> {
        let (position, rest) = self.rest.split_once(';')?;
        let (length, rest) = rest.split_once(';')?;
        let (term, rest) = rest.split_at_checked(length.parse().ok()?)?;
        self.token.position = position.parse().ok()?;
        self.token.position_length = 1;
        self.token.text.clear();
        self.token.text.push_str(term);
        self.rest = rest;
        Some(())
    }
}

impl TokenStream for DecodeStream<'_> {
    fn advance(&mut self) -> bool {
        self.step().is_some()
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Vec<(usize, String)> {
        let mut tokenizer = DecodeTokenizer::default();
        let mut stream = tokenizer.token_stream(text);
        let mut tokens = Vec::new();
        while stream.advance() {
            tokens.push((stream.token().position, stream.token().text.clone()));
        }
        tokens
    }

    #[test]
    fn tokens_come_out_as_they_went_in_with_a_gap_between_values() {
        let mut analyzers = Analyzers::default();
        let mut tokens = EncodedTokens::default();
        tokens.push("Grüße; 12;3 Wörter", Analyzer::Whitespace, &mut analyzers);
        tokens.push("", Analyzer::Whitespace, &mut analyzers);
        tokens.push("noch eins", Analyzer::Whitespace, &mut analyzers);
        assert_eq!(tokens.count, 5);
        let expected = [(0, "Grüße;"), (1, "12;3"), (2, "Wörter"), (203, "noch"), (204, "eins")]
            .map(|(at, term)| (at, term.to_owned()));
        assert_eq!(decode(&tokens.text), expected);
    }
}
