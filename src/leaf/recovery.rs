//! How replicas are copied and checked, as flags; what each one means stands in `trawl_leaf::config` and
//! `trawl_leaf::copy`.

use std::time::Duration;

use trawl_leaf::Config;

use crate::load::size;

/// Recovery of replicas on a leaf.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Recovery")]
pub struct RecoveryArgs {
    /// Bytes per second that all copies taken from this leaf get together, and that are read of a replica's files
    /// before it serves while another does; 0 for as fast as it goes
    #[arg(long, env = "TRAWL_RECOVERY_RATE", default_value = "200MB", value_parser = rate, value_name = "SIZE")]
    pub recovery_rate: u64,

    /// Copies that other leaves may take from this one at a time
    #[arg(long, env = "TRAWL_RECOVERY_COPIES", default_value = "4", value_name = "N")]
    pub recovery_copies: usize,

    /// Each file is checked against its checksum once in this time; one that was not is before its replica serves
    #[arg(long, env = "TRAWL_CHECK_INTERVAL", default_value = "24h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub check_interval: Duration,

    /// Bytes per second that such checks read while the leaf serves; 0 turns them off
    #[arg(long, env = "TRAWL_CHECK_RATE", default_value = "100MB", value_parser = rate, value_name = "SIZE")]
    pub check_rate: u64,

    /// How long a replica that no other leaf serves waits for its files to be checked before it serves
    #[arg(long, env = "TRAWL_CHECK_WAIT", default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub check_wait: Duration,
}

impl RecoveryArgs {
    /// Puts the settings where they belong.
    pub fn apply(&self, config: &mut Config) {
        config.copy.bytes_per_second = self.recovery_rate;
        config.copy.copies_max = self.recovery_copies.max(1);
        config.check.interval = self.check_interval;
        config.check.bytes_per_second = self.check_rate;
        config.check.wait = self.check_wait;
    }
}

fn rate(text: &str) -> Result<u64, String> {
    match text.trim() {
        "0" => Ok(0),
        text => size(text).map(|bytes| bytes as u64),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_flags_have_the_defaults_of_the_code() {
        let args = ["trawl", "leaf", "--cluster", "x", "--grpc", "127.0.0.1:0", "--data-dir", "x"];
        let Command::Leaf(args) = Cli::parse_from(args).command else { panic!() };
        let mut config = Config::new("leaf-0", "x");
        let before = format!("{config:?}");
        args.recovery.apply(&mut config);
        assert_eq!(format!("{config:?}"), before);
        assert_eq!((rate("0"), rate("40MiB")), (Ok(0), Ok(40 << 20)));
    }
}
