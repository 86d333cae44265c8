//! The parts of the engine that the control plane does not use.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use trawl_cluster::dead_letters::{DeadLetter, LetterCounts, LetterKey};
use trawl_cluster::work_queue::{Claim, NewTask, QueueCounts, Receipt, Task, TaskId, TaskState};
use trawl_cluster::{DeadLetters, Error, WorkQueue};
use trawl_proto::{Generation, IndexUid, ShardKey};

/// Refuses everything.
pub struct Absent;

fn absent<T>() -> Result<T, Error> {
    Err(Error::Unavailable("not simulated".into()))
}

#[async_trait]
impl WorkQueue for Absent {
    async fn push(&self, _: &str, _: Vec<NewTask>) -> Result<Vec<TaskId>, Error> {
        absent()
    }
    async fn claim(&self, _: &str, _: Duration, _: &str) -> Result<Option<Claim>, Error> {
        absent()
    }
    async fn extend(&self, _: Receipt, _: Duration, _: Option<Bytes>) -> Result<bool, Error> {
        absent()
    }
    async fn ack(&self, _: Receipt, _: Bytes) -> Result<(), Error> {
        absent()
    }
    async fn nack(&self, _: Receipt, _: Duration, _: Option<&str>) -> Result<(), Error> {
        absent()
    }
    async fn task(&self, _: TaskId) -> Result<Option<Task>, Error> {
        absent()
    }
    async fn tasks(&self, _: &str, _: Option<TaskState>, _: TaskId, _: usize) -> Result<Vec<Task>, Error> {
        absent()
    }
    async fn cancel(&self, _: TaskId) -> Result<bool, Error> {
        absent()
    }
    async fn replay(&self, _: &[TaskId]) -> Result<u64, Error> {
        absent()
    }
    async fn drop_dead(&self, _: &[TaskId]) -> Result<u64, Error> {
        absent()
    }
    async fn counts(&self, _: &str) -> Result<QueueCounts, Error> {
        absent()
    }
    async fn kinds(&self, _: usize) -> Result<Vec<String>, Error> {
        absent()
    }
}

#[async_trait]
impl DeadLetters for Absent {
    async fn record(&self, _: &ShardKey, _: Generation, _: Vec<DeadLetter>) -> Result<(), Error> {
        absent()
    }
    async fn letters(&self, _: Option<&IndexUid>, _: Option<&LetterKey>, _: usize) -> Result<Vec<DeadLetter>, Error> {
        absent()
    }
    async fn letter(&self, _: &LetterKey) -> Result<Option<DeadLetter>, Error> {
        absent()
    }
    async fn remove(&self, _: &[LetterKey]) -> Result<u64, Error> {
        absent()
    }
    async fn counts(&self) -> Result<LetterCounts, Error> {
        absent()
    }
}
