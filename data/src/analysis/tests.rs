//! What each analyzer makes of text.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn terms(name: &str, text: &str) -> Vec<String> {
    Analyzer::parse(name).unwrap().tokens(text).into_iter().map(|token| token.text).collect()
}

#[test]
fn standard_breaks_like_lucene() {
    let cases: &[(&str, &[&str])] = &[
        (
            "The 2 QUICK Brown-Foxes jumped over the lazy dog's bone.",
            &["the", "2", "quick", "brown", "foxes", "jumped", "over", "the", "lazy", "dog's", "bone"],
        ),
        ("can't stop", &["can't", "stop"]),
        ("3.14 1,000.5 2-3", &["3.14", "1,000.5", "2", "3"]),
        ("www.example.com foo_bar __ a@b.c", &["www.example.com", "foo_bar", "a", "b.c"]),
        ("我是中国人", &["我", "是", "中", "国", "人"]),
        ("ひらがな カタカナ 한국어", &["ひ", "ら", "が", "な", "カタカナ", "한국어"]),
        ("การที่ได้ต้อง test", &["การที่ได้ต้อง", "test"]),
        ("ÄRGER İstanbul Straße", &["ärger", "istanbul", "straße"]),
        ("I ❤ 😀", &["i", "❤", "😀"]),
        ("", &[]),
        (" - … !", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(terms("standard", text), *expected, "{text}");
    }
}

#[test]
fn long_words_are_split() {
    let long = "ä".repeat(600);
    let lengths: Vec<usize> = terms("standard", &long).iter().map(|term| term.chars().count()).collect();
    assert_eq!(lengths, [255, 255, 90]);
    assert_eq!(terms("keyword", &long).len(), 1);
    assert_eq!(Analyzer::Standard.tokens(&long)[2].position, 2);
}

#[test]
fn the_plain_analyzers() {
    assert_eq!(terms("simple", "The dog's 2nd bone"), ["the", "dog", "s", "nd", "bone"]);
    assert_eq!(terms("stop", "The dog is over there"), ["dog", "over"]);
    assert_eq!(terms("whitespace", " The dog's\tBONE. "), ["The", "dog's", "BONE."]);
    assert_eq!(terms("keyword", "New York"), ["New York"]);
}

#[test]
fn stop_words_leave_gaps() {
    let tokens = Analyzer::Language(Language::English).tokens("the quick and the dead");
    let found: Vec<(&str, u32, usize, usize)> =
        tokens.iter().map(|t| (t.text.as_str(), t.position, t.start, t.end)).collect();
    assert_eq!(found, [("quick", 1, 4, 9), ("dead", 4, 18, 22)]);
}

#[test]
fn english_is_lucenes() {
    assert_eq!(terms("english", "The dog’s generously running ponies"), ["dog", "gener", "run", "poni"]);
    assert_eq!(terms("english", "Universities are generically communal"), ["univers", "gener", "commun"]);
    assert_eq!(terms("english", "skies is by news"), ["ski", "new"]);
}

#[test]
fn other_languages_stem() {
    assert_eq!(terms("german", "Die Häuser und die Hunde"), ["haus", "hund"]);
    assert_eq!(terms("french", "L'avion d’Aurélie aujourd'hui")[..1], ["avion"]);
    assert_eq!(terms("italian", "dell'arte"), terms("italian", "arte"));
    assert_eq!(terms("turkish", "Türkiye'de IŞIK"), terms("turkish", "türkiye ışık"));
    assert_eq!(terms("spanish", "las canciones"), ["cancion"]);
}

#[test]
fn names_are_kept_and_registered() {
    let manager = TokenizerManager::new();
    register_all(&manager);
    for analyzer in Analyzer::all() {
        assert_eq!(Analyzer::parse(analyzer.name()), Some(analyzer));
        assert!(manager.get(analyzer.name()).is_some());
    }
    assert_eq!(Analyzer::parse("klingon"), None);
}

proptest! {
    #[test]
    fn any_text_gives_ordered_tokens_within_it(text in "\\PC{0,80}", pick in 0usize..64) {
        let all: Vec<Analyzer> = Analyzer::all().collect();
        let analyzer = all[pick % all.len()];
        let tokens = analyzer.tokens(&text);
        for pair in tokens.windows(2) {
            prop_assert!(pair[0].position < pair[1].position);
            prop_assert!(pair[0].end <= pair[1].start);
        }
        for token in &tokens {
            prop_assert!(text.get(token.start..token.end).is_some());
        }
    }
}
