//! Raises the cluster's protocol when every live node has spoken a newer one for a while: until then any of them may
//! go back to the version it had before. A node that is away meanwhile has to come back with a newer version.

use std::time::Duration;

use tokio::time::Instant;
use trawl_cluster::catalog::{ProtocolRecord, keys};
use trawl_cluster::store::{Revision, Write};
use trawl_cluster::view::View;
use trawl_cluster::{Error, Speaks, protocol};

use super::Leader;
use super::carry_out::guard;

/// Since when a newer protocol could be the cluster's, by this leader's clock; the next leader begins to count anew.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    since: Option<(u32, Instant)>,
}

impl Upgrade {
    /// The protocol that the cluster could have, and for how long it still has to be waited for.
    fn look(&mut self, view: &View, settle: Duration, now: Instant) -> Option<(u32, Duration)> {
        let live = view.nodes.values().filter(|node| node.alive).map(|node| Speaks::of(&node.record));
        let Some(next) = protocol::next(view.protocol(), live) else {
            self.since = None;
            return None;
        };
        let since = match self.since {
            Some((same, since)) if same == next => since,
            _ => {
                tracing::info!(protocol = view.protocol(), next, "every live node speaks a newer protocol");
                now
            }
        };
        self.since = Some((next, since));
        Some((next, (since + settle).saturating_duration_since(now)))
    }
}

impl Leader<'_> {
    /// Raises the protocol if it is time to, or says when it will be.
    pub(super) async fn upgrade(
        &self,
        view: &View,
        upgrade: &mut Upgrade,
    ) -> Result<(Option<Revision>, Option<Duration>), Error> {
        let Some((protocol, left)) = upgrade.look(view, self.root.config.lead.upgrade_after, Instant::now()) else {
            return Ok((None, None));
        };
        if !left.is_zero() {
            return Ok((None, Some(left)));
        }
        let key = keys::PROTOCOL.to_owned();
        let guards = guard(view, key.clone()).into_iter().collect();
        let record = ProtocolRecord { format: 1, protocol };
        let value = serde_json::to_vec(&record).map_err(|error| Error::Corrupt(error.to_string()))?;
        let revision = self.commit("raise-protocol", guards, vec![Write::Put(key, value.into())]).await?;
        tracing::info!(protocol, "the cluster's protocol is raised: older versions are refused from now on");
        Ok((Some(revision), None))
    }
}

#[cfg(test)]
mod tests {
    use trawl_cluster::catalog::NodeRecord;
    use trawl_cluster::view::Node;

    use super::super::world::tests::node;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_protocol_waits_until_nobody_has_spoken_less_for_a_while() {
        let mut view = View::default();
        let speaking = |name: &str, protocol, alive| {
            let (key, Node { record, .. }) = node(name, alive);
            (key, Node { record: NodeRecord { protocol, ..record }, alive })
        };
        view.nodes.extend([speaking("a", 2, true), speaking("b", 1, true)]);
        let (mut upgrade, settle) = (Upgrade::default(), Duration::from_secs(60));
        let mut look = |view: &View| upgrade.look(view, settle, Instant::now());
        assert_eq!(look(&view), None);
        view.nodes.extend([speaking("b", 2, true)]);
        assert_eq!(look(&view), Some((2, settle)));
        tokio::time::sleep(settle / 2).await;
        assert_eq!(look(&view), Some((2, settle / 2)));
        // One goes back, and the time begins anew.
        view.nodes.extend([speaking("b", 1, true)]);
        assert_eq!(look(&view), None);
        // One that is dead does not count.
        view.nodes.extend([speaking("b", 1, false)]);
        assert_eq!(look(&view), Some((2, settle)));
        tokio::time::sleep(settle).await;
        assert_eq!(look(&view), Some((2, Duration::ZERO)));
    }
}
