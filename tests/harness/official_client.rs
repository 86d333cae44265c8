//! Runs the official Python client of Elasticsearch 8, unmodified, against an endpoint.

use std::process::Command;

/// Whether it is on this machine; says so loudly when it is not.
pub fn is_here() -> bool {
    let importable =
        Command::new("python3").args(["-c", "import elasticsearch; assert elasticsearch.__version__[0] == 8"]).output();
    if importable.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let message = "python3 with the package elasticsearch (8.x) is not on this machine";
    assert!(std::env::var_os("TRAWL_TEST_REQUIRE_ALL").is_none(), "{message}");
    eprintln!("SKIPPED: {message}");
    false
}

/// Does with it what an application does, and fails at the first surprise.
pub async fn works_with(endpoint: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/official_client.py");
    let mut command = Command::new("python3");
    command.args([script, endpoint]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}
