//! What shipping logs costs: CPU per line to a file against a bare loop, memory at a steady rate, and documents a second into
//! a cluster against `trawl load`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cluster::{Cluster, load};
use crate::processes::{cpu_of, own_cpu};
use crate::table::{median, print};

/// Measures the sidecar.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: trawl bench sidecar --lines 500000 --rounds 5")]
pub struct Args {
    /// Lines of a file that is shipped to a file
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    pub lines: u64,
    /// Lines of a file that is shipped into a cluster
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub documents: u64,
    /// Rounds, in which what is compared takes turns
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rounds: usize,
    /// Lines a second while memory is measured
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub rate: u64,
    /// Seconds of that
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub rate_seconds: u64,
}

/// Runs the three measurements.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = vec![["", "lines/s", "CPU µs/line", "ratio", "peak RSS MB"].map(str::to_owned).to_vec()];
    per_line(&args, &mut rows).await?;
    steady(&args, &mut rows).await?;
    into_cluster(&args, &mut rows).await?;
    print(&rows);
    Ok(())
}

/// As a program logs: about 260 bytes.
fn line(number: u64) -> String {
    format!(
        r#"{{"timestamp":"2026-11-23T03:{:02}:{:02}.{:06}Z","level":"INFO","message":"request was served","id":"{number}","method":"GET","path":"/catalogue/item/{}","status":200,"took_us":{},"peer":"10.0.{}.{}:41234","agent":"client/1.{}","target":"shop::http::server"}}"#,
        number / 60_000_000 % 60,
        number / 1_000_000 % 60,
        number % 1_000_000,
        number * 31 % 9_973,
        number * 17 % 40_009,
        number % 256,
        number * 7 % 256,
        number % 10,
    )
}

fn write_lines(path: &Path, lines: u64) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..lines {
        writeln!(file, "{}", line(number))?;
    }
    Ok(file.flush()?)
}

/// The baseline: read a line, parse it, write it.
fn bare(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(from)?);
    let mut writer = BufWriter::with_capacity(1 << 16, File::create(to)?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let value: Value = serde_json::from_str(&line)?;
        ensure!(value.is_object(), "not an object");
        writer.write_all(line.as_bytes())?;
        line.clear();
    }
    writer.flush()?;
    writer.get_ref().sync_data()?;
    Ok(())
}

/// A sidecar that is measured.
struct Sidecar {
    process: Child,
    pid: i32,
    metrics: String,
    http: reqwest::Client,
}

impl Sidecar {
    fn start(directory: &Path, state: &str, sink: &str) -> anyhow::Result<Self> {
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let process = Command::new(std::env::current_exe()?)
            .args(["--log", "warn", "sidecar", "--name", "bench", "--sink", sink, "--metrics", &metrics])
            .arg("--log-dir")
            .arg(directory.join("logs"))
            .arg("--state")
            .arg(directory.join(state))
            .env("MALLOC_ARENA_MAX", "2")
            .env("TRAWL_SUPERVISED", "1")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start trawl sidecar")?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).context("no pid")?;
        Ok(Self { process, pid, metrics, http: reqwest::Client::new() })
    }

    /// Waits until so many records are shipped.
    async fn shipped(&self, records: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let url = format!("http://{}/metrics", self.metrics);
            let text = match self.http.get(url).send().await {
                Ok(answer) => answer.text().await?,
                Err(_) => String::new(),
            };
            let found = text.lines().find(|line| line.starts_with("trawl_sidecar_shipped_records_total{"));
            if found.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()) >= Some(records) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the sidecar does not ship everything:\n{text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The largest resident size so far, in MB.
    fn peak_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.unwrap_or(0.0) * 1_024.0 / 1e6
    }

    async fn end(mut self) {
        let _ = self.process.kill().await;
    }
}

async fn per_line(args: &Args, rows: &mut Vec<Vec<String>>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("logs"))?;
    write_lines(&path("logs/app.log"), args.lines)?;
    let (mut bare_cpu, mut cpu, mut bare_rate, mut rate, mut peak) = (vec![], vec![], vec![], vec![], 0_f64);
    for round in 0..args.rounds {
        let (began, before) = (Instant::now(), own_cpu()?);
        bare(&path("logs/app.log"), &path("bare"))?;
        bare_cpu.push((own_cpu()? - before) * 1e6 / args.lines as f64);
        bare_rate.push(args.lines as f64 / began.elapsed().as_secs_f64());

        let out = path("out");
        let began = Instant::now();
        let sidecar = Sidecar::start(directory.path(), &format!("state-{round}"), &format!("file:{}", out.display()))?;
        sidecar.shipped(args.lines).await?;
        rate.push(args.lines as f64 / began.elapsed().as_secs_f64());
        // From its start on: loading the program and all.
        cpu.push(cpu_of(sidecar.pid) * 1e6 / args.lines as f64);
        peak = peak.max(sidecar.peak_mb());
        sidecar.end().await;
        let written = BufReader::new(File::open(&out)?).lines().count() as u64;
        ensure!(written == args.lines, "{written} of {} lines were shipped", args.lines);
        fs::remove_file(&out)?;
    }
    let (bare_cpu, cpu) = (median(&bare_cpu), median(&cpu));
    rows.push(row("read line, parse JSON, write line", median(&bare_rate), bare_cpu, 1.0, None));
    rows.push(row("sidecar to file: (CPU ratio, bar ≤ 2)", median(&rate), cpu, cpu / bare_cpu, Some(peak)));
    Ok(())
}

async fn steady(args: &Args, rows: &mut Vec<Vec<String>>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("logs"))?;
    let sidecar = Sidecar::start(directory.path(), "state", &format!("file:{}", path("out").display()))?;
    let lines = args.rate * args.rate_seconds;
    let (logs, rate) = (path("logs/app.log"), args.rate);
    let began = Instant::now();
    let writer = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        // A write per line, as programs do it.
        let mut file = File::create(logs)?;
        for number in 0..lines {
            file.write_all((line(number) + "\n").as_bytes())?;
            let due = Duration::from_secs_f64(number as f64 / rate as f64);
            if number % 100 == 0
                && let Some(early) = due.checked_sub(began.elapsed())
            {
                std::thread::sleep(early);
            }
        }
        Ok(())
    });
    writer.await??;
    sidecar.shipped(lines).await?;
    let (cpu, seconds) = (cpu_of(sidecar.pid), began.elapsed().as_secs_f64());
    let name = format!("sidecar to file: at {rate} lines/s (RSS bar 30)");
    rows.push(row(&name, lines as f64 / seconds, cpu * 1e6 / lines as f64, f64::NAN, Some(sidecar.peak_mb())));
    sidecar.end().await;
    Ok(())
}

async fn into_cluster(args: &Args, rows: &mut Vec<Vec<String>>) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("logs"))?;
    write_lines(&path("logs/app.log"), args.documents)?;
    let (mut load_rate, mut rate, mut cpu, mut peak) = (vec![], vec![], vec![], 0_f64);
    for round in 0..args.rounds {
        // A new cluster each time, so that neither finds what the other left.
        let cluster = Cluster::start(2, 2, &[]).await?;
        let settings = json!({"number_of_shards": 2, "number_of_replicas": 1});
        cluster.create("loaded", &json!({"settings": settings})).await?;
        let began = Instant::now();
        load(cluster.endpoint(), "loaded", "id", &path("logs/app.log")).await?;
        load_rate.push(args.documents as f64 / began.elapsed().as_secs_f64());
        ensure!(cluster.count("loaded").await? == args.documents, "documents are missing");

        let host = cluster.endpoint().trim_start_matches("http://").to_owned();
        let began = Instant::now();
        let sink = format!("trawl://{host}/?shards=2&replicas=1");
        let sidecar = Sidecar::start(directory.path(), &format!("state-{round}"), &sink)?;
        while cluster.count("logs-trawl-*").await.unwrap_or(0) < args.documents {
            ensure!(began.elapsed() < Duration::from_secs(600), "documents are missing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        rate.push(args.documents as f64 / began.elapsed().as_secs_f64());
        cpu.push(cpu_of(sidecar.pid) * 1e6 / args.documents as f64);
        peak = peak.max(sidecar.peak_mb());
        sidecar.end().await;
        cluster.stop().await;
    }
    let (load_rate, rate) = (median(&load_rate), median(&rate));
    rows.push(row("trawl load, searchable", load_rate, f64::NAN, 1.0, None));
    rows.push(row("sidecar to trawl:// (rate ratio, bar ≥ 0.5)", rate, median(&cpu), rate / load_rate, Some(peak)));
    Ok(())
}

fn row(name: &str, rate: f64, cpu: f64, ratio: f64, peak: Option<f64>) -> Vec<String> {
    let shown = |value: f64, digits: usize| if value.is_nan() { String::new() } else { format!("{value:.digits$}") };
    vec![
        name.to_owned(),
        shown(rate, 0),
        shown(cpu, 2),
        shown(ratio, 2),
        peak.map(|peak| format!("{peak:.1}")).unwrap_or_default(),
    ]
}
