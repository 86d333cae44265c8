//! Merged answers as Elasticsearch shows them.

use trawl_proto::v1::{self, sort_value, value::Kind};

use super::{
    aggs::{self, Rendering},
    error::shard_failure,
    json::{Json, Members, object},
    search_body::SearchBody,
};
use crate::request::{FoundHit, SearchResponse, ShardsSummary, Total};

/// How an answer is shown.
#[derive(Clone, Copy, Default)]
pub(crate) struct Show<'a> {
    /// `rest_total_hits_as_int`
    pub(crate) total_as_number: bool,
    /// For aggregations.
    pub(crate) rendering: Rendering<'a>,
}

/// The body of a search's answer.
pub(crate) fn search(response: &SearchResponse, body: &SearchBody, show: Show<'_>) -> Json {
    let mut hits = Members::new();
    if let Some(total) = &response.total {
        hits.push(("total".to_owned(), total_hits(total, show.total_as_number)));
    }
    hits.push(("max_score".to_owned(), response.max_score.into()));
    hits.push(("hits".to_owned(), response.hits.iter().map(|found| hit(found, body)).collect::<Vec<_>>().into()));
    let mut members: Members = vec![
        ("took".to_owned(), millis(response.took).into()),
        ("timed_out".to_owned(), response.timed_out.into()),
        ("_shards".to_owned(), shards(&response.shards, true)),
        ("hits".to_owned(), Json::Object(hits)),
    ];
    if !response.aggregations.is_empty() {
        let results = aggs::render(&body.aggregations, &response.aggregations, &show.rendering);
        members.push(("aggregations".to_owned(), Json::Object(results)));
    }
    Json::Object(members)
}

/// Whole milliseconds.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn total_hits(total: &Total, as_number: bool) -> Json {
    if as_number {
        return total.value.into();
    }
    object! { "value" => total.value, "relation" => if total.exact { "eq" } else { "gte" } }
}

/// A `_shards` object.
pub(crate) fn shards(summary: &ShardsSummary, skipped: bool) -> Json {
    let mut members: Members =
        vec![("total".to_owned(), summary.total.into()), ("successful".to_owned(), summary.successful.into())];
    if skipped {
        members.push(("skipped".to_owned(), summary.skipped.into()));
    }
    members.push(("failed".to_owned(), summary.failed.into()));
    if !summary.failures.is_empty() {
        members.push(("failures".to_owned(), summary.failures.iter().map(shard_failure).collect::<Vec<_>>().into()));
    }
    Json::Object(members)
}

fn hit(found: &FoundHit, body: &SearchBody) -> Json {
    let document = &found.document;
    let mut members: Members =
        vec![("_index".to_owned(), found.index.as_str().into()), ("_id".to_owned(), found.id.as_str().into())];
    if body.version {
        members.push(("_version".to_owned(), document.version.into()));
    }
    if body.seq_no_primary_term {
        members.push(("_seq_no".to_owned(), document.seq.into()));
        members.push(("_primary_term".to_owned(), document.primary_term.into()));
    }
    members.push(("_score".to_owned(), found.score.filter(|score| score.is_finite()).into()));
    if let Some(routing) = &document.routing {
        members.push(("_routing".to_owned(), routing.as_str().into()));
    }
    if body.source.wanted && !document.source.is_empty() {
        members.push(("_source".to_owned(), Json::Raw(document.source.clone())));
    }
    if !document.highlights.is_empty() {
        let fields = document.highlights.iter().map(|highlight| {
            let fragments: Vec<Json> = highlight.fragments.iter().map(|fragment| fragment.as_str().into()).collect();
            (highlight.field.clone(), fragments.into())
        });
        members.push(("highlight".to_owned(), Json::Object(fields.collect())));
    }
    if !body.sort.is_empty() {
        members.push(("sort".to_owned(), found.sort.iter().map(sort_value).collect::<Vec<_>>().into()));
    }
    Json::Object(members)
}

/// A sort value, as `search_after` takes it back.
fn sort_value(value: &v1::SortValue) -> Json {
    match &value.kind {
        None | Some(sort_value::Kind::Null(_)) => Json::Null,
        Some(sort_value::Kind::Score(score)) => (*score).into(),
        Some(sort_value::Kind::Tie(tie)) => (*tie).into(),
        Some(sort_value::Kind::Value(value)) => match &value.kind {
            None => Json::Null,
            Some(Kind::String(text)) => text.as_str().into(),
            Some(Kind::Long(value) | Kind::DateMs(value)) => (*value).into(),
            Some(Kind::Double(value)) => (*value).into(),
            Some(Kind::Boolean(value)) => i64::from(*value).into(),
            Some(Kind::Ip(bytes)) => address(bytes).into(),
        },
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    let address = std::net::Ipv6Addr::from(octets);
    Some(address.to_ipv4_mapped().map_or_else(|| address.to_string(), |address| address.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::http::{json, params::Params};

    #[test]
    fn a_search_reads_as_in_elasticsearch() {
        let request = json::parse(br#"{"sort":["year"],"version":true}"#).unwrap();
        let body = SearchBody::parse(request.as_object().unwrap(), &Params::default()).unwrap();
        let response = SearchResponse {
            took: Duration::from_millis(3),
            shards: ShardsSummary { total: 2, successful: 2, ..ShardsSummary::default() },
            total: Some(Total { value: 10_000, exact: false }),
            hits: vec![FoundHit {
                index: "books".into(),
                id: "7".into(),
                score: None,
                sort: vec![v1::SortValue {
                    kind: Some(sort_value::Kind::Value(v1::Value { kind: Some(Kind::Long(1999)) })),
                }],
                document: v1::Document {
                    source: r#"{ "z": 1.0, "a": 2 }"#.into(),
                    version: 4,
                    highlights: vec![v1::FieldHighlight {
                        field: "title".into(),
                        fragments: vec!["<em>x</em>".into()],
                    }],
                    ..v1::Document::default()
                },
            }],
            ..SearchResponse::default()
        };
        let text = String::from_utf8(search(&response, &body, Show::default()).to_bytes()).unwrap();
        assert_eq!(
            text,
            r#"{"took":3,"timed_out":false,"_shards":{"total":2,"successful":2,"skipped":0,"failed":0},"hits":{"total":{"value":10000,"relation":"gte"},"max_score":null,"hits":[{"_index":"books","_id":"7","_version":4,"_score":null,"_source":{ "z": 1.0, "a": 2 },"highlight":{"title":["<em>x</em>"]},"sort":[1999]}]}}"#
        );
    }

    #[test]
    fn addresses_and_ties() {
        let ip = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets().to_vec();
        let value = |kind| sort_value(&v1::SortValue { kind: Some(kind) }).to_bytes();
        let wrapped = sort_value::Kind::Value(v1::Value { kind: Some(Kind::Ip(ip.into())) });
        assert_eq!(value(wrapped), br#""10.0.0.1""#);
        assert_eq!(value(sort_value::Kind::Tie(u64::MAX)), b"18446744073709551615");
        assert_eq!(value(sort_value::Kind::Null(true)), b"null");
    }
}
