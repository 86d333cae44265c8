//! The gRPC service of a leaf: decodes, calls, encodes. Deadlines come from the `grpc-timeout`
//! header; a client that goes away cancels what it asked for.

mod copy;
mod read;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use trawl_proto::caller::protocol_of;
use trawl_proto::v1::failure::Kind;
use trawl_proto::v1::leaf_server::Leaf;
use trawl_proto::v1::{self, Failure};
use trawl_proto::{NodeName, ShardKey, failure};

use crate::aggregation::Limits;
use crate::config::Config;
use crate::copy::server::Copies;
use crate::node::Replicas;
use crate::node::directory::DataDir;
use crate::pins::Pins;
use crate::pool::SearchPool;
use crate::replica::Replica;
use crate::search::Cancel;
use crate::watch::FileWatch;
use trawl_cluster::{Engine, Speaks};

/// Everything that requests need. Shared by all connections.
pub struct Service {
    /// The leaf's name.
    pub name: NodeName,
    /// Settings.
    pub config: Config,
    /// For the heads of logs (real-time gets).
    pub engine: Engine,
    /// The replicas that are here at the moment.
    pub replicas: Arc<Replicas>,
    /// Where searches run.
    pub pool: SearchPool,
    /// Searchers kept for the fetch phase.
    pub pins: Pins,
    /// Where the replicas are kept.
    pub data_dir: DataDir,
    /// What other leaves copy from this one.
    pub copies: Arc<Copies>,
    /// Hears of writes to files that searches read.
    pub files: Arc<FileWatch>,
}

impl Service {
    fn replica(&self, shard: Option<&v1::Shard>) -> Result<Arc<Replica>, Failure> {
        let Some(shard) = shard else {
            return Err(failure(Kind::Invalid, "the request names no shard"));
        };
        let key = ShardKey::from(shard);
        self.replicas
            .get(&key)
            .ok_or_else(|| failure(Kind::Unavailable, format!("shard {key} is not on leaf {}", self.name)))
    }

    fn deadline<T>(&self, request: &Request<T>) -> Instant {
        Instant::now() + timeout(request.metadata()).unwrap_or(self.config.request_timeout).min(MAX_TIMEOUT)
    }

    /// Stops work at the deadline, or when the guard is dropped because the client went away.
    fn cancel(&self, deadline: Instant) -> (Cancel, CancelOnDrop) {
        let limits =
            Limits { memory_bytes: self.config.aggregation_bytes_max, buckets: self.config.aggregation_buckets_max };
        let cancel = Cancel::new(deadline).with_limits(limits);
        (cancel.clone(), CancelOnDrop(cancel))
    }
}

/// Longer timeouts are cut to this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3_600);
/// An answer has to be on its way before the caller stops waiting: this much earlier, but at most a
/// tenth of the timeout.
const ANSWER_TIME: Duration = Duration::from_millis(10);

/// Refuses calls of who does not speak the cluster's protocol: an older root that was paused or cut off while the
/// cluster was upgraded.
pub fn refuse_outsiders(metadata: &MetadataMap, cluster: u32) -> Result<(), Status> {
    let protocol = protocol_of(metadata);
    match Speaks::up_to(protocol).includes(cluster) {
        true => Ok(()),
        false => Err(Status::failed_precondition(format!(
            "whoever calls speaks protocol {protocol}, the cluster works by protocol {cluster}"
        ))),
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The time that the caller gives, less the time that the answer needs to reach it.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let timeout = parse_timeout(text)?;
    Some(timeout - ANSWER_TIME.min(timeout / 10))
}

/// As in the gRPC specification: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The service as tonic serves it.
pub struct LeafService(pub Arc<Service>);

#[tonic::async_trait]
impl Leaf for LeafService {
    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(read::search(&self.0, request.into_inner(), deadline).await))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(read::fetch(&self.0, request.into_inner(), deadline).await))
    }

    async fn statistics(
        &self,
        request: Request<v1::StatisticsRequest>,
    ) -> Result<Response<v1::StatisticsResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(read::statistics(&self.0, request.into_inner(), deadline).await))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(read::count(&self.0, request.into_inner(), deadline).await))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(read::get(&self.0, request.into_inner(), deadline).await))
    }

    async fn outcomes(&self, request: Request<v1::OutcomesRequest>) -> Result<Response<v1::OutcomesResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(write::outcomes(&self.0, request.into_inner(), deadline).await))
    }

    async fn refresh(&self, request: Request<v1::RefreshRequest>) -> Result<Response<v1::RefreshResponse>, Status> {
        let deadline = self.0.deadline(&request);
        Ok(Response::new(write::refresh(&self.0, request.into_inner(), deadline).await))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(write::status(&self.0, request.into_inner())))
    }

    async fn broken(&self, _: Request<v1::BrokenRequest>) -> Result<Response<v1::BrokenResponse>, Status> {
        Ok(Response::new(copy::broken(&self.0)))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        Ok(Response::new(copy::history(&self.0, &request.into_inner()).await))
    }

    async fn copy_manifest(
        &self,
        request: Request<v1::CopyManifestRequest>,
    ) -> Result<Response<v1::CopyManifestResponse>, Status> {
        Ok(Response::new(copy::manifest(&self.0, request.into_inner()).await))
    }

    type CopyFileStream = BoxStream<'static, Result<v1::CopyChunk, Status>>;

    async fn copy_file(&self, request: Request<v1::CopyFileRequest>) -> Result<Response<Self::CopyFileStream>, Status> {
        Ok(Response::new(self.0.copies.file(request.into_inner())?))
    }

    async fn copy_end(&self, request: Request<v1::CopyEndRequest>) -> Result<Response<v1::CopyEndResponse>, Status> {
        copy::end(&self.0, &request.into_inner());
        Ok(Response::new(v1::CopyEndResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse_timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(parse_timeout("250000u"), Some(Duration::from_millis(250)));
        for bad in ["", "m", "1", "-1S", "999999999S", "1d", "1é"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
        let mut metadata = MetadataMap::new();
        assert_eq!(timeout(&metadata), None);
        metadata.insert("grpc-timeout", "50m".parse().expect("ASCII"));
        assert_eq!(timeout(&metadata), Some(Duration::from_millis(45)));
    }

    #[test]
    fn calls_of_older_and_much_newer_roots_are_refused() {
        let mut metadata = MetadataMap::new();
        // The first protocol says nothing.
        assert!(refuse_outsiders(&metadata, 1).is_ok() && refuse_outsiders(&metadata, 2).is_err());
        for (protocol, taken) in [(2, true), (3, true), (1, false), (4, false)] {
            metadata.insert("trawl-protocol", protocol.into());
            assert_eq!(refuse_outsiders(&metadata, 2).is_ok(), taken, "{protocol}");
        }
    }
}
