//! The searches that the demo shows: half a dozen of different kinds.

use serde_json::{Value, json};

/// A search that a person may try next.
pub const TRY: &str = "storm in the harbour";

/// One search, with what it shows.
pub struct Search {
    /// A line for a person.
    pub title: &'static str,
    /// The body, as Elasticsearch takes it.
    pub body: Value,
}

/// In the order they are shown.
pub fn all() -> Vec<Search> {
    let search = |title, body| Search { title, body };
    vec![
        search(
            "Ranked full text over two fields, titles count double, with highlights",
            json!({
                "query": {"multi_match": {"query": "herring nets in a storm", "fields": ["title^2", "body"]}},
                "highlight": {"fields": {"body": {"number_of_fragments": 1, "fragment_size": 90}}},
                "size": 3
            }),
        ),
        search(
            "A phrase, words up to two places apart",
            json!({"query": {"match_phrase": {"body": {"query": "harbour raised", "slop": 2}}}, "size": 3}),
        ),
        search(
            "Structured: text within a category and a span of years, a field of an inner object",
            json!({
                "query": {"bool": {
                    "must": [{"match": {"body": "engine"}}],
                    "filter": [{"term": {"category": "vessel"}}, {"range": {"year": {"gte": 1990}}}, {"exists": {"field": "place.country"}}]
                }},
                "size": 3
            }),
        ),
        search(
            "Words spelled wrong",
            json!({"query": {"match": {"title": {"query": "lighthose keper", "fuzziness": "AUTO", "operator": "and"}}}, "size": 3}),
        ),
        search(
            "Query language of a search box",
            json!({"query": {"query_string": {"query": "+title:(lighthouse OR quay) fog -storm +year:>=1980"}}, "size": 3}),
        ),
        search(
            "Sorted by a number instead of the score",
            json!({"query": {"term": {"available": true}}, "sort": [{"price": {"order": "desc", "missing": "_last"}}], "size": 3}),
        ),
        search(
            "Counted: a bucket per category with its average price",
            json!({"size": 0, "aggs": {"category": {"terms": {"field": "category", "size": 4}, "aggs": {"price": {"avg": {"field": "price"}}}}}}),
        ),
    ]
}

/// A few facts beside a hit's title.
pub fn details(source: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}, {} {}", text(&source["category"]), text(&source["place"]["name"]), source["year"])
}
