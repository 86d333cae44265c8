//! A load that can be interrupted: it notes how far it is in the cluster's queue, and the same load started again goes on
//! from there.
//!
//! The whole load is one task of a kind of its own, made of what is loaded and where to, so that no worker takes it. The
//! files are cut anew each time; a chain over what they were tells whether those before the position are still the same. If
//! not, or when the load had been finished, it begins anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::backoff::Backoff;
use super::client::Client;
use super::hold::Hold;
use super::index::Preparation;
use super::job::Job;
use super::pipeline::Pipeline;
use super::queue::{Claimed, HttpQueue, Push, QueueError, TaskQueue};
use super::report::{Observer, Report};
use super::retake::{self, retake};
use super::send::Failure;
use super::task::{Position, Progress, Tally};
use super::{LoadError, LoadOptions, index};
use crate::readers::{
    Cut, CutOptions, Cutting, Event, Fault, Input, Opened, Piece, ReadOptions, bytes_total, cut, read_from,
};

/// Between two attempts to take over the load from a process that may be gone.
const TAKE_OVER_EVERY: Duration = Duration::from_millis(500);
/// Interrupted so often it is given up; each start is an attempt.
const ATTEMPTS_MAX: u32 = 1_000_000;
/// Pieces that wait to be read.
const PIECES_MAX: usize = 64;
/// How long batches on their way may take to arrive after an interruption.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of an attempt to load through the queue.
pub(super) enum Attempt {
    /// It was loaded.
    Loaded(Report),
    /// The endpoint has no queue.
    NoQueue,
}

/// Loads inputs that can be read again from any position.
///
/// 1. Begins to cut; at the first file with content the index is made if it is missing.
/// 2. Finds the same load unfinished in the queue, or pushes it; claims it.
/// 3. Skips what was done, reads the rest, sends it, noting how far it is.
/// 4. Acknowledges. Should the claim run out on the way, it is claimed again and 3 done over from what was noted last.
pub(super) async fn load(
    client: &Client,
    options: &LoadOptions,
    preparation: &mut Preparation<'_>,
    observer: &dyn Observer,
    started: Instant,
) -> Result<Attempt, LoadError> {
    let read = preparation.read_options();
    let queue: Arc<dyn TaskQueue> = Arc::new(HttpQueue::new(client.clone()));
    let kind = kind(options);
    // A cluster that is away is waited for below.
    if let Err(QueueError::NoQueue(_) | QueueError::Refused(_)) = queue.counts(&kind).await {
        return Ok(Attempt::NoQueue);
    }
    let pipeline = || Pipeline::new(client.clone(), options.concurrency.get(), options.retry_for, observer, started);
    let mut begun = Begun::new(options, &read, pipeline()).await?;
    // Nothing to load at all.
    let Some(opened) = begun.opened.take() else { return Ok(Attempt::Loaded(begun.pipeline.report())) };
    preparation.ensure_index(&opened.mapping).await?;

    let uid = index::uid(client, &options.index).await.ok().flatten().unwrap_or_default();
    let Some(mut claimed) = claim(&*queue, &kind, &uid, options, observer).await? else { return Ok(Attempt::NoQueue) };
    let mut earlier: Option<Tally> = None;
    let mut retries = 0;
    let mut at = Position::START;
    let mut in_vain = Backoff::new(options.retry_for);
    loop {
        let progress: Progress = serde_json::from_value(claimed.progress.clone()).unwrap_or_default();
        if progress.at > at {
            at = progress.at;
            in_vain.progressed();
        }
        let Begun { cutting, pieces, pipeline: at_hand, .. } = begun;
        let mut load = Load {
            queue: queue.clone(),
            claimed: claimed.clone(),
            options,
            read: read.clone(),
            pipeline: at_hand,
            chains: Arc::default(),
            earlier: earlier.take(),
            retries,
            unread_at: Arc::default(),
        };
        let report = match load.run(cutting, pieces, progress).await {
            Ok(report) => return Ok(Attempt::Loaded(report)),
            Err(LoadError::ClaimLost { report, .. }) => report,
            Err(error) => return Err(error),
        };
        // Where nothing goes forward between one loss and the next, it would never end.
        if let Err(give_up) = in_vain.pause(Instant::now(), None) {
            let last = "the claim on this load runs out again and again: try a longer --claim-time".to_owned();
            return Err(LoadError::GaveUp { tried: give_up.tried, last, report });
        }
        earlier = load.earlier.take();
        retries = report.retries;
        drop(load);
        claimed = retake(&*queue, &kind, &claimed, options, observer, &report).await?;
        begun = Begun::new(options, &read, pipeline()).await?;
    }
}

/// The inputs, cut up to the first file with something in it.
struct Begun<'o> {
    cutting: Cutting,
    pieces: Vec<Piece>,
    opened: Option<Box<Opened>>,
    /// Has counted what could not be read so far.
    pipeline: Pipeline<'o>,
}

impl<'o> Begun<'o> {
    async fn new(options: &LoadOptions, read: &ReadOptions, mut pipeline: Pipeline<'o>) -> Result<Self, LoadError> {
        let cut_options = CutOptions { read: read.clone(), piece_bytes: u64::MAX };
        let mut cutting = cut(options.inputs.clone(), cut_options).map_err(internal)?;
        let mut pieces = Vec::new();
        let opened = loop {
            match cutting.cuts.recv().await {
                Some(Cut::Opened(opened)) => break Some(opened),
                Some(Cut::Piece(piece)) => pieces.push(*piece),
                Some(Cut::Fault(fault)) => pipeline.fault(fault),
                None => break None,
            }
        };
        Ok(Self { cutting, pieces, opened, pipeline })
    }
}

/// The kind of this load's task: the same for the same files, index and way of reading.
fn kind(options: &LoadOptions) -> String {
    let input = |input: &Input| match input {
        Input::Path(path) => format!("{:?}", std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        other => format!("{other:?}"),
    };
    let inputs: Vec<String> = options.inputs.iter().map(input).collect();
    let names: Vec<String> = options.inputs.iter().map(|input| format!("{input:?}")).collect();
    let (endpoint, format) = (&options.index, options.format);
    let batches = (options.batch_bytes, options.batch_documents, options.record_bytes_max);
    let identity = format!("{endpoint} {inputs:?} {names:?} {format} {:?} {batches:?}", options.id_field);
    format!("load-{:016x}", xxh3_64(identity.as_bytes()))
}

/// Claims the unfinished load, or a new one; `None` when there is no queue after all.
async fn claim(
    queue: &dyn TaskQueue,
    kind: &str,
    uid: &str,
    options: &LoadOptions,
    observer: &dyn Observer,
) -> Result<Option<Claimed>, LoadError> {
    let worker = retake::name();
    let mut backoff = Backoff::new(options.retry_for);
    loop {
        let step = async {
            let unfinished = queue.unfinished(kind).await?;
            if unfinished.iter().all(|task| task.state == "dead") {
                let run = format!("{:016x}", rand::random::<u64>());
                let files: Vec<String> = options.inputs.iter().map(|input| format!("{input:?}")).collect();
                let body = json!({ "index": options.index, "uid": uid, "run": run, "inputs": files });
                let push = Push { key: Some(run), body, attempts_max: ATTEMPTS_MAX };
                queue.push(kind, vec![push]).await?;
            }
            queue.claim(kind, options.claim_time, &worker).await
        };
        let (reason, pause) = match step.await {
            Ok(Some(claimed)) if claimed.body["uid"] == uid => return Ok(Some(claimed)),
            Ok(Some(claimed)) => {
                // It was for an index that is gone.
                queue.ack(&claimed.receipt, &Value::Null).await.ok();
                continue;
            }
            Ok(None) => {
                let reason = "the same load is at work, or was killed a moment ago".to_owned();
                (reason, Ok(TAKE_OVER_EVERY))
            }
            Err(QueueError::NoQueue(_)) => return Ok(None),
            Err(QueueError::Unavailable { reason, retry_after }) => {
                let pause = backoff.pause(Instant::now(), retry_after);
                (reason, pause)
            }
            Err(QueueError::ClaimLost) => continue,
            Err(QueueError::Refused(reason)) => return Err(LoadError::Internal(reason)),
        };
        match pause {
            Ok(pause) => {
                observer.retrying(&reason, pause);
                let stop = &options.stop;
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return Err(LoadError::Interrupted { report: Box::default() });
                }
            }
            Err(give_up) => {
                return Err(LoadError::GaveUp { tried: give_up.tried, last: reason, report: Box::default() });
            }
        }
    }
}

/// A claimed load.
struct Load<'o> {
    queue: Arc<dyn TaskQueue>,
    claimed: Claimed,
    options: &'o LoadOptions,
    read: ReadOptions,
    pipeline: Pipeline<'o>,
    /// Per piece a hash over what it and all before it were.
    chains: Arc<Mutex<Vec<u64>>>,
    /// What an earlier process came to; not known before the first run of this one.
    earlier: Option<Tally>,
    /// Requests that earlier runs of this process sent again.
    retries: u64,
    /// How far the load was at the first file that could be opened but not read: going on begins there, for it is to be
    /// tried again.
    unread_at: Arc<OnceLock<Progress>>,
}

/// Why loading ends before the end.
enum Early {
    Stopped,
    ClaimLost,
}

impl Load<'_> {
    async fn run(&mut self, cutting: Cutting, first: Vec<Piece>, noted: Progress) -> Result<Report, LoadError> {
        let skipped_bytes = Arc::new(AtomicU64::new(0));
        let (pieces_sender, pieces) = mpsc::channel(PIECES_MAX);
        let (faults_sender, mut faults) = mpsc::channel(PIECES_MAX);
        let mut forward = Forward {
            chains: self.chains.clone(),
            pieces: pieces_sender,
            faults: faults_sender,
            skipped_bytes: skipped_bytes.clone(),
        };
        // Before anything is read it has to be known whether the position is still good.
        let mut queued: Vec<Piece> = first;
        queued.iter().for_each(|piece| forward.note(piece));
        let mut cutting = cutting;
        let progress = self.resumable(&mut forward, &mut cutting, &mut queued, noted).await;
        // Where everything is loaded anew, nothing that was done before counts.
        let begins_anew = progress.at == Position::START;
        let earlier = self.earlier.take().filter(|_| !begins_anew).unwrap_or_else(|| progress.tally.clone());
        self.pipeline.carry(progress.tally.since(&earlier), self.retries);
        self.earlier = Some(earlier);
        if !begins_anew {
            self.pipeline.observer().resuming(&progress.tally);
        }
        let at = progress.at;
        let forwarder = tokio::spawn(forward.run(cutting, queued, at));

        let inputs = Pieces(pieces);
        let mut reading = read_from(inputs, self.read.clone()).map_err(internal)?;
        self.pipeline.measure(reading.bytes_read.clone(), bytes_total(&self.options.inputs));
        self.pipeline.measure(skipped_bytes, bytes_total(&self.options.inputs));
        let job = Arc::new(Job {
            index: self.options.index.clone(),
            key: format!("load-{}", self.claimed.body["run"].as_str().unwrap_or_default()),
            claim: Some(self.claimed.receipt.clone()),
            batch_bytes: self.options.batch_bytes,
            batch_documents: self.options.batch_documents,
            progress: Arc::new(Mutex::new(progress)),
        });
        let hold = self.hold(&job);
        self.pipeline.begin(job.clone());
        let early = loop {
            tokio::select! {
                chunk = reading.events.recv() => match chunk {
                    Some(events) => {
                        for event in events {
                            self.step(event, &job).await?;
                        }
                    }
                    None => break None,
                },
                Some(fault) = faults.recv() => self.pipeline.fault(fault),
                turn = self.pipeline.turn() => turn?,
                () = self.options.stop.cancelled() => break Some(Early::Stopped),
                () = hold.lost.cancelled() => break Some(Early::ClaimLost),
                () = hold.cancelled.cancelled() => break Some(Early::Stopped),
            }
            if let Some(finished) = self.pipeline.finished() {
                return self.failed(hold, finished.failure).await;
            }
        };
        if let Some(early) = early {
            drop(reading);
            return self.leave(hold, early).await;
        }
        while let Some(fault) = faults.recv().await {
            self.pipeline.fault(fault);
        }
        self.pipeline.close().await?;
        while !self.pipeline.is_idle() {
            tokio::select! {
                turn = self.pipeline.turn() => turn?,
                () = self.options.stop.cancelled() => return self.leave(hold, Early::Stopped).await,
            }
        }
        self.pipeline.tell_progress();
        if let Some(failure) = self.pipeline.finished().and_then(|finished| finished.failure) {
            return self.failed(hold, Some(failure)).await;
        }
        let cut_well = forwarder.await.is_ok_and(|ended_well| ended_well);
        if !(reading.ended_well() && cut_well) {
            return Err(LoadError::Internal("the reading thread panicked; what it read before is loaded".to_owned()));
        }
        hold.end().await.ok();
        // Should this fail, the load is done once more when it is started again; nothing is lost by that.
        self.queue.ack(&self.claimed.receipt, &json!({ "loaded": self.pipeline.report().loaded })).await.ok();
        Ok(self.report())
    }

    /// The position to go on from: the one noted, if everything up to there is what it was then.
    async fn resumable(
        &mut self,
        forward: &mut Forward,
        cutting: &mut Cutting,
        queued: &mut Vec<Piece>,
        noted: Progress,
    ) -> Progress {
        if noted.at == Position::START {
            return Progress::default();
        }
        let number = noted.at.piece as usize;
        while queued.len() <= number {
            match cutting.cuts.recv().await {
                Some(Cut::Piece(piece)) => {
                    forward.note(&piece);
                    queued.push(*piece);
                }
                Some(Cut::Fault(fault)) => self.pipeline.fault(fault),
                Some(Cut::Opened(_)) => {}
                None => break,
            }
        }
        let chain = forward.chains.lock().unwrap_or_else(PoisonError::into_inner).get(number).copied();
        if chain.is_some() && chain == noted.chain { noted } else { Progress::default() }
    }

    fn hold(&self, job: &Arc<Job>) -> Hold {
        let (job, chains, unread_at) = (job.clone(), self.chains.clone(), self.unread_at.clone());
        let noted = move || {
            let mut progress = unread_at.get().cloned().unwrap_or_else(|| job.progress());
            let chains = chains.lock().unwrap_or_else(PoisonError::into_inner);
            progress.chain = chains.get(progress.at.piece as usize).copied();
            progress
        };
        Hold::start(self.queue.clone(), &self.claimed.receipt, self.options.claim_time, Arc::new(noted))
    }

    async fn step(&mut self, event: Event, job: &Job) -> Result<(), LoadError> {
        match event {
            Event::Opened(opened) => {
                self.pipeline.observer().opened(&opened.file, opened.format, opened.compression);
            }
            Event::Record(record) => self.pipeline.add(record).await?,
            Event::Fault(fault) => {
                if fault.kind.is_unread() {
                    self.unread_at.get_or_init(|| job.progress());
                }
                self.pipeline.fault(fault);
            }
        }
        Ok(())
    }

    /// Lets what is on its way arrive, notes how far the load is and gives it back.
    async fn leave(&mut self, hold: Hold, early: Early) -> Result<Report, LoadError> {
        let arrived = async {
            while !self.pipeline.is_idle() {
                if self.pipeline.turn().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, arrived).await;
        let report = Box::new(self.report());
        self.give_back(hold).await;
        Err(match early {
            Early::Stopped => LoadError::Interrupted { report },
            Early::ClaimLost => LoadError::claim_lost(report),
        })
    }

    async fn failed(&mut self, hold: Hold, failure: Option<Failure>) -> Result<Report, LoadError> {
        self.give_back(hold).await;
        let report = Box::new(self.report());
        Err(match failure {
            Some(failure) => LoadError::of(failure, report),
            None => LoadError::Internal("the load ended by itself".to_owned()),
        })
    }

    async fn give_back(&mut self, hold: Hold) {
        // A cluster that is away cannot be told; then the claim runs out by itself.
        let receipt = self.claimed.receipt.clone();
        let queue = self.queue.clone();
        let told = async {
            if hold.end().await.is_ok() {
                queue.nack(&receipt, Duration::ZERO, None).await.ok();
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, told).await;
    }

    fn report(&self) -> Report {
        Report { earlier: self.earlier.clone().unwrap_or_default(), ..self.pipeline.report() }
    }
}

/// Hands the pieces that are still to be read to the reading thread.
struct Forward {
    chains: Arc<Mutex<Vec<u64>>>,
    pieces: mpsc::Sender<Piece>,
    faults: mpsc::Sender<Fault>,
    skipped_bytes: Arc<AtomicU64>,
}

impl Forward {
    /// Adds a piece to the chain.
    fn note(&self, piece: &Piece) {
        // A record of strings and numbers is always JSON.
        let bytes = serde_json::to_vec(piece).unwrap_or_default();
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let before = chains.last().copied().unwrap_or_default();
        chains.push(xxh3_64_with_seed(&bytes, before));
    }

    /// Returns whether cutting ended well.
    async fn run(self, mut cutting: Cutting, queued: Vec<Piece>, at: Position) -> bool {
        let mut number = 0;
        for piece in queued {
            if self.forward(piece, &mut number, at).await.is_none() {
                return true;
            }
        }
        while let Some(cut) = cutting.cuts.recv().await {
            match cut {
                Cut::Piece(piece) => {
                    self.note(&piece);
                    if self.forward(*piece, &mut number, at).await.is_none() {
                        return true;
                    }
                }
                Cut::Fault(fault) => {
                    self.faults.send(fault).await.ok();
                }
                Cut::Opened(_) => {}
            }
        }
        cutting.ended_well()
    }

    /// `None` when nobody reads any more.
    async fn forward(&self, mut piece: Piece, number: &mut u32, at: Position) -> Option<()> {
        piece.number = *number;
        *number += 1;
        if piece.number < at.piece {
            self.skipped_bytes.fetch_add(piece.bytes(), Ordering::Relaxed);
            return Some(());
        }
        if piece.number == at.piece {
            piece.resume = at.mark;
        }
        self.pieces.send(piece).await.ok()
    }
}

/// Pieces as the reading thread takes them.
struct Pieces(mpsc::Receiver<Piece>);

impl Iterator for Pieces {
    type Item = Input;

    fn next(&mut self) -> Option<Input> {
        self.0.blocking_recv().map(|piece| Input::Piece(Box::new(piece)))
    }
}

fn internal(error: std::io::Error) -> LoadError {
    LoadError::Internal(error.to_string())
}
