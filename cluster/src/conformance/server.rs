//! A private PostgreSQL server for tests: in a directory of its own, on a free loopback port, run by an
//! unprivileged user, gone when it is dropped or when the test process dies.
//!
//! `initdb` runs once per machine; every server starts from a copy of what it made.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The password of the user `trawl`, who owns everything.
pub const PASSWORD: &str = "a secret: of/tests";
/// How long a server may take to start, stop, copy or be promoted.
const PATIENCE: Duration = Duration::from_secs(60);
/// Makes tests that need what is not installed fail.
const REQUIRE_ALL: &str = "TRAWL_TEST_REQUIRE_ALL";

/// Runs the server until standard input closes, which it does when the test process dies; then ends it
/// with the signal that was written there. Nobody else would remove the directory if none was.
const KEEPER: &str = r#"directory=$1; shift; "$@" </dev/null & pid=$!; echo $pid
if read -r signal; then kill -$signal $pid; wait $pid; else kill -QUIT $pid; wait $pid; rm -rf "$directory"; fi"#;

/// A server's directory, and the server while it runs.
pub struct Server {
    installation: Installation,
    directory: tempfile::TempDir,
    data: PathBuf,
    port: u16,
    /// Given on the command line at every start.
    settings: Vec<(String, String)>,
    running: Option<Running>,
}

struct Running {
    keeper: Child,
    pid: Pid,
}

/// The programs, and who runs them.
#[derive(Clone, Debug)]
struct Installation {
    programs: PathBuf,
    /// `None`: the tests' own user, who is unprivileged.
    user: Option<(u32, u32)>,
}

impl Server {
    /// Starts a fresh server with settings beside the defaults of PostgreSQL. `None`, said loudly, when
    /// PostgreSQL is not installed.
    ///
    /// # Panics
    /// When it does not start, or is not installed and `TRAWL_TEST_REQUIRE_ALL` is set.
    pub fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let Some(installation) = Installation::find() else {
            let message = "SKIPPED: PostgreSQL (initdb, postgres) is not installed (apt-get install postgresql)";
            assert!(std::env::var_os(REQUIRE_ALL).is_none(), "{message}");
            eprintln!("{message}");
            return None;
        };
        let template = installation.template();
        let mut server = Self::prepare(installation, settings);
        let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(&template).arg(&server.data).status();
        assert!(copied.unwrap().success());
        server.restart();
        Some(server)
    }

    /// The cluster URL of a fresh schema on a server that all tests of this process share, without the
    /// cost of syncing, for tests in which nothing is killed. `None` as for [`Server::start`].
    pub fn shared() -> Option<String> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        static SCHEMAS: AtomicU64 = AtomicU64::new(0);
        let settings = [("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "500")];
        let server = SERVER.get_or_init(|| Self::start(&settings)).as_ref()?;
        Some(format!("{}?schema=test_{}", server.url(), SCHEMAS.fetch_add(1, Ordering::Relaxed)))
    }

    fn prepare(installation: Installation, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("trawl-postgres-").tempdir().unwrap();
        if let Some((uid, gid)) = installation.user {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let data = directory.path().join("data");
        Self { installation, directory, data, port: free_port(), settings, running: None }
    }

    /// Copies this server into a standby that streams from it under the given name and waits until it
    /// does; it can be promoted.
    pub fn standby(&self, name: &str) -> Self {
        // What is given on the command line outranks what is copied.
        let settings = [("synchronous_standby_names", ""), ("cluster_name", name)];
        let mut standby = Self::prepare(self.installation.clone(), &settings);
        standby.settings.splice(0..0, self.settings.iter().filter(|(name, _)| name == "fsync").cloned());
        let mut copy = standby.installation.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "trawl", "-R", "-c", "fast", "-D"]);
        run(copy.arg(&standby.data).env("PGPASSWORD", PASSWORD));
        standby.restart();
        self.wait(&format!("{name} streams"), || {
            let query = format!(
                "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
            );
            self.query(&query).trim() == "1"
        });
        standby
    }

    /// Makes the server wait for a standby of that name at every commit; none for an empty name.
    pub fn wait_for_standby(&self, name: &str) {
        self.query(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        self.query("SELECT pg_reload_conf()");
        self.wait("the standby counts", || {
            let counts = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            self.query("SHOW synchronous_standby_names").trim() == name
                && (name.is_empty() || self.query(counts).trim() == "1")
        });
    }

    /// Makes a standby take writes.
    pub fn promote(&self) {
        let mut command = self.installation.command("pg_ctl");
        run(command.args(["promote", "-w", "-D"]).arg(&self.data));
    }

    /// The cluster URL of this server.
    pub fn url(&self) -> String {
        format!(
            "postgres://trawl:{}@127.0.0.1:{}/postgres",
            PASSWORD.replace(' ', "%20").replace('/', "%2F"),
            self.port
        )
    }

    /// The cluster URL of this server and another.
    pub fn url_with(&self, other: &Self) -> String {
        let (login, rest) =
            self.url().rsplit_once('/').map(|(login, rest)| (login.to_owned(), rest.to_owned())).unwrap();
        format!("{login},127.0.0.1:{}/{rest}", other.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the server's files.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Gives the server a file that it may read, in its directory.
    pub fn write_file(&self, name: &str, contents: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.data.join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.installation.user {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Runs a statement as the owner and returns its rows, one per line.
    ///
    /// # Panics
    /// When it fails.
    pub fn query(&self, statement: &str) -> String {
        let mut psql = self.installation.command("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "trawl", "-d", "postgres"]);
        run(psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]).env("PGPASSWORD", PASSWORD))
    }

    /// Sets what holds from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the server, and waits until it answers.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.running.is_none() {
            self.running = self.try_start();
            assert!(self.running.is_some() || Instant::now() < deadline, "{}", self.log());
        }
    }

    /// Kills every process of the server at once, as a loss of power would.
    pub fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
        if let Some(running) = self.running.take() {
            running.end(None);
        }
    }

    /// Stops every process of the server: connections stay open, and nobody answers.
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets a server that was paused go on.
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, signal: Signal) {
        let Some(running) = &self.running else { return };
        // Stopped first, so that it makes no more children meanwhile.
        let _ = kill(running.pid, Signal::SIGSTOP);
        let children = children(running.pid);
        for pid in children.into_iter().chain([running.pid]) {
            let _ = kill(pid, signal);
        }
    }

    /// Stops the server in order.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end(Some("INT"));
        }
    }

    fn try_start(&self) -> Option<Running> {
        let log = self.data.with_file_name("log");
        let log_file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = self.installation.wrapped("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(self.directory.path())
            .arg(self.installation.programs.join("postgres"))
            .arg("-D")
            .arg(&self.data);
        let socket = self.data.with_file_name("");
        let fixed = [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", socket.display().to_string().trim_end_matches('/').to_owned()),
            // Nothing is left behind in shared memory by a server that was killed.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
            ("shared_buffers", "16MB".to_owned()),
            ("max_connections", "60".to_owned()),
            ("logging_collector", "off".to_owned()),
        ];
        let given = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in fixed.into_iter().chain(given) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut keeper =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file).spawn().expect("the keeper starts");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(keeper.stdout.take().unwrap()), &mut line).unwrap();
        let running = Running { keeper, pid: Pid::from_raw(line.trim().parse().unwrap()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut ready = self.installation.command("pg_isready");
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).stdout(Stdio::null());
            if ready.status().unwrap().success() && running.is_alive() {
                return Some(running);
            }
            if !running.is_alive() {
                // Most likely somebody took the port; it is tried again.
                running.end(None);
                std::thread::sleep(Duration::from_millis(200));
                return None;
            }
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "waited for: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.with_file_name("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end(None);
        }
    }
}

impl Running {
    /// Ends the server, at once if no signal is named, and waits until it has.
    fn end(mut self, signal: Option<&str>) {
        if let Some(stdin) = &mut self.keeper.stdin {
            let _ = writeln!(stdin, "{}", signal.unwrap_or("QUIT"));
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }

    fn is_alive(&self) -> bool {
        // The keeper waits for it only at the end: until then a dead server is a zombie.
        state_and_parent(self.pid).is_some_and(|(state, _)| state != 'Z')
    }
}

impl Installation {
    fn find() -> Option<Self> {
        let mut candidates: Vec<PathBuf> =
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
        versions.sort();
        candidates.extend(versions.into_iter().rev());
        let programs = candidates.into_iter().find(|path| {
            ["initdb", "postgres", "pg_ctl", "pg_basebackup", "psql"].iter().all(|program| path.join(program).is_file())
        })?;
        let own = fs::metadata("/proc/self").ok()?.uid();
        let user = if own == 0 { Some(unprivileged()?) } else { None };
        Some(Self { programs, user })
    }

    /// A command of PostgreSQL, run by the user who may run it.
    fn command(&self, program: &str) -> Command {
        self.wrapped(self.programs.join(program))
    }

    fn wrapped(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/").env("LC_ALL", "C.UTF-8").env("HOME", "/nowhere").env_remove("PGPASSWORD");
        command
    }

    /// A directory made by `initdb`, to be copied. Made once per machine, version and user.
    fn template(&self) -> PathBuf {
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock();
        let version = Command::new(self.programs.join("postgres")).arg("--version").output().unwrap().stdout;
        let version = xxhash_rust::xxh3::xxh3_64(&[&version[..], PASSWORD.as_bytes(), HBA.as_bytes()].concat());
        let user = self.user.map_or(String::new(), |(uid, _)| format!("-{uid}"));
        let template = std::env::temp_dir().join(format!("trawl-test-initdb-{version:x}{user}"));
        if template.exists() {
            return template;
        }
        let making = tempfile::Builder::new().prefix("trawl-test-making-").tempdir().unwrap();
        if let Some((uid, gid)) = self.user {
            chown(making.path(), Some(uid), Some(gid)).unwrap();
        }
        let password = making.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        let data = making.path().join("data");
        let mut initdb = self.command("initdb");
        initdb.args(["-U", "trawl", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        run(initdb.arg("--wal-segsize=4").arg("--pwfile").arg(&password).arg("-D").arg(&data));
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        // Another process may have been faster.
        if let Err(error) = fs::rename(&data, &template) {
            assert!(template.exists(), "{error}");
        }
        template
    }
}

/// Everybody needs a password.
const HBA: &str = "local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

/// The user and group `postgres`, or else `nobody`.
fn unprivileged() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|wanted| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == *wanted).then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })
    })
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed: {out}{err}");
    out.into_owned()
}

/// The processes whose parent is the one given.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)));
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(_, its)| its == parent)).collect()
}

/// A process's state and parent, unless it is gone.
fn state_and_parent(pid: Pid) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, Pid::from_raw(fields.next()?.parse().ok()?)))
}
