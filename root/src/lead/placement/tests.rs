//! Tests of the placement.
#![allow(clippy::unwrap_used)]

mod model;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

fn name(number: usize) -> NodeName {
    NodeName(format!("leaf-{number}"))
}

fn names(numbers: &[usize]) -> Vec<NodeName> {
    numbers.iter().copied().map(name).collect()
}

fn key(number: u32) -> ShardKey {
    ShardKey::new("u", number)
}

fn leaf() -> Leaf {
    Leaf { takes_part: true, ..Leaf::default() }
}

/// Live leaves, and shards of one index.
fn world(leaves: usize, shards: &[Shard]) -> World {
    World {
        leaves: (0..leaves).map(|number| (name(number), leaf())).collect(),
        shards: (0..).map(key).zip(shards.iter().cloned()).collect(),
        ..World::default()
    }
}

/// A shard that all its leaves serve, of no size to speak of.
fn shard(wanted: usize, leaves: &[usize]) -> Shard {
    let leaves = names(leaves);
    Shard {
        wanted,
        replace_after: GRACE,
        serving: leaves.iter().cloned().collect(),
        bytes: Some(0),
        leaves,
        ..Shard::default()
    }
}

fn assigns(world: &World) -> Vec<Assign> {
    let assign = |step| match step {
        Step::Assign(assign) => assign,
        Step::Refuse { reason, .. } => panic!("refused: {reason}"),
    };
    decide(world).into_iter().map(assign).collect()
}

fn only(world: &World) -> Assign {
    let mut assigns = assigns(world);
    assert_eq!(assigns.len(), 1, "{assigns:?}");
    assigns.remove(0)
}

#[test]
fn nothing_is_done_where_all_is_well() {
    assert_eq!(decide(&World::default()), []);
    assert_eq!(decide(&world(0, &[shard(2, &[])])), []);
    assert_eq!(decide(&world(4, &[shard(2, &[0, 1]), shard(2, &[2, 3])])), []);
}

#[test]
fn a_missing_leaf_keeps_its_replicas_for_the_grace_period_only() {
    let mut world = world(3, &[shard(2, &[0, 1])]);
    world.leaves.get_mut(&name(1)).unwrap().missing_for = Some(GRACE - Duration::from_secs(1));
    assert_eq!(decide(&world), []);
    assert_eq!(next_lapse(&world), Some(Duration::from_secs(1)));
    world.leaves.get_mut(&name(1)).unwrap().missing_for = Some(GRACE);
    let assign = only(&world);
    assert_eq!((assign.leaves, assign.leaving), (names(&[0, 1, 2]), [name(1)].into()));
    assert_eq!(next_lapse(&world), None);
    // The index may say otherwise.
    world.shards.get_mut(&key(0)).unwrap().replace_after = GRACE * 2;
    assert_eq!(decide(&world), []);
}

#[test]
fn a_dead_holder_is_dropped_only_when_enough_others_serve() {
    let mut leaves = shard(2, &[0, 1, 2]);
    leaves.leaving = [name(1)].into();
    leaves.serving = [name(0)].into();
    let mut world = world(3, &[leaves]);
    world.leaves.get_mut(&name(1)).unwrap().missing_for = Some(GRACE);
    assert_eq!(decide(&world), []);
    world.shards.get_mut(&key(0)).unwrap().serving.insert(name(2));
    let assign = only(&world);
    assert_eq!((assign.leaves, assign.leaving), (names(&[0, 2]), BTreeSet::new()));
}

#[test]
fn a_replica_that_is_to_go_stays_when_its_successor_is_lost() {
    let mut moving = shard(2, &[0, 1, 2]);
    moving.leaving = [name(1)].into();
    moving.serving.remove(&name(2));
    let mut world = world(4, &[moving]);
    world.leaves.get_mut(&name(2)).unwrap().missing_for = Some(GRACE);
    // Two serve and stay, so that the third goes in the same step.
    let assign = only(&world);
    assert_eq!((assign.leaves, assign.leaving), (names(&[0, 1]), BTreeSet::new()));
}

#[test]
fn a_drained_leaf_is_emptied_when_others_serve_and_no_sooner() {
    let mut world = world(3, &[shard(2, &[0, 1])]);
    world.leaves.get_mut(&name(0)).unwrap().is_draining = true;
    let assign = only(&world);
    assert_eq!((assign.leaves.clone(), assign.leaving.clone()), (names(&[0, 1, 2]), [name(0)].into()));
    let shard = world.shards.get_mut(&key(0)).unwrap();
    (shard.leaves, shard.leaving) = (assign.leaves, assign.leaving);
    assert_eq!(decide(&world), []);
    // Taken back, it stays, and the one that has come in its place goes.
    world.leaves.get_mut(&name(0)).unwrap().is_draining = false;
    assert_eq!(decide(&world), [], "what has begun is finished");
    world.leaves.get_mut(&name(2)).unwrap().is_draining = true;
    let assign = only(&world);
    assert_eq!((assign.leaves, assign.leaving), (names(&[0, 1]), BTreeSet::new()));
    // Where there is no other leaf, it keeps what it has.
    world.leaves.remove(&name(2));
    world.shards.insert(key(0), super::tests::shard(2, &[0, 1]));
    world.leaves.get_mut(&name(0)).unwrap().is_draining = true;
    assert_eq!(decide(&world), []);
}

#[test]
fn surplus_replicas_go_at_once_and_missing_ones_come() {
    let mut surplus = shard(1, &[0, 1, 2]);
    surplus.serving.remove(&name(0));
    let assign = only(&world(3, &[surplus]));
    assert!(assign.leaving.is_empty() && assign.leaves.len() == 1 && assign.leaves != names(&[0]), "{assign:?}");
    assert_eq!(only(&world(2, &[shard(2, &[0])])).leaves, names(&[0, 1]));
    assert_eq!(decide(&world(1, &[shard(2, &[0])])), []);
}

#[test]
fn wishes_are_carried_out_or_refused() {
    let wish = |world: &mut World, from, to| world.moves = [((key(0), name(from)), name(to))].into();
    let mut world = world(4, &[shard(2, &[0, 1])]);
    wish(&mut world, 1, 3);
    let assign = only(&world);
    assert_eq!((assign.leaves, assign.leaving), (names(&[0, 1, 3]), [name(1)].into()));
    assert_eq!(assign.fulfils, Some(name(1)));
    world.leaves.get_mut(&name(2)).unwrap().is_draining = true;
    world.leaves.get_mut(&name(3)).unwrap().missing_for = Some(Duration::ZERO);
    for (from, to) in [(1, 0), (1, 1), (2, 3), (1, 2), (1, 3), (1, 9)] {
        wish(&mut world, from, to);
        assert!(matches!(&decide(&world)[..], [Step::Refuse { .. }]), "{from} to {to}: {:?}", decide(&world));
    }
    world.moves = [((key(7), name(1)), name(0))].into();
    assert!(matches!(&decide(&world)[..], [Step::Refuse { .. }]));
}

#[test]
fn zones_are_spread() {
    let mut world = world(6, &[shard(2, &[]), shard(2, &[0, 1])]);
    for (name, leaf) in &mut world.leaves {
        leaf.zone = Some(if *name < super::tests::name(4) { "a" } else { "b" }.to_owned());
    }
    let in_b = |leaves: &[NodeName]| leaves.iter().filter(|leaf| **leaf >= name(4)).count();
    let assign = only(&world);
    assert_eq!((assign.leaves.len(), in_b(&assign.leaves)), (2, 1));
    let placed = world.shards.get_mut(&key(0)).unwrap();
    placed.serving = assign.leaves.iter().cloned().collect();
    placed.leaves = assign.leaves;
    placed.bytes = Some(0);
    let assign = only(&world);
    assert_eq!((assign.shard.clone(), assign.leaves.len(), in_b(&assign.leaves)), (key(1), 3, 1));
    assert!(assign.leaving.len() == 1 && in_b(&assign.leaves) == 1);
}

#[test]
fn a_leaf_that_joins_gets_its_share_by_the_fewest_moves() {
    let shards: Vec<_> = (0..4).map(|number| shard(2, &[number, (number + 1) % 4])).collect();
    let assign = only(&world(5, &shards));
    assert!(assign.leaves.contains(&name(4)) && assign.leaving.len() == 1, "{assign:?}");
}

#[test]
fn what_leaves_can_hold_decides_how_much_they_get() {
    let mut world = world(2, &vec![Shard { bytes: Some(1 << 30), ..shard(1, &[0]) }; 9]);
    for (name, leaf) in &mut world.leaves {
        leaf.capacity_bytes = Some(if *name == super::tests::name(0) { 100 << 30 } else { 200 << 30 });
    }
    world.limits = Limits { copies_per_leaf: 100, copies: 100 };
    assert_eq!(assigns(&world).len(), 6);
}

#[test]
fn nothing_goes_to_a_leaf_that_speaks_otherwise_or_has_not_heard_that_it_holds_nothing() {
    let mut world = world(2, &[shard(2, &[0])]);
    world.leaves.get_mut(&name(1)).unwrap().takes_part = false;
    assert_eq!(decide(&world), []);
    world.leaves.get_mut(&name(1)).unwrap().takes_part = true;
    assert_eq!(decide(&world).len(), 1);
    world.shards.get_mut(&key(0)).unwrap().lingering = [name(1)].into();
    assert_eq!(decide(&world), []);
}

#[test]
fn only_so_many_are_copied_at_a_time_and_the_most_endangered_first() {
    let mut shards = vec![shard(3, &[0, 1]); 20];
    shards[7] = shard(3, &[0]);
    let assigns = assigns(&world(3, &shards));
    assert!(assigns.iter().any(|assign| assign.shard == key(7)), "{assigns:?}");
    let to_2 = assigns.iter().filter(|assign| assign.leaves.contains(&name(2))).count();
    assert_eq!(to_2, 2);
    // One that has stopped holds up nobody.
    let mut world = world(3, &vec![shard(3, &[0, 1]); 20]);
    for number in 0..2 {
        let stopped = world.shards.get_mut(&key(number)).unwrap();
        stopped.leaves.push(name(2));
        stopped.stuck.insert(name(2), Duration::ZERO);
    }
    assert_eq!(super::tests::assigns(&world).len(), 2);
}

#[test]
fn a_replica_that_stays_failed_is_replaced_where_another_can_be_made() {
    let failing = |seconds, serving: &[usize]| {
        let mut failing = shard(2, &[0, 1]);
        failing.serving = names(serving).into_iter().collect();
        failing.stuck.insert(name(1), Duration::from_secs(seconds));
        failing
    };
    // It may come back by itself.
    assert_eq!(assigns(&world(4, &[failing(59, &[0])])), []);
    let mut world = world(4, &[failing(60, &[0])]);
    let step = only(&world);
    assert_eq!(step.reason, "in place of a replica that has failed");
    assert_eq!(step.leaves.len(), 3);
    assert_eq!(step.leaving, [name(1)].into());
    // Once the new one serves, the failed one goes.
    let joined = step.leaves[2].clone();
    let shard = world.shards.get_mut(&key(0)).unwrap();
    (shard.leaves, shard.leaving) = (step.leaves, step.leaving);
    assert_eq!(assigns(&world), []);
    world.shards.get_mut(&key(0)).unwrap().serving.insert(joined.clone());
    assert_eq!(only(&world).leaves, [name(0), joined]);

    // Nothing to make another from, unless the log reaches back to its start.
    let mut alone = failing(600, &[]);
    alone.stuck.insert(name(0), Duration::from_secs(600));
    assert_eq!(assigns(&super::tests::world(4, &[alone.clone()])), []);
    alone.log_is_whole = true;
    let step = only(&super::tests::world(4, &[alone]));
    assert_eq!((step.leaves.len(), step.leaving.len()), (4, 2));
    // No other leaf could take it: it goes on trying where it is.
    assert_eq!(assigns(&super::tests::world(2, &[failing(600, &[0])])), []);
    // And another leaf is preferred to one on which something has stopped.
    let mut placed = super::tests::world(3, &[failing(1, &[0]), super::tests::shard(2, &[0])]);
    placed.shards.get_mut(&key(0)).unwrap().stuck.insert(name(1), Duration::from_secs(1));
    assert_eq!(only(&placed).leaves, names(&[0, 2]));
}
