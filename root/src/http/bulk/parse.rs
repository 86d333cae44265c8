//! The NDJSON of `_bulk`, line by line.

use bytes::Bytes;
use trawl_proto::v1::{self, operation::Kind};

use super::super::{
    document::check_id,
    error::illegal,
    fetch::SourceFilter,
    json::{self, Json, Members},
    keys, update,
    write::{Conditions, invalid},
};
use crate::error::Error;

/// What an action line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Index,
    Create,
    Delete,
    Update,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

/// One action with its document.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) action: Action,
    pub(super) index: String,
    pub(super) id: String,
    /// What to write, or why not.
    pub(super) operation: Result<v1::Operation, Error>,
    /// What an update says of the document to return.
    pub(super) source: Option<SourceFilter>,
}

/// Parses a whole body.
///
/// # Errors
/// What makes the request as a whole malformed; what concerns one document is in its entry.
#[cfg(test)]
pub(super) fn parse(body: &Bytes, index: Option<&str>, routing: Option<&str>) -> Result<Vec<Entry>, Error> {
    at_most(usize::MAX, body, index, routing)
}

/// Parses a whole body of so many operations at most.
///
/// # Errors
/// [`Error::TooLarge`] when there are more; what else makes the request as a whole malformed. What concerns
/// one document is in its entry.
pub(super) fn at_most(
    most: usize,
    body: &Bytes,
    index: Option<&str>,
    routing: Option<&str>,
) -> Result<Vec<Entry>, Error> {
    if body.trim_ascii().is_empty() {
        return Err(Error::invalid("parse_exception", "request body is required"));
    }
    if body.last() != Some(&b'\n') {
        return Err(illegal("The bulk request must be terminated by a newline [\\n]"));
    }
    let mut lines = Lines { body, at: 0, number: 0 };
    let mut entries = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if entries.len() == most {
            return Err(Error::TooLarge(format!("the bulk request has more than the limit of [{most}] operations")));
        }
        let number = lines.number;
        let head = Head::parse(&line, number, index, routing)?;
        let source = if head.action == Action::Delete {
            Bytes::new()
        } else {
            lines.next().ok_or_else(|| {
                illegal(format!("Malformed content, the action on line [{number}] is not followed by its document"))
            })?
        };
        entries.push(head.entry(source));
    }
    if entries.is_empty() {
        return Err(Error::invalid("action_request_validation_exception", "Validation Failed: 1: no requests added;"));
    }
    Ok(entries)
}

struct Lines<'a> {
    body: &'a Bytes,
    at: usize,
    /// Of the line returned last, from 1.
    number: usize,
}

impl Lines<'_> {
    /// The next line without its end (`\n` or `\r\n`), sharing the body's memory.
    fn next(&mut self) -> Option<Bytes> {
        let rest = self.body.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let end = if length > 0 && rest[length - 1] == b'\r' { length - 1 } else { length };
        let line = self.body.slice(self.at..self.at + end);
        self.at += length + 1;
        self.number += 1;
        Some(line)
    }
}

/// A parsed action line.
struct Head {
    action: Action,
    index: String,
    id: Option<String>,
    routing: Option<String>,
    conditions: Conditions,
    source: Option<SourceFilter>,
    /// Something that this action does not support.
    refused: Option<Error>,
}

impl Head {
    fn parse(line: &Bytes, number: usize, index: Option<&str>, routing: Option<&str>) -> Result<Self, Error> {
        if let Some((index, id)) = index.zip(plain_id(line)) {
            return Ok(Self {
                action: Action::Index,
                index: index.to_owned(),
                id: Some(id.to_owned()),
                routing: routing.map(str::to_owned),
                conditions: Conditions::default(),
                source: None,
                refused: None,
            });
        }
        let json = json::parse(line).map_err(|error| {
            illegal(format!("Malformed action/metadata line [{number}], expected a JSON object: {error}"))
        })?;
        let Json::Object(members) = json else {
            return Err(illegal(format!(
                "Malformed action/metadata line [{number}], expected START_OBJECT but found [{}]",
                json.token()
            )));
        };
        let mut members = members.into_iter();
        let Some((name, body)) = members.next() else {
            return Err(illegal(format!(
                "Malformed action/metadata line [{number}], expected FIELD_NAME but found [END_OBJECT]"
            )));
        };
        let action = match name.as_str() {
            "index" => Action::Index,
            "create" => Action::Create,
            "delete" => Action::Delete,
            "update" => Action::Update,
            _ => {
                return Err(illegal(format!(
                    "Malformed action/metadata line [{number}], expected field [create], [delete], [index] or [update] but found [{name}]"
                )));
            }
        };
        if members.next().is_some() {
            return Err(illegal(format!(
                "Malformed action/metadata line [{number}], expected END_OBJECT but found [FIELD_NAME]"
            )));
        }
        let Json::Object(members) = body else {
            return Err(illegal(format!(
                "Malformed action/metadata line [{number}], expected START_OBJECT but found [{}]",
                body.token()
            )));
        };
        let mut head = Self {
            action,
            index: index.unwrap_or_default().to_owned(),
            id: None,
            routing: routing.map(str::to_owned),
            conditions: Conditions::default(),
            source: None,
            refused: None,
        };
        head.members(&members, number)?;
        if head.index.is_empty() {
            return Err(Error::invalid(
                "action_request_validation_exception",
                "Validation Failed: 1: index is missing;",
            ));
        }
        Ok(head)
    }

    fn members(&mut self, members: &Members, number: usize) -> Result<(), Error> {
        for (key, value) in members {
            if *value == Json::Null {
                continue;
            }
            if key == "_source" && self.action == Action::Update {
                self.source = Some(SourceFilter::parse(value)?);
                continue;
            }
            if !value.is_scalar() {
                return Err(illegal(format!(
                    "Malformed action/metadata line [{number}], expected a simple value for field [{key}] but found [{}]",
                    value.token()
                )));
            }
            match key.as_str() {
                "_index" => self.index = keys::text(value, key)?,
                "_id" => self.id = Some(keys::text(value, key)?),
                "routing" | "_routing" => self.routing = Some(keys::text(value, key)?),
                "if_seq_no" => self.conditions.if_seq_no = Some(position(value, key)?),
                "if_primary_term" => self.conditions.if_primary_term = Some(position(value, key)?),
                "version" | "_version" => self.conditions.version = Some(keys::integer(value, key)?),
                "version_type" | "_version_type" => self.conditions.version_type = Some(keys::text(value, key)?),
                "op_type" if self.action == Action::Index => match keys::text(value, key)?.as_str() {
                    "index" => {}
                    "create" => self.action = Action::Create,
                    other => return Err(illegal(format!("opType must be 'create' or 'index', found: [{other}]"))),
                },
                "require_alias" | "require_data_stream" if !keys::boolean(value, key)? => {}
                "pipeline" if value.as_str() == Some("_none") => {}
                "retry_on_conflict" if self.action == Action::Update => {
                    self.conditions.retry_on_conflict = Some(keys::count(value, key)?);
                }
                "require_alias" | "require_data_stream" | "pipeline" | "dynamic_templates" => {
                    self.refused = Some(illegal(format!("[{key}] is not supported")));
                }
                _ => {
                    return Err(illegal(format!(
                        "Action/metadata line [{number}] contains an unknown parameter [{key}]"
                    )));
                }
            }
        }
        Ok(())
    }

    fn entry(self, source: Bytes) -> Entry {
        let (operation, wanted) = match self.operation(source) {
            Ok((operation, wanted)) => (Ok(operation), wanted),
            Err(error) => (Err(error), None),
        };
        let (index, id) = (self.index, self.id.unwrap_or_default());
        Entry { action: self.action, index, id, operation, source: wanted.or(self.source) }
    }

    fn operation(&self, source: Bytes) -> Result<(v1::Operation, Option<SourceFilter>), Error> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        if self.action != Action::Delete && source.trim_ascii().is_empty() {
            return Err(invalid(&["source is missing".to_owned()]));
        }
        if let Some(id) = &self.id {
            check_id(id)?;
        }
        let (id, routing) = (self.id.clone().unwrap_or_default(), self.routing.clone());
        let kind = match self.action {
            Action::Index => Kind::Index,
            Action::Create => Kind::Create,
            Action::Delete => Kind::Delete,
            Action::Update => return update::operation(id, routing, source, self.conditions.clone()),
        };
        let mut operation = v1::Operation { kind: kind.into(), id, routing, source, ..Default::default() };
        self.conditions.apply(&mut operation)?;
        Ok((operation, None))
    }
}

/// The id of an action line as loaders write most of them, `{"index":{"_id":"…"}}`, without escapes: read
/// without building anything.
fn plain_id(line: &[u8]) -> Option<&str> {
    let id = line.strip_prefix(br#"{"index":{"_id":""#)?.strip_suffix(br#""}}"#)?;
    let is_plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
    std::str::from_utf8(id).ok().filter(|_| id.iter().all(is_plain))
}

fn position(json: &Json, key: &str) -> Result<u64, Error> {
    let value = keys::integer(json, key)?;
    u64::try_from(value).map_err(|_| illegal(format!("[{key}] must not be negative, found [{value}]")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<Entry>, Error> {
        parse(&Bytes::from(text.to_owned()), Some("books"), None)
    }

    #[test]
    fn every_action() {
        let entries = parsed(concat!(
            "{\"index\":{\"_id\":1}}\r\n{ not parsed\r\n",
            "\n",
            "{\"create\":{\"_index\":\"other\",\"_id\":\"2\",\"routing\":\"r\"}}\n{}\n",
            "{\"delete\":{\"_id\":\"3\",\"if_seq_no\":4,\"if_primary_term\":1}}\n",
            "{\"index\":{}}\n{\"a\":1}\n",
            "{\"update\":{\"_id\":\"5\",\"retry_on_conflict\":3}}\n{\"doc\":{}}\n",
            "{\"index\":{\"_id\":\"6\",\"version\":7,\"version_type\":\"external_gte\"}}\n{}\n",
            "{\"update\":{\"_id\":\"7\",\"_source\":[\"a\"]}}\n{\"doc\":{}}\n",
        ))
        .unwrap();
        let first = entries[0].operation.as_ref().unwrap();
        assert_eq!((first.kind(), first.id.as_str(), &first.source[..]), (Kind::Index, "1", &b"{ not parsed"[..]));
        let second = entries[1].operation.as_ref().unwrap();
        assert_eq!(
            (entries[1].index.as_str(), second.kind(), second.routing.as_deref()),
            ("other", Kind::Create, Some("r"))
        );
        let third = entries[2].operation.as_ref().unwrap();
        assert_eq!((third.kind(), third.if_seq_no, third.if_primary_term), (Kind::Delete, Some(4), Some(1)));
        assert_eq!(entries[3].operation.as_ref().unwrap().id, "");
        let fifth = entries[4].operation.as_ref().unwrap();
        assert_eq!((fifth.kind(), &fifth.source[..]), (Kind::Update, &b"{\"doc\":{}}"[..]));
        assert_eq!(fifth.if_seq_no, None);
        let sixth = entries[5].operation.as_ref().unwrap();
        assert_eq!((sixth.version, sixth.version_type()), (Some(7), v1::operation::VersionType::ExternalGte));
        assert!(entries[6].source.as_ref().is_some_and(|source| source.wanted && source.includes == ["a"]));
    }

    #[test]
    fn malformed_requests_are_worded_as_in_elasticsearch() {
        for (text, reason) in [
            ("", "request body is required"),
            ("{\"index\":{}}\n{}", "The bulk request must be terminated by a newline [\\n]"),
            ("[1]\n", "Malformed action/metadata line [1], expected START_OBJECT but found [START_ARRAY]"),
            (
                "{\"index\":5}\n{}\n",
                "Malformed action/metadata line [1], expected START_OBJECT but found [VALUE_NUMBER]",
            ),
            (
                "{\"foo\":{}}\n{}\n",
                "Malformed action/metadata line [1], expected field [create], [delete], [index] or [update] but found [foo]",
            ),
            ("{\"index\":{\"foo\":1}}\n{}\n", "Action/metadata line [1] contains an unknown parameter [foo]"),
            (
                "{\"index\":{\"_id\":[1]}}\n{}\n",
                "Malformed action/metadata line [1], expected a simple value for field [_id] but found [START_ARRAY]",
            ),
            ("{\"index\":{}}\n", "Malformed content, the action on line [1] is not followed by its document"),
        ] {
            assert_eq!(parsed(text).unwrap_err().to_string(), reason, "{text:?}");
        }
        let long = format!("{{\"index\":{{\"_id\":\"{}\"}}}}\n{{}}\n", "x".repeat(513));
        let error = parsed(&long).unwrap()[0].operation.as_ref().unwrap_err().to_string();
        assert!(error.contains("is too long, must be no longer than 512 bytes but was: 513"), "{error}");
    }

    proptest! {
        #[test]
        fn plain_heads_are_read_as_any_other(id in "[a-z\"\\\\{}:, é\u{1}]{0,6}") {
            let line = format!("{{\"index\":{{\"_id\":\"{id}\"}}}}");
            // A space makes it go the long way.
            let [plain, long] = [line.clone(), line.replacen(':', ": ", 1)].map(|line| {
                let entries = parsed(&format!("{line}\n{{}}\n")).map_err(|error| error.to_string());
                entries.map(|mut entries| entries.remove(0)).map(|entry| (entry.index, entry.id, entry.operation.ok()))
            });
            prop_assert_eq!(plain.is_ok(), long.is_ok());
            if let (Ok(plain), Ok(long)) = (plain, long) {
                prop_assert_eq!(plain, long);
            }
        }

        #[test]
        fn any_text_is_handled(text in "[{}\\[\\]\":,a-c0-9\\n\\r index_]{0,60}") {
            let _ = parsed(&text);
        }

        #[test]
        fn documents_go_through_untouched(documents in prop::collection::vec("[^\n\r]{1,30}", 1..5)) {
            let documents: Vec<String> = documents.into_iter().filter(|document| !document.trim_ascii().is_empty()).collect();
            prop_assume!(!documents.is_empty());
            let body: String = documents.iter().map(|document| format!("{{\"index\":{{}}}}\n{document}\n")).collect();
            let entries = parsed(&body).unwrap();
            let sources: Vec<Bytes> = entries.into_iter().map(|entry| entry.operation.unwrap().source).collect();
            prop_assert_eq!(sources, documents.into_iter().map(Bytes::from).collect::<Vec<_>>());
        }
    }
}
