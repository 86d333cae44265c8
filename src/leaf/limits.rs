//! The limits of a leaf as flags; what each one means stands in `trawl_leaf::config`.

use std::time::Duration;

use trawl_leaf::Config;

use crate::load::size;

/// Limits of a leaf. All but the last two are per replica.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Documents written since a replica's last commit; more force one
    #[arg(long, env = "TRAWL_PENDING_DOCUMENTS", default_value = "100000", value_name = "N")]
    pub pending_documents: usize,

    /// Bytes of documents written since a replica's last commit; more force one
    #[arg(long, env = "TRAWL_PENDING_BYTES", default_value = "256MiB", value_parser = size, value_name = "SIZE")]
    pub pending_bytes: usize,

    /// Bytes of them kept in memory for updates; beyond, an update of one waits for a commit
    #[arg(long, env = "TRAWL_PENDING_SOURCE_BYTES", default_value = "16MiB", value_parser = size, value_name = "SIZE")]
    pub pending_source_bytes: usize,

    /// Outcomes of the last operations kept in memory; older ones are read from files
    #[arg(long, env = "TRAWL_OUTCOMES", default_value = "100000", value_name = "N")]
    pub outcomes: usize,

    /// How long outcomes are kept in files, for writes that are repeated with their key
    #[arg(long, env = "TRAWL_OUTCOMES_TIME", default_value = "1h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub outcomes_time: Duration,

    /// Bytes of those files, about; the oldest go first
    #[arg(long, env = "TRAWL_OUTCOMES_BYTES", default_value = "64MiB", value_parser = size, value_name = "SIZE")]
    pub outcomes_bytes: usize,

    /// Replicas that have an index writer open; others with something to write wait for their turn
    #[arg(long, env = "TRAWL_WRITERS", default_value = "8", value_name = "N")]
    pub writers: usize,

    /// Memory of one index writer, at least 15MB
    #[arg(long, env = "TRAWL_WRITER_BYTES", default_value = "20MB", value_parser = size, value_name = "SIZE")]
    pub writer_bytes: usize,
}

impl LimitArgs {
    /// Puts the limits where they belong.
    pub fn apply(&self, config: &mut Config) {
        config.pending_max = self.pending_documents;
        config.pending_bytes_max = self.pending_bytes as u64;
        config.pending_source_bytes_max = self.pending_source_bytes;
        config.outcomes_max = self.outcomes;
        config.outcomes_time = self.outcomes_time;
        config.outcomes_bytes_max = self.outcomes_bytes as u64;
        config.writers_max = self.writers.max(1);
        config.writer_bytes = self.writer_bytes;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_flags_have_the_defaults_of_the_code() {
        let args = ["trawl", "leaf", "--cluster", "x", "--grpc", "127.0.0.1:0", "--data-dir", "x"];
        let Command::Leaf(args) = Cli::parse_from(args).command else { panic!() };
        let mut config = Config::new("leaf-0", "x");
        let before = format!("{config:?}");
        args.limits.apply(&mut config);
        assert_eq!(format!("{config:?}"), before);
    }

    /// The table in the README has each flag with its default.
    #[test]
    fn the_readme_lists_the_limits() {
        let readme = include_str!("../../README.md");
        let leaf = Cli::command().find_subcommand("leaf").unwrap().clone();
        let limits = leaf.get_arguments().filter(|argument| argument.get_help_heading() == Some("Limits"));
        for limit in limits {
            let flag = format!("| `--{}` |", limit.get_long().unwrap());
            let row = readme.lines().find(|line| line.starts_with(&flag)).unwrap_or_else(|| panic!("no row {flag}"));
            let shown = row.split('|').nth(2).unwrap().replace([',', ' '], "");
            assert_eq!(shown, limit.get_default_values()[0].to_str().unwrap(), "{flag}");
        }
    }
}
