//! Seeded simulation of the control plane: roots, leaves and their engine over turmoil's network.
//!
//! In reading order: the [`world`] with its machines and what befalls them, a [`process`] and its clock, the [`engine`]
//! and its [`client`]s, the [`checks`] of whatever the engine accepts, the [`lease`] alone, the
//! whole [`control`] plane with model [`leaf`] processes and an [`operator`], and the [`seeds`].
#![allow(clippy::unwrap_used)]

mod absent;
mod checks;
mod client;
mod control;
mod disk;
mod engine;
mod grpc;
mod leaf;
mod lease;
mod operator;
mod process;
mod replica;
mod seeds;
mod trace;
mod world;

#[test]
fn one_leader_writes_at_an_epoch_whatever_befalls_the_candidates() {
    seeds::all("one_leader_writes_at_an_epoch", lease::run);
}

#[test]
fn replicas_come_back_and_nothing_is_lost_whatever_befalls_the_cluster() {
    seeds::all("replicas_come_back", control::run);
}

/// A seed is worth something only if it says the same again.
#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 7, 11, 14] {
        repeats(seed, lease::run);
        repeats(seed, control::run);
    }
}

fn repeats(seed: u64, run: fn(u64) -> seeds::Outcome) {
    let [first, again] = [(); 2].map(|()| seeds::one(seed, true, run).trace);
    assert!(first.len() > 20, "hardly anything happened: {first:#?}");
    let parted = first.iter().zip(&again).position(|(one, other)| one != other);
    assert_eq!(parted, None, "seed {seed} parted at {:?}", parted.map(|at| (&first[at], &again[at])));
    assert_eq!(first.len(), again.len());
}
