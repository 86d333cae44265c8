//! Single roots and leaves, started by hand: no supervisor knows of them or restarts them.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid};

use super::{Client, Log, TRAWL, log_level, wait_until};

/// One process; killed when this is dropped.
pub struct Member {
    child: Child,
}

impl Member {
    /// A root, once it is ready.
    pub async fn root(log: &Log, name: &str, url: &str, args: &[&str]) -> (Self, Client) {
        let address = free_address();
        let member = Self::start(log, "root", name, url, &[&["--http", &address.to_string()], args].concat());
        let client = Client::new(format!("http://{address}"));
        wait_until("the root is ready", async || {
            client.try_send("GET", "/readyz", None, &[]).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        (member, client)
    }

    /// A leaf.
    pub fn leaf(log: &Log, name: &str, url: &str, data_dir: &Path, args: &[&str]) -> Self {
        let data_dir = data_dir.join(name);
        Self::start(log, "leaf", name, url, &[&["--data-dir", data_dir.to_str().unwrap()], args].concat())
    }

    fn start(log: &Log, role: &str, name: &str, url: &str, args: &[&str]) -> Self {
        let mut child = Command::new(TRAWL)
            .args(["--log", &log_level(), "--log-format", "text", role, "--name", name, "--cluster", url])
            .args(args)
            // Ends with this process even when that is aborted.
            .env("TRAWL_SUPERVISED", "1")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        log.follow(child.stderr.take().unwrap());
        Self { child }
    }

    pub fn signal(&self, signal: Signal) {
        let _ = nix::sys::signal::kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal);
    }

    /// Ends the process in order, and waits until it has ended.
    pub async fn end(mut self) {
        self.signal(Signal::SIGTERM);
        wait_until("the process has ended", async || !super::is_running(i32::try_from(self.child.id()).unwrap())).await;
        let _ = self.child.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address on 127.0.0.1 that nobody has at the moment.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
