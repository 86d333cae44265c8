//! The world: the engine's host, the machines with their processes, the network between them, and what befalls them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::{HOST, Server};
use crate::process::{Net, Process, Software};
use crate::trace;

/// Something that goes wrong for a while.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A process is killed.
    Kill(String),
    /// A leaf is killed and its disk is lost, unless nobody else holds what was on it.
    Wipe(String),
    /// A process does not run, and does not know.
    Pause(String),
    /// A machine is cut off from all others.
    Isolate(String),
    /// Nothing passes between two machines.
    Cut(String, String),
    /// Nothing passes from one machine to another.
    CutOneWay(String, String),
    /// The engine is down.
    EngineDown,
    /// Messages take up to so many milliseconds.
    Slow(u64),
    /// A message in so many is lost, and what follows on its link until the link comes back.
    Loss(u32),
}

/// A fault and its time, in milliseconds of the world.
#[derive(Clone, Debug)]
pub struct Planned {
    pub from_ms: u64,
    pub until_ms: u64,
    pub fault: Fault,
}

/// One simulated world.
pub struct World {
    sim: turmoil::Sim<'static>,
    pub server: Server,
    pub processes: BTreeMap<String, Process>,
    pub now_ms: u64,
    tick_ms: u64,
    latency_ms: u64,
    pub rng: StdRng,
}

impl World {
    /// A world with an engine and nothing else.
    pub fn new(seed: u64, tick_ms: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let latency_ms = rng.random_range(5..60);
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(Duration::from_millis(tick_ms))
            .simulation_duration(Duration::from_secs(24 * 3_600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(latency_ms))
            .repair_rate(0.2)
            .tcp_capacity(1_024)
            .enable_random_order()
            .build();
        let server = Server::default();
        let serving = server.clone();
        sim.host(HOST, move || serving.clone().run());
        Self { sim, server, processes: BTreeMap::new(), now_ms: 0, tick_ms, latency_ms, rng }
    }

    /// Adds a machine.
    pub fn machine(&mut self, name: &str) -> Net {
        Net::machine(&mut self.sim, name)
    }

    /// Adds a process to the machine of its name and starts it. Its clock is up to a tenth fast or slow.
    pub fn process(&mut self, name: &str, net: Net, software: Software) {
        let rate = self.rng.random_range(900..=1_100);
        let mut process = Process::new(name, net, rate, software);
        trace::act(self.now_ms, name);
        process.start(self.now_ms);
        self.processes.insert(name.to_owned(), process);
    }

    /// Goes on by one tick: first the network, then every process.
    pub fn step(&mut self) {
        self.now_ms += self.tick_ms;
        trace::act(self.now_ms, "engine");
        self.server.engine.lock().unwrap().checks.now_ms = self.now_ms;
        self.sim.step().expect("no host ends");
        for process in self.processes.values_mut() {
            trace::act(self.now_ms, &process.name);
            process.run_until(self.now_ms, self.tick_ms);
        }
        trace::act(self.now_ms, "world");
    }

    /// Whether the process runs and is not paused.
    pub fn is_awake(&self, name: &str) -> bool {
        self.processes.get(name).is_some_and(|process| process.is_running() && !process.paused)
    }

    /// Draws faults between two times.
    pub fn plan(&mut self, count: usize, from_ms: u64, until_ms: u64) -> Vec<Planned> {
        let names: Vec<String> = self.processes.keys().cloned().collect();
        let rng = &mut self.rng;
        let mut machines = names.clone();
        machines.push(HOST.to_owned());
        let mut plan = Vec::new();
        for _ in 0..count {
            let name = names[rng.random_range(0..names.len())].clone();
            let machine = machines[rng.random_range(0..machines.len())].clone();
            let fault = match rng.random_range(0..100) {
                0..5 if name.starts_with("leaf") => Fault::Wipe(name),
                0..22 => Fault::Kill(name),
                22..44 => Fault::Pause(name),
                44..58 => Fault::Isolate(name),
                58..74 if machine != name => Fault::Cut(name, machine),
                74..84 if machine != name => match rng.random() {
                    true => Fault::CutOneWay(name, machine),
                    false => Fault::CutOneWay(machine, name),
                },
                84..89 => Fault::EngineDown,
                89..95 => Fault::Slow(rng.random_range(100..900)),
                _ => Fault::Loss(rng.random_range(20..300)),
            };
            let begin = rng.random_range(from_ms..until_ms);
            let length = match rng.random_range(0..3) {
                0 => rng.random_range(50..1_000),
                1 => rng.random_range(1_000..5_000),
                _ => rng.random_range(3_000..12_000),
            };
            plan.push(Planned { from_ms: begin, until_ms: (begin + length).min(until_ms), fault });
        }
        plan.sort_by_key(|planned| planned.from_ms);
        plan
    }

    /// Lets the faults begin and end whose time has come; what has ended is taken out.
    pub fn befall(&mut self, plan: &mut Vec<Planned>) {
        let (now, before) = (self.now_ms, self.now_ms.saturating_sub(self.tick_ms));
        for planned in plan.clone() {
            if planned.from_ms > before && planned.from_ms <= now {
                self.begin(&planned.fault);
            }
        }
        let (ended, left) = plan.drain(..).partition(|planned| planned.until_ms <= now);
        *plan = left;
        let ended: Vec<Planned> = ended;
        for planned in ended {
            self.end(&planned.fault);
        }
    }

    fn others(&self, name: &str) -> Vec<String> {
        let machines = self.processes.keys().map(String::as_str).chain([HOST]);
        machines.filter(|other| *other != name).map(str::to_owned).collect()
    }

    fn begin(&mut self, fault: &Fault) {
        trace::note(format!("begins: {fault:?}"));
        match fault {
            Fault::Kill(name) => self.processes.get_mut(name).expect("a process").kill(),
            Fault::Wipe(name) => {
                self.processes.get_mut(name).expect("a process").kill();
                self.server.engine.lock().unwrap().wipe(&name.as_str().into());
            }
            Fault::Pause(name) => self.processes.get_mut(name).expect("a process").paused = true,
            Fault::Isolate(name) => {
                self.others(name).iter().for_each(|other| self.sim.partition(name.as_str(), other.as_str()));
            }
            Fault::Cut(one, other) => self.sim.partition(one.as_str(), other.as_str()),
            Fault::CutOneWay(from, to) => self.sim.partition_oneway(from.as_str(), to.as_str()),
            Fault::EngineDown => self.sim.crash(HOST),
            Fault::Slow(ms) => self.sim.set_max_message_latency(Duration::from_millis(*ms)),
            Fault::Loss(one_in) => self.sim.set_fail_rate(1.0 / f64::from(*one_in)),
        }
    }

    fn end(&mut self, fault: &Fault) {
        trace::note(format!("ends: {fault:?}"));
        match fault {
            Fault::Kill(name) | Fault::Wipe(name) => {
                trace::act(self.now_ms, name);
                self.processes.get_mut(name).expect("a process").start(self.now_ms);
                trace::act(self.now_ms, "world");
            }
            Fault::Pause(name) => self.processes.get_mut(name).expect("a process").paused = false,
            Fault::Isolate(name) => {
                self.others(name).iter().for_each(|other| self.sim.repair(name.as_str(), other.as_str()));
            }
            Fault::Cut(one, other) | Fault::CutOneWay(one, other) => self.sim.repair(one.as_str(), other.as_str()),
            Fault::EngineDown => {
                if !self.sim.is_host_running(HOST) {
                    self.sim.bounce(HOST);
                }
            }
            Fault::Slow(_) => self.sim.set_max_message_latency(Duration::from_millis(self.latency_ms)),
            Fault::Loss(_) => self.sim.set_fail_rate(0.0),
        }
    }
}
