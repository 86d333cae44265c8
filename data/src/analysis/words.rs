//! The tokenizer behind every analyzer: where text breaks, and the shape that words are given.
//!
//! [`Break::Words`] follows Lucene's `StandardTokenizer`: the words of Unicode UAX #29 that hold a
//! letter or a digit, or are emoji. So `can't`, `3.14`, `www.example.com` and `foo_bar` are one word,
//! `wi-fi` is two, Han and Hiragana break at every character, Katakana and Hangul do not, and
//! unbroken Thai, Lao, Khmer and Myanmar stays one word.
//!
//! No word crosses ASCII white space, so text is taken chunk by chunk, and chunks of ASCII alone
//! (most of most texts) by rules of their own, which a test holds equal to the general ones.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use unicode_segmentation::{UWordBoundIndices, UnicodeSegmentation};

/// Words longer than this many characters are split, as Lucene does.
const WORD_CHARS_MAX: usize = 255;

/// Where text is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// At word boundaries of UAX #29.
    Words,
    /// At everything that is not a letter.
    Letters,
    /// At white space.
    Spaces,
    /// Nowhere: the text is one word (an empty text too).
    Nowhere,
}

/// What a word is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing else.
    AsWritten,
    /// Lower case.
    Lower,
    /// Lower case without a final `'s`.
    Possessive,
    /// Lower case without a leading article and its apostrophe.
    Elided(&'static [&'static str]),
    /// Turkish lower case, up to the first apostrophe.
    Turkish,
}

/// Splits text into words.
#[derive(Clone, Debug)]
pub(super) struct WordTokenizer {
    breaks: Break,
    shape: Shape,
}

impl WordTokenizer {
    pub(super) fn new(breaks: Break, shape: Shape) -> Self {
        Self { breaks, shape }
    }
}

impl Tokenizer for WordTokenizer {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        let breaks = match self.breaks {
            Break::Words => Breaks::Words { from: 0, chunk: Chunk::Done },
            Break::Letters => Breaks::Runs { inside: char::is_alphabetic, from: 0 },
            Break::Spaces => Breaks::Runs { inside: |c| !c.is_whitespace(), from: 0 },
            Break::Nowhere => Breaks::Whole { done: false },
        };
        WordStream { text, breaks, shape: self.shape, rest: None, token: Token::default() }
    }
}

enum Breaks<'a> {
    Words { from: usize, chunk: Chunk<'a> },
    Runs { inside: fn(char) -> bool, from: usize },
    Whole { done: bool },
}

/// Text without white space, and how far it has been read.
enum Chunk<'a> {
    Done,
    Ascii { at: usize, end: usize },
    Unicode { base: usize, bounds: UWordBoundIndices<'a>, held: Option<(usize, &'a str)> },
}

/// The words of one text.
pub(super) struct WordStream<'a> {
    text: &'a str,
    breaks: Breaks<'a>,
    shape: Shape,
    /// What is left of a word that is being split.
    rest: Option<(usize, usize)>,
    token: Token,
}

impl WordStream<'_> {
    /// Start and end of the next word.
    fn next_word(&mut self) -> Option<(usize, usize)> {
        match &mut self.breaks {
            Breaks::Words { from, chunk } => next_standard_word(self.text, from, chunk),
            Breaks::Runs { inside, from } => {
                let rest = self.text.get(*from..)?;
                let start = *from + rest.find(*inside)?;
                let run = &self.text[start..];
                let end = start + run.find(|c| !inside(c)).unwrap_or(run.len());
                *from = end;
                Some((start, end))
            }
            Breaks::Whole { done } => {
                let first = !*done;
                *done = true;
                first.then_some((0, self.text.len()))
            }
        }
    }

    /// Start and end of the next word or part of a word that is too long.
    fn next_part(&mut self) -> Option<(usize, usize)> {
        let (start, end) = match self.rest.take() {
            Some(rest) => rest,
            None => self.next_word()?,
        };
        if end - start <= WORD_CHARS_MAX || matches!(self.breaks, Breaks::Whole { .. }) {
            return Some((start, end));
        }
        match self.text[start..end].char_indices().nth(WORD_CHARS_MAX) {
            Some((cut, _)) => {
                self.rest = Some((start + cut, end));
                Some((start, start + cut))
            }
            None => Some((start, end)),
        }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let Some((start, end)) = self.next_part() else {
            return false;
        };
        self.token.position = self.token.position.wrapping_add(1);
        self.token.position_length = 1;
        self.token.offset_from = start;
        self.token.offset_to = end;
        self.token.text.clear();
        give_shape(&self.text[start..end], self.shape, &mut self.token.text);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

fn next_standard_word<'a>(text: &'a str, from: &mut usize, chunk: &mut Chunk<'a>) -> Option<(usize, usize)> {
    loop {
        let word = match chunk {
            Chunk::Done => {
                *chunk = next_chunk(text, from)?;
                continue;
            }
            Chunk::Ascii { at, end } => next_ascii_word(&text.as_bytes()[..*end], at),
            Chunk::Unicode { base, bounds, held } => {
                next_unicode_word(bounds, held).map(|(start, end)| (*base + start, *base + end))
            }
        };
        if word.is_some() {
            return word;
        }
        *chunk = Chunk::Done;
    }
}

fn next_chunk<'a>(text: &'a str, from: &mut usize) -> Option<Chunk<'a>> {
    let bytes = text.as_bytes();
    let start = *from + bytes.get(*from..)?.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let end = start + bytes[start..].iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len() - start);
    *from = end;
    if bytes[start..end].is_ascii() {
        return Some(Chunk::Ascii { at: start, end });
    }
    Some(Chunk::Unicode { base: start, bounds: text[start..end].split_word_bound_indices(), held: None })
}

/// The rules of UAX #29 where all is ASCII: letters, digits and `_` belong together; `.`, `'` and `:`
/// join two letters, `.`, `'`, `,` and `;` two digits.
fn next_ascii_word(bytes: &[u8], at: &mut usize) -> Option<(usize, usize)> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    loop {
        let start = *at + bytes.get(*at..)?.iter().position(|byte| inside(*byte))?;
        let mut end = start + 1;
        let mut holds_more_than_underscores = bytes[start] != b'_';
        while let Some(byte) = bytes.get(end) {
            if inside(*byte) {
                holds_more_than_underscores |= *byte != b'_';
                end += 1;
                continue;
            }
            let behind = bytes.get(end + 1).copied().unwrap_or(b' ');
            let joins = match byte {
                b'.' | b'\'' => {
                    (bytes[end - 1].is_ascii_alphabetic() && behind.is_ascii_alphabetic())
                        || (bytes[end - 1].is_ascii_digit() && behind.is_ascii_digit())
                }
                b':' => bytes[end - 1].is_ascii_alphabetic() && behind.is_ascii_alphabetic(),
                b',' | b';' => bytes[end - 1].is_ascii_digit() && behind.is_ascii_digit(),
                _ => false,
            };
            if !joins {
                break;
            }
            end += 2;
        }
        *at = end;
        if holds_more_than_underscores {
            return Some((start, end));
        }
    }
}

fn next_unicode_word<'a>(
    bounds: &mut UWordBoundIndices<'a>,
    held: &mut Option<(usize, &'a str)>,
) -> Option<(usize, usize)> {
    loop {
        let (start, segment) = held.take().or_else(|| bounds.next())?;
        let mut end = start + segment.len();
        if starts_unspaced(segment) {
            // Scripts without spaces break at every character in UAX #29; Lucene keeps the run.
            for (next_start, next) in bounds.by_ref() {
                if !starts_unspaced(next) {
                    *held = Some((next_start, next));
                    break;
                }
                end = next_start + next.len();
            }
            return Some((start, end));
        }
        if segment.chars().any(|c| c.is_alphanumeric() || is_emoji(c)) {
            return Some((start, end));
        }
    }
}

/// Whether the segment begins with a letter or mark of a script that is written without spaces and
/// that UAX #29 leaves to dictionaries (line break class SA).
fn starts_unspaced(segment: &str) -> bool {
    segment.chars().next().is_some_and(|c| {
        matches!(c,
            '\u{0E01}'..='\u{0E3A}' | '\u{0E40}'..='\u{0E4E}'
            | '\u{0E81}'..='\u{0ECE}' | '\u{0EDC}'..='\u{0EDF}'
            | '\u{1000}'..='\u{103F}' | '\u{1050}'..='\u{108F}' | '\u{109A}'..='\u{109F}'
            | '\u{1780}'..='\u{17D3}' | '\u{17D7}' | '\u{17DC}'..='\u{17DD}'
            | '\u{1950}'..='\u{1974}' | '\u{1980}'..='\u{19C9}'
            | '\u{1A20}'..='\u{1A7C}' | '\u{AA60}'..='\u{AA7F}' | '\u{AA80}'..='\u{AADF}')
    })
}

/// Whether the character is a symbol that Lucene keeps as a word of its own.
fn is_emoji(c: char) -> bool {
    matches!(c,
        '\u{1F1E6}'..='\u{1F1FF}' | '\u{1F300}'..='\u{1FAFF}' | '\u{2600}'..='\u{27BF}'
        | '\u{2B1B}' | '\u{2B1C}' | '\u{2B50}' | '\u{2B55}' | '\u{231A}' | '\u{231B}' | '\u{23E9}'..='\u{23F3}')
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{FF07}')
}

/// Lower case, one character for one (as Java's `Character.toLowerCase` does it).
fn lower(c: char) -> char {
    if c.is_ascii() { c.to_ascii_lowercase() } else { c.to_lowercase().next().unwrap_or(c) }
}

fn give_shape(word: &str, shape: Shape, out: &mut String) {
    match shape {
        Shape::AsWritten => out.push_str(word),
        Shape::Lower => out.extend(word.chars().map(lower)),
        Shape::Possessive => {
            let mut chars = word.chars();
            let possessive =
                matches!(chars.next_back(), Some('s' | 'S')) && chars.next_back().is_some_and(is_apostrophe);
            let stem = if possessive { chars.as_str() } else { word };
            out.extend(stem.chars().map(lower));
        }
        Shape::Elided(articles) => {
            out.extend(word.chars().map(lower));
            // Lucene looks at the first apostrophe only, and knows ' and ’.
            if let Some(at) = out.find(['\'', '\u{2019}'])
                && articles.contains(&&out[..at])
            {
                let behind = at + out[at..].chars().next().map_or(0, char::len_utf8);
                out.drain(..behind);
            }
        }
        Shape::Turkish => {
            let stem = word.split(['\'', '\u{2019}']).next().unwrap_or(word);
            out.extend(stem.chars().map(|c| match c {
                'I' => 'ı',
                'İ' => 'i',
                other => lower(other),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ascii(text: &str) -> Vec<(usize, usize)> {
        let mut at = 0;
        std::iter::from_fn(|| next_ascii_word(text.as_bytes(), &mut at)).collect()
    }

    fn unicode(text: &str) -> Vec<(usize, usize)> {
        let (mut bounds, mut held) = (text.split_word_bound_indices(), None);
        std::iter::from_fn(|| next_unicode_word(&mut bounds, &mut held)).collect()
    }

    fn standard(text: &str) -> Vec<(usize, usize)> {
        let (mut from, mut chunk) = (0, Chunk::Done);
        std::iter::from_fn(|| next_standard_word(text, &mut from, &mut chunk)).collect()
    }

    proptest! {
        #[test]
        fn ascii_has_the_general_rules(text in "[a-c0-2_.,:;'\"/@ -]{0,24}", any in "[ -~]{0,24}") {
            prop_assert_eq!(ascii(&text), unicode(&text));
            prop_assert_eq!(ascii(&any), unicode(&any));
        }

        #[test]
        fn chunks_change_nothing(text in "[a-c0-2_.,:;'’äßहक\u{301}カ한我ひไทย😀 \n-]{0,24}") {
            prop_assert_eq!(standard(&text), unicode(&text));
        }
    }
}
