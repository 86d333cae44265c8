//! Every path of the API, in one table, and how a request finds its row.

use std::sync::LazyLock;

use futures::future::BoxFuture;
use http::{Method, StatusCode};

use super::{
    bulk, by_query, call, call::Call, cat, cluster, dead_letters, document, error::ApiError, index, info, mapping,
    mget, msearch, params::decode_segment, queue, respond::Answer, search, tasks, update, wishes,
};

/// A handler.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Result<Answer, ApiError>>;

/// A row of the table.
pub(crate) struct Route {
    methods: &'static [Method],
    /// Segments; `{}` stands for any one.
    path: &'static str,
    /// Names of its own query-string parameters.
    pub(crate) params: &'static [&'static [&'static str]],
    /// Whether a body is understood.
    pub(crate) body: bool,
    /// What to do.
    pub(crate) run: Handler,
}

impl Route {
    /// The names of indices in the path.
    pub(crate) fn index<'a>(&self, segments: &'a [String]) -> Option<&'a str> {
        let first = ["/{}", "/_cat/", "/_cluster/", "/_trawl/operations/"];
        segments.first().filter(|_| first.iter().any(|start| self.path.starts_with(start))).map(String::as_str)
    }
}

const GET: &[Method] = &[Method::GET];
const HEAD: &[Method] = &[Method::HEAD];
const PUT: &[Method] = &[Method::PUT];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];
const GET_HEAD: &[Method] = &[Method::GET, Method::HEAD];
const GET_POST: &[Method] = &[Method::GET, Method::POST];
const PUT_POST: &[Method] = &[Method::PUT, Method::POST];

macro_rules! route {
    ($methods:expr, $path:expr, $params:expr, body: $body:expr, $handler:path) => {
        Route { methods: $methods, path: $path, params: $params, body: $body, run: |call| Box::pin($handler(call)) }
    };
}

/// Rows with a fixed segment stand before those with a placeholder at the same place.
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let admin: &[&[&str]] = &[&["timeout", "master_timeout", "wait_for_active_shards"], call::INDEX_PARAMS];
    let changed: &[&[&str]] = &[&["timeout", "master_timeout", "flat_settings"], call::INDEX_PARAMS];
    let shown: &[&[&str]] =
        &[&["master_timeout", "local", "flat_settings", "include_defaults", "features"], call::INDEX_PARAMS];
    vec![
        route!(GET_HEAD, "/", &[], body: false, info::info),
        route!(GET_HEAD, "/livez", &[], body: false, info::livez),
        route!(GET_HEAD, "/readyz", &[], body: false, info::readyz),
        route!(GET, "/metrics", &[], body: false, info::metrics),
        route!(GET, "/_trawl/cluster", &[], body: false, cluster::trawl),
        route!(GET, "/_trawl/operations/{}/{}/{}", &[&["timeout"]], body: false, cluster::operation),
        route!(GET, "/_trawl/queue", queue::STATUS_PARAMS, body: false, queue::status),
        route!(GET, "/_trawl/queue/tasks", queue::TASKS_PARAMS, body: false, queue::tasks),
        route!(POST, "/_trawl/queue/tasks/_replay", &[], body: true, queue::replay),
        route!(POST, "/_trawl/queue/tasks/_drop", &[], body: true, queue::drop),
        route!(POST, "/_trawl/queue/tasks/_cancel", &[], body: true, queue::cancel),
        route!(GET, "/_trawl/queue/tasks/{}", &[], body: false, queue::task),
        route!(POST, "/_trawl/queue/_extend", &[], body: true, queue::extend),
        route!(POST, "/_trawl/queue/_ack", &[], body: true, queue::ack),
        route!(POST, "/_trawl/queue/_nack", &[], body: true, queue::nack),
        route!(POST, "/_trawl/queue/{}", &[], body: true, queue::push),
        route!(POST, "/_trawl/queue/{}/_claim", &[], body: true, queue::claim),
        route!(GET, "/_trawl/dead_letters", dead_letters::PARAMS, body: false, dead_letters::list),
        route!(POST, "/_trawl/dead_letters/_replay", &[&["refresh"]], body: true, dead_letters::replay),
        route!(POST, "/_trawl/dead_letters/_drop", &[], body: true, dead_letters::drop),
        route!(GET, "/_trawl/dead_letters/{}/{}/{}/{}", &[], body: false, dead_letters::show),
        route!(GET, "/_cluster/health", cluster::HEALTH_PARAMS, body: false, cluster::health),
        route!(GET, "/_cluster/health/{}", cluster::HEALTH_PARAMS, body: false, cluster::health),
        route!(POST, "/_cluster/reroute", wishes::REROUTE_PARAMS, body: true, wishes::reroute),
        route!(PUT_POST, "/_trawl/drain/{}", &[], body: false, wishes::drain),
        route!(GET, "/_trawl/drain/{}", &[], body: false, wishes::progress),
        route!(DELETE, "/_trawl/drain/{}", &[], body: false, wishes::undrain),
        route!(GET, "/_nodes", &[&["timeout"]], body: false, cluster::nodes),
        route!(GET, "/_nodes/http", &[&["timeout"]], body: false, cluster::nodes),
        route!(GET, "/_nodes/_all/http", &[&["timeout"]], body: false, cluster::nodes),
        route!(GET, "/_cat", &[], body: false, cat::help),
        route!(GET, "/_cat/indices", cat::PARAMS, body: false, cat::indices),
        route!(GET, "/_cat/indices/{}", cat::PARAMS, body: false, cat::indices),
        route!(GET, "/_cat/shards", cat::PARAMS, body: false, cat::shards),
        route!(GET, "/_cat/shards/{}", cat::PARAMS, body: false, cat::shards),
        route!(GET, "/_cat/nodes", cat::PARAMS, body: false, cat::nodes),
        route!(GET, "/_cat/master", cat::PARAMS, body: false, cat::master),
        route!(GET, "/_cat/recovery", cat::PARAMS, body: false, cat::recovery),
        route!(GET, "/_cat/recovery/{}", cat::PARAMS, body: false, cat::recovery),
        route!(GET, "/_cat/health", cat::PARAMS, body: false, cat::health),
        route!(GET, "/_cat/count", cat::PARAMS, body: false, cat::count),
        route!(GET, "/_cat/count/{}", cat::PARAMS, body: false, cat::count),
        route!(GET, "/_cat/aliases", cat::PARAMS, body: false, cat::aliases),
        route!(PUT_POST, "/_bulk", bulk::PARAMS, body: true, bulk::bulk),
        route!(PUT_POST, "/{}/_bulk", bulk::PARAMS, body: true, bulk::bulk),
        route!(GET_POST, "/_search", search::PARAMS, body: true, search::search_all),
        route!(GET_POST, "/{}/_search", search::PARAMS, body: true, search::search),
        route!(GET_POST, "/_msearch", msearch::PARAMS, body: true, msearch::msearch),
        route!(GET_POST, "/{}/_msearch", msearch::PARAMS, body: true, msearch::msearch),
        route!(GET_POST, "/_count", search::COUNT_PARAMS, body: true, search::count),
        route!(GET_POST, "/{}/_count", search::COUNT_PARAMS, body: true, search::count),
        route!(POST, "/{}/_delete_by_query", by_query::PARAMS, body: true, by_query::delete),
        route!(POST, "/{}/_update_by_query", by_query::PARAMS, body: true, by_query::update),
        route!(GET, "/_tasks", tasks::LIST_PARAMS, body: false, tasks::list),
        route!(POST, "/_tasks/_cancel", tasks::LIST_PARAMS, body: true, tasks::cancel_all),
        route!(GET, "/_tasks/{}", tasks::GET_PARAMS, body: false, tasks::get),
        route!(POST, "/_tasks/{}/_cancel", tasks::LIST_PARAMS, body: true, tasks::cancel),
        route!(GET_POST, "/_refresh", &[call::INDEX_PARAMS], body: false, index::refresh),
        route!(GET_POST, "/{}/_refresh", &[call::INDEX_PARAMS], body: false, index::refresh),
        route!(GET_POST, "/_mget", mget::PARAMS, body: true, mget::mget),
        route!(GET_POST, "/{}/_mget", mget::PARAMS, body: true, mget::mget),
        route!(GET, "/_mapping", shown, body: false, mapping::get),
        route!(GET, "/_mappings", shown, body: false, mapping::get),
        route!(GET, "/{}/_mapping", shown, body: false, mapping::get),
        route!(GET, "/{}/_mappings", shown, body: false, mapping::get),
        route!(PUT_POST, "/{}/_mapping", admin, body: true, mapping::put),
        route!(PUT_POST, "/{}/_mappings", admin, body: true, mapping::put),
        route!(GET, "/_settings", shown, body: false, index::settings),
        route!(GET, "/{}/_settings", shown, body: false, index::settings),
        route!(PUT, "/_settings", changed, body: true, index::put_settings),
        route!(PUT, "/{}/_settings", changed, body: true, index::put_settings),
        route!(POST, "/{}/_doc", document::WRITE_PARAMS, body: true, document::add),
        route!(GET_HEAD, "/{}/_doc/{}", document::GET_PARAMS, body: false, document::get),
        route!(PUT_POST, "/{}/_doc/{}", document::WRITE_PARAMS, body: true, document::put),
        route!(DELETE, "/{}/_doc/{}", document::WRITE_PARAMS, body: false, document::delete),
        route!(PUT_POST, "/{}/_create/{}", document::WRITE_PARAMS, body: true, document::create),
        route!(GET_HEAD, "/{}/_source/{}", document::GET_PARAMS, body: false, document::source),
        route!(POST, "/{}/_update/{}", update::PARAMS, body: true, update::update),
        route!(PUT, "/{}", admin, body: true, index::create),
        route!(GET, "/{}", shown, body: false, index::get),
        route!(HEAD, "/{}", shown, body: false, index::exists),
        route!(DELETE, "/{}", admin, body: false, index::delete),
    ]
});

/// The row of a request, and what its placeholders stand for.
pub(crate) fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), ApiError> {
    let path_segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut allowed: Vec<&Method> = Vec::new();
    let mut literal: Option<usize> = None;
    for route in ROUTES.iter() {
        let Some((placeholders, first_placeholder)) = fits(route.path, &path_segments) else { continue };
        // No index has such a name, so it is an endpoint that is not there.
        let first = path_segments.first().copied().unwrap_or_default();
        if first_placeholder == 0 && first.starts_with('_') && first != "_all" {
            continue;
        }
        // A path that is spelt out hides those that have a placeholder in its stead.
        if literal.is_some_and(|literal| literal != first_placeholder) {
            continue;
        }
        literal = Some(first_placeholder);
        if !route.methods.contains(method) {
            allowed.extend(route.methods);
            continue;
        }
        let segments: Option<Vec<String>> = placeholders.into_iter().map(decode_segment).collect();
        let segments = segments.ok_or_else(|| {
            ApiError::new(StatusCode::BAD_REQUEST, "illegal_argument_exception", format!("path [{path}] is not UTF-8"))
        })?;
        return Ok((route, segments));
    }
    if allowed.is_empty() {
        let reason = format!("no handler found for uri [{path}] and method [{method}]");
        return Err(ApiError::plain(StatusCode::BAD_REQUEST, reason));
    }
    allowed.sort_by_key(|method| method.as_str());
    allowed.dedup();
    let names: Vec<&str> = allowed.iter().map(|method| method.as_str()).collect();
    let names = names.join(", ");
    let reason = format!("Incorrect HTTP method for uri [{path}] and method [{method}], allowed: [{names}]");
    Err(ApiError::plain(StatusCode::METHOD_NOT_ALLOWED, reason).allowing(names))
}

/// The segments in place of `{}`, and the place of the first of them (past the end when there is none).
fn fits<'a>(pattern: &str, path: &[&'a str]) -> Option<(Vec<&'a str>, usize)> {
    let mut placeholders = Vec::new();
    let mut first = path.len();
    let mut at = 0;
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let segment = path.get(at)?;
        if part == "{}" {
            first = first.min(at);
            placeholders.push(*segment);
        } else if part != *segment {
            return None;
        }
        at += 1;
    }
    (at == path.len()).then_some((placeholders, first))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(method: Method, path: &str) -> (u16, String) {
        let error = find(&method, path).err().unwrap();
        (error.status.as_u16(), error.reason.clone())
    }

    #[test]
    fn rows_are_found() {
        let (route, segments) = find(&Method::GET, "/my%2Dindex/_doc/a%2Fb").unwrap();
        assert_eq!((route.path, segments), ("/{}/_doc/{}", vec!["my-index".to_owned(), "a/b".to_owned()]));
        assert_eq!(find(&Method::GET, "/_search/").unwrap().0.path, "/_search");
        assert_eq!(find(&Method::HEAD, "/").unwrap().0.path, "/");
        assert_eq!(find(&Method::DELETE, "/x").unwrap().0.path, "/{}");
        assert_eq!(find(&Method::PUT, "/x/_mapping").unwrap().0.path, "/{}/_mapping");
        assert_eq!(find(&Method::POST, "/_trawl/queue/tasks/_replay").unwrap().0.path, "/_trawl/queue/tasks/_replay");
        assert_eq!(find(&Method::GET, "/_trawl/queue/tasks/task-1").unwrap().0.path, "/_trawl/queue/tasks/{}");
    }

    #[test]
    fn wrong_paths_and_methods_are_worded_as_in_elasticsearch() {
        assert_eq!(
            refused(Method::GET, "/x/_nothing"),
            (400, "no handler found for uri [/x/_nothing] and method [GET]".to_owned())
        );
        assert_eq!(
            refused(Method::POST, "/_flush"),
            (400, "no handler found for uri [/_flush] and method [POST]".to_owned())
        );
        assert_eq!(
            refused(Method::POST, "/x"),
            (405, "Incorrect HTTP method for uri [/x] and method [POST], allowed: [DELETE, GET, HEAD, PUT]".to_owned())
        );
        assert_eq!(
            refused(Method::DELETE, "/_search"),
            (405, "Incorrect HTTP method for uri [/_search] and method [DELETE], allowed: [GET, POST]".to_owned())
        );
    }
}
