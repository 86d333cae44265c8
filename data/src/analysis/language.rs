//! The languages that have a stemmer, by their names in Elasticsearch.

use super::words::Shape;

macro_rules! languages {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// A language whose words are stemmed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Language {
            $(#[doc = concat!("Analyzer `", $name, "`.")] $variant,)*
        }

        impl Language {
            /// Every language.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The language of this name.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name in lower case.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The same in tantivy's words.
            pub(super) fn tantivy(&self) -> tantivy::tokenizer::Language {
                match self {
                    $(Self::$variant => tantivy::tokenizer::Language::$variant,)*
                }
            }
        }
    };
}

languages! {
    Arabic "arabic";
    Danish "danish";
    Dutch "dutch";
    English "english";
    Finnish "finnish";
    French "french";
    German "german";
    Greek "greek";
    Hungarian "hungarian";
    Italian "italian";
    Norwegian "norwegian";
    Portuguese "portuguese";
    Romanian "romanian";
    Russian "russian";
    Spanish "spanish";
    Swedish "swedish";
    Tamil "tamil";
    Turkish "turkish";
}

/// Lucene's `FrenchAnalyzer.DEFAULT_ARTICLES`.
const FRENCH_ARTICLES: &[&str] = &["l", "m", "t", "qu", "n", "s", "j", "d", "c", "jusqu", "quoiqu", "lorsqu", "puisqu"];

/// Lucene's `ItalianAnalyzer.DEFAULT_ARTICLES`.
const ITALIAN_ARTICLES: &[&str] = &[
    "c", "l", "all", "dall", "dell", "nell", "sull", "coll", "pell", "gl", "agl", "dagl", "degl", "negl", "sugl", "un",
    "m", "t", "s", "v", "d",
];

impl Language {
    /// What happens to a word before stop words and stemming.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::English => Shape::Possessive,
            Self::French => Shape::Elided(FRENCH_ARTICLES),
            Self::Italian => Shape::Elided(ITALIAN_ARTICLES),
            Self::Turkish => Shape::Turkish,
            _ => Shape::Lower,
        }
    }
}
