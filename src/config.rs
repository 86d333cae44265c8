//! Settings: command line over environment over TOML file.
//!
//! The file has a table per subcommand and a key per flag. It is read first, and its values become
//! the defaults of the flags, so clap itself gives the order of precedence and the type checks.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgMatches, CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};

use crate::cli::{Cli, Command};

/// Parses the arguments, with the settings file if one is named.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = Cli::command();
    if let Some(path) = settings_path(&arguments) {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| usage(&mut command, format!("cannot read {}: {error}", path.display())))?;
        let table = text
            .parse::<toml::Table>()
            .map_err(|error| usage(&mut command, format!("{} is not TOML: {error}", path.display())))?;
        command = with_defaults(command, &table)
            .map_err(|reason| usage(&mut Cli::command(), format!("{}: {reason}", path.display())))?;
    }
    let matches = command.clone().try_get_matches_from(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    choose_way(&mut cli, &matches).map_err(|(kind, reason)| command.error(kind, reason))?;
    Ok(cli)
}

/// `--cluster` and `--endpoint` are two ways to the same roots. Of one on the command line and one in the environment or
/// the file, which hold for many commands, the nearer one is meant; `--cluster` where they are equally near. A worker has
/// no default for either.
fn choose_way(cli: &mut Cli, matches: &ArgMatches) -> Result<(), (ErrorKind, &'static str)> {
    let cluster = match &mut cli.command {
        Command::Load(args) => &mut args.cluster,
        Command::Worker(args) if args.cluster.is_none() && args.endpoint.is_none() => {
            let reason = "one of these arguments has to be given: --cluster <URL>, --endpoint <URL>";
            return Err((ErrorKind::MissingRequiredArgument, reason));
        }
        Command::Worker(args) => &mut args.cluster,
        _ => return Ok(()),
    };
    let Some((_, given)) = matches.subcommand() else { return Ok(()) };
    match (given.value_source("cluster"), given.value_source("endpoint")) {
        (Some(ValueSource::CommandLine), Some(ValueSource::CommandLine)) => {
            let reason = "--cluster and --endpoint cannot be used together: either names the roots to send to";
            Err((ErrorKind::ArgumentConflict, reason))
        }
        (of_cluster, of_endpoint) => {
            if of_endpoint > of_cluster {
                *cluster = None;
            }
            Ok(())
        }
    }
}

/// The file named by `--config` or by the environment, found before the real parse.
fn settings_path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("TRAWL_CONFIG").map(PathBuf::from)
}

/// Makes the file's values the defaults of their flags. Unknown tables and keys are errors.
fn with_defaults(mut command: clap::Command, settings: &toml::Table) -> Result<clap::Command, String> {
    for (section, keys) in settings {
        let known = command.find_subcommand(section).ok_or_else(|| format!("there is no table [{section}]"))?;
        let keys = keys.as_table().ok_or_else(|| format!("{section} has to be a table: [{section}]"))?;
        let mut defaults = Vec::new();
        for (key, value) in keys {
            let argument = known
                .get_arguments()
                .find(|argument| argument.get_long() == Some(key.as_str()))
                .ok_or_else(|| format!("there is no setting {key:?} in [{section}]"))?;
            defaults.push((
                argument.get_id().clone(),
                text_of(value).ok_or_else(|| format!("{section}.{key} has to be one value"))?,
            ));
        }
        command = command.mut_subcommand(section, |mut subcommand| {
            for (id, value) in defaults {
                subcommand = subcommand.mut_arg(id, |argument| argument.default_value(value).required(false));
            }
            subcommand
        });
    }
    Ok(command)
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn usage(command: &mut clap::Command, message: String) -> clap::Error {
    command.error(ErrorKind::InvalidValue, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_file_gives_defaults_and_the_command_line_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[up]\nleaves = 7\nroots = 3\n").unwrap();
        let arguments = |more: &[&str]| -> Vec<OsString> {
            let base = ["trawl", "--config", file.path().to_str().unwrap(), "up"];
            base.iter().chain(more).map(OsString::from).collect()
        };
        let parsed = |more: &[&str]| match parse(arguments(more)).unwrap().command {
            crate::cli::Command::Up(args) => (args.leaves, args.roots),
            other => panic!("{other:?}"),
        };
        assert_eq!(parsed(&[]), (7, 3));
        assert_eq!(parsed(&["--leaves", "2"]), (2, 3));
    }

    #[test]
    fn the_nearer_way_to_the_roots_is_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[worker]\ncluster = \"sqlite:a\"\n[load]\ncluster = \"sqlite:a\"\n").unwrap();
        let clusters = |more: &[&str]| {
            let base = ["trawl", "--config", file.path().to_str().unwrap()];
            match parse(base.iter().chain(more).map(OsString::from)).map(|cli| cli.command) {
                Ok(Command::Worker(args)) => Ok(args.cluster),
                Ok(Command::Load(args)) => Ok(args.cluster),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error.to_string()),
            }
        };
        assert_eq!(clusters(&["worker"]), Ok(Some("sqlite:a".to_owned())));
        assert_eq!(clusters(&["worker", "--endpoint", "http://b"]), Ok(None));
        assert_eq!(clusters(&["load", "--index", "x", "y"]), Ok(Some("sqlite:a".to_owned())));
        assert_eq!(clusters(&["load", "--index", "x", "--endpoint", "http://b", "y"]), Ok(None));
        let both = clusters(&["worker", "--endpoint", "http://b", "--cluster", "sqlite:c"]);
        assert!(both.unwrap_err().contains("cannot be used together"));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let table = "[up]\nleafs = 7".parse::<toml::Table>().unwrap();
        assert!(with_defaults(Cli::command(), &table).unwrap_err().contains("leafs"));
        let table = "[upp]\nleaves = 7".parse::<toml::Table>().unwrap();
        assert!(with_defaults(Cli::command(), &table).unwrap_err().contains("upp"));
    }
}
