//! What single writes and the items of `_bulk` have in common: conditions, versions, and their rules.

use trawl_proto::v1::operation::{Kind, VersionType};
use trawl_proto::v1::{self};

use super::{error::illegal, params::Params};
use crate::error::Error;

/// Elasticsearch's versions are signed numbers of 64 bits.
const VERSION_MAX: u64 = i64::MAX as u64;

/// What a write demands of the document it finds, as the request names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) if_seq_no: Option<u64>,
    pub(crate) if_primary_term: Option<u64>,
    pub(crate) version: Option<i64>,
    pub(crate) version_type: Option<String>,
    /// For updates only.
    pub(crate) retry_on_conflict: Option<u32>,
}

impl Conditions {
    /// Names of their parameters, as single writes have them.
    pub(crate) const PARAMS: &[&str] = &["if_seq_no", "if_primary_term", "version", "version_type"];

    /// From the query string.
    pub(crate) fn from_params(params: &Params) -> Result<Self, Error> {
        Ok(Self {
            if_seq_no: params.number("if_seq_no")?,
            if_primary_term: params.number("if_primary_term")?,
            version: params.number("version")?,
            version_type: params.get("version_type").map(str::to_owned),
            retry_on_conflict: params.number("retry_on_conflict")?,
        })
    }

    /// Puts them into the operation, whose kind and id are known by now.
    ///
    /// # Errors
    /// Every rule of Elasticsearch that the operation breaks, all in one sentence.
    pub(crate) fn apply(&self, operation: &mut v1::Operation) -> Result<(), Error> {
        let version_type = version_type(self.version_type.as_deref())?;
        let broken = self.broken(operation, version_type);
        if !broken.is_empty() {
            return Err(invalid(&broken));
        }
        operation.if_seq_no = self.if_seq_no;
        operation.if_primary_term = self.if_primary_term;
        operation.version_type = version_type.into();
        operation.version = self.version.and_then(|version| u64::try_from(version).ok());
        Ok(())
    }

    fn broken(&self, operation: &v1::Operation, version_type: VersionType) -> Vec<String> {
        let mut broken = Vec::new();
        let is_internal = version_type == VersionType::Internal;
        let has_version = self.version.is_some() || !is_internal;
        match operation.kind() {
            Kind::Create if !is_internal => {
                broken.push("create operations only support internal versioning. use index instead".to_owned());
                return broken;
            }
            Kind::Create if self.version.is_some() => {
                broken.push("create operations do not support explicit versions. use index instead".to_owned());
                return broken;
            }
            Kind::Create if self.if_seq_no.is_some() || self.if_primary_term.is_some() => {
                broken.push("create operations do not support compare and set. use index instead".to_owned());
                return broken;
            }
            Kind::Update if has_version => {
                broken.push(INTERNAL_VERSION.to_owned());
                return broken;
            }
            Kind::Delete | Kind::Update if operation.id.is_empty() => broken.push("id is missing".to_owned()),
            Kind::Index if operation.id.is_empty() && has_version => {
                broken.push("an id must be provided if version type or value are set".to_owned());
            }
            _ => {}
        }
        match self.version {
            Some(_) if is_internal => broken.push(INTERNAL_VERSION.to_owned()),
            // What Elasticsearch shows for a version that was not given is -3.
            version if !is_internal && version.unwrap_or(-3) < 0 => broken.push(format!(
                "illegal version value [{}] for version type [{}]",
                version.unwrap_or(-3),
                name(version_type)
            )),
            _ => {}
        }
        if self.if_seq_no.is_some() && has_version {
            broken.push("compare and write operations can not use versioning".to_owned());
        }
        // A primary term is 1 at least; 0 stands for none.
        match (self.if_seq_no, self.if_primary_term.unwrap_or(0)) {
            (Some(_), 0) => broken.push("ifSeqNo is set, but primary term is [0]".to_owned()),
            (None, term @ 1..) => broken.push(format!("ifSeqNo is unassigned, but primary term is [{term}]")),
            _ => {}
        }
        if self.if_seq_no.is_some_and(|seq| seq > VERSION_MAX) {
            broken.push(format!("sequence numbers must be at most [{VERSION_MAX}]"));
        }
        if operation.kind() == Kind::Update && self.if_seq_no.is_some() && self.retry_on_conflict.unwrap_or(0) > 0 {
            broken.push("compare and write operations can not be retried".to_owned());
        }
        broken
    }
}

const INTERNAL_VERSION: &str = "internal versioning can not be used for optimistic concurrency control. Please use `if_seq_no` and `if_primary_term` instead";

/// 400 that lists what is wrong with one request.
pub(crate) fn invalid(broken: &[String]) -> Error {
    let list: String = broken.iter().enumerate().map(|(number, text)| format!(" {}: {text};", number + 1)).collect();
    Error::invalid("action_request_validation_exception", format!("Validation Failed:{list}"))
}

fn version_type(name: Option<&str>) -> Result<VersionType, Error> {
    match name {
        None | Some("internal") => Ok(VersionType::Internal),
        Some("external" | "external_gt") => Ok(VersionType::External),
        Some("external_gte") => Ok(VersionType::ExternalGte),
        Some(other) => Err(illegal(format!("No version type match [{other}]"))),
    }
}

fn name(version_type: VersionType) -> &'static str {
    match version_type {
        VersionType::Internal => "INTERNAL",
        VersionType::External => "EXTERNAL",
        VersionType::ExternalGte => "EXTERNAL_GTE",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reason(kind: Kind, id: &str, query: &str) -> String {
        let mut operation = v1::Operation { kind: kind.into(), id: id.to_owned(), ..Default::default() };
        let conditions = Conditions::from_params(&Params::parse(query)).unwrap();
        conditions.apply(&mut operation).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn rules_are_worded_as_in_elasticsearch() {
        for (kind, id, query, expected) in [
            (Kind::Index, "1", "version=1&version_type=external", ""),
            (Kind::Delete, "1", "version=0&version_type=external_gte", ""),
            (Kind::Index, "1", "if_seq_no=1&if_primary_term=1", ""),
            (Kind::Update, "1", "if_seq_no=1&if_primary_term=1&retry_on_conflict=0", ""),
            (Kind::Index, "1", "version=1", INTERNAL_VERSION),
            (Kind::Update, "1", "version=1&version_type=external", INTERNAL_VERSION),
            (Kind::Index, "1", "version_type=external", "illegal version value [-3] for version type [EXTERNAL]"),
            (
                Kind::Index,
                "1",
                "version_type=external_gte&version=-1",
                "illegal version value [-1] for version type [EXTERNAL_GTE]",
            ),
            (
                Kind::Index,
                "",
                "version_type=external&version=1",
                "an id must be provided if version type or value are set",
            ),
            (
                Kind::Create,
                "1",
                "version_type=external&version=1",
                "create operations only support internal versioning. use index instead",
            ),
            (Kind::Create, "1", "version=1", "create operations do not support explicit versions. use index instead"),
            (
                Kind::Create,
                "1",
                "if_seq_no=1&if_primary_term=1",
                "create operations do not support compare and set. use index instead",
            ),
            (Kind::Index, "1", "if_seq_no=1", "ifSeqNo is set, but primary term is [0]"),
            (Kind::Index, "1", "if_primary_term=2", "ifSeqNo is unassigned, but primary term is [2]"),
            (
                Kind::Update,
                "1",
                "if_seq_no=1&if_primary_term=1&retry_on_conflict=3",
                "compare and write operations can not be retried",
            ),
            (Kind::Delete, "", "", "id is missing"),
        ] {
            let expected =
                if expected.is_empty() { String::new() } else { format!("Validation Failed: 1: {expected};") };
            assert_eq!(reason(kind, id, query), expected, "{query}");
        }
        assert_eq!(reason(Kind::Index, "1", "version=1&version_type=force"), "No version type match [force]");
        assert_eq!(
            reason(Kind::Index, "1", "version=1&version_type=external&if_seq_no=1"),
            "Validation Failed: 1: compare and write operations can not use versioning; 2: ifSeqNo is set, but primary term is [0];"
        );
    }
}
