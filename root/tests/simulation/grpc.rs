//! What a model leaf answers the leader. It serves no searches.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::DuplexStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use trawl_proto::v1::failure::Kind;
use trawl_proto::v1::leaf_server::{Leaf as Rpc, LeafServer};
use trawl_proto::{ShardKey, failure, v1};

use crate::leaf::Leaf;
use crate::trace;

/// Serves until the process ends.
pub async fn serve(leaf: Arc<Leaf>, incoming: UnboundedReceiver<DuplexStream>) {
    let incoming = UnboundedReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
    let served = Server::builder().add_service(LeafServer::new(Service(leaf))).serve_with_incoming(incoming).await;
    served.unwrap();
}

struct Service(Arc<Leaf>);

macro_rules! not_served {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        $(fn $name<'a, 'b>(&'a self, _: Request<v1::$request>) -> BoxFuture<'b, Result<Response<v1::$response>, Status>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("not simulated")) })
        })*
    };
}

#[tonic::async_trait]
impl Rpc for Service {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let request = request.into_inner();
        trace::detail(|| "is asked for its status".to_owned());
        let replicas = self.0.replicas.lock().unwrap();
        let wanted =
            |shard: &ShardKey| request.index_uids.is_empty() || request.index_uids.contains(&shard.index_uid.0);
        let replicas = replicas.iter().filter(|(shard, _)| wanted(shard) && !request.poisoned);
        let replicas = replicas.map(|(_, replica)| replica.status()).collect();
        Ok(Response::new(v1::StatusResponse { name: self.0.name.0.clone(), replicas }))
    }

    async fn broken(&self, _: Request<v1::BrokenRequest>) -> Result<Response<v1::BrokenResponse>, Status> {
        let replicas = self.0.replicas.lock().unwrap();
        let shards = replicas.iter().filter(|(_, replica)| replica.is_broken()).map(|(shard, _)| shard.into());
        Ok(Response::new(v1::BrokenResponse { shards: shards.collect() }))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        let v1::HistoryRequest { shard, points, .. } = request.into_inner();
        let shard = shard.map(ShardKey::from).unwrap_or_default();
        let history = match self.0.replicas.lock().unwrap().get(&shard) {
            Some(replica) => replica.history(points),
            None => v1::HistoryResponse {
                failure: Some(failure(Kind::Unavailable, "the replica is not here")),
                ..Default::default()
            },
        };
        Ok(Response::new(history))
    }

    type CopyFileStream = BoxStream<'static, Result<v1::CopyChunk, Status>>;

    async fn copy_file(&self, _: Request<v1::CopyFileRequest>) -> Result<Response<Self::CopyFileStream>, Status> {
        Err(Status::unimplemented("not simulated"))
    }

    not_served! {
        search(SearchRequest) -> SearchResponse;
        fetch(FetchRequest) -> FetchResponse;
        statistics(StatisticsRequest) -> StatisticsResponse;
        count(CountRequest) -> CountResponse;
        get(GetRequest) -> GetResponse;
        outcomes(OutcomesRequest) -> OutcomesResponse;
        refresh(RefreshRequest) -> RefreshResponse;
        copy_manifest(CopyManifestRequest) -> CopyManifestResponse;
        copy_end(CopyEndRequest) -> CopyEndResponse;
    }
}
