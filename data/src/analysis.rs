//! Analysis: from text to terms with positions.
//!
//! The root analyses queries and the leaf analyses documents with the same code:
//! [`Analyzer::tokens`] runs the very tokenizer that [`Analyzer::text_analyzer`] hands to tantivy,
//! so the two cannot differ. Terms are stored on disk, so what an analyzer does is a contract.
//!
//! | name | what it does |
//! | --- | --- |
//! | `standard` | words by Unicode UAX #29 as Lucene takes them (see `analysis/words.rs`), lower-cased |
//! | `simple` | runs of letters, lower-cased |
//! | `stop` | `simple` without Lucene's 33 English stop words |
//! | `whitespace` | runs of anything but white space, as written |
//! | `keyword` | the whole text as one term, as written |
//! | `english` | `standard`, a possessive `'s` removed, without the 33 stop words, original Porter stemmer |
//! | `french`, `italian` | `standard`, elided articles (`l'`, `dell'`) removed, without stop words, Snowball stemmer |
//! | `turkish` | `standard` with dotless i, what follows an apostrophe removed, Snowball stemmer |
//! | other languages | `standard`, without stop words (where Snowball lists them), Snowball stemmer |
//!
//! Removed words leave gaps in the positions. Words over 255 characters are split every 255, except
//! by `keyword`. Lower-casing maps character by character and never changes the number of characters.

mod filters;
mod language;
mod words;

use std::collections::HashMap;
use std::sync::LazyLock;

use tantivy::tokenizer::{StopWordFilter, TextAnalyzer, TokenStream, TokenizerManager};

pub use language::Language;

use filters::PorterStemmer;
use words::{Break, Shape, WordTokenizer};

/// How text becomes terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Analyzer {
    /// Unicode words, lower-cased.
    Standard,
    /// Runs of letters, lower-cased.
    Simple,
    /// `Simple` without English stop words.
    Stop,
    /// Runs of anything but white space.
    Whitespace,
    /// The whole text as one term.
    Keyword,
    /// Words of a language, stemmed.
    Language(Language),
}

/// One term of an analysed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The term.
    pub text: String,
    /// Its place among the words of the text, from 0; removed words are counted.
    pub position: u32,
    /// Byte offset of the first character in the text.
    pub start: usize,
    /// Byte offset behind the last character.
    pub end: usize,
}

impl Analyzer {
    /// The analyzer that Elasticsearch calls by this name, if there is one here.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "standard" | "default" => Some(Self::Standard),
            "simple" => Some(Self::Simple),
            "stop" => Some(Self::Stop),
            "whitespace" => Some(Self::Whitespace),
            "keyword" => Some(Self::Keyword),
            other => Language::parse(other).map(Self::Language),
        }
    }

    /// Its name, in mappings and as a registered tokenizer.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Simple => "simple",
            Self::Stop => "stop",
            Self::Whitespace => "whitespace",
            Self::Keyword => "keyword",
            Self::Language(language) => language.name(),
        }
    }

    /// Every analyzer there is.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Standard, Self::Simple, Self::Stop, Self::Whitespace, Self::Keyword]
            .into_iter()
            .chain(Language::ALL.iter().copied().map(Self::Language))
    }

    /// The same as a tokenizer for tantivy.
    pub fn text_analyzer(&self) -> TextAnalyzer {
        match self {
            Self::Standard => TextAnalyzer::from(WordTokenizer::new(Break::Words, Shape::Lower)),
            Self::Simple => TextAnalyzer::from(WordTokenizer::new(Break::Letters, Shape::Lower)),
            Self::Stop => {
                let builder = TextAnalyzer::builder(WordTokenizer::new(Break::Letters, Shape::Lower)).dynamic();
                match StopWordFilter::new(tantivy::tokenizer::Language::English) {
                    Some(stop) => builder.filter_dynamic(stop).build(),
                    None => builder.build(),
                }
            }
            Self::Whitespace => TextAnalyzer::from(WordTokenizer::new(Break::Spaces, Shape::AsWritten)),
            Self::Keyword => TextAnalyzer::from(WordTokenizer::new(Break::Nowhere, Shape::AsWritten)),
            Self::Language(language) => {
                let shape = language.shape();
                let mut builder = TextAnalyzer::builder(WordTokenizer::new(Break::Words, shape)).dynamic();
                if let Some(stop) = StopWordFilter::new(language.tantivy()) {
                    builder = builder.filter_dynamic(stop);
                }
                match language {
                    Language::English => builder.filter_dynamic(PorterStemmer).build(),
                    other => builder.filter_dynamic(tantivy::tokenizer::Stemmer::new(other.tantivy())).build(),
                }
            }
        }
    }

    /// The terms of a text in order, exactly as a document's text is indexed.
    pub fn tokens(&self, text: &str) -> Vec<Token> {
        // Making one costs more than analysing a query: stop words are hashed.
        static MADE: LazyLock<HashMap<Analyzer, TextAnalyzer>> =
            LazyLock::new(|| Analyzer::all().map(|analyzer| (analyzer, analyzer.text_analyzer())).collect());
        let mut analyzer = MADE.get(self).cloned().unwrap_or_else(|| self.text_analyzer());
        let mut stream = analyzer.token_stream(text);
        let mut tokens = Vec::new();
        while stream.advance() {
            let token = stream.token();
            tokens.push(Token {
                text: token.text.clone(),
                position: u32::try_from(token.position).unwrap_or(u32::MAX),
                start: token.offset_from,
                end: token.offset_to,
            });
        }
        tokens
    }
}

/// Registers every analyzer under its name.
pub fn register_all(manager: &TokenizerManager) {
    for analyzer in Analyzer::all() {
        manager.register(analyzer.name(), analyzer.text_analyzer());
    }
}

#[cfg(test)]
mod tests;
