//! Processes that are killed in the middle of everything.
//!
//! `TRAWL_KILL_ROUNDS` and `TRAWL_KILL_SEED` make it longer and different.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::{fresh_in, open};
use crate::conformance::crash;

const DIRECTORY: &str = "TRAWL_TEST_WORK_IN";
const NAME: &str = "TRAWL_TEST_WORK_AS";
const SEED: &str = "TRAWL_TEST_WORK_SEED";

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Not a test: what the children of the test below do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_works() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let name = std::env::var(NAME).unwrap();
    let say: crash::Say = Arc::new(|promise| {
        let mut out = std::io::stdout().lock();
        // A line that was cut off lacks its end.
        writeln!(out, "said: {promise};").unwrap();
        out.flush().unwrap();
    });
    crash::work(open(Path::new(&directory)).await.unwrap(), &name, number(SEED, 0), say).await;
    panic!("nothing should fail here");
}

fn start(directory: &Path, name: &str, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["engines::sqlite::tests::kill::child_that_works", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(NAME, name)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets the child work for a while after its first promise, kills it, and returns all it has said.
fn kill_after(mut child: Child, pause: Duration) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let parse = |line: String| Some(line.split_once("said: ")?.1.strip_suffix(';')?.to_owned());
    let mut promises = lines.map_while(Result::ok).filter_map(parse);
    let first = promises.next().expect("the child has failed");
    // Reads on while the child works, lest it waits for the pipe.
    let reading = std::thread::scope(|scope| {
        let reading = scope.spawn(|| promises.collect::<Vec<_>>());
        std::thread::sleep(pause);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(running, "the child has ended by itself");
        reading.join().unwrap()
    });
    std::iter::once(first).chain(reading).collect()
}

/// Checks the files themselves.
pub(super) async fn assert_sound(directory: &Path) {
    for file in ["store.db", "logs.db"] {
        let url = format!("sqlite:{}", directory.join(file).display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let rows = sqlx::query("PRAGMA integrity_check").fetch_all(&mut connection).await.unwrap();
        let report: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(report, ["ok"], "{file}");
        connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_survives_kill_9_in_the_middle_of_everything() {
    let seed = number("TRAWL_KILL_SEED", rand::random());
    let rounds = number("TRAWL_KILL_ROUNDS", 4);
    println!("TRAWL_KILL_SEED={seed} TRAWL_KILL_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::TempDir::new().unwrap();
    let open = fresh_in(directory.path());
    crash::prepare(&open).await;
    let mut said = Vec::new();
    for round in 0..rounds {
        let killers: Vec<_> = (0..2)
            .map(|n| {
                let child = start(directory.path(), &format!("{round}-{n}"), random.random());
                let pause = Duration::from_millis(random.random_range(0..600));
                tokio::task::spawn_blocking(move || kill_after(child, pause))
            })
            .collect();
        for killer in killers {
            said.extend(killer.await.unwrap());
        }
        assert_sound(directory.path()).await;
        crash::check(&open, &said).await;
    }
    let kinds: std::collections::BTreeMap<&str, usize> = said.iter().fold(Default::default(), |mut kinds, line| {
        *kinds.entry(line.split(' ').next().unwrap()).or_default() += 1;
        kinds
    });
    println!("{} kills, promises kept: {kinds:?}", 2 * rounds);
}
