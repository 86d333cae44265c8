//! A pull parser for the JSON of documents.
//!
//! It keeps numbers as written, knows where every value stands, refuses duplicate keys and deep
//! nesting, and never copies a string without escapes: what a general-purpose parser hides.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{DocumentError, NESTING_MAX};

/// The longest number in bytes; Jackson has the same limit.
const NUMBER_BYTES_MAX: usize = 1000;

/// From how many keys on an object's keys are hashed.
const KEYS_SCANNED_MAX: usize = 16;

/// What kind of value stands next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean(bool),
    Null,
}

/// What to do with an entry of an object: called behind the key, moves behind the value.
pub(super) type EachEntry<'a, 'f> =
    &'f mut dyn FnMut(&mut Parser<'a>, Cow<'a, str>, usize) -> Result<(), DocumentError>;

/// A cursor over a document.
pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    nesting: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(source: &'a [u8]) -> Result<Self, DocumentError> {
        match std::str::from_utf8(source) {
            Ok(text) => Ok(Self { text, at: 0, nesting: 0 }),
            Err(error) => {
                let at = error.valid_up_to();
                let byte = source.get(at).copied().unwrap_or_default();
                Err(malformed(source, at, &format!("Invalid UTF-8 start byte 0x{byte:x}")))
            }
        }
    }

    /// Where the next byte stands.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What was written between two places.
    pub(super) fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// `line:column` of a place, both from 1, columns in bytes.
    pub(super) fn location(&self, at: usize) -> String {
        location(self.text.as_bytes(), at)
    }

    /// The kind of the next value, which starts at [`Parser::at`] afterwards.
    pub(super) fn peek(&mut self) -> Result<Kind, DocumentError> {
        self.skip_space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't') if self.rest().starts_with("true") => Ok(Kind::Boolean(true)),
            Some(b'f') if self.rest().starts_with("false") => Ok(Kind::Boolean(false)),
            Some(b'n') if self.rest().starts_with("null") => Ok(Kind::Null),
            _ => Err(self.unexpected(
                "expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')",
            )),
        }
    }

    /// Moves behind the object that stands next; `each` is called behind every key and has to move
    /// behind its value. Given are the key and where it stands.
    pub(super) fn object(&mut self, each: EachEntry<'a, '_>) -> Result<(), DocumentError> {
        self.enter()?;
        let mut keys = Keys::default();
        self.skip_space();
        if !self.take(b'}') {
            loop {
                self.skip_space();
                let at = self.at;
                if self.byte() != Some(b'"') {
                    return Err(self.unexpected("was expecting double-quote to start field name"));
                }
                let key = self.string()?;
                if !keys.insert(key.clone()) {
                    return Err(self.malformed(at, &format!("Duplicate field '{key}'")));
                }
                self.skip_space();
                if !self.take(b':') {
                    return Err(self.unexpected("was expecting a colon to separate field name and value"));
                }
                each(self, key, at)?;
                self.skip_space();
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.unexpected("was expecting comma to separate Object entries"));
                }
            }
        }
        self.nesting -= 1;
        Ok(())
    }

    /// Moves behind the array that stands next; `each` is called before every element and has to
    /// move behind it.
    pub(super) fn array(
        &mut self,
        each: &mut dyn FnMut(&mut Self) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        self.enter()?;
        self.skip_space();
        if !self.take(b']') {
            loop {
                each(self)?;
                self.skip_space();
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.unexpected("was expecting comma to separate Array entries"));
                }
            }
        }
        self.nesting -= 1;
        Ok(())
    }

    /// The string that stands next.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, DocumentError> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut end = start;
        loop {
            match bytes.get(end) {
                Some(b'"') => {
                    self.at = end + 1;
                    return Ok(Cow::Borrowed(self.slice(start, end)));
                }
                Some(b'\\') => return self.escaped_string(start, end),
                Some(byte) if *byte < 0x20 => return Err(self.control_character(end, *byte)),
                Some(_) => end += 1,
                None => return Err(self.end_of_input()),
            }
        }
    }

    fn escaped_string(&mut self, start: usize, first_escape: usize) -> Result<Cow<'a, str>, DocumentError> {
        let mut out = self.slice(start, first_escape).to_owned();
        let bytes = self.text.as_bytes();
        self.at = first_escape;
        loop {
            let run = self.at;
            while bytes.get(self.at).is_some_and(|byte| !matches!(byte, b'"' | b'\\') && *byte >= 0x20) {
                self.at += 1;
            }
            out.push_str(self.slice(run, self.at));
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(byte) => return Err(self.control_character(self.at, byte)),
                None => return Err(self.end_of_input()),
            }
        }
    }

    /// The character of the escape that stands next. A surrogate without its other half is the
    /// replacement character.
    fn escape(&mut self) -> Result<char, DocumentError> {
        let at = self.at;
        self.at += 1;
        let Some(letter) = self.byte() else { return Err(self.end_of_input()) };
        let plain = match letter {
            b'"' | b'\\' | b'/' => letter as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                let unit = self.hex(at)?;
                if !(0xD800..0xDC00).contains(&unit) {
                    return Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                if !self.rest().starts_with("\\u") {
                    return Ok(char::REPLACEMENT_CHARACTER);
                }
                let second = self.at;
                self.at += 2;
                let low = self.hex(second)?;
                if !(0xDC00..0xE000).contains(&low) {
                    self.at = second;
                    return Ok(char::REPLACEMENT_CHARACTER);
                }
                let scalar = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            _ => return Err(self.malformed(at, "Unrecognized character escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn hex(&mut self, escape_at: usize) -> Result<u32, DocumentError> {
        let digits =
            self.text.as_bytes().get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(unit) = digits.and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        else {
            return Err(self.malformed(
                escape_at,
                "Unexpected character in escape: expected a hex-digit for character escape sequence",
            ));
        };
        self.at += 4;
        Ok(unit)
    }

    /// The number that stands next, as written.
    pub(super) fn number(&mut self) -> Result<&'a str, DocumentError> {
        let start = self.at;
        self.take(b'-');
        if self.take(b'0') {
            if self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(self.malformed(start, "Invalid numeric value: Leading zeroes not allowed"));
            }
        } else {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        if self.byte().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
            return Err(self.unexpected("Expected space separating root-level values"));
        }
        let length = self.at - start;
        if length > NUMBER_BYTES_MAX {
            return Err(self.malformed(
                start,
                &format!("Number value length ({length}) exceeds the maximum allowed ({NUMBER_BYTES_MAX})"),
            ));
        }
        Ok(self.slice(start, self.at))
    }

    fn digits(&mut self) -> Result<(), DocumentError> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("expected digit (0-9) in a number")) } else { Ok(()) }
    }

    /// Moves behind the `true`, `false` or `null` that [`Parser::peek`] saw.
    pub(super) fn literal(&mut self, kind: Kind) {
        self.at += if kind == Kind::Boolean(false) { 5 } else { 4 };
    }

    /// Moves behind the value that stands next, whatever it is.
    pub(super) fn skip(&mut self) -> Result<(), DocumentError> {
        match self.peek()? {
            Kind::Object => self.object(&mut |parser, _, _| parser.skip()),
            Kind::Array => self.array(&mut |parser| parser.skip()),
            Kind::String => self.string().map(|_| ()),
            Kind::Number => self.number().map(|_| ()),
            kind => {
                self.literal(kind);
                Ok(())
            }
        }
    }

    /// Whether nothing but white space is left.
    pub(super) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    /// An error of the document as such.
    pub(super) fn malformed(&self, at: usize, reason: &str) -> DocumentError {
        malformed(self.text.as_bytes(), at, reason)
    }

    fn enter(&mut self) -> Result<(), DocumentError> {
        if self.nesting == NESTING_MAX {
            return Err(self.malformed(
                self.at,
                &format!("Document nesting depth ({}) exceeds the maximum allowed ({NESTING_MAX})", NESTING_MAX + 1),
            ));
        }
        self.nesting += 1;
        self.at += 1;
        Ok(())
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.byte() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, wanted: &str) -> DocumentError {
        match self.rest().chars().next() {
            Some(c) => {
                self.malformed(self.at, &format!("Unexpected character ('{c}' (code {})): {wanted}", u32::from(c)))
            }
            None => self.end_of_input(),
        }
    }

    fn control_character(&self, at: usize, byte: u8) -> DocumentError {
        self.malformed(at, &format!("Illegal unquoted character ((CTRL-CHAR, code {byte})): has to be escaped using backslash to be included in string value"))
    }

    fn end_of_input(&self) -> DocumentError {
        self.malformed(self.text.len(), "Unexpected end-of-input")
    }
}

/// The keys of one object so far.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    /// False when the key was there.
    fn insert(&mut self, key: Cow<'a, str>) -> bool {
        if self.few.len() < KEYS_SCANNED_MAX {
            let new = !self.few.contains(&key);
            self.few.push(key);
            return new;
        }
        if self.many.is_empty() {
            self.many.extend(self.few.iter().cloned());
        }
        self.many.insert(key)
    }
}

fn location(bytes: &[u8], at: usize) -> String {
    let before = &bytes[..at.min(bytes.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    format!("{line}:{column}")
}

fn malformed(bytes: &[u8], at: usize, reason: &str) -> DocumentError {
    let reason = format!("[{}] {reason}", location(bytes, at));
    DocumentError {
        error_type: "document_parsing_exception",
        caused_by: Some(("x_content_parse_exception".to_owned(), reason.clone())),
        reason,
    }
}
