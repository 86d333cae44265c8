//! Which version of messages and records nodes speak, and who may take part.
//!
//! Each build speaks two protocols, its newest and the one before. The **cluster protocol** is the one that everybody
//! uses among each other; it stands in the store ([`ProtocolRecord`]), only grows, and a node takes part if it is
//! one of those that it speaks. So all who take part understand each other, and what is stored is understood by all.
//!
//! ```text
//!              every process in turn               for a while nobody has spoken less
//! all speak 1 ──────────────────────> all speak 1–2 ─────────────────────────────────> cluster protocol 2
//! (protocol 1)  <──────────────────                  (the leader raises it, once)      1 is refused from now on
//!                     and back
//! ```
//!
//! What protocol N brings (fields that may not be ignored, kinds of messages and operations, rules of applying, ways
//! to store) is used when the cluster protocol is at least N. What is agreed on per call, as the form of partial
//! aggregations, needs no such thing. What each protocol brought stands at [`PROTOCOL`].

use tokio::sync::watch;

use crate::catalog::{NodeRecord, ProtocolRecord, decode, keys};
use crate::store::Guard;
use crate::view::View;
use crate::{Error, Store};

/// The newest protocol of this build.
///
/// | protocol | what it brought |
/// | --- | --- |
/// | 1 | the first |
/// | 2 | the record of the cluster protocol; calls and nodes say what they speak; a search says which forms of partial aggregations its root reads |
pub const PROTOCOL: u32 = 2;

/// The protocol of nodes, calls and clusters that say none.
pub const FIRST: u32 = 1;

/// The protocols that a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaks {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub protocol: u32,
}

impl Default for Speaks {
    /// What this build speaks.
    fn default() -> Self {
        Self::up_to(PROTOCOL)
    }
}

impl Speaks {
    /// What a build speaks whose newest protocol this is: that one and the one before.
    pub const fn up_to(protocol: u32) -> Self {
        Self { min: protocol.saturating_sub(1), protocol }
    }

    /// What a node says that it speaks.
    pub fn of(record: &NodeRecord) -> Self {
        let Self { min, protocol } = Self::up_to(record.protocol);
        Self { min: record.protocol_min.unwrap_or(min), protocol }
    }

    /// Whether a node may take part in a cluster of this protocol.
    pub fn includes(self, protocol: u32) -> bool {
        (self.min..=self.protocol).contains(&protocol)
    }

    /// As [`Self::includes`], with the reason.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check(self, cluster: u32) -> Result<(), Refusal> {
        let Self { min, protocol } = self;
        if protocol < cluster {
            return Err(Refusal::TooOld { min, protocol, cluster });
        }
        if min > cluster {
            return Err(Refusal::TooNew { min, protocol, cluster });
        }
        Ok(())
    }

    /// What a node's record says of it: a protocol that did not have the field does not write it.
    pub fn stored_min(self) -> Option<u32> {
        (self.protocol >= 2).then_some(self.min)
    }
}

/// Why a node may not take part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The cluster has been upgraded past it.
    #[error(
        "this program (Trawl {version}) speaks the protocols {min} to {protocol}, but the cluster works by protocol \
         {cluster}: it has been upgraded, and there is no way back. Start the version that its other nodes run",
        version = env!("CARGO_PKG_VERSION")
    )]
    TooOld {
        /// The oldest that it speaks.
        min: u32,
        /// The newest that it speaks.
        protocol: u32,
        /// The cluster's.
        cluster: u32,
    },
    /// The cluster has to be upgraded to something in between first.
    #[error(
        "this program (Trawl {version}) speaks the protocols {min} to {protocol}, but the cluster still works by \
         protocol {cluster}. First upgrade every node to a version that speaks {cluster} and {next}, wait until `trawl \
         cluster status` says that the cluster's protocol is {next}, and go on from there",
        version = env!("CARGO_PKG_VERSION"), next = cluster + 1
    )]
    TooNew {
        /// The oldest that it speaks.
        min: u32,
        /// The newest that it speaks.
        protocol: u32,
        /// The cluster's.
        cluster: u32,
    },
}

/// The protocol that a cluster of these nodes can work by from now on: the newest that all speak, if that is newer
/// than the present one.
pub fn next(cluster: u32, nodes: impl IntoIterator<Item = Speaks>) -> Option<u32> {
    nodes.into_iter().map(|node| node.protocol).min().filter(|protocol| *protocol > cluster)
}

/// Whether a node may join, and the guard under which that stays true.
///
/// # Errors
/// [`Error::Refused`] when it may not; those of the store.
pub async fn admit(store: &dyn Store, own: Speaks) -> Result<Guard, Error> {
    let key = keys::PROTOCOL.to_owned();
    let (cluster, guard) = match store.get(keys::PROTOCOL).await? {
        Some(entry) => {
            let record: ProtocolRecord = decode(&key, &entry.value)?;
            (record.protocol, Guard::At(key, entry.revision))
        }
        None => (FIRST, Guard::Absent(key)),
    };
    own.check(cluster)?;
    Ok(guard)
}

/// Returns when the cluster's protocol is one that a node does not speak: it was paused or cut off while the cluster
/// was upgraded.
pub async fn outgrown(mut views: watch::Receiver<std::sync::Arc<View>>, own: Speaks) -> Refusal {
    loop {
        if let Err(refusal) = own.check(views.borrow_and_update().protocol()) {
            return refusal;
        }
        if views.changed().await.is_err() {
            // Nobody follows the store any more: the process is ending.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_take_part_and_who_is_further_away_does_not() {
        for cluster in 1..5 {
            for newest in 0..7 {
                let node = Speaks::up_to(newest);
                let takes_part = newest == cluster || newest == cluster + 1;
                assert_eq!(node.includes(cluster), takes_part, "{node:?} in {cluster}");
                assert_eq!(node.check(cluster).is_ok(), takes_part);
            }
        }
        let told = Speaks::up_to(0).check(2).map_err(|refusal| refusal.to_string());
        assert!(told.is_err_and(|told| told.contains("protocols 0 to 0") && told.contains("by protocol 2")));
        let told = Speaks::up_to(4).check(2).map_err(|refusal| refusal.to_string());
        assert!(told.is_err_and(|told| told.contains("a version that speaks 2 and 3")));
    }

    #[test]
    fn the_cluster_follows_its_oldest_node_and_never_goes_back() {
        let nodes = |protocols: &[u32]| protocols.iter().map(|protocol| Speaks::up_to(*protocol)).collect::<Vec<_>>();
        assert_eq!(next(1, nodes(&[2, 1, 2])), None);
        assert_eq!(next(1, nodes(&[2, 2])), Some(2));
        assert_eq!(next(2, nodes(&[2, 2])), None);
        assert_eq!(next(2, nodes(&[1])), None);
        assert_eq!(next(1, nodes(&[])), None);
    }
}
