//! The whole control plane: roots that compete and lead, model leaves, somebody who writes, and an index or two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trawl_cluster::catalog::{AssignmentRecord, IndexRecord, NodeRecord, Role, ServingRecord, keys};
use trawl_cluster::shard_log::{Append, Appended};
use trawl_cluster::store::Write;
use trawl_cluster::{Engine, ShardLog};
use trawl_data::mapping::Mapping;
use trawl_proto::{NodeName, ShardKey};
use trawl_root::config::{Config, Connect, Connection};
use trawl_root::member::Member;

use crate::checks::number_of;
use crate::engine;
use crate::leaf::{self, Copies, Leaf};
use crate::operator;
use crate::process::Net;
use crate::seeds::Outcome;
use crate::world::World;

const TICK_MS: u64 = 20;
const FAULTS_FROM_MS: u64 = 5_000;
const FAULTS_UNTIL_MS: u64 = 30_000;
/// In one world of four the engine loses the ends of some logs, when all is well otherwise: what only a leaf holds that
/// stays away then is lost, as it should be.
const TAILS_LOST_MS: u64 = FAULTS_UNTIL_MS + 8_000;
const WRITES_UNTIL_MS: u64 = FAULTS_UNTIL_MS + 12_000;
/// By then everything has to be well again: clocks run slow, connections have to be given up and opened again, and
/// replicas are copied one after the other.
const END_MS: u64 = FAULTS_UNTIL_MS + 90_000;
/// How often somebody does something to the cluster, per tick.
const ACTS: f64 = 0.004;

/// What was acknowledged: by number, where it stands.
type Ledger = Arc<Mutex<BTreeMap<u64, (ShardKey, Appended)>>>;

/// The numbers of one world.
struct Shape {
    roots: u32,
    leaves: u32,
    zones: bool,
    indices: Vec<IndexRecord>,
}

impl Shape {
    fn draw(rng: &mut StdRng) -> Self {
        let leaves = rng.random_range(3..=5);
        let indices: Vec<_> = (0..rng.random_range(1..=2))
            .map(|number| {
                let (shards, replicas) = (rng.random_range(1..=3), rng.random_range(1..=2));
                IndexRecord {
                    refresh_interval_ms: Some(1_000),
                    log_bytes_max: rng.random_bool(0.3).then(|| rng.random_range(2_000..8_000)),
                    replace_after_ms: Some(rng.random_range(0..4_000)),
                    ..IndexRecord::new(
                        &format!("index-{number}"),
                        format!("uid-{number}").as_str().into(),
                        shards,
                        replicas,
                    )
                }
            })
            .collect();
        Self { roots: rng.random_range(2..=3), leaves, zones: rng.random_bool(0.3), indices }
    }
}

/// One world.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed, TICK_MS);
    let shape = Shape::draw(&mut world.rng);
    for number in 0..shape.roots {
        add_root(&mut world, &format!("root-{number}"));
    }
    let copies = Arc::<Copies>::default();
    for number in 0..shape.leaves {
        let zone = shape.zones.then(|| format!("zone-{}", number % 2));
        add_leaf(&mut world, &format!("leaf-{number}"), zone, copies.clone());
    }
    let (ledger, writing) = (Ledger::default(), Arc::new(AtomicBool::new(true)));
    add_writer(&mut world, &shape, seed, ledger.clone(), writing.clone());
    create(&mut world.server.engine.lock().unwrap(), &shape.indices);
    let mut plan = world.plan(10, FAULTS_FROM_MS, FAULTS_UNTIL_MS);
    while world.now_ms < END_MS {
        world.step();
        world.befall(&mut plan);
        if world.now_ms == WRITES_UNTIL_MS {
            writing.store(false, Ordering::Relaxed);
        }
        let engine = &mut *world.server.engine.lock().unwrap();
        let is_busy = (FAULTS_FROM_MS..FAULTS_UNTIL_MS).contains(&world.now_ms) && world.rng.random_bool(ACTS);
        // Who asks for fewer replicas while a disk is being lost may ask for none.
        if is_busy && !engine.checks.lost_a_disk() {
            operator::act(engine, &mut world.rng, &shape.indices, shape.leaves);
        }
        if world.now_ms == FAULTS_UNTIL_MS {
            operator::undrain(engine);
        }
        if world.now_ms == TAILS_LOST_MS && seed % 4 == 3 {
            let shards: Vec<ShardKey> = engine.logs.keys().cloned().collect();
            for shard in shards {
                engine.lose_tail(&shard, world.rng.random_range(0..12));
            }
        }
        if !engine.checks.violations.is_empty() {
            break;
        }
        let is_over = world.now_ms > WRITES_UNTIL_MS + 2_000 && world.now_ms.is_multiple_of(500);
        if is_over && unsettled(engine, &shape).is_none() {
            break;
        }
    }
    let engine = &mut *world.server.engine.lock().unwrap();
    if let Some(reason) = unsettled(engine, &shape).filter(|_| engine.checks.violations.is_empty()) {
        engine.checks.violation(format!("not well after the faults: {reason}"));
    }
    if engine.checks.violations.is_empty() {
        account(engine, &ledger.lock().unwrap());
    }
    Outcome::of(engine)
}

/// What a client of the cluster does to have indices.
fn create(engine: &mut engine::Engine, indices: &[IndexRecord]) {
    let mapping = Mapping::parse(&serde_json::json!({})).unwrap().to_stored();
    for index in indices {
        let put = |key: String, value: Vec<u8>| Write::Put(key, value.into());
        let writes = [
            put(keys::mapping(&index.uid, 1), serde_json::to_vec(&mapping).unwrap()),
            put(keys::index(&index.name), serde_json::to_vec(index).unwrap()),
        ];
        engine.commit("operator", &[], &writes).unwrap();
    }
}

fn add_root(world: &mut World, name: &str) {
    let (net, server, own) = (world.machine(name), world.server.clone(), name.to_owned());
    let machine = net.clone();
    let software = move |start| {
        let process = format!("{own}.{start}");
        let engine = server.client(machine.clone(), &process);
        root(own.clone(), process, machine.clone(), engine).boxed()
    };
    world.process(name, net, Box::new(software));
}

async fn root(name: String, process: String, net: Net, engine: Engine) {
    let mut config = Config::new(name.as_str(), ([127, 0, 0, 1], 1).into());
    config.leaves.connect = Connect::by(move |host, port| {
        let net = net.clone();
        async move { Ok(Box::new(net.dial(&host, port).await?) as Connection) }
    });
    config.leaves.status_timeout = Duration::from_secs(1);
    config.lead.trim_interval = Duration::from_secs(2);
    config.lead.trim_keep = 10;
    let record = NodeRecord {
        format: 1,
        name: config.name.clone(),
        role: Role::Root,
        process,
        counter: 0,
        grpc: String::new(),
        http: None,
        zone: None,
        version: "simulated".to_owned(),
        protocol: trawl_cluster::protocol::PROTOCOL,
        protocol_min: None,
        capacity_bytes: None,
        started_ms: 0,
    };
    let member = loop {
        let registry = &mut Registry::default();
        match Member::start(config.clone(), record.clone(), engine.clone(), registry).await {
            Ok(member) => break member,
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    };
    member.replaced().await;
}

fn add_leaf(world: &mut World, name: &str, zone: Option<String>, copies: Arc<Copies>) {
    let (net, server, own) = (world.machine(name), world.server.clone(), name.to_owned());
    let disk = Arc::default();
    world.server.engine.lock().unwrap().checks.disks.insert(name.into(), Arc::clone(&disk));
    let machine = net.clone();
    let software = move |start| {
        let process = format!("{own}.{start}");
        let leaf = Leaf {
            name: own.as_str().into(),
            engine: server.client(machine.clone(), &process),
            process,
            zone: zone.clone(),
            net: machine.clone(),
            disk: disk.clone(),
            copies: copies.clone(),
            replicas: Mutex::default(),
            changed: tokio::sync::Notify::new(),
        };
        leaf::run(leaf).boxed()
    };
    world.process(name, net, Box::new(software));
}

fn add_writer(world: &mut World, shape: &Shape, seed: u64, ledger: Ledger, writing: Arc<AtomicBool>) {
    let (net, server) = (world.machine("writer"), world.server.clone());
    let shards: Vec<(ShardKey, Option<u64>)> =
        shape.indices.iter().flat_map(|index| index.shard_keys().map(|shard| (shard, index.log_bytes_max))).collect();
    let machine = net.clone();
    let software = move |start| {
        let rng = StdRng::seed_from_u64(seed ^ (u64::from(start) << 32));
        let log = server.client(machine.clone(), "writer").log;
        write(u64::from(start) << 32, rng, log, shards.clone(), ledger.clone(), writing.clone()).boxed()
    };
    world.process("writer", net, Box::new(software));
}

/// Appends numbered batches, each again and again until it is acknowledged.
async fn write(
    from: u64,
    mut rng: StdRng,
    log: Arc<dyn ShardLog>,
    shards: Vec<(ShardKey, Option<u64>)>,
    ledger: Ledger,
    writing: Arc<AtomicBool>,
) {
    for number in from.. {
        let (shard, log_bytes_max) = shards[rng.random_range(0..shards.len())].clone();
        let mut body = number.to_le_bytes().to_vec();
        body.resize(rng.random_range(8..200), 0);
        let append = Append {
            shard: shard.clone(),
            mapping_version: 1,
            operations: rng.random_range(1..=3),
            body: body.into(),
            message_id: Some(number.to_string()),
            claim: None,
            log_bytes_max,
        };
        loop {
            if !writing.load(Ordering::Relaxed) {
                return;
            }
            match log.append(vec![append.clone()]).await.map(|mut results| results.pop()) {
                Ok(Some(Ok(appended))) => {
                    ledger.lock().unwrap().insert(number, (shard, appended));
                    break;
                }
                _ => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
    }
}

/// Why the cluster is not as it should be when all is well.
fn unsettled(engine: &engine::Engine, shape: &Shape) -> Option<String> {
    for index in &shape.indices {
        let index: IndexRecord = engine.read(&keys::index(&index.name))?;
        let wanted = (1 + index.replicas).min(shape.leaves) as usize;
        for shard in index.shard_keys() {
            let assignment: Option<AssignmentRecord> = engine.read(&keys::assignment(&shard));
            let Some(assignment) = assignment else { return Some(format!("{shard} is not assigned")) };
            if assignment.leaves.len() != wanted || !assignment.leaving.is_empty() {
                return Some(format!("{shard} should have {wanted} replicas: {assignment:?}"));
            }
            if let Some(reason) = assignment.leaves.iter().find_map(|leaf| not_whole(engine, &shard, leaf)) {
                return Some(format!("{shard} on {leaves:?}: {reason}", leaves = assignment.leaves));
            }
        }
    }
    None
}

/// Why a replica is not what applying its log once gives.
fn not_whole(engine: &engine::Engine, shard: &ShardKey, leaf: &NodeName) -> Option<String> {
    let node: Option<NodeRecord> = engine.read(&keys::node(Role::Leaf, leaf));
    let serving: Option<ServingRecord> = engine.read(&keys::serving(shard, leaf));
    if node.is_none() || serving.map(|record| record.process) != node.map(|node| node.process) {
        return Some(format!("{leaf} does not serve"));
    }
    let Some(log) = engine.logs.get(shard) else { return Some("there is no log".to_owned()) };
    let disk = engine.checks.disks.get(leaf)?.lock().unwrap();
    let Some(saved) = disk.replicas.get(shard) else { return Some(format!("{leaf} has nothing on disk")) };
    if saved.at.seq != log.head.last || saved.at.incarnation != log.head.incarnation {
        return Some(format!("{leaf} is at {} and the log at {}/{}", saved.at, log.head.incarnation, log.head.last));
    }
    (saved.rows != log.history).then(|| format!("{leaf} has other rows than the log had"))
}

/// Every acknowledged batch is in its log's history once, where it was said to be.
fn account(engine: &mut engine::Engine, ledger: &BTreeMap<u64, (ShardKey, Appended)>) {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (shard, log) in &engine.logs {
        for row in &log.history {
            let number = number_of(row);
            // What the engine has lost may stand elsewhere now; what it did not know any more, twice.
            let was_lost = engine.checks.was_lost(number).is_some();
            if !seen.insert(number) && !was_lost {
                wrong.push(format!("batch {number} is in the log of {shard} twice"));
            }
            let said = ledger.get(&number);
            if said
                .is_some_and(|(there, at)| there != shard || (at.incarnation == row.incarnation && at.last != row.last))
            {
                wrong.push(format!(
                    "batch {number} is in the log of {shard} at {}, not where it was said: {said:?}",
                    row.last
                ));
            }
        }
    }
    let is_gone = |number: &&u64| !seen.contains(*number) && engine.checks.was_lost(**number) != Some(false);
    wrong.extend(ledger.keys().filter(is_gone).map(|number| format!("batch {number} is lost")));
    wrong.into_iter().for_each(|text| engine.checks.violation(text));
}
