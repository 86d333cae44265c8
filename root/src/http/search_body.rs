//! A search as asked for, in the body and the query string: parsed once, lowered per index.

use std::time::Duration;

use trawl_data::analysis::Analyzer;

use super::{
    aggs::{self, Aggregation},
    error::{illegal, parsing},
    fetch::{HighlightSpec, SourceFilter},
    json::{Json, Members},
    keys,
    params::Params,
    query::{self, Lowering, Parsed, QueryString, QueryStringSettings, analysed::TextOptions, fields::FieldPattern},
    sort::{self, SortSpec},
};
use crate::{
    error::Error,
    request::{IndexView, Lowered, TrackTotal},
};

/// Everything that a search can say.
pub(crate) struct SearchBody {
    pub(crate) query: Parsed,
    pub(crate) from: u32,
    pub(crate) size: u32,
    pub(crate) sort: Vec<SortSpec>,
    pub(crate) search_after: Vec<Json>,
    pub(crate) source: SourceFilter,
    pub(crate) track_total: Option<TrackTotal>,
    pub(crate) track_scores: bool,
    pub(crate) min_score: Option<f32>,
    pub(crate) highlight: Option<HighlightSpec>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) aggregations: Vec<Aggregation>,
    pub(crate) version: bool,
    pub(crate) seq_no_primary_term: bool,
    now_ms: i64,
}

impl Default for SearchBody {
    fn default() -> Self {
        Self {
            query: query::match_all(),
            from: 0,
            size: 10,
            sort: Vec::new(),
            search_after: Vec::new(),
            source: SourceFilter::default(),
            track_total: None,
            track_scores: false,
            min_score: None,
            highlight: None,
            timeout: None,
            aggregations: Vec::new(),
            version: false,
            seq_no_primary_term: false,
            now_ms: now_ms(),
        }
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(trawl_proto::clock::unix_ms()).unwrap_or_default()
}

impl SearchBody {
    /// From a body and the query string; the latter wins.
    pub(crate) fn parse(members: &Members, params: &Params) -> Result<Self, Error> {
        let mut body = Self::default();
        for (key, value) in members {
            body.key(key, value)?;
        }
        body.params(params)?;
        body.check()?;
        Ok(body)
    }

    fn key(&mut self, key: &str, value: &Json) -> Result<(), Error> {
        match key {
            "query" => self.query = query::parse(value)?,
            "from" => self.from = keys::count(value, key)?,
            "size" => self.size = keys::count(value, key)?,
            "sort" => self.sort = sort::parse(value)?,
            "search_after" => {
                let values = value.as_array().ok_or_else(|| {
                    parsing(format!("Expected [START_ARRAY] in [search_after] but found [{}]", value.token()))
                })?;
                self.search_after = values.to_vec();
            }
            "_source" => self.source = SourceFilter::parse(value)?,
            "track_total_hits" => self.track_total = Some(track_total(value)?),
            "track_scores" => self.track_scores = keys::boolean(value, key)?,
            "min_score" => self.min_score = Some(keys::float(value, key)? as f32),
            "highlight" => self.highlight = Some(HighlightSpec::parse(value)?),
            "timeout" => self.timeout = Some(keys::duration(value, key)?),
            "aggs" | "aggregations" => self.aggregations = aggs::parse(value)?,
            "version" => self.version = keys::boolean(value, key)?,
            "seq_no_primary_term" => self.seq_no_primary_term = keys::boolean(value, key)?,
            "explain" | "profile" => {
                if keys::boolean(value, key)? {
                    return Err(illegal(format!("[{key}] is not supported")));
                }
            }
            _ => return Err(parsing(format!("Unknown key for a {} in [{key}].", value.token()))),
        }
        Ok(())
    }

    fn params(&mut self, params: &Params) -> Result<(), Error> {
        if let Some(query) = query_of(params)? {
            self.query = query;
        }
        if let Some(from) = number(params, "from")? {
            self.from = from;
        }
        if let Some(size) = number(params, "size")? {
            self.size = size;
        }
        if let Some(text) = params.get("sort") {
            self.sort = sort::parse_text(text)?;
        }
        if let Some(source) = SourceFilter::from_params(params)? {
            self.source = source;
        }
        if let Some(text) = params.get("track_total_hits") {
            let text = if text.is_empty() { "true" } else { text };
            self.track_total = Some(track_total(&Json::from(text))?);
        }
        if let Some(timeout) = params.duration("timeout")? {
            self.timeout = Some(timeout);
        }
        self.track_scores = params.flag("track_scores")?.unwrap_or(self.track_scores);
        self.version = params.flag("version")?.unwrap_or(self.version);
        self.seq_no_primary_term = params.flag("seq_no_primary_term")?.unwrap_or(self.seq_no_primary_term);
        if params.flag("explain")? == Some(true) {
            return Err(illegal("[explain] is not supported"));
        }
        if params.flag("rest_total_hits_as_int")? == Some(true) {
            match self.track_total {
                None => self.track_total = Some(TrackTotal::Exact),
                Some(TrackTotal::UpTo(limit)) => {
                    return Err(illegal(format!(
                        "[rest_total_hits_as_int] cannot be used if the tracking of total hits is not accurate, got {limit}"
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.search_after.is_empty() {
            return Ok(());
        }
        if self.from > 0 {
            return Err(illegal("`from` parameter must be set to 0 when `search_after` is used"));
        }
        sort::check_after(&self.sort, &self.search_after)
    }

    /// The search on one index.
    pub(crate) fn lower(&self, view: &IndexView) -> Result<Lowered, Error> {
        let mut lowering = Lowering::new(&view.record.name, &view.mapping, self.now_ms);
        let query = query::lower(&self.query, &mut lowering)?;
        let sort = sort::lower(&self.sort, &mut lowering)?;
        let search_after = sort::lower_after(&self.sort, &self.search_after, &mut lowering)?;
        let aggregations = aggs::lower(&self.aggregations, &mut lowering)?;
        let mut fetch = self.source.options();
        fetch.highlight = self.highlight.as_ref().map(|highlight| highlight.lower(&mut lowering));
        Ok(Lowered { query, sort, search_after, aggregations, fetch, uses_dynamic: lowering.uses_dynamic })
    }
}

fn number(params: &Params, name: &str) -> Result<Option<u32>, Error> {
    let Some(value) = params.number::<i64>(name)? else { return Ok(None) };
    let value = u32::try_from(value)
        .map_err(|_| illegal(format!("[{name}] parameter cannot be negative but was [{value}]")))?;
    Ok(Some(value))
}

fn track_total(json: &Json) -> Result<TrackTotal, Error> {
    match json.scalar_text().as_deref() {
        Some("true") => Ok(TrackTotal::Exact),
        Some("false" | "-1") => Ok(TrackTotal::No),
        _ => {
            let limit = keys::integer(json, "track_total_hits")?;
            let limit = u64::try_from(limit).map_err(|_| {
                illegal(format!("[track_total_hits] parameter must be positive or equals to -1, got {limit}"))
            })?;
            // A leaf takes 0 for "do not count".
            Ok(if limit == 0 { TrackTotal::No } else { TrackTotal::UpTo(limit) })
        }
    }
}

/// The query of `?q=`, with `df`, `default_operator`, `analyzer` and `lenient`.
pub(crate) fn query_of(params: &Params) -> Result<Option<Parsed>, Error> {
    let Some(text) = params.get("q") else { return Ok(None) };
    let mut options = TextOptions::default();
    match params.get("default_operator").map(str::to_ascii_lowercase).as_deref() {
        None | Some("or") => {}
        Some("and") => options.all_terms = true,
        Some(other) => {
            return Err(illegal(format!("Unsupported defaultOperator [{other}], can either be [OR] or [AND]")));
        }
    }
    if let Some(name) = params.get("analyzer") {
        options.analyzer = Some(Analyzer::parse(name).ok_or_else(|| illegal(format!("analyzer [{name}] not found")))?);
    }
    if params.flag("analyze_wildcard")? == Some(true) {
        return Err(illegal("[analyze_wildcard] is not supported"));
    }
    let fields = match params.get("df") {
        None | Some("*") => Vec::new(),
        Some(field) => vec![FieldPattern::parse(field)?],
    };
    let settings = QueryStringSettings { text: text.to_owned(), fields, options, lenient: params.flag("lenient")? };
    Ok(Some(Box::new(QueryString::new(settings)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::json;

    fn parsed(body: &str, params: &str) -> Result<SearchBody, Error> {
        let json = json::parse(body.as_bytes()).unwrap();
        SearchBody::parse(json.as_object().unwrap(), &Params::parse(params))
    }

    #[test]
    fn body_and_parameters() {
        let body = parsed(
            r#"{"query":{"match_all":{}},"from":5,"size":3,"track_total_hits":100,"_source":false,"timeout":"1s","min_score":0.5}"#,
            "size=7&track_total_hits=true",
        )
        .unwrap();
        assert_eq!((body.from, body.size, body.track_total), (5, 7, Some(TrackTotal::Exact)));
        assert!(!body.source.wanted);
        assert_eq!(body.timeout, Some(Duration::from_secs(1)));
        assert_eq!(parsed("{}", "rest_total_hits_as_int").unwrap().track_total, Some(TrackTotal::Exact));
    }

    #[test]
    fn errors_name_the_part() {
        for (body, params, reason) in [
            (r#"{"post_filter":{}}"#, "", "Unknown key for a START_OBJECT in [post_filter]."),
            (r#"{"explain":true}"#, "", "[explain] is not supported"),
            (r#"{"size":-1}"#, "", "[size] parameter cannot be negative, found [-1]"),
            (r#"{"from":1,"search_after":[1]}"#, "", "`from` parameter must be set to 0 when `search_after` is used"),
            ("{}", "from=-1", "[from] parameter cannot be negative but was [-1]"),
            ("{}", "q=(a", "Failed to parse query [(a]"),
            ("{}", "default_operator=xor&q=a", "Unsupported defaultOperator [xor], can either be [OR] or [AND]"),
        ] {
            let error = parsed(body, params).err().unwrap();
            assert_eq!(error.to_string(), reason, "{body} {params}");
        }
    }
}
