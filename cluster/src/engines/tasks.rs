//! What the work queues of all engines do alike: how tasks are numbered, and how states and times are stored.

use std::collections::HashMap;
use std::time::Duration;

use crate::Error;
use crate::work_queue::{NewTask, TaskId, TaskState};

/// Numbers the tasks behind `last`, but those whose key is known: all ids in order, and what is new.
pub(super) fn number(
    tasks: &[NewTask],
    mut known: HashMap<String, i64>,
    last: i64,
) -> (Vec<TaskId>, Vec<(i64, &NewTask)>) {
    let mut new: Vec<(i64, &NewTask)> = Vec::with_capacity(tasks.len());
    let mut ids = Vec::with_capacity(tasks.len());
    for task in tasks {
        let next = last + 1 + new.len() as i64;
        let id = match &task.key {
            Some(key) => *known.entry(key.clone()).or_insert(next),
            None => next,
        };
        if id == next {
            new.push((id, task));
        }
        ids.push(TaskId(id.cast_unsigned()));
    }
    (ids, new)
}

/// A state as a column holds it.
pub(super) fn number_of(state: TaskState) -> i32 {
    match state {
        TaskState::Ready => 0,
        TaskState::Claimed => 1,
        TaskState::Done => 2,
        TaskState::Dead => 3,
    }
}

/// The state that a task's column holds.
pub(super) fn state_of(task: TaskId, number: i32) -> Result<TaskState, Error> {
    let states = [TaskState::Ready, TaskState::Claimed, TaskState::Done, TaskState::Dead];
    let state = states.into_iter().find(|state| number_of(*state) == number);
    state.ok_or_else(|| Error::Corrupt(format!("task {}: state {number}", task.0)))
}

/// A duration in milliseconds; a century stands for anything longer.
pub(super) fn millis(duration: Duration) -> i64 {
    const CENTURY_MS: i64 = 100 * 366 * 86_400_000;
    i64::try_from(duration.as_millis()).unwrap_or(CENTURY_MS).min(CENTURY_MS)
}
