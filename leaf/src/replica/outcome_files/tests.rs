//! Outcomes written, read back, cut, copied and forgotten.

#![allow(clippy::unwrap_used)]

use trawl_proto::Generation;
use trawl_proto::v1::{OperationError, outcome::Result as Came};

use super::*;

const LIMITS: Limits = Limits { time: Duration::from_secs(3_600), bytes_max: 64 << 20 };

/// A replica's files, and the state that its commits would have.
struct Bench {
    dir: tempfile::TempDir,
    limits: Limits,
    files: Option<OutcomeFiles>,
    state: State,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let mut bench = Self { dir: tempfile::tempdir().unwrap(), limits, files: None, state: State::new(1) };
        let state = bench.state.clone();
        bench.open(&state);
        bench
    }

    fn open(&mut self, state: &State) {
        self.files = Some(OutcomeFiles::open(self.dir.path(), self.limits, state).unwrap());
        self.state = state.clone();
    }

    fn add(&mut self, count: u64, time_ms: u64) {
        let first = self.state.at.seq.0 + 1;
        let last = Seq(first + count - 1);
        let chain = self.state.chain.wrapping_mul(31).wrapping_add(first);
        let record = Record {
            incarnation: Incarnation(1),
            first: Seq(first),
            last,
            mapping_version: 1,
            apply_version: 1,
            time_ms,
            chain,
            body: bytes::Bytes::new(),
        };
        let outcomes: Vec<Outcome> = (first..=last.0).map(outcome).collect();
        self.files.as_mut().unwrap().append(&record, &outcomes).unwrap();
        self.state.at = Generation { incarnation: Incarnation(1), seq: last };
        self.state.chain = chain;
        self.state.rows.push(last, chain);
    }

    fn read(&mut self, first: u64, last: u64) -> Vec<Outcome> {
        let places = self.files.as_mut().unwrap().find(first, last).unwrap();
        places.iter().flat_map(|place| place.read(first, last).unwrap()).map(|(_, outcome)| outcome).collect()
    }

    fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            fs::read_dir(self.dir.path().join("outcomes")).unwrap().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

fn outcome(seq: u64) -> Outcome {
    let error =
        (seq.is_multiple_of(7)).then(|| OperationError { reason: seq.to_string(), ..OperationError::default() });
    let result = if error.is_some() { Came::Rejected } else { Came::Created };
    Outcome { result: result.into(), seq, version: 1, error, ..Outcome::default() }
}

fn expected(first: u64, last: u64) -> Vec<Outcome> {
    (first..=last).map(outcome).collect()
}

#[test]
fn they_are_read_back_in_part_and_after_opening_again() {
    let mut bench = Bench::new(LIMITS);
    for _ in 0..300 {
        bench.add(40, 1_000);
    }
    for _ in 0..2 {
        assert_eq!(bench.read(1, 12_000), expected(1, 12_000));
        assert_eq!(bench.read(11_990, 20_000), expected(11_990, 12_000));
        assert_eq!(bench.read(5_001, 5_003), expected(5_001, 5_003));
        assert_eq!(bench.read(12_001, 12_002), []);
        bench.files.as_mut().unwrap().unsynced().unwrap();
        let state = bench.state.clone();
        bench.open(&state);
    }
}

#[test]
fn they_are_cut_back_to_the_commit_and_to_what_its_history_confirms() {
    let mut bench = Bench::new(LIMITS);
    (0..5).for_each(|_| bench.add(10, 1_000));
    let commit = bench.state.clone();
    (0..5).for_each(|_| bench.add(10, 1_000));
    bench.files.as_mut().unwrap().flush().unwrap();
    bench.open(&commit);
    assert_eq!(bench.read(1, 100), expected(1, 50));
    bench.add(10, 1_000);
    assert_eq!(bench.read(1, 100), expected(1, 60));

    // A torn tail and a flipped bit lose what is behind them.
    bench.files.as_mut().unwrap().flush().unwrap();
    let state = bench.state.clone();
    let path = bench.paths()[0].clone();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    bench.open(&state);
    assert_eq!(bench.read(1, 100), expected(1, 50));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    bench.open(&state);
    let left = bench.read(1, 100);
    assert_eq!(left, expected(1, left.len() as u64));
    assert!(left.len() < 50);

    // Another history at the same place confirms nothing.
    let mut other = State::new(1);
    other.rows.push(Seq(10), 77);
    (other.at.seq, other.chain) = (Seq(10), 77);
    bench.open(&other);
    assert_eq!((bench.read(1, 100), bench.paths().len()), (Vec::new(), 0));
}

#[test]
fn a_copy_holds_those_up_to_its_commit_and_takes_the_place_of_what_was_there() {
    // Several files.
    let mut source = Bench::new(Limits { bytes_max: 64 << 10, ..LIMITS });
    (0..400).for_each(|_| source.add(10, 1_000));
    source.files.as_mut().unwrap().flush().unwrap();
    let commit = source.state.clone();
    (0..5).for_each(|_| source.add(10, 1_000));
    source.files.as_mut().unwrap().flush().unwrap();
    assert!(source.paths().len() > 1);

    let copy = tempfile::tempdir().unwrap();
    let names = take(source.dir.path(), copy.path()).unwrap();
    assert_eq!(names.len(), source.paths().len());
    // What happens to the source now does not matter to the copy.
    let state = source.state.clone();
    source.open(&State::new(1));
    assert_eq!(source.read(1, u64::MAX), []);

    let mut target = Bench::new(LIMITS);
    target.add(7, 1_000);
    target.files.as_mut().unwrap().flush().unwrap();
    fs::write(copy.path().join("meta.json"), "{}").unwrap();
    adopt(target.dir.path(), copy.path()).unwrap();
    assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 1, "the index has its directory for itself");
    target.open(&commit);
    assert_eq!(target.read(3_001, u64::MAX), expected(3_001, 4_000));
    assert_ne!(state.at, commit.at);

    // A copy without any changes nothing.
    adopt(target.dir.path(), copy.path()).unwrap();
    target.open(&commit);
    assert_eq!(target.read(4_000, 4_000), expected(4_000, 4_000));
}

#[test]
fn they_know_the_points_at_the_ends_of_rows() {
    let mut bench = Bench::new(LIMITS);
    (0..300).for_each(|_| bench.add(40, 1_000));
    let places = bench.files.as_mut().unwrap().find(4_000, 5_003).unwrap();
    let found: Vec<_> = places.iter().flat_map(|place| place.points(4_000, 5_003).unwrap()).collect();
    let in_range = |point: &Point| (4_000..=5_040).contains(&point.seq.0);
    let expected: Vec<_> = bench.state.rows.points().filter(in_range).collect();
    assert_eq!(found.iter().map(|(_, point)| *point).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|(first, point)| first.0 + 39 == point.seq.0));
}

#[test]
fn old_ones_go_by_the_logs_time_and_by_size() {
    let mut bench = Bench::new(LIMITS);
    (0..20u64).for_each(|n| bench.add(10, n * 600_000));
    // 200 minutes are over; an hour is kept, and what shares a file with it.
    let kept = bench.read(1, 200);
    assert_eq!(kept.last(), expected(200, 200).last());
    assert!((60..100).contains(&kept.len()), "{}", kept.len());

    let mut bench = Bench::new(Limits { bytes_max: 64 << 10, ..LIMITS });
    (0..2_000).for_each(|_| bench.add(10, 1_000));
    bench.files.as_mut().unwrap().flush().unwrap();
    let bytes: u64 = bench.paths().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!((40 << 10..=80 << 10).contains(&bytes), "{bytes}");
    assert_eq!(bench.read(19_991, 20_000), expected(19_991, 20_000));
    assert_eq!(bench.read(1, 10), []);
}
