//! What processes cost, as Linux counts it.

use std::fs;

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};

/// Seconds of processor time used so far by a process, user and system; 0 when it is gone.
pub fn cpu_of(pid: i32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The command's name may hold anything, but ends with the last bracket.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // Linux shows a hundred ticks a second to everybody.
    (ticks(11) + ticks(12)) / 100.0
}

/// Seconds of processor time used by this process.
///
/// # Errors
/// When the system does not tell.
pub fn own_cpu() -> anyhow::Result<f64> {
    usage(UsageWho::RUSAGE_SELF)
}

/// Seconds of processor time used by children that have ended and been waited for.
///
/// # Errors
/// When the system does not tell.
pub fn ended_children_cpu() -> anyhow::Result<f64> {
    usage(UsageWho::RUSAGE_CHILDREN)
}

fn usage(who: UsageWho) -> anyhow::Result<f64> {
    let usage = getrusage(who).context("cannot read the processor time")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
