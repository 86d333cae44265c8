//! The engine over the simulated network: the server on its host, and the client in every process.
//!
//! What crosses the network is the number of a message; the message itself waits beside it. Every call has a
//! connection of its own, so that calls overtake each other and one that was given up may still arrive.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use trawl_cluster::shard_log::{Append, Appended, Base, Head, Mark, Record};
use trawl_cluster::store::{Change, Entry, Guard, Revision, Store, Write};
use trawl_cluster::{Error, ShardLog};
use trawl_proto::{Epoch, Incarnation, Seq, ShardKey};

use crate::absent::Absent;
use crate::engine::Engine;
use crate::process::{Net, PORT};
use crate::trace;

/// The engine's host.
pub const HOST: &str = "engine";
/// After this a call is given up.
const CALL_TIME: Duration = Duration::from_millis(1_500);
/// An idle watch says so this often, and is given up when it does not for twice as long.
const IDLE_TIME: Duration = Duration::from_millis(700);
/// Before a watch that broke is begun again.
const PAUSE: Duration = Duration::from_millis(200);

/// Messages that are on their way.
pub struct Post<T>(Mutex<(u64, BTreeMap<u64, T>)>);

impl<T> Default for Post<T> {
    fn default() -> Self {
        Self(Mutex::new((0, BTreeMap::new())))
    }
}

impl<T> Post<T> {
    pub async fn send(&self, wire: &mut (impl AsyncWrite + Unpin), message: T) -> io::Result<()> {
        let number = {
            let (next, messages) = &mut *self.0.lock().unwrap();
            *next += 1;
            messages.insert(*next, message);
            *next
        };
        wire.write_u64(number).await
    }

    pub async fn receive(&self, wire: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
        let number = wire.read_u64().await?;
        self.0.lock().unwrap().1.remove(&number).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

type Call = Box<dyn FnOnce(&mut Engine) -> Reply + Send>;
type Reply = Box<dyn std::any::Any + Send>;

enum Request {
    Call(Call),
    Watch(String, Option<Revision>),
}

/// The engine as its host sees it.
#[derive(Clone, Default)]
pub struct Server {
    pub engine: Arc<Mutex<Engine>>,
    requests: Arc<Post<Request>>,
    replies: Arc<Post<Reply>>,
    changes: Arc<Post<Option<Change>>>,
}

impl Server {
    /// Serves until the host crashes.
    pub async fn run(self) -> turmoil::Result {
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (wire, _) = listener.accept().await?;
            let server = self.clone();
            tokio::task::spawn_local(async move {
                let _ = server.serve(wire).await;
            });
        }
    }

    async fn serve(self, mut wire: turmoil::net::TcpStream) -> io::Result<()> {
        match timeout(CALL_TIME * 8, self.requests.receive(&mut wire)).await?? {
            Request::Call(call) => {
                let reply = call(&mut self.engine.lock().unwrap());
                self.replies.send(&mut wire, reply).await
            }
            Request::Watch(prefix, mut seen) => {
                let wakes = self.engine.lock().unwrap().wakes.clone();
                loop {
                    // In the order in which they wait, which a watch channel does not promise.
                    let woken = wakes.notified();
                    let change = self.engine.lock().unwrap().changes(&prefix, seen);
                    if let Some(Change::Snapshot(_, revision) | Change::Changed(_, revision)) = &change {
                        seen = Some(*revision);
                    }
                    self.changes.send(&mut wire, change).await?;
                    let _ = timeout(IDLE_TIME, woken).await;
                }
            }
        }
    }

    /// The engine as a process uses it.
    pub fn client(&self, net: Net, process: &str) -> trawl_cluster::Engine {
        let client = Arc::new(Client { server: self.clone(), net, process: process.to_owned() });
        trawl_cluster::Engine { store: client.clone(), log: client, queue: Arc::new(Absent), letters: Arc::new(Absent) }
    }
}

#[derive(Clone)]
struct Client {
    server: Server,
    net: Net,
    process: String,
}

fn lost(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unavailable(Box::new(error))
}

impl Client {
    /// Has the engine do something. After an error it may or may not have been done.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Engine, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let process = self.process.clone();
        trace::detail(|| format!("calls for {}", std::any::type_name::<T>()));
        let call: Call = Box::new(move |engine| Box::new(call(engine, &process)));
        let answered = async {
            let mut wire = self.net.dial(HOST, PORT).await?;
            self.server.requests.send(&mut wire, Request::Call(call)).await?;
            self.server.replies.receive(&mut wire).await
        };
        let reply = timeout(CALL_TIME, answered).await.map_err(lost)?.map_err(lost)?;
        let reply = reply.downcast::<Result<T, Error>>();
        *reply.map_err(|_| Error::Corrupt("another call's reply".to_owned()))?
    }

    async fn begin_watch(&self, prefix: &str, seen: Option<Revision>) -> io::Result<tokio::io::DuplexStream> {
        let begun = async {
            let mut wire = self.net.dial(HOST, PORT).await?;
            self.server.requests.send(&mut wire, Request::Watch(prefix.to_owned(), seen)).await?;
            Ok(wire)
        };
        timeout(CALL_TIME, begun).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[async_trait]
impl Store for Client {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.call(move |engine, _| Ok(engine.get(&key))).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        let prefix = prefix.to_owned();
        self.call(move |engine, _| Ok(engine.list(&prefix))).await
    }

    fn watch(&self, prefix: &str) -> BoxStream<'static, Change> {
        let start = (self.clone(), prefix.to_owned(), None, None);
        stream::unfold(start, |(client, prefix, mut wire, mut seen)| async move {
            loop {
                let Some(open) = &mut wire else {
                    wire = client.begin_watch(&prefix, seen).await.ok();
                    if wire.is_none() {
                        tokio::time::sleep(PAUSE).await;
                    }
                    continue;
                };
                match timeout(IDLE_TIME * 2, client.server.changes.receive(open)).await {
                    Ok(Ok(Some(change))) => {
                        let (Change::Snapshot(_, revision) | Change::Changed(_, revision)) = &change;
                        seen = Some(*revision);
                        return Some((change, (client, prefix, wire, seen)));
                    }
                    Ok(Ok(None)) => {}
                    Ok(Err(_)) | Err(_) => wire = None,
                }
            }
        })
        .boxed()
    }

    async fn commit(&self, guards: &[Guard], writes: &[Write]) -> Result<Revision, Error> {
        let (guards, writes) = (guards.to_vec(), writes.to_vec());
        self.call(move |engine, by| engine.commit(by, &guards, &writes)).await
    }
}

#[async_trait]
impl ShardLog for Client {
    async fn fence(&self, epoch: Epoch) -> Result<(), Error> {
        self.call(move |engine, by| engine.fence(by, epoch)).await
    }

    async fn create(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        let shards = shards.to_vec();
        self.call(move |engine, by| engine.create(by, epoch, &shards)).await
    }

    async fn remove(&self, epoch: Epoch, shards: &[ShardKey]) -> Result<(), Error> {
        let shards = shards.to_vec();
        self.call(move |engine, by| engine.remove(by, epoch, &shards)).await
    }

    async fn append(&self, batches: Vec<Append>) -> Result<Vec<Result<Appended, Error>>, Error> {
        self.call(move |engine, _| {
            let now_ms = engine.checks.now_ms;
            Ok(batches.into_iter().map(|batch| engine.append(batch, now_ms)).collect())
        })
        .await
    }

    async fn read(&self, shard: &ShardKey, after: Seq, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let shard = shard.clone();
        self.call(move |engine, _| engine.rows(&shard, after, bytes_max)).await
    }

    /// The model of a leaf reads; nobody else follows logs.
    fn tail(&self, _: &ShardKey, _: Seq) -> BoxStream<'static, Result<Record, Error>> {
        stream::pending().boxed()
    }

    async fn trim(&self, epoch: Epoch, shard: &ShardKey, seen: Mark, through: Seq) -> Result<(), Error> {
        let shard = shard.clone();
        self.call(move |engine, by| engine.trim(by, epoch, &shard, seen, through)).await
    }

    async fn restart(
        &self,
        epoch: Epoch,
        shard: &ShardKey,
        from: Incarnation,
        fork: Seq,
        base: Base,
    ) -> Result<Head, Error> {
        let shard = shard.clone();
        self.call(move |engine, by| engine.restart(by, epoch, &shard, from, fork, base)).await
    }

    async fn new_history(&self) -> Result<Option<String>, Error> {
        self.call(move |engine, _| Ok(engine.new_history.clone())).await
    }

    async fn accept_history(&self, epoch: Epoch, _: &str) -> Result<(), Error> {
        self.call(move |engine, by| engine.accept_history(by, epoch)).await
    }

    async fn heads(&self, shards: &[ShardKey]) -> Result<Vec<Option<Head>>, Error> {
        let shards = shards.to_vec();
        self.call(move |engine, _| Ok(engine.heads(&shards))).await
    }
}
