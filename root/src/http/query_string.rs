//! The syntax of `query_string` and `?q=`: text to a list of clauses, knowing no index.
//!
//! ```text
//! quick fox  "two words"~2  title:fox  title:(a b)  +must -not !not  a AND b OR NOT c  (x y)^2
//! year:[2000 TO 2010}  year:>=2000  pre*  fuzy~1  title:*  _exists_:title  *:*  \+escaped
//! ```
//!
//! `AND` and `OR` work as in Lucene's classic parser: they mark their neighbours as required or
//! optional, without precedence.

mod operators;

#[cfg(test)]
mod tests;

use std::{iter::Peekable, str::Chars};

use self::operators::{Conjunction, Modifier, Raw, combine};

/// How deep parentheses may nest.
const DEPTH_MAX: usize = 30;

/// One clause of a (sub-)query.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// Whether it has to match.
    pub occur: Occur,
    /// In which field; `None` for the default ones.
    pub field: Option<String>,
    /// What to find.
    pub expression: Expression,
    /// Factor on its score.
    pub boost: f32,
}

/// Whether a clause has to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occur {
    /// It may.
    Should,
    /// It has to.
    Must,
    /// It must not.
    MustNot,
}

/// What a clause finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// One or more words, still to be analysed.
    Text(String),
    /// Words in this order.
    Phrase {
        /// Still to be analysed.
        text: String,
        /// How far they may move; `None` when not said.
        slop: Option<u32>,
    },
    /// A word's beginning.
    Prefix(String),
    /// A word with edits.
    Fuzzy {
        /// The word.
        term: String,
        /// How many edits; `None` when not said.
        distance: Option<String>,
    },
    /// Values between bounds.
    Range {
        /// Lower bound and whether it is inside.
        lower: Option<(String, bool)>,
        /// Upper bound and whether it is inside.
        upper: Option<(String, bool)>,
    },
    /// Any value.
    Exists,
    /// Every document.
    All,
    /// Clauses in parentheses.
    Group(Vec<Clause>),
}

/// Parses a query; `all_terms` is whether the default operator is `AND`.
///
/// # Errors
/// A sentence that says what is wrong and where.
pub fn parse(text: &str, all_terms: bool) -> Result<Vec<Clause>, String> {
    let mut parser = Parser { characters: text.chars().peekable(), at: 0, depth: 0, all_terms };
    let clauses = parser.clauses()?;
    match parser.peek() {
        None => Ok(clauses),
        Some(character) => Err(parser.unexpected(character)),
    }
}

/// A word as written: escapes resolved, wildcards that were not escaped noted.
#[derive(Default)]
struct Word {
    text: String,
    /// Whether any character was escaped (then it is no operator).
    escaped: bool,
    /// Byte offsets of wildcards in `text`.
    wildcards: Vec<usize>,
}

struct Parser<'a> {
    characters: Peekable<Chars<'a>>,
    at: usize,
    depth: usize,
    all_terms: bool,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.characters.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        self.at += 1;
        self.characters.next()
    }

    fn takes(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.next();
        }
    }

    fn unexpected(&self, character: char) -> String {
        format!("unexpected [{character}] at position {}", self.at)
    }

    /// Clauses until the end or a closing parenthesis.
    fn clauses(&mut self) -> Result<Vec<Clause>, String> {
        let mut raws: Vec<Raw> = Vec::new();
        loop {
            self.skip_blanks();
            if matches!(self.peek(), None | Some(')')) {
                break;
            }
            let raw = self.raw()?;
            raws.push(raw);
        }
        Ok(combine(raws, self.all_terms))
    }

    /// Conjunction, modifier and operand.
    fn raw(&mut self) -> Result<Raw, String> {
        let mut conjunction = Conjunction::None;
        let mut modifier = Modifier::None;
        loop {
            self.skip_blanks();
            match self.peek() {
                None | Some(')') => return Err(format!("an operand is missing at position {}", self.at)),
                Some(mark @ ('+' | '-' | '!')) if modifier == Modifier::None => {
                    self.next();
                    modifier = if mark == '+' { Modifier::Required } else { Modifier::Prohibited };
                }
                Some(mark @ ('&' | '|')) if self.doubled(mark) => {
                    self.next();
                    self.next();
                    self.conjoin(
                        &mut conjunction,
                        modifier,
                        if mark == '&' { Conjunction::And } else { Conjunction::Or },
                    )?;
                }
                Some('(' | '"' | '[' | '{') => break,
                Some(_) => {
                    let word = self.word()?;
                    let operator = if word.escaped || self.peek() == Some(':') { "" } else { word.text.as_str() };
                    match operator {
                        "AND" => self.conjoin(&mut conjunction, modifier, Conjunction::And)?,
                        "OR" => self.conjoin(&mut conjunction, modifier, Conjunction::Or)?,
                        "NOT" if modifier == Modifier::None => modifier = Modifier::Prohibited,
                        _ => {
                            let clause = self.after_word(word)?;
                            return Ok(Raw { conjunction, modifier, clause });
                        }
                    }
                }
            }
        }
        let clause = self.operand(None)?;
        Ok(Raw { conjunction, modifier, clause })
    }

    fn doubled(&self, mark: char) -> bool {
        let mut ahead = self.characters.clone();
        ahead.next() == Some(mark) && ahead.next() == Some(mark)
    }

    fn conjoin(&self, present: &mut Conjunction, modifier: Modifier, new: Conjunction) -> Result<(), String> {
        if *present != Conjunction::None || modifier != Modifier::None {
            return Err(format!("an operand is missing at position {}", self.at));
        }
        *present = new;
        Ok(())
    }

    /// What follows a field's name, or stands without one.
    fn operand(&mut self, field: Option<String>) -> Result<Clause, String> {
        self.skip_blanks();
        let expression = match self.peek() {
            Some('(') => self.group()?,
            Some('"') => {
                let text = self.quoted()?;
                let slop = match self.suffix('~')? {
                    None => None,
                    Some(digits) => {
                        let value: f32 = digits.parse().map_err(|_| format!("bad slop [{digits}]"))?;
                        Some(value as u32)
                    }
                };
                Expression::Phrase { text, slop }
            }
            Some('[' | '{') => self.range()?,
            Some('>' | '<') if field.is_some() => self.comparison()?,
            Some(character) if !is_reserved(character) || matches!(character, '\\' | '*' | '?' | '-' | '+') => {
                let word = self.word()?;
                self.word_expression(word, field.is_some())?
            }
            Some(character) => return Err(self.unexpected(character)),
            None => return Err("the query ends where an operand is expected".to_owned()),
        };
        let boost = self.boost()?;
        Ok(Clause { occur: Occur::Should, field, expression, boost })
    }

    /// A word is a field's name when a colon follows.
    fn after_word(&mut self, word: Word) -> Result<Clause, String> {
        if word.text.is_empty() || !self.takes(':') {
            let expression = self.word_expression(word, false)?;
            let boost = self.boost()?;
            return Ok(Clause { occur: Occur::Should, field: None, expression, boost });
        }
        if word.text == "_exists_" {
            self.skip_blanks();
            let name = if self.peek() == Some('"') { self.quoted()? } else { self.word()?.text };
            if name.is_empty() {
                return Err("[_exists_] needs a field".to_owned());
            }
            let boost = self.boost()?;
            return Ok(Clause { occur: Occur::Should, field: Some(name), expression: Expression::Exists, boost });
        }
        let every_field = word.text == "*" && !word.escaped;
        let mut clause = self.operand(Some(word.text))?;
        if every_field && clause.expression == Expression::Exists {
            clause.expression = Expression::All;
            clause.field = None;
        }
        Ok(clause)
    }

    fn word_expression(&mut self, word: Word, in_field: bool) -> Result<Expression, String> {
        if word.text.is_empty() {
            let found = self.peek();
            return Err(found.map_or("a word is missing".to_owned(), |character| self.unexpected(character)));
        }
        if let Some(digits) = self.suffix('~')? {
            if !word.wildcards.is_empty() {
                return Err(format!("a fuzzy term cannot have wildcards [{}]", word.text));
            }
            let distance = (!digits.is_empty()).then_some(digits);
            return Ok(Expression::Fuzzy { term: word.text, distance });
        }
        match word.wildcards.as_slice() {
            [] => Ok(Expression::Text(word.text)),
            [0] if word.text == "*" => Ok(if in_field { Expression::Exists } else { Expression::All }),
            [last] if *last == word.text.len() - 1 && word.text.ends_with('*') => {
                let mut prefix = word.text;
                prefix.pop();
                Ok(Expression::Prefix(prefix))
            }
            _ => Err(format!("wildcards are supported at the end of a term only, not in [{}]", word.text)),
        }
    }

    fn group(&mut self) -> Result<Expression, String> {
        self.next();
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("parentheses are nested deeper than {DEPTH_MAX}"));
        }
        let clauses = self.clauses()?;
        self.depth -= 1;
        if !self.takes(')') {
            return Err("a closing parenthesis is missing".to_owned());
        }
        if clauses.is_empty() {
            return Err(format!("empty parentheses at position {}", self.at));
        }
        Ok(Expression::Group(clauses))
    }

    fn quoted(&mut self) -> Result<String, String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(character) => text.push(character),
                None => return Err("a closing quotation mark is missing".to_owned()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        match self.next() {
            Some('u') => {
                let digits: String = std::iter::from_fn(|| self.next()).take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                code.and_then(char::from_u32).ok_or_else(|| format!("bad escape [\\u{digits}]"))
            }
            Some(character) => Ok(character),
            None => Err("the query ends with an escape character".to_owned()),
        }
    }

    fn word(&mut self) -> Result<Word, String> {
        let mut word = Word::default();
        while let Some(character) = self.peek() {
            match character {
                '\\' => {
                    self.next();
                    word.escaped = true;
                    let escaped = self.escape()?;
                    word.text.push(escaped);
                    continue;
                }
                '*' | '?' => word.wildcards.push(word.text.len()),
                '+' | '-' if !word.text.is_empty() => {}
                '/' if word.text.is_empty() => {
                    return Err(format!(
                        "regular expressions are not supported (position {}); escape the slash",
                        self.at
                    ));
                }
                '/' => {}
                _ if is_blank(character) || is_reserved(character) => break,
                _ => {}
            }
            word.text.push(character);
            self.next();
        }
        Ok(word)
    }

    /// The digits behind `~` or `^`; `None` when the mark is not there.
    fn suffix(&mut self, mark: char) -> Result<Option<String>, String> {
        if !self.takes(mark) {
            return Ok(None);
        }
        let mut digits = String::new();
        while let Some(character) = self.peek().filter(|character| character.is_ascii_digit() || *character == '.') {
            digits.push(character);
            self.next();
        }
        Ok(Some(digits))
    }

    fn boost(&mut self) -> Result<f32, String> {
        match self.suffix('^')? {
            None => Ok(1.0),
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|boost: &f32| boost.is_finite())
                .ok_or_else(|| format!("bad boost [{digits}] at position {}", self.at)),
        }
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let greater = self.next() == Some('>');
        let inclusive = self.takes('=');
        self.skip_blanks();
        let value = self.bound()?;
        if value.is_empty() {
            return Err(format!("a value is missing at position {}", self.at));
        }
        let bound = Some((value, inclusive));
        Ok(if greater {
            Expression::Range { lower: bound, upper: None }
        } else {
            Expression::Range { lower: None, upper: bound }
        })
    }

    fn range(&mut self) -> Result<Expression, String> {
        let lower_inclusive = self.next() == Some('[');
        self.skip_blanks();
        let lower = self.bound()?;
        self.skip_blanks();
        if self.bound()? != "TO" {
            return Err(format!("[TO] is missing in a range at position {}", self.at));
        }
        self.skip_blanks();
        let upper = self.bound()?;
        self.skip_blanks();
        let upper_inclusive = match self.next() {
            Some(']') => true,
            Some('}') => false,
            _ => return Err(format!("a range is not closed at position {}", self.at)),
        };
        if lower.is_empty() || upper.is_empty() {
            return Err(format!("a bound of a range is missing at position {}", self.at));
        }
        let open = |value: String, inclusive| (value != "*").then_some((value, inclusive));
        Ok(Expression::Range { lower: open(lower, lower_inclusive), upper: open(upper, upper_inclusive) })
    }

    /// One end of a range: nearly any character is part of it (dates have colons).
    fn bound(&mut self) -> Result<String, String> {
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let mut text = String::new();
        while let Some(character) = self.peek() {
            if is_blank(character) || matches!(character, ']' | '}' | ')' | '^') {
                break;
            }
            self.next();
            text.push(if character == '\\' { self.escape()? } else { character });
        }
        Ok(text)
    }
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\u{3000}')
}

/// Characters that no word contains unless escaped.
fn is_reserved(character: char) -> bool {
    matches!(
        character,
        '!' | '(' | ')' | ':' | '^' | '[' | ']' | '"' | '{' | '}' | '~' | '\\' | '+' | '-' | '*' | '?' | '/'
    )
}
