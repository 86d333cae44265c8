//! The control plane: what a root does while it holds the lease.
//!
//! Decisions are pure functions ([`placement`]) of the view and what the leaves say ([`world`]); the
//! driver ([`carry_out`]) carries them out one by one. Every step is small, can be repeated, and is fenced: its commit carries the guard that the
//! lease is still ours at this epoch, its call of the log the epoch. A leader may die between any two
//! steps; the next one sees in the view what is left to do.

mod carry_out;
mod fenced;
mod fields;
mod placement;
mod poison;
mod removal;
mod repair;
mod trim;
mod upgrade;
mod world;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_cluster::view::View;
use trawl_cluster::{Error, Fence, outage};
use trawl_proto::Epoch;

use self::upgrade::Upgrade;
use self::world::{Missing, Sizes};
use crate::root::Root;

/// How long the view may take to show this leader's own commit before it decides again.
const VIEW_TIMEOUT: Duration = Duration::from_secs(2);

/// A look at the view although nothing has changed.
const IDLE_PAUSE: Duration = Duration::from_secs(10);

/// Leads whenever the lease is held, until `shutdown`.
pub(crate) async fn run(
    root: Arc<Root>,
    mut leading: watch::Receiver<Option<Epoch>>,
    fence: Fence,
    shutdown: CancellationToken,
) {
    loop {
        let epoch = *leading.borrow_and_update();
        root.metrics.leading.set(i64::from(epoch.is_some()));
        let lead = async {
            match epoch {
                Some(epoch) => {
                    let leader = Leader { root: &root, fence: &fence, epoch };
                    let (sizes, resized) = (Mutex::default(), Notify::new());
                    tokio::select! {
                        biased;
                        () = leader.lead(&sizes, &resized) => {}
                        () = world::watch_sizes(&root, &sizes, &resized) => {}
                        () = repair::run(&root, epoch) => {}
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            changed = leading.changed() => if changed.is_err() { break },
            () = lead => {
                // Fenced off: the lease will say so as well.
                if leading.changed().await.is_err() { break }
            }
        }
    }
    root.metrics.leading.set(0);
}

struct Leader<'a> {
    root: &'a Root,
    fence: &'a Fence,
    epoch: Epoch,
}

impl Leader<'_> {
    /// Returns only when the epoch is known to be over.
    ///
    /// 1. Fence the logs: a predecessor's late calls are refused from here on.
    /// 2. Decide on the present view, and carry the steps out.
    /// 3. Wait for a new view, for new sizes, or for the time to replace what is missing, to trim or to look
    ///    for poison.
    async fn lead(&self, sizes: &Mutex<Sizes>, resized: &Notify) {
        tracing::info!(epoch = %self.epoch, "leading");
        while let Err(error) = self.fence_logs().await {
            if matches!(error, Error::Fenced { .. }) {
                return;
            }
            self.pause(&error).await;
        }
        let mut views = self.root.viewer.subscribe();
        let mut trimmer = trim::Trimmer::default();
        let mut trim_at = Instant::now() + self.root.config.lead.trim_interval;
        let mut poison_at = Instant::now();
        let mut missing = Missing::default();
        let mut upgrade = Upgrade::default();
        let mut field_watch = fields::FieldWatch::default();
        let mut fields_at = Instant::now() + self.root.config.lead.fields_interval;
        loop {
            let view = views.borrow_and_update().clone();
            if let Some(reason) = view.unreadable.values().next() {
                tracing::error!(reason, "this leader does nothing before it can read everything in the store");
                if views.changed().await.is_err() {
                    std::future::pending().await
                }
                continue;
            }
            let mut lapse = None;
            match self.act(&view, &mut missing, &mut upgrade, sizes).await {
                Ok(next) => lapse = next,
                Err(Error::Fenced { .. }) => return,
                // Somebody else changed what was decided on; the next view shows it.
                Err(Error::Conflict(guard)) => tracing::debug!(?guard, "step lost to another change"),
                Err(error) => {
                    self.pause(&error).await;
                    continue;
                }
            }
            // What has its time comes first, so that a view that changes all the time does not put it off.
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(poison_at) => {
                    if let Err(error) = self.skip_poison().await {
                        if matches!(error, Error::Fenced { .. }) { return }
                        outage::warn(&error, "poison cannot be skipped now");
                    }
                    poison_at = Instant::now() + self.root.config.lead.poison_interval;
                }
                () = tokio::time::sleep_until(trim_at) => {
                    let lead = &self.root.config.lead;
                    let trimmed = async {
                        let any_large = trimmer.round(self.root, self.epoch).await?;
                        self.forget_skips().await?;
                        Ok(any_large)
                    };
                    let pause = match trimmed.await {
                        Err(Error::Fenced { .. }) => return,
                        Err(error) => {
                            outage::warn(&error, "logs cannot be trimmed now");
                            lead.trim_interval
                        }
                        Ok(true) => lead.trim_interval_large,
                        Ok(false) => lead.trim_interval,
                    };
                    trim_at = Instant::now() + pause;
                }
                () = tokio::time::sleep_until(fields_at) => {
                    match field_watch.round(self).await {
                        Ok(()) => {}
                        Err(Error::Fenced { .. }) => return,
                        Err(error) => outage::warn(&error, "fields cannot be counted now"),
                    }
                    fields_at = Instant::now() + self.root.config.lead.fields_interval;
                }
                changed = views.changed() => if changed.is_err() { std::future::pending().await },
                () = resized.notified() => {}
                () = tokio::time::sleep(lapse.unwrap_or(IDLE_PAUSE)) => {}
            }
        }
    }

    /// Carries out what the placement decides on the view, removes what is left of deleted indices, and raises the
    /// protocol when an upgrade is over.
    /// Returns after how long there may be something to do although nothing changes.
    async fn act(
        &self,
        view: &View,
        missing: &mut Missing,
        upgrade: &mut Upgrade,
        sizes: &Mutex<Sizes>,
    ) -> Result<Option<Duration>, Error> {
        let world = world::world(view, missing, &sizes.lock(), &self.root.config.lead);
        let mut revision = self.carry_out(view, placement::decide(&world)).await?;
        for (index_uid, shards) in carry_out::removals(view) {
            revision = Some(self.remove(&index_uid, &shards).await?);
        }
        let (raised, upgrade_in) = self.upgrade(view, upgrade).await?;
        if let Some(revision) = raised.or(revision) {
            self.root.viewer.at_least(revision, VIEW_TIMEOUT).await;
        }
        Ok(placement::next_lapse(&world).into_iter().chain(upgrade_in).min())
    }

    async fn pause(&self, error: &Error) {
        outage::warn(error, "the leader's step failed, it is tried again");
        tokio::time::sleep(self.root.config.lead.retry).await;
    }
}
