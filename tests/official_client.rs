//! The official Python client of Elasticsearch 8, unmodified, against a real cluster.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use std::process::Command;

use harness::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn it_connects_and_works() {
    let importable =
        Command::new("python3").args(["-c", "import elasticsearch; assert elasticsearch.__version__[0] == 8"]).output();
    if !importable.is_ok_and(|output| output.status.success()) {
        let message = "python3 with the package elasticsearch (8.x) is not on this machine";
        assert!(std::env::var_os("TRAWL_TEST_REQUIRE_ALL").is_none(), "{message}");
        eprintln!("SKIPPED: {message}");
        return;
    }
    let cluster = Cluster::start(1, 2).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/official_client.py");
    let endpoint = cluster.client.endpoint.clone();
    let output =
        tokio::task::spawn_blocking(move || Command::new("python3").args([script, &endpoint]).output().unwrap())
            .await
            .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
