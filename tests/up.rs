//! `trawl up` as a person or a script meets it.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use harness::{Client, Cluster, TRAWL, is_running, wait_until};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn it_lists_its_children_restarts_what_dies_and_ends_within_ten_seconds() {
    let mut cluster = Cluster::start(2, 3).await;
    let names: Vec<String> = cluster.processes().into_iter().map(|process| process.name).collect();
    assert_eq!(names, ["root-0", "root-1", "leaf-0", "leaf-1", "leaf-2"]);

    for name in ["root-1", "leaf-1"] {
        let before = cluster.process(name);
        cluster.signal(name, Signal::SIGKILL);
        wait_until("a new process", || async { cluster.process(name).pid != before.pid }).await;
        assert_eq!(cluster.process(name).http, before.http, "a root keeps its address");
    }
    let root = &cluster.root_clients()[1];
    wait_until("the root answers again", || async {
        root.try_send("GET", "/readyz", None, &[]).await.is_ok_and(|answer| answer.status == 200)
    })
    .await;

    let pids: Vec<i32> = cluster.processes().iter().map(|process| process.pid).collect();
    let took = cluster.terminate().await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!pids.into_iter().any(is_running));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_children_end_when_it_is_killed() {
    let cluster = Cluster::start(1, 2).await;
    let pids: Vec<i32> = cluster.processes().iter().map(|process| process.pid).collect();
    nix::sys::signal::kill(Pid::from_raw(cluster.up_pid()), Signal::SIGKILL).unwrap();
    wait_until("the children are gone", || async { !pids.iter().any(|pid| is_running(*pid)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_is_used_once_at_a_time_and_never_with_fewer_leaves() {
    let mut cluster = Cluster::start(1, 2).await;
    let again = || {
        let mut command = Command::new(TRAWL);
        command.args(["up", "--http", "127.0.0.1:0", "--leaves", "1", "--data-dir"]).arg(cluster.data_dir());
        command
    };
    let busy = again().output().unwrap();
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("in use"), "{busy:?}");
    let mut fewer = again();
    cluster.terminate().await;
    let fewer = fewer.output().unwrap();
    assert_eq!(fewer.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&fewer.stderr).contains("--leaves 2"), "{fewer:?}");
}

/// Logs that nobody can write must not harm what is logged about.
#[tokio::test(flavor = "multi_thread")]
async fn it_works_while_its_log_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Command::new(TRAWL)
        .args(["--log", "debug", "up", "--http", "127.0.0.1:0", "--roots", "1", "--leaves", "2", "--data-dir"])
        .arg(directory.path())
        .env("TRAWL_SUPERVISED", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    let lines = BufReader::new(up.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = tokio::task::spawn_blocking(move || {
        lines.filter_map(|line| line.strip_prefix("ready: ")?.split(' ').next().map(str::to_owned)).next()
    });
    // Nobody reads what comes after this.
    let client = Client::new(ready.await.unwrap().expect("it gets ready"));
    client.create_index("boats", 2, 1, json!({})).await;
    client.bulk_index("boats", &[("a".to_owned(), json!({"n": 1}))], true).await;
    wait_until("green", async || client.get("/_cluster/health").await.body["status"] == "green").await;
    assert_eq!(client.search("boats", json!({})).await["hits"]["total"]["value"], 1);
    drop(up.stdin.take());
    assert!(up.wait().unwrap().code().is_some());
}

#[test]
fn usage_errors_end_with_two_and_every_command_has_help_with_an_example() {
    assert_eq!(Command::new(TRAWL).arg("fish").output().unwrap().status.code(), Some(2));
    for command in ["demo", "up", "root", "leaf", "load", "search", "health"] {
        let help = Command::new(TRAWL).args([command, "--help"]).output().unwrap();
        assert_eq!(help.status.code(), Some(0), "{command}");
        assert!(String::from_utf8_lossy(&help.stdout).contains("Example"), "{command}");
    }
    let version = Command::new(TRAWL).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("trawl "));
}
