//! The original Porter stemmer as a tantivy token filter.
//!
//! Tantivy's own English stemmer is Porter's second one; Lucene's `EnglishAnalyzer`, and so
//! Elasticsearch's `english`, uses the first.

use std::mem;

use frostem::{Algorithm, Stemmer};
use tantivy::tokenizer::{Token, TokenFilter, TokenStream, Tokenizer};

/// Stems English words; expects them in lower case.
#[derive(Clone, Copy)]
pub(super) struct PorterStemmer;

impl TokenFilter for PorterStemmer {
    type Tokenizer<T: Tokenizer> = Porter<T>;

    fn transform<T: Tokenizer>(self, inner: T) -> Porter<T> {
        Porter { inner }
    }
}

/// A tokenizer whose words are stemmed.
#[derive(Clone)]
pub(super) struct Porter<T> {
    inner: T,
}

impl<T: Tokenizer> Tokenizer for Porter<T> {
    type TokenStream<'a> = PorterStream<T::TokenStream<'a>>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Self::TokenStream<'a> {
        PorterStream {
            inner: self.inner.token_stream(text),
            stemmer: Stemmer::new(Algorithm::Porter),
            spare: String::new(),
        }
    }
}

/// Its words.
pub(super) struct PorterStream<T> {
    inner: T,
    stemmer: Stemmer,
    spare: String,
}

impl<T: TokenStream> TokenStream for PorterStream<T> {
    fn advance(&mut self) -> bool {
        if !self.inner.advance() {
            return false;
        }
        let token = self.inner.token_mut();
        // Lucene leaves words of one and two letters alone.
        if token.text.len() > 2 {
            self.spare.clear();
            self.spare.push_str(&self.stemmer.stem(&token.text));
            mem::swap(&mut token.text, &mut self.spare);
        }
        true
    }

    fn token(&self) -> &Token {
        self.inner.token()
    }

    fn token_mut(&mut self) -> &mut Token {
        self.inner.token_mut()
    }
}
