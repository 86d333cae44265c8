//! What every engine has to keep to, as tests that any engine can run.
//!
//! A case gets an [`Open`], which opens one more instance over the same storage: two instances stand
//! for two processes. [`crate::conformance_suite`] makes a test of every case.
#![allow(clippy::unwrap_used)]

pub mod bounds;
pub mod claims;
pub mod crash;
pub mod letters;
pub mod locked;
pub mod logs;
pub mod queue;
pub mod restart;
pub mod server;
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};

use trawl_proto::{Epoch, Seq, ShardKey};

use crate::shard_log::ShardLog;
use crate::{Engine, EngineOptions};

/// How long a case waits for something that has to come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Opens one more instance of an engine over the same storage.
pub type Open = Arc<dyn Fn(EngineOptions) -> BoxFuture<'static, Engine> + Send + Sync>;

/// Tells how many bytes an engine's storage takes on the disk.
pub type Size = Arc<dyn Fn() -> BoxFuture<'static, u64> + Send + Sync>;

/// Trims a log as it is now, at epoch 1.
///
/// # Panics
/// When the log is not there or cannot be trimmed.
#[allow(clippy::unwrap_used)]
pub async fn trim(log: &dyn ShardLog, shard: &ShardKey, through: Seq) {
    let head = log.heads(std::slice::from_ref(shard)).await.unwrap().pop().flatten().unwrap();
    log.trim(Epoch(1), shard, head.mark(), through).await.unwrap();
}

/// Makes a test of every case. The argument is a function that returns fresh storage: something to
/// keep alive meanwhile, and an [`Open`]; or `None` where the engine is not installed.
#[macro_export]
macro_rules! conformance_suite {
    ($fresh:ident) => {
        $crate::conformance_suite!($fresh, store:
            guards_decide_commits, lists_are_sorted_and_of_one_revision, no_increment_is_lost,
            watches_miss_nothing_and_keep_the_order, a_late_watch_gets_a_snapshot_again, limits_are_kept,
            entries_outlive_the_engine, a_commit_over_several_keys_loses_to_another,
            a_deposed_leader_is_refused_on_untouched_keys, unhurried_commits_are_seen_too);
        $crate::conformance_suite!($fresh, logs:
            concurrent_appends_are_tailed_without_gaps, a_message_id_is_one_entry, trimming_frees_and_tells,
            a_full_log_refuses, only_the_log_that_was_seen_is_trimmed, an_index_has_a_limit_of_its_own, a_deposed_leader_is_refused_everywhere, a_removed_log_is_gone,
            logs_outlive_the_engine, reads_begin_inside_rows_and_end_at_the_limit, an_unknown_log_is_an_error,
            the_mapping_version_and_the_time_never_go_back, a_group_answers_each_batch,
            tails_resume_at_every_position, trimming_while_tailing_leaves_nothing_out);
        $crate::conformance_suite!($fresh, bounds: message_ids_are_bounded, message_ids_are_forgotten_in_time);
        $crate::conformance_suite!($fresh, queue:
            tasks_are_claimed_in_order_and_finished, giving_back_delays_and_counts,
            a_task_dies_after_its_attempts, dead_tasks_are_replayed_and_dropped,
            cancelling_reaches_ready_and_claimed_tasks, a_key_is_one_task, the_queue_is_bounded, sizes_are_limited,
            tasks_are_listed_in_pages, tasks_outlive_the_engine);
        $crate::conformance_suite!($fresh, claims:
            two_workers_never_share_a_task, a_claim_that_ran_out_is_taken_over,
            a_claim_that_ran_out_is_lost_though_nobody_took_over, extending_keeps_the_claim_and_the_progress,
            an_append_needs_its_claim);
        $crate::conformance_suite!($fresh, letters:
            a_letter_is_kept_once, replicas_may_record_at_once, a_removed_letter_does_not_come_back,
            old_letters_make_room, letters_are_listed_in_pages, letters_go_with_their_log,
            letters_outlive_the_engine);
        $crate::conformance_suite!($fresh, restart:
            rows_behind_the_fork_follow_the_base, versions_and_times_do_not_go_back,
            message_ids_answer_with_the_new_seqs, tails_go_on_from_the_base_or_end,
            a_restart_is_fenced_and_happens_once, appends_during_a_restart_are_whole,
            an_incarnation_outlives_the_engine);
    };
    ($fresh:ident, $module:ident: $($case:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let Some((_alive, open)) = super::$fresh() else { return };
                    $crate::conformance::$module::$case(&open).await;
                }
            )+
        }
    };
}

/// Opens an instance with default options.
async fn engine(open: &Open) -> Engine {
    open(EngineOptions::default()).await
}

/// The stream's next item, which has to come.
async fn next<T>(stream: &mut BoxStream<'static, T>) -> T {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("nothing came in time").expect("the stream ended")
}
