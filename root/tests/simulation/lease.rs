//! The lease alone: candidates that write whenever they lead, and go on writing with what they knew then for as long
//! as they live, on keys that are there and keys that are not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trawl_cluster::catalog::{EpochRecord, keys};
use trawl_cluster::store::{Guard, Write};
use trawl_cluster::{Engine, Error, LEASE_TIME, Lease, lease};
use trawl_proto::Epoch;

use crate::seeds::Outcome;
use crate::trace;
use crate::world::World;

const TICK_MS: u64 = 20;
const FAULTS_FROM_MS: u64 = 3_000;
const FAULTS_UNTIL_MS: u64 = 33_000;
/// By then somebody has to lead again: the lease time by a slow clock, and several attempts.
const END_MS: u64 = FAULTS_UNTIL_MS + 12_000;

/// Who believes to lead.
type Beliefs = Arc<Mutex<BTreeMap<String, watch::Receiver<Option<Epoch>>>>>;

/// One world of three to five candidates.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed, TICK_MS);
    let beliefs = Beliefs::default();
    for number in 0..3 + seed % 3 {
        let name = format!("root-{number}");
        let net = world.machine(&name);
        let (server, beliefs, own) = (world.server.clone(), beliefs.clone(), name.clone());
        let machine = net.clone();
        let software = move |start| {
            let process = format!("{own}.{start}");
            let engine = server.client(machine.clone(), &process);
            candidate(own.clone(), process, engine, beliefs.clone()).boxed()
        };
        world.process(&name, net, Box::new(software));
    }
    let mut plan = world.plan(14, FAULTS_FROM_MS, FAULTS_UNTIL_MS);
    while world.now_ms < END_MS {
        world.step();
        look(&world, &beliefs);
        world.befall(&mut plan);
        if !world.server.engine.lock().unwrap().checks.violations.is_empty() {
            break;
        }
    }
    let engine = &mut *world.server.engine.lock().unwrap();
    let held: Option<EpochRecord> = engine.read(keys::LEASE_EPOCH);
    let believes: BTreeMap<_, _> =
        beliefs.lock().unwrap().iter().map(|(process, leading)| (process.clone(), *leading.borrow())).collect();
    let is_led = held.as_ref().is_some_and(|held| believes.get(&held.process) == Some(&Some(held.epoch)));
    if !is_led {
        engine.checks.violation(format!("nobody leads after the faults: {held:?}, {believes:?}"));
    }
    Outcome::of(engine)
}

/// Of those who are awake one at most believes to lead: their clocks differ by less than the lease's margin.
fn look(world: &World, beliefs: &Beliefs) {
    let beliefs = beliefs.lock().unwrap();
    let is_awake = |process: &str| world.is_awake(process.split('.').next().unwrap_or_default());
    let believing = beliefs.iter().filter(|(process, leading)| is_awake(process) && leading.borrow().is_some());
    let believers: Vec<_> = believing.map(|(process, _)| process).collect();
    if believers.len() > 1 {
        let text = format!("they all believe to lead: {believers:?}");
        world.server.engine.lock().unwrap().checks.violation(text);
    }
}

/// Forgets what a process believed when it ends.
struct Belief(Beliefs, String);

impl Drop for Belief {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

async fn candidate(name: String, process: String, engine: Engine, beliefs: Beliefs) {
    let config = lease::Config { name: name.as_str().into(), process: process.clone(), lease_time: LEASE_TIME };
    let lease = Lease::run(engine.store.clone(), config, CancellationToken::new());
    let mut leading = lease.leading();
    beliefs.lock().unwrap().insert(process.clone(), leading.clone());
    let _belief = Belief(beliefs, process);
    let fence = lease.fence();
    let mut held: Vec<(Epoch, Vec<Guard>)> = Vec::new();
    let mut written = 0;
    loop {
        let epoch = *leading.borrow_and_update();
        if let Some(epoch) = epoch
            && let Ok(guards) = fence.guards(epoch)
            && held.iter().all(|(known, _)| *known != epoch)
        {
            held.push((epoch, guards));
        }
        for (number, (epoch, guards)) in held.iter().enumerate().rev().take(3) {
            written += 1;
            let key = match written % 3 {
                0 => format!("{}u/{}", keys::ASSIGNMENTS, number),
                1 => format!("{}u/{name}-{written}", keys::ASSIGNMENTS),
                _ => format!("{}u/common", keys::SKIPS),
            };
            let writes = [Write::Put(key.clone(), epoch.to_string().into())];
            let committed = engine.store.commit(guards, &writes);
            match tokio::time::timeout(Duration::from_millis(400), committed).await {
                Ok(Err(Error::Conflict(Guard::At(guarded, _)))) if guarded == keys::LEASE_EPOCH => {
                    trace::note(format!("refused at epoch {epoch}: {key}"));
                }
                _ => {}
            }
        }
        let _ = tokio::time::timeout(Duration::from_millis(300), leading.changed()).await;
    }
}
