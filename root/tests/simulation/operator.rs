//! What people do to a living cluster: change how many replicas an index has, drain leaves, move replicas.

use rand::Rng;
use rand::rngs::StdRng;
use trawl_cluster::catalog::{AssignmentRecord, DrainRecord, IndexRecord, MoveRecord, keys};
use trawl_cluster::store::Write;
use trawl_proto::NodeName;

use crate::engine::Engine;
use crate::trace;

/// One thing that somebody does.
pub fn act(engine: &mut Engine, rng: &mut StdRng, indices: &[IndexRecord], leaves: u32) {
    let leaf: NodeName = format!("leaf-{}", rng.random_range(0..leaves)).into();
    let name = &indices[rng.random_range(0..indices.len())].name;
    let Some(index) = engine.read::<IndexRecord>(&keys::index(name)) else { return };
    match rng.random_range(0..3) {
        0 => {
            let index = IndexRecord { replicas: rng.random_range(0..=2), ..index };
            trace::note(format!("{name} is to have {} extra replicas", index.replicas));
            put(engine, keys::index(name), &index);
        }
        1 => {
            undrain(engine);
            trace::note(format!("{leaf} is drained"));
            put(engine, keys::drain(&leaf), &DrainRecord { format: 1, since_ms: 0 });
        }
        _ => {
            let shards: Vec<_> = index.shard_keys().collect();
            let shard = &shards[rng.random_range(0..shards.len())];
            let Some(assignment) = engine.read::<AssignmentRecord>(&keys::assignment(shard)) else { return };
            let Some(from) = assignment.leaves.first() else { return };
            trace::note(format!("{shard} is to move from {from} to {leaf}"));
            put(engine, keys::move_from(shard, from), &MoveRecord { format: 1, to: leaf, since_ms: 0 });
        }
    }
}

/// Lets all leaves hold replicas again.
pub fn undrain(engine: &mut Engine) {
    let (drained, _) = engine.list(keys::DRAINS);
    let writes: Vec<_> = drained.into_iter().map(|entry| Write::Delete(entry.key)).collect();
    engine.commit("operator", &[], &writes).unwrap();
}

fn put(engine: &mut Engine, key: String, record: &impl serde::Serialize) {
    engine.commit("operator", &[], &[Write::Put(key, serde_json::to_vec(record).unwrap().into())]).unwrap();
}
