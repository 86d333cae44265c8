//! A process and its machine.
//!
//! The machine is a turmoil host: its network stack, which goes on whatever the process does. The process runs on a
//! runtime of its own with a clock of its own, and reaches the network through the machine. So it can be stopped and
//! continued (its clock jumps, what arrived meanwhile waits), its clock can run fast or slow, and it can be killed.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::trace;

/// Where leaves serve gRPC, and the engine its calls.
pub const PORT: u16 = 1;
/// Where leaves give copies.
pub const COPY_PORT: u16 = 2;

/// Bytes that a machine keeps for a process that does not read.
const BUFFER: usize = 64 << 10;

/// What a machine keeps of its process.
#[derive(Default)]
struct Sockets {
    listening: Mutex<BTreeMap<u16, mpsc::UnboundedSender<DuplexStream>>>,
    /// By number, what closes an open connection.
    open: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    opened: AtomicU64,
}

/// A process' way to the network.
#[derive(Clone)]
pub struct Net {
    dials: mpsc::UnboundedSender<Dial>,
    sockets: Arc<Sockets>,
}

struct Dial {
    host: String,
    port: u16,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

impl Net {
    /// Adds a machine to the simulation.
    pub fn machine(sim: &mut turmoil::Sim<'_>, name: &str) -> Self {
        let (dials, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let sockets = Arc::new(Sockets::default());
        let net = Self { dials, sockets: sockets.clone() };
        sim.host(name, move || {
            let (receiver, sockets) = (receiver.lock().unwrap().take(), sockets.clone());
            async move {
                for port in [PORT, COPY_PORT] {
                    tokio::task::spawn_local(listen(port, sockets.clone()));
                }
                let mut receiver = receiver.ok_or("a machine starts once")?;
                while let Some(dial) = receiver.recv().await {
                    tokio::task::spawn_local(connect(dial, sockets.clone()));
                }
                Ok(())
            }
        });
        net
    }

    /// Opens a connection.
    pub async fn dial(&self, host: &str, port: u16) -> io::Result<DuplexStream> {
        let (answer, opened) = oneshot::channel();
        let _ = self.dials.send(Dial { host: host.to_owned(), port, answer });
        opened.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionRefused.into()))
    }

    /// Connections that are opened to this machine from now on.
    pub fn listen(&self, port: u16) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.sockets.listening.lock().unwrap().insert(port, sender);
        receiver
    }

    /// Closes everything, in the order in which it was opened: a runtime ends its tasks in any order.
    fn close(&self) {
        self.sockets.listening.lock().unwrap().clear();
        for close in std::mem::take(&mut *self.sockets.open.lock().unwrap()).into_values() {
            let _ = close.send(());
        }
    }
}

async fn listen(port: u16, sockets: Arc<Sockets>) {
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", port)).await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let (near, far) = tokio::io::duplex(BUFFER);
        let taken = sockets.listening.lock().unwrap().get(&port).is_some_and(|inbox| inbox.send(far).is_ok());
        if taken {
            tokio::task::spawn_local(pass_on(near, stream, sockets.clone()));
        }
    }
}

async fn connect(dial: Dial, sockets: Arc<Sockets>) {
    let connected = turmoil::net::TcpStream::connect((dial.host.as_str(), dial.port)).await;
    let connected = connected.map(|stream| {
        let (near, far) = tokio::io::duplex(BUFFER);
        tokio::task::spawn_local(pass_on(near, stream, sockets));
        far
    });
    let _ = dial.answer.send(connected);
}

/// Until both sides, or the wire, are through, or the process is killed.
async fn pass_on(mut near: DuplexStream, mut stream: turmoil::net::TcpStream, sockets: Arc<Sockets>) {
    let number = sockets.opened.fetch_add(1, Ordering::Relaxed);
    let (close, closed) = oneshot::channel();
    sockets.open.lock().unwrap().insert(number, close);
    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
    trace::detail(|| format!("open {ends:?}"));
    tokio::select! {
        biased;
        _ = closed => {}
        _ = tokio::io::copy_bidirectional(&mut near, &mut stream) => {}
    }
    sockets.open.lock().unwrap().remove(&number);
    trace::detail(|| format!("closed {ends:?}"));
}

/// What a process does from its start; it is given the number of starts before.
pub type Software = Box<dyn Fn(u32) -> BoxFuture<'static, ()>>;

/// A process, running or not.
pub struct Process {
    pub name: String,
    net: Net,
    software: Software,
    starts: u32,
    running: Option<Running>,
    pub paused: bool,
    /// Milliseconds on its clock per second of the world.
    pub rate: u64,
}

struct Running {
    runtime: Runtime,
    started: Instant,
    since_ms: u64,
    elapsed_ms: u64,
}

impl Process {
    pub fn new(name: &str, net: Net, rate: u64, software: Software) -> Self {
        Self { name: name.to_owned(), net, software, starts: 0, running: None, paused: false, rate }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it unless it runs.
    pub fn start(&mut self, now_ms: u64) {
        if self.running.is_some() {
            return;
        }
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        // Timers count whole milliseconds.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        let software = (self.software)(self.starts);
        self.starts += 1;
        let started = runtime.block_on(async { Instant::now() });
        runtime.spawn(software);
        self.running = Some(Running { runtime, started, since_ms: now_ms, elapsed_ms: 0 });
    }

    /// Ends it in the midst of everything; its machine closes its connections.
    pub fn kill(&mut self) {
        self.net.close();
        self.running = None;
        self.paused = false;
    }

    /// Lets it run up to the world's time. After a pause all of its timers are due at once.
    pub fn run_until(&mut self, now_ms: u64, tick_ms: u64) {
        let Some(running) = self.running.as_mut().filter(|_| !self.paused) else { return };
        let target = (now_ms - running.since_ms) * self.rate / 1_000;
        let missed = (target - running.elapsed_ms).saturating_sub(2 * tick_ms);
        let until = running.started + Duration::from_millis(target);
        running.runtime.block_on(async {
            if missed > 0 {
                tokio::time::advance(Duration::from_millis(missed)).await;
            }
            tokio::time::sleep_until(until).await;
        });
        running.elapsed_ms = target;
    }
}
