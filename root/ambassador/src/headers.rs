//! What is carried over between the two sides, and what is added. Pure.

use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::kind::Kind;

/// Makes a write safe to send again.
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How long the application waits for an answer.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
const TRACE: HeaderName = HeaderName::from_static("traceparent");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Those that mean one connection only, beside what `Connection` itself names.
const OF_A_CONNECTION: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
    HOST,
];

/// Takes away what means one connection only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_A_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
}

/// The headers of a request as they go to a root.
pub(crate) fn to_root(mut headers: HeaderMap, kind: Kind, authorization: Option<&HeaderValue>) -> HeaderMap {
    strip(&mut headers);
    headers.remove(TIMEOUT);
    if !headers.get(TRACE).is_some_and(|value| is_trace(value.as_bytes())) {
        headers.insert(TRACE, new_trace());
    }
    if kind == Kind::Keyed && !headers.contains_key(KEY) {
        headers.insert(KEY, text(&uuid::Uuid::new_v4().simple().to_string()));
    }
    if let Some(authorization) = authorization
        && !headers.contains_key(AUTHORIZATION)
    {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    headers
}

/// The headers of an answer as they go to the application. The key of a write is told, so that an application that gets no
/// answer it can use may send it again itself.
pub(crate) fn to_application(mut headers: HeaderMap, key: Option<&HeaderValue>) -> HeaderMap {
    strip(&mut headers);
    if let Some(key) = key {
        headers.insert(KEY, key.clone());
    }
    headers
}

/// The pause that an answer asks for, where it is in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, of which neither number is zero (W3C Trace Context).
fn is_trace(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let parts: Vec<&[u8]> = value.split(|byte| *byte == b'-').collect();
    match parts.as_slice() {
        [version, trace, span, flags, rest @ ..] => {
            (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2)
                && [version, trace, span, flags].into_iter().all(|part| is_hex(part))
                && *version != b"ff"
                && (*version != b"00" || rest.is_empty())
                && !is_zero(trace)
                && !is_zero(span)
        }
        _ => false,
    }
}

fn new_trace() -> HeaderValue {
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let span = rand::random::<u64>().max(1);
    text(&format!("00-{trace}-{span:016x}-01"))
}

fn text(ascii: &str) -> HeaderValue {
    HeaderValue::from_str(ascii).unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(of: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        of.iter().map(pair).collect()
    }

    #[test]
    fn what_means_one_connection_stays_there() {
        let given = headers(&[
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("host", "here"),
            ("x-opaque-id", "7"),
            ("content-encoding", "gzip"),
        ]);
        let mut names: Vec<String> =
            to_root(given.clone(), Kind::Read, None).keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["content-encoding", "traceparent", "x-opaque-id"]);
        assert_eq!(to_application(given, None).len(), 2);
    }

    #[test]
    fn writes_get_a_key_of_their_own_unless_they_have_one() {
        let key = |kind, given: &[(&str, &str)]| to_root(headers(given), kind, None).get(KEY).cloned();
        let (one, other) = (key(Kind::Keyed, &[]).unwrap(), key(Kind::Keyed, &[]).unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert_eq!(key(Kind::Keyed, &[("idempotency-key", "mine")]).unwrap(), "mine");
        assert_eq!(key(Kind::Read, &[]), None);
        assert_eq!(key(Kind::Once, &[]), None);
    }

    #[test]
    fn credentials_are_added_where_there_are_none() {
        let ours = HeaderValue::from_static("ApiKey ours");
        let sent = |given: &[(&str, &str)]| to_root(headers(given), Kind::Read, Some(&ours))[AUTHORIZATION].clone();
        assert_eq!(sent(&[]), "ApiKey ours");
        assert_eq!(sent(&[("authorization", "Basic theirs")]), "Basic theirs");
    }

    #[test]
    fn traces_are_carried_or_begun() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let sent = |given: &str| to_root(headers(&[("traceparent", given)]), Kind::Read, None)[TRACE].clone();
        assert_eq!(sent(good), good);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            let begun = sent(bad);
            assert_ne!(begun, bad);
            assert!(is_trace(begun.as_bytes()), "{begun:?}");
        }
    }
}
