//! Failures of shards and gRPC status codes, mapped both ways in this one place.

use tonic::{Code, Status};

use crate::v1::{Failure, failure::Kind};

/// A failure of a kind, with its reason.
pub fn failure(kind: Kind, reason: impl Into<String>) -> Failure {
    Failure { kind: kind.into(), reason: reason.into() }
}

/// What a failed call means for every shard that it asked for.
///
/// A client-side timeout of tonic arrives as `Cancelled`, so both that and `DeadlineExceeded` are
/// [`Kind::Deadline`]. A transport error (no connection) is [`Kind::Unavailable`].
pub fn failure_from_status(status: &Status) -> Failure {
    let kind = match status.code() {
        Code::ResourceExhausted => Kind::Rejected,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Kind::Invalid,
        Code::DeadlineExceeded | Code::Cancelled => Kind::Deadline,
        Code::Internal | Code::DataLoss => Kind::Internal,
        _ => Kind::Unavailable,
    };
    failure(kind, status.message())
}

/// The status of a call that failed as a whole.
pub fn status_from_failure(failure: &Failure) -> Status {
    let code = match failure.kind() {
        Kind::Rejected => Code::ResourceExhausted,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Deadline => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
        Kind::Unavailable | Kind::Unspecified => Code::Unavailable,
    };
    Status::new(code, failure.reason.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_way_through_a_status() {
        for kind in [Kind::Unavailable, Kind::Rejected, Kind::Invalid, Kind::Internal, Kind::Deadline] {
            let there = failure(kind, "why");
            assert_eq!(failure_from_status(&status_from_failure(&there)), there);
        }
    }
}
