//! What kind of request it is, by method and path: whether it is safe to send it twice.

use http::Method;

/// What sending it twice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Nothing: it reads, or refreshes.
    Read,
    /// Nothing, with an `Idempotency-Key`: it writes documents.
    Keyed,
    /// It may be carried out twice.
    Once,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Keyed => "write",
            Self::Once => "other",
        }
    }

    pub(crate) fn of(method: &Method, path: &str) -> Self {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        // The action is the first segment, or the second behind an index.
        let (action, behind) = match segments.as_slice() {
            [first, rest @ ..] if first.starts_with('_') && *first != "_all" => (*first, rest),
            [_, second, rest @ ..] => (*second, rest),
            _ => ("", &[] as &[&str]),
        };
        match action {
            // Each call goes one page on.
            "_search" if behind.first() == Some(&"scroll") => return Self::Once,
            "_bulk" | "_doc" | "_create" | "_update" if is_write(method) && behind.len() <= 1 => return Self::Keyed,
            _ => {}
        }
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Read,
            Method::POST if reads(action) => Self::Read,
            _ => Self::Once,
        }
    }
}

fn is_write(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::DELETE].contains(method)
}

/// Actions that only read though they are POSTed, and refreshing, which may be done any number of times.
fn reads(action: &str) -> bool {
    matches!(
        action,
        "_search"
            | "_msearch"
            | "_count"
            | "_mget"
            | "_field_caps"
            | "_explain"
            | "_validate"
            | "_analyze"
            | "_termvectors"
            | "_mtermvectors"
            | "_terms_enum"
            | "_rank_eval"
            | "_search_shards"
            | "_refresh"
            | "_flush"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (expected, method, path) in [
            (Kind::Read, "GET", "/"),
            (Kind::Read, "HEAD", "/books"),
            (Kind::Read, "GET", "/books/_doc/1"),
            (Kind::Read, "POST", "/books/_search"),
            (Kind::Read, "POST", "/_search"),
            (Kind::Read, "POST", "/_all/_search"),
            (Kind::Read, "POST", "/books/_msearch"),
            (Kind::Read, "POST", "/a,b/_count"),
            (Kind::Read, "GET", "/_search"),
            (Kind::Once, "POST", "/_search/scroll"),
            (Kind::Once, "GET", "/_search/scroll"),
            (Kind::Read, "POST", "/books/_refresh"),
            (Kind::Keyed, "POST", "/_bulk"),
            (Kind::Keyed, "PUT", "/books/_bulk"),
            (Kind::Keyed, "POST", "/books/_doc"),
            (Kind::Keyed, "PUT", "/books/_doc/1"),
            (Kind::Keyed, "DELETE", "/books/_doc/1"),
            (Kind::Keyed, "PUT", "/books/_create/1"),
            (Kind::Keyed, "POST", "/books/_update/1"),
            (Kind::Once, "PUT", "/books"),
            (Kind::Once, "DELETE", "/books"),
            (Kind::Once, "POST", "/books/_delete_by_query"),
            (Kind::Once, "POST", "/books/_update_by_query"),
            (Kind::Once, "PUT", "/books/_settings"),
            (Kind::Once, "POST", "/_trawl/queue/load/_claim"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            let found = Kind::of(&method, path);
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
