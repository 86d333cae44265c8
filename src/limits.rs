//! The limits of a root as flags; what each one means stands in `trawl_root::config`.

use std::time::Duration;

use trawl_cluster::EngineOptions;
use trawl_root::Config;

use crate::load::size;

/// Limits of a root.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// HTTP connections open at once; one more is answered with 429 and closed
    #[arg(long, env = "TRAWL_HTTP_CONNECTIONS", default_value = "4096", value_name = "N")]
    pub http_connections: usize,

    /// Time for a request's head; then the connection is closed
    #[arg(long, env = "TRAWL_HTTP_HEADER_TIME", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub http_header_time: Duration,

    /// How long a connection may be open without a request
    #[arg(long, env = "TRAWL_HTTP_IDLE_TIME", default_value = "75s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub http_idle_time: Duration,

    /// Time between two pieces of a request's body; then 408
    #[arg(long, env = "TRAWL_HTTP_BODY_TIME", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub http_body_time: Duration,

    /// Largest request body, uncompressed; a larger one is a 413
    #[arg(long, env = "TRAWL_BODY_SIZE", default_value = "100MiB", value_parser = size, value_name = "SIZE")]
    pub body_size: usize,

    /// All request bodies held at once; more is a 429
    #[arg(long, env = "TRAWL_BODIES_IN_FLIGHT", default_value = "512MiB", value_parser = size, value_name = "SIZE")]
    pub bodies_in_flight: usize,

    /// Operations in one bulk request; more is a 413
    #[arg(long, env = "TRAWL_BULK_OPERATIONS", default_value = "100000", value_name = "N")]
    pub bulk_operations: usize,

    /// Largest document; a larger one is a 413 of its own
    #[arg(long, env = "TRAWL_DOCUMENT_SIZE", default_value = "16MiB", value_parser = size, value_name = "SIZE")]
    pub document_size: usize,

    /// Operations being written at once; more is a 429
    #[arg(long, env = "TRAWL_WRITE_BYTES_IN_FLIGHT", default_value = "128MiB", value_parser = size, value_name = "SIZE")]
    pub write_bytes_in_flight: usize,

    /// Log of each shard, where the index has no index.trawl.log_size; a full one is a 429. The same on all roots
    #[arg(long, env = "TRAWL_LOG_SIZE", default_value = "1GiB", value_parser = size, value_name = "SIZE")]
    pub log_size: usize,

    /// Copies of shards, times the leaves that are there, that all indices may have; an index with more is a 400
    #[arg(long, env = "TRAWL_SHARDS_PER_LEAF", default_value = "1000", value_name = "N")]
    pub shards_per_leaf: u64,

    /// Searches, counts and gets at work; one more is a 429
    #[arg(long, env = "TRAWL_SEARCHES_IN_FLIGHT", default_value = "1024", value_name = "N")]
    pub searches_in_flight: usize,

    /// How long the cluster engine may take before it counts as out of reach; then 503
    #[arg(long, env = "TRAWL_ENGINE_TIME", default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub engine_time: Duration,

    /// How long a write waits for its outcome before it is answered as accepted (202)
    #[arg(long, env = "TRAWL_OUTCOME_TIME", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub outcome_time: Duration,
}

impl LimitArgs {
    /// Puts the limits where they belong.
    pub fn apply(&self, config: &mut Config, engine: &mut EngineOptions) {
        config.limits.connections_max = self.http_connections;
        config.limits.header_time_max = self.http_header_time;
        config.limits.idle_time_max = self.http_idle_time;
        config.limits.body_time_max = self.http_body_time;
        config.limits.body_bytes_max = self.body_size;
        config.limits.in_flight_bytes_max = self.bodies_in_flight;
        config.limits.bulk_operations_max = self.bulk_operations;
        config.limits.document_bytes_max = self.document_size;
        config.write.in_flight_bytes_max = self.write_bytes_in_flight;
        config.write.append_wait_max = self.engine_time;
        config.write.outcome_wait_max = self.outcome_time;
        config.write.shards_per_leaf_max = self.shards_per_leaf;
        config.search.in_flight_max = self.searches_in_flight;
        engine.log_bytes_max = self.log_size as u64;
        config.lead.log_bytes_high = engine.log_bytes_max / 2;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{CommandFactory, Parser};
    use trawl_root::limits::Limit;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_flags_have_the_defaults_of_the_code() {
        let Command::Root(args) = Cli::parse_from(["trawl", "root", "--cluster", "x"]).command else { panic!() };
        let address = "127.0.0.1:0".parse().unwrap();
        let (mut config, mut engine) = (Config::new("root-0", address), EngineOptions::default());
        let before = format!("{config:?} {engine:?}");
        args.limits.apply(&mut config, &mut engine);
        assert_eq!(format!("{config:?} {engine:?}"), before);
    }

    /// The table of limits in the README names every limit, and each flag with its default.
    #[test]
    fn the_readme_lists_the_limits() {
        let readme = include_str!("../README.md");
        let rows: Vec<Vec<&str>> = readme
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let root = Cli::command().find_subcommand("root").unwrap().clone();
        for limit in Limit::ALL {
            let name = format!("`{}`", limit.name());
            let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no row for {name}"));
            let Some(flag) = row[2].split('`').find_map(|part| part.strip_prefix("--")) else { continue };
            let argument = root.get_arguments().find(|argument| argument.get_long() == Some(flag));
            let argument = argument.unwrap_or_else(|| panic!("there is no --{flag}"));
            let default = argument.get_default_values()[0].to_str().unwrap();
            let shown = row[1].replace([',', ' '], "");
            assert_eq!(shown, default, "{name}");
        }
    }
}
