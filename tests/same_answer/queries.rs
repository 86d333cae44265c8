//! Random queries of every kind that the reference knows.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

/// `count` queries over the test mapping: each kind in turn, with random words.
pub fn all(random: &mut StdRng, words: &[&str], count: usize) -> Vec<Value> {
    (0..count).map(|number| one(random, words, number % 18)).collect()
}

fn one(random: &mut StdRng, words: &[&str], kind: usize) -> Value {
    let mut word = || words.choose(random).map_or(String::new(), |word| (*word).to_owned());
    let (a, b, c, d) = (word(), word(), word(), word());
    let year = random.random_range(1990..2020);
    match kind {
        0 => json!({"match_all": {}}),
        1 => json!({"match": {"title": format!("{a} {b}")}}),
        2 => json!({"match": {"body": {"query": format!("{a} {b} {c} {d}")}}}),
        3 => json!({"match": {"body": {"query": format!("{a} {b}"), "operator": "and"}}}),
        4 => json!({"match": {"body": {"query": format!("{a} {b} {c} {d}"), "minimum_should_match": 2}}}),
        5 => json!({"match_phrase": {"body": format!("{a} {b}")}}),
        6 => json!({"match_phrase": {"title": {"query": format!("{a} {b}"), "slop": 2}}}),
        7 => {
            json!({"multi_match": {"query": format!("{a} {b}"), "fields": ["title^2", "body"], "type": "best_fields", "tie_breaker": 0.3}})
        }
        8 => {
            json!({"multi_match": {"query": format!("{a} {b} {c}"), "fields": ["title^1.5", "body"], "type": "most_fields"}})
        }
        9 => json!({"term": {"category": "gear"}}),
        10 => json!({"term": {"tags": {"value": a, "boost": 1.7}}}),
        11 => json!({"terms": {"category": ["gear", "weather"]}}),
        12 => json!({"range": {"year": {"gte": year, "lt": year + 7}}}),
        13 => json!({"prefix": {"title": {"value": a[..2].to_owned()}}}),
        14 => json!({"fuzzy": {"title": {"value": a, "fuzziness": 1}}}),
        15 => json!({"bool": {
            "must": [{"match": {"body": format!("{a} {b}")}}],
            "should": [{"term": {"category": "vessel"}}, {"match": {"title": c}}],
            "filter": [{"range": {"year": {"gte": 1995}}}],
            "must_not": [{"term": {"tags": d}}]
        }}),
        16 => json!({"bool": {"should": [
            {"constant_score": {"filter": {"exists": {"field": "price"}}, "boost": 0.7}},
            {"match_phrase": {"title": format!("{b} {c}")}},
            {"match": {"body": a}}
        ], "minimum_should_match": 1}}),
        _ => {
            json!({"dis_max": {"queries": [{"match": {"title": a}}, {"match": {"body": format!("{a} {b}")}}], "tie_breaker": 0.2}})
        }
    }
}
