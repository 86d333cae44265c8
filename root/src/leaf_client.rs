//! The root's end of the wire: one lazily connected HTTP/2 channel per leaf process.
//!
//! A leaf's client is dropped when its record changes process or address. Whether its connection
//! works is known at once, because the socket itself tells (see `connection`): planning asks leaves
//! with a broken connection last, and health counts them as gone. Every call carries its deadline.

mod connection;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use trawl_cluster::Speaks;
use trawl_cluster::catalog::NodeRecord;
use trawl_cluster::view::{View, Viewer};
use trawl_proto::caller::Caller;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{NodeName, failure, failure_from_status, v1};

pub use self::connection::{Connect, Connection, ConnectionState};
use self::connection::{Connector, Watched};
use crate::config::LeavesConfig;
use crate::hedging::Phase;
use crate::policy::choice::{Candidate, Estimate};

/// For how long a leaf that refused something is believed to have no room.
const SATURATED_TIME: Duration = Duration::from_millis(500);

/// The clients of all leaves.
pub struct LeafClients {
    config: LeavesConfig,
    caller: Caller,
    clients: RwLock<BTreeMap<NodeName, Arc<LeafClient>>>,
    /// Told when any connection breaks.
    broke: Arc<Notify>,
}

impl LeafClients {
    /// No clients yet; they are made when asked for. Their calls say which protocol this root speaks.
    pub fn new(config: LeavesConfig, speaks: Speaks) -> Self {
        Self { config, caller: Caller(speaks.protocol), clients: RwLock::default(), broke: Arc::default() }
    }

    /// The newest protocol that this root speaks.
    pub fn protocol(&self) -> u32 {
        self.caller.0
    }

    /// The client for the process that a record describes; `None` when its address is not one.
    pub fn client(&self, record: &NodeRecord) -> Option<Arc<LeafClient>> {
        if let Some(client) = self.clients.read().get(&record.name)
            && client.is_for(record)
        {
            return Some(client.clone());
        }
        let mut clients = self.clients.write();
        match clients.get(&record.name) {
            Some(client) if client.is_for(record) => Some(client.clone()),
            _ => {
                let client = Arc::new(LeafClient::new(record, &self.config, self.caller, self.broke.clone())?);
                clients.insert(record.name.clone(), client.clone());
                Some(client)
            }
        }
    }

    /// The client of a leaf by name, on this view; `None` when it is not there or does not take part.
    pub fn by_name(&self, view: &View, name: &NodeName) -> Option<Arc<LeafClient>> {
        let record = &view.leaf(name)?.record;
        view.takes_part(record).then(|| self.client(record)).flatten()
    }

    /// Drops clients of leaves that are registered no more, so that there are never more clients than
    /// leaves.
    fn retain(&self, view: &View) {
        self.clients.write().retain(|name, client| view.leaf(name).is_some_and(|node| client.is_for(&node.record)));
    }

    /// Connects to leaves as they come, reconnects to those whose connection broke, and forgets those
    /// that are gone, for ever. Sleeps while all is well.
    pub async fn keep_connected(&self, viewer: &Viewer) {
        let mut views = viewer.subscribe();
        loop {
            let view = views.borrow_and_update().clone();
            self.retain(&view);
            let all_well = self.probe(&view).await;
            let again = async {
                match all_well {
                    true => self.broke.notified().await,
                    false => tokio::time::sleep(self.config.probe_interval).await,
                }
            };
            tokio::select! {
                biased;
                () = again => {}
                changed = views.changed() => if changed.is_err() { std::future::pending().await },
            }
        }
    }

    /// Connects to every live leaf that is not connected; whether there was none. A broken connection is
    /// thereby known to work again without a search having to try.
    async fn probe(&self, view: &View) -> bool {
        let live = view.leaves().filter(|node| node.alive).filter_map(|node| self.client(&node.record));
        let missing: Vec<_> = live.filter(|client| client.state() != ConnectionState::Connected).collect();
        let all_well = missing.is_empty();
        let calls = missing.into_iter().map(|client| async move {
            let nothing = v1::StatusRequest { index_uids: vec!["-".to_owned()], fields: false, poisoned: false };
            let timeout = self.config.connect_timeout * 2;
            if let Err(failure) = client.status(nothing, timeout).await {
                tracing::debug!(leaf = %client.name, reason = %failure.reason, "leaf cannot be reached");
            }
        });
        futures::future::join_all(calls).await;
        all_well
    }
}

/// One leaf process.
pub struct LeafClient {
    name: NodeName,
    process: String,
    address: String,
    rpc: v1::leaf_client::LeafClient<InterceptedService<Channel, Caller>>,
    connection: Arc<Watched>,
    in_flight: AtomicUsize,
    observed: Mutex<Observed>,
}

/// How long searches have taken.
#[derive(Clone, Copy, Default)]
struct Observed {
    estimate: Estimate,
    heard_at: Option<Instant>,
    refused_at: Option<Instant>,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty;)*) => {
        $($(#[$doc])*
        ///
        /// # Errors
        /// Why the leaf as a whole gave no answer.
        pub async fn $name(&self, request: $request, timeout: Duration) -> Result<$response, v1::Failure> {
            let mut rpc = self.rpc.clone();
            self.call(request, timeout, async move |request| rpc.$name(request).await).await
        })*
    };
}

impl LeafClient {
    fn new(record: &NodeRecord, config: &LeavesConfig, caller: Caller, broke: Arc<Notify>) -> Option<Self> {
        let connection = Arc::new(Watched::new(broke));
        let channel = Endpoint::from_shared(format!("http://{}", record.grpc))
            .inspect_err(
                |error| tracing::warn!(leaf = %record.name, address = %record.grpc, %error, "bad leaf address"),
            )
            .ok()?
            .connect_timeout(config.connect_timeout)
            .http2_keep_alive_interval(config.keep_alive_interval)
            .keep_alive_timeout(config.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(Connector::new(
                config.connect.clone(),
                connection.clone(),
                config.connect_timeout,
            ));
        Some(Self {
            name: record.name.clone(),
            process: record.process.clone(),
            address: record.grpc.clone(),
            rpc: v1::leaf_client::LeafClient::with_interceptor(channel, caller)
                .max_decoding_message_size(config.answer_bytes_max),
            connection,
            in_flight: AtomicUsize::new(0),
            observed: Mutex::default(),
        })
    }

    fn is_for(&self, record: &NodeRecord) -> bool {
        self.process == record.process && self.address == record.grpc
    }

    /// The leaf's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// What is known of it, for choosing between replicas.
    pub fn candidate(&self) -> Candidate {
        let observed = *self.observed.lock();
        Candidate {
            estimate: observed.estimate,
            idle: observed.heard_at.map_or(Duration::ZERO, |at| at.elapsed()),
            waiting: self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// Notes how long it took to answer.
    pub fn answered(&self, phase: Phase, took: Duration) {
        self.observe(phase, |estimate| estimate.observe(took));
    }

    /// Notes that it took at least so long and is not waited for any more.
    pub fn given_up(&self, phase: Phase, took: Duration) {
        self.observe(phase, |estimate| estimate.observe_at_least(took));
    }

    /// Only searches count: other phases take other times.
    fn observe(&self, phase: Phase, observe: impl FnOnce(&mut Estimate)) {
        if phase == Phase::Search {
            let mut observed = self.observed.lock();
            observe(&mut observed.estimate);
            observed.heard_at = Some(Instant::now());
        }
    }

    /// Notes that it had no room for a request.
    pub fn refused(&self) {
        self.observed.lock().refused_at = Some(Instant::now());
    }

    /// Whether it refused something a moment ago.
    pub fn is_saturated(&self) -> bool {
        self.observed.lock().refused_at.is_some_and(|at| at.elapsed() < SATURATED_TIME)
    }

    /// Whether the connection works, as far as known.
    pub fn state(&self) -> ConnectionState {
        self.connection.state()
    }

    calls! {
        /// The query phase.
        search(v1::SearchRequest) -> v1::SearchResponse;
        /// The fetch phase.
        fetch(v1::FetchRequest) -> v1::FetchResponse;
        /// Term statistics.
        statistics(v1::StatisticsRequest) -> v1::StatisticsResponse;
        /// Exact number of matches.
        count(v1::CountRequest) -> v1::CountResponse;
        /// Documents by id.
        get(v1::GetRequest) -> v1::GetResponse;
        /// Outcomes of operations.
        outcomes(v1::OutcomesRequest) -> v1::OutcomesResponse;
        /// Makes positions searchable.
        refresh(v1::RefreshRequest) -> v1::RefreshResponse;
        /// What the leaf holds.
        status(v1::StatusRequest) -> v1::StatusResponse;
        /// Replicas whose log has lost history.
        broken(v1::BrokenRequest) -> v1::BrokenResponse;
        /// Where a replica stands.
        history(v1::HistoryRequest) -> v1::HistoryResponse;
    }

    async fn call<Q, A>(
        &self,
        message: Q,
        timeout: Duration,
        send: impl AsyncFnOnce(Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, v1::Failure> {
        let _in_flight = InFlight::enter(&self.in_flight);
        let start = Instant::now();
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        match send(request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.failure(&status, start.elapsed(), timeout)),
        }
    }

    /// A call that the other side broke off looks like one that ran out of time, except that there
    /// was time left; and a connection that broke looks like a defect of the leaf.
    fn failure(&self, status: &Status, elapsed: Duration, timeout: Duration) -> v1::Failure {
        let mut failure = failure_from_status(status);
        let broken_off = matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) && elapsed < timeout / 2;
        if broken_off || (failure.kind() == Kind::Internal && std::error::Error::source(status).is_some()) {
            failure.kind = Kind::Unavailable.into();
        }
        failure.reason = match failure.kind() {
            Kind::Unavailable => format!("leaf {}: {}", self.name, innermost(status)),
            Kind::Deadline => format!("leaf {} did not answer in time", self.name),
            _ => failure.reason,
        };
        failure
    }
}

/// The failure of a leaf that there is no client for.
pub fn unknown_leaf(name: &NodeName) -> v1::Failure {
    failure(Kind::Unavailable, format!("leaf {name} is not registered, or does not speak the cluster's protocol"))
}

fn innermost(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Counts a call while it lives, also when it is cancelled.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
