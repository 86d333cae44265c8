//! The language of `query_string`: what it means, what it refuses, and that nothing makes it panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A short form for comparison: occur, field, expression, boost.
fn show(clauses: &[Clause]) -> String {
    let one = |clause: &Clause| {
        let occur = match clause.occur {
            Occur::Should => "",
            Occur::Must => "+",
            Occur::MustNot => "-",
        };
        let field = clause.field.as_ref().map(|field| format!("{field}:")).unwrap_or_default();
        let boost = if clause.boost == 1.0 { String::new() } else { format!("^{}", clause.boost) };
        let expression = match &clause.expression {
            Expression::Text(text) => format!("<{text}>"),
            Expression::Phrase { text, slop } => format!("\"{text}\"~{}", slop.unwrap_or_default()),
            Expression::Prefix(prefix) => format!("{prefix}*"),
            Expression::Fuzzy { term, distance } => format!("{term}~{}", distance.clone().unwrap_or_default()),
            Expression::Range { lower, upper } => format!("{lower:?}..{upper:?}"),
            Expression::Exists => "EXISTS".to_owned(),
            Expression::All => "ALL".to_owned(),
            Expression::Group(clauses) => format!("({})", show(clauses)),
        };
        format!("{occur}{field}{expression}{boost}")
    };
    clauses.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn parsed(text: &str) -> String {
    show(&parse(text, false).unwrap())
}

#[test]
fn words_phrases_and_fields() {
    for (text, expected) in [
        ("quick brown fox", "<quick brown fox>"),
        ("\"two words\"~2^3", "\"two words\"~2^3"),
        ("title:fox dog", "title:<fox> <dog>"),
        ("title:(quick fox)^2", "title:(<quick fox>)^2"),
        ("title:\"a \\\"b\"", "title:\"a \"b\"~0"),
        ("name.first:x", "name.first:<x>"),
        ("well-known c++", "<well-known c++>"),
        ("\\(1\\+1\\)\\:2", "<(1+1):2>"),
        ("\\u0041", "<A>"),
        ("a/b", "<a/b>"),
        ("", ""),
        ("  ", ""),
    ] {
        assert_eq!(parsed(text), expected, "{text}");
    }
}

#[test]
fn operators_mark_their_neighbours() {
    for (text, expected) in [
        ("+a -b c", "+<a> -<b> <c>"),
        ("a AND b", "+<a> +<b>"),
        ("a && b || c", "+<a> +<b> <c>"),
        ("a OR b AND c", "<a> +<b> +<c>"),
        ("a AND NOT b", "+<a> -<b>"),
        ("NOT a", "-<a>"),
        ("!a b", "-<a> <b>"),
        ("a b AND c", "<a> +<b> +<c>"),
        ("a b c", "<a b c>"),
        ("(a OR b) AND c", "+(<a> <b>) +<c>"),
        ("and or not", "<and or not>"),
        ("a \\AND b", "<a AND b>"),
    ] {
        assert_eq!(parsed(text), expected, "{text}");
    }
    assert_eq!(show(&parse("a b", true).unwrap()), "+<a b>");
    assert_eq!(show(&parse("a OR b", true).unwrap()), "<a> <b>");
    assert_eq!(show(&parse("a OR b c", true).unwrap()), "<a> <b> +<c>");
}

#[test]
fn ranges_wildcards_and_fuzziness() {
    for (text, expected) in [
        ("year:[2000 TO 2010}", "year:Some((\"2000\", true))..Some((\"2010\", false))"),
        ("d:{2020-01-01T10:00:00 TO *]", "d:Some((\"2020-01-01T10:00:00\", false))..None"),
        ("year:>=2000", "year:Some((\"2000\", true))..None"),
        ("year:<5 x", "year:None..Some((\"5\", false)) <x>"),
        ("pre* fuzy~ fuzy~1", "pre* fuzy~ fuzy~1"),
        ("title:*", "title:EXISTS"),
        ("_exists_:title", "title:EXISTS"),
        ("*", "ALL"),
        ("*:*", "ALL"),
        ("a\\*", "<a*>"),
    ] {
        assert_eq!(parsed(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (text, part) in [
        ("a*b", "[a*b]"),
        ("?x", "[?x]"),
        ("*x", "[*x]"),
        ("(a", "closing parenthesis"),
        ("a)", "unexpected [)]"),
        ("\"a", "quotation"),
        ("a AND", "operand"),
        ("AND AND b", "operand"),
        ("year:[1 2]", "[TO]"),
        ("year:[1 TO 2", "not closed"),
        ("title:", "ends"),
        ("hello!", "operand"),
        ("/re/", "regular expressions"),
        ("a^x", "boost"),
        ("\\", "escape"),
        ("()", "empty"),
        (":x", "unexpected [:]"),
    ] {
        let error = parse(text, false).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(parse(&"(".repeat(10_000), false).unwrap_err().contains("nested"));
}

proptest! {
    #[test]
    fn any_text_is_handled(text in "[ab AND OR NOT\\[\\]{}()\":^~*?\\\\+!<>=&|/é-]{0,40}", all in any::<bool>()) {
        let _ = parse(&text, all);
    }

    #[test]
    fn any_unicode_is_handled(text in "\\PC{0,40}") {
        let _ = parse(&text, false);
    }
}
