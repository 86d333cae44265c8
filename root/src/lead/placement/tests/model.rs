//! A little cluster that carries the steps out: replicas that join serve later, leaves die and come back,
//! wishes come and go. Whatever happens, no step breaks what must hold, and the steps end.

use proptest::prelude::*;

use super::*;

/// Ticks (of a second) that a leaf may be missing.
const GRACE_TICKS: u64 = 4;
/// Ticks that a copy takes.
const COPY_TICKS: u64 = 3;
/// Ticks within which everything has settled when nothing happens any more.
const SETTLED_TICKS: usize = 600;

#[derive(Default)]
struct Model {
    world: World,
    /// Ticks that replicas have still to copy.
    copying: BTreeMap<(ShardKey, NodeName), u64>,
    steps: usize,
}

#[derive(Clone, Debug)]
enum Event {
    Tick(u64),
    Kill(usize),
    Return(usize),
    Join,
    Drain(usize, bool),
    Move(usize, usize, usize),
    Replicas(usize, usize),
    Grow(usize, u64),
    Break(usize, usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1u64..6).prop_map(Event::Tick),
        2 => (0usize..8).prop_map(Event::Kill),
        2 => (0usize..8).prop_map(Event::Return),
        1 => Just(Event::Join),
        1 => ((0usize..8), any::<bool>()).prop_map(|(leaf, drain)| Event::Drain(leaf, drain)),
        1 => ((0usize..8), (0usize..8), (0usize..8)).prop_map(|(shard, from, to)| Event::Move(shard, from, to)),
        1 => ((0usize..8), (1usize..4)).prop_map(|(shard, wanted)| Event::Replicas(shard, wanted)),
        2 => ((0usize..8), (0usize..8)).prop_map(|(shard, replica)| Event::Break(shard, replica)),
        1 => ((0usize..8), (1u64..2_000)).prop_map(|(shard, megabytes)| Event::Grow(shard, megabytes << 20)),
    ]
}

impl Model {
    fn new(leaves: usize, shards: u32, wanted: usize, zones: usize) -> Self {
        let mut model = Self::default();
        for _ in 0..leaves {
            model.join(zones);
        }
        for number in 0..shards {
            model.world.shards.insert(key(number), Shard { bytes: Some(0), ..shard(wanted, &[]) });
        }
        model.grace();
        model
    }

    fn grace(&mut self) {
        for shard in self.world.shards.values_mut() {
            shard.replace_after = Duration::from_secs(GRACE_TICKS);
        }
    }

    fn join(&mut self, zones: usize) {
        let number = self.world.leaves.len();
        let zone = (zones > 0).then(|| format!("zone-{}", number % zones));
        self.world.leaves.insert(name(number), Leaf { zone, ..leaf() });
    }

    fn is_live(&self, leaf: &NodeName) -> bool {
        self.world.leaves[leaf].missing_for.is_none()
    }

    fn serving(&self, shard: &Shard) -> usize {
        shard.serving.iter().filter(|leaf| self.is_live(leaf)).count()
    }

    fn happen(&mut self, event: &Event, zones: usize) {
        let leaf = |number: &usize| name(number % self.world.leaves.len());
        let shard = |number: &usize| key((number % self.world.shards.len()) as u32);
        match event {
            Event::Tick(ticks) => (0..*ticks).for_each(|_| self.tick()),
            Event::Kill(number) => {
                let leaf = leaf(number);
                self.world.leaves.get_mut(&leaf).unwrap().missing_for.get_or_insert(Duration::ZERO);
                // What was copied is begun again.
                for ((_, _), left) in self.copying.iter_mut().filter(|((_, at), _)| *at == leaf) {
                    *left = COPY_TICKS;
                }
            }
            Event::Return(number) => self.world.leaves.get_mut(&leaf(number)).unwrap().missing_for = None,
            Event::Join => {
                if self.world.leaves.len() < 9 {
                    self.join(zones);
                }
            }
            Event::Drain(number, drain) => self.world.leaves.get_mut(&leaf(number)).unwrap().is_draining = *drain,
            Event::Move(number, from, to) => {
                let wish = ((shard(number), leaf(from)), leaf(to));
                self.world.moves.insert(wish.0, wish.1);
            }
            Event::Replicas(number, wanted) => {
                self.world.shards.get_mut(&shard(number)).unwrap().wanted = *wanted;
            }
            Event::Grow(number, bytes) => {
                self.world.shards.get_mut(&shard(number)).unwrap().bytes = Some(*bytes);
            }
            Event::Break(number, replica) => {
                let key = shard(number);
                let shard = self.world.shards.get_mut(&key).unwrap();
                if let Some(leaf) = shard.leaves.get(replica % shard.leaves.len().max(1)).cloned() {
                    shard.serving.remove(&leaf);
                    self.copying.remove(&(key, leaf.clone()));
                    shard.stuck.entry(leaf).or_default();
                }
            }
        }
    }

    fn tick(&mut self) {
        for leaf in self.world.leaves.values_mut() {
            leaf.missing_for = leaf.missing_for.map(|missing| missing + Duration::from_secs(1));
        }
        for shard in self.world.shards.values_mut() {
            shard.stuck.values_mut().for_each(|stuck| *stuck += Duration::from_secs(1));
        }
        let waiting: Vec<_> = self.copying.keys().cloned().collect();
        for (key, leaf) in waiting {
            let shard = &self.world.shards[&key];
            let is_fresh = shard.serving.is_empty();
            if self.is_live(&leaf) && (is_fresh || self.serving(shard) > 0) {
                let left = self.copying.get_mut(&(key.clone(), leaf.clone())).unwrap();
                *left -= 1;
                if *left == 0 {
                    self.copying.remove(&(key.clone(), leaf.clone()));
                    self.world.shards.get_mut(&key).unwrap().serving.insert(leaf);
                }
            }
        }
        for step in decide(&self.world) {
            self.steps += 1;
            match step {
                Step::Refuse { shard, from, .. } => {
                    self.world.moves.remove(&(shard, from)).unwrap();
                }
                Step::Assign(assign) => self.assign(assign),
            }
        }
    }

    /// Carries the step out, and checks what must hold of every one.
    fn assign(&mut self, assign: Assign) {
        let before = self.world.shards[&assign.shard].clone();
        let mut after = before.clone();
        (after.leaves, after.leaving) = (assign.leaves.clone(), assign.leaving.clone());
        after.serving.retain(|leaf| after.leaves.contains(leaf));
        after.stuck.retain(|leaf, _| after.leaves.contains(leaf));
        let distinct: BTreeSet<_> = after.leaves.iter().collect();
        assert_eq!(distinct.len(), after.leaves.len(), "twice the same leaf: {assign:?}");
        assert!(after.leaving.iter().all(|leaf| after.leaves.contains(leaf)), "{assign:?}");
        let dropped: Vec<_> = before.leaves.iter().filter(|leaf| !after.leaves.contains(leaf)).collect();
        assert!(
            dropped.is_empty() || self.serving(&after) >= after.wanted,
            "dropped too early: {assign:?} of {before:?}"
        );
        let joined: Vec<_> = after.leaves.iter().filter(|leaf| !before.leaves.contains(leaf)).cloned().collect();
        for leaf in &joined {
            assert!(self.is_live(leaf) && !self.world.leaves[leaf].is_draining, "{assign:?}");
            self.copying.insert((assign.shard.clone(), leaf.clone()), COPY_TICKS);
        }
        for leaf in &dropped {
            self.copying.remove(&(assign.shard.clone(), (*leaf).clone()));
        }
        if let Some(from) = &assign.fulfils {
            let to = self.world.moves.remove(&(assign.shard.clone(), from.clone())).unwrap();
            assert!(after.leaves.contains(&to) && after.leaving.contains(from), "{assign:?}");
        }
        let is_first = before.leaves.is_empty();
        self.world.shards.insert(assign.shard, after);
        for leaf in joined.iter().filter(|_| !is_first) {
            let is_copy = |((key, to), _): &(&(ShardKey, NodeName), &u64)| {
                to == leaf && self.serving(&self.world.shards[key]) > 0
            };
            // Those of a first placement come on top: they are made from nothing.
            let copies = self.copying.iter().filter(is_copy).count();
            assert!(copies <= self.world.limits.copies_per_leaf + self.world.shards.len(), "{leaf}: {copies}");
        }
    }

    /// Nothing happens any more: until nothing is decided for longer than any copy and grace period.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..SETTLED_TICKS {
            let before = self.steps;
            self.tick();
            quiet = if self.steps == before { quiet + 1 } else { 0 };
            if quiet > GRACE_TICKS + COPY_TICKS {
                return;
            }
        }
        panic!("the steps do not end: {:#?}", self.world);
    }

    /// What has failed was replaced, where it could be; the rest is mended.
    fn check_and_mend(&mut self) {
        let leaves = self.world.leaves.clone();
        let is_open = |leaf: &NodeName| leaves[leaf].missing_for.is_none() && !leaves[leaf].is_draining;
        for (key, shard) in &mut self.world.shards {
            let is_served = shard.serving.iter().any(|leaf| leaves[leaf].missing_for.is_none());
            let has_other = leaves.keys().any(|leaf| is_open(leaf) && !shard.leaves.contains(leaf));
            for leaf in std::mem::take(&mut shard.stuck).into_keys() {
                let is_staying = !shard.leaving.contains(&leaf) && leaves[&leaf].missing_for.is_none();
                assert!(!(is_staying && is_served && has_other), "{leaf} is not replaced: {key} {shard:?}");
                shard.serving.insert(leaf);
            }
        }
    }

    fn check_settled(&self) {
        let is_open = |leaf: &&Leaf| leaf.missing_for.is_none() && !leaf.is_draining;
        let open = self.world.leaves.values().filter(is_open).count();
        for (key, shard) in &self.world.shards {
            if self.serving(shard) == 0 && !shard.leaves.is_empty() && open > 0 {
                // Every holder is dead, so that there is nothing to copy: they are waited for.
                assert!(shard.leaves.iter().any(|leaf| !self.is_live(leaf)), "{key}: {shard:?}");
                continue;
            }
            let staying = shard.staying().filter(|leaf| self.is_live(leaf) && shard.serving.contains(*leaf)).count();
            assert!(staying >= shard.wanted.min(open), "{key} lacks replicas: {shard:?}");
            if open >= shard.wanted {
                assert!(shard.leaves.len() == shard.wanted && shard.leaving.is_empty(), "{key}: {shard:?}");
                assert!(shard.leaves.iter().all(|leaf| !self.world.leaves[leaf].is_draining), "{key}: {shard:?}");
            }
        }
        assert_eq!(self.world.moves, BTreeMap::new());
    }

    fn held(&self) -> Vec<u64> {
        let weight = |shard: &Shard| shard.bytes.unwrap() + plan::REPLICA_BYTES;
        let of_leaf = |leaf: &NodeName| {
            self.world.shards.values().filter(|shard| shard.staying().any(|there| there == leaf)).map(weight).sum()
        };
        self.world.leaves.keys().map(of_leaf).collect()
    }
}

proptest! {
    #[test]
    fn whatever_happens_no_replica_goes_too_early_and_the_steps_end(
        leaves in 1usize..6, shards in 1u32..7, wanted in 1usize..4, zones in 0usize..4,
        events in proptest::collection::vec(event(), 0..40),
    ) {
        let mut model = Model::new(leaves, shards, wanted, zones);
        for event in &events {
            model.happen(event, zones);
        }
        model.settle();
        model.check_and_mend();
        model.settle();
        model.check_settled();
        // Everybody comes back: whatever was lost is there again, as far as there are leaves.
        for leaf in model.world.leaves.values_mut() {
            (leaf.missing_for, leaf.is_draining) = (None, false);
        }
        model.settle();
        model.check_settled();
        let (all, zones) = (model.world.leaves.len(), zones.max(1));
        for shard in model.world.shards.values().filter(|shard| shard.wanted <= all.min(zones)) {
            let in_zones: BTreeSet<_> = shard.leaves.iter().map(|leaf| &model.world.leaves[leaf].zone).collect();
            prop_assert!(in_zones.len() == shard.wanted.min(all.min(zones)), "{:?}", shard);
        }
    }

    #[test]
    fn new_replicas_are_even(shards in 1u32..20, wanted in 1usize..5, leaves in 1usize..8) {
        let mut model = Model::new(leaves, shards, wanted, 0);
        model.tick();
        let held = model.held();
        let (most, least) = (held.iter().max().unwrap(), held.iter().min().unwrap());
        prop_assert!(most - least <= plan::REPLICA_BYTES, "{:?}", held);
        model.settle();
        prop_assert_eq!(model.steps, shards as usize, "nothing moves afterwards");
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn sizes_are_evened_out_within_a_tenth_by_few_moves(
        sizes in proptest::collection::vec(50u64..200, 60..90), wanted in 1usize..3,
    ) {
        let mut model = Model::new(2, sizes.len() as u32, wanted, 0);
        model.settle();
        for (shard, megabytes) in model.world.shards.values_mut().zip(&sizes) {
            shard.bytes = Some(*megabytes << 20);
        }
        model.settle();
        let before: BTreeSet<(ShardKey, NodeName)> = holdings(&model.world);
        model.join(0);
        model.join(0);
        model.settle();
        let held = model.held();
        let mean = held.iter().sum::<u64>() / 4;
        let (most, least) = (held.iter().max().unwrap(), held.iter().min().unwrap());
        prop_assert!(most - least <= mean / 10, "{:?}", held);
        // Half of everything has to go to the new leaves, and hardly more does.
        let after = holdings(&model.world);
        let moved: u64 = after.difference(&before).map(|(key, _)| model.world.shards[key].bytes.unwrap() + plan::REPLICA_BYTES).sum();
        prop_assert!(moved <= 2 * mean + mean / 4, "{} of {}", moved, mean);
        let is_new = |leaf: &NodeName| *leaf >= name(2);
        prop_assert!(after.difference(&before).filter(|(_, leaf)| !is_new(leaf)).count() <= 2);
    }
}

fn holdings(world: &World) -> BTreeSet<(ShardKey, NodeName)> {
    let of_shard = |(key, shard): (&ShardKey, &Shard)| {
        shard.leaves.iter().map(|leaf| (key.clone(), leaf.clone())).collect::<Vec<_>>()
    };
    world.shards.iter().flat_map(of_shard).collect()
}
