//! A cluster whose processes are started one by one, each in the version that it is to have.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use crate::harness::{Answer, Client, TRAWL, wait_until};

/// What a process speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Protocol 1: this program told to, or the one that `TRAWL_TEST_PREVIOUS` names.
    Previous,
    /// As this program does.
    Current,
    /// As a version would whose newest protocol this is.
    Speaking(u32),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub role: &'static str,
    pub name: String,
    /// The roots' port.
    port: u16,
}

pub struct Fleet {
    dir: tempfile::TempDir,
    pub nodes: Vec<Node>,
    children: Vec<Option<Child>>,
    /// How long an upgrade has to be over before it is final, for roots of the current version.
    pub upgrade_after: &'static str,
}

impl Fleet {
    /// Starts so many roots and leaves of the previous version.
    pub fn start(roots: usize, leaves: usize) -> Self {
        let mut fleet =
            Self { dir: tempfile::tempdir().unwrap(), nodes: Vec::new(), children: Vec::new(), upgrade_after: "1h" };
        std::fs::create_dir_all(fleet.dir.path().join("cluster")).unwrap();
        let names = (0..leaves).map(|number| ("leaf", number)).chain((0..roots).map(|number| ("root", number)));
        for (role, number) in names {
            let node = fleet.node(role, &format!("{role}-{number}"));
            fleet.children.push(Some(fleet.command(&node, Version::Previous).spawn().unwrap()));
            fleet.nodes.push(node);
        }
        fleet
    }

    /// One that does not run.
    pub fn node(&self, role: &'static str, name: &str) -> Node {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Node { role, name: name.to_owned(), port }
    }

    pub fn clients(&self) -> Vec<Client> {
        let roots = self.nodes.iter().filter(|node| node.role == "root");
        roots.map(|root| Client::new(format!("http://127.0.0.1:{}", root.port))).collect()
    }

    fn command(&self, node: &Node, version: Version) -> Command {
        let previous = std::env::var_os("TRAWL_TEST_PREVIOUS").map(PathBuf::from);
        let (program, speaks) = match (version, previous) {
            (Version::Previous, Some(program)) => (program, None),
            (Version::Previous, None) => (TRAWL.into(), Some(1)),
            (Version::Speaking(protocol), _) => (TRAWL.into(), Some(protocol)),
            (Version::Current, _) => (TRAWL.into(), None),
        };
        let mut command = Command::new(program);
        command.args(["--log", "error", "--log-format", "text", node.role, "--name", &node.name]);
        command.arg("--cluster").arg(format!("sqlite:{}", self.dir.path().join("cluster").display()));
        match node.role {
            "root" => command.args(["--http", &format!("127.0.0.1:{}", node.port)]),
            _ => command.args(["--grpc", "127.0.0.1:0", "--data-dir"]).arg(self.dir.path().join(&node.name)),
        };
        if let Some(protocol) = speaks {
            command.args(["--speak-protocol", &protocol.to_string()]);
        } else if node.role == "root" && version == Version::Current {
            command.args(["--upgrade-after", self.upgrade_after]);
        }
        command.env("TRAWL_SUPERVISED", "1").stdin(Stdio::piped());
        command
    }

    /// Starts a process that ends by itself; what it said.
    pub async fn refused(&self, node: &Node, version: Version) -> String {
        let child = self.spawn_heard(node, version);
        Self::last_words(child).await
    }

    /// Starts a process whose error output is kept.
    pub fn spawn_heard(&self, node: &Node, version: Version) -> Child {
        self.command(node, version).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until a process has ended by itself, with a failure; what it said.
    pub async fn last_words(mut child: Child) -> String {
        // Its standard input has to stay open: it would take the end for that of its supervisor.
        let input = child.stdin.take();
        let output: Output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        drop(input);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Ends a process as an operator would.
    pub async fn stop(&mut self, name: &str) {
        let at = self.nodes.iter().position(|node| node.name == name).unwrap();
        let mut child = self.children[at].take().unwrap();
        let _ = nix::sys::signal::kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{name}: {status}");
    }

    pub fn run(&mut self, name: &str, version: Version) {
        let at = self.nodes.iter().position(|node| node.name == name).unwrap();
        self.children[at] = Some(self.command(&self.nodes[at].clone(), version).spawn().unwrap());
    }

    /// Ends a process and starts it in another version; returns when everything serves again.
    pub async fn roll(&mut self, name: &str, version: Version) {
        let before = self.started(name).await;
        self.stop(name).await;
        self.run(name, version);
        wait_until("the node is back and everything is green", async || {
            let back = self.started(name).await;
            back.is_some() && back != before && self.is_green().await
        })
        .await;
        println!("{name} is {version:?}");
    }

    /// Whether every root says so.
    pub async fn is_green(&self) -> bool {
        for client in self.clients() {
            let health = client.try_send("GET", "/_cluster/health", None, &[]).await;
            if health.is_ok_and(|answer| answer.body["status"] != "green") {
                return false;
            }
        }
        true
    }

    /// What the first root that answers says of the cluster.
    pub async fn status(&self) -> Value {
        for client in self.clients() {
            if let Ok(Answer { status: 200, body, .. }) = client.try_send("GET", "/_trawl/cluster", None, &[]).await {
                return body;
            }
        }
        Value::Null
    }

    /// When a live node was started.
    async fn started(&self, name: &str) -> Option<String> {
        let status = self.status().await;
        let nodes = ["roots", "leaves"].map(|key| status[key].as_array().cloned().unwrap_or_default()).concat();
        let node = nodes.iter().find(|node| node["name"] == name && node["alive"] == true)?;
        node["started"].as_str().map(str::to_owned)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
