//! The cluster URL of PostgreSQL:
//! `postgres://user:password@host:port,host2:port2/database?sslmode=…&schema=…`.
//!
//! As libpq reads it, with parameters of our own. What it does not know is an error that names it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::Error;
use crate::engines::bad_url;
use crate::engines::failure::unavailable;

/// The port of a host that names none.
const PORT: u16 = 5432;
/// Hosts at most; they are tried in turn.
const HOSTS_MAX: usize = 16;
/// Connections of one process for everything but appends and notifications, unless the URL says.
const POOL_SIZE: usize = 8;
/// How long a try of one host may take, unless the URL says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Length of a schema's name at most: names of channels and tables are made of it.
const SCHEMA_BYTES_MAX: usize = 48;

/// A server, by name or address and port, or by the directory of its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// Where the password comes from. Files are read at every connect, since passwords are changed.
#[derive(Clone, PartialEq, Eq)]
enum Secret {
    /// `PGPASSWORD`, or none.
    Environment,
    Given(String),
    /// A file that holds nothing else.
    File(PathBuf),
    /// A file of lines `host:port:database:user:password`, as `~/.pgpass`.
    PassFile(PathBuf),
}

/// What the URL says.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) hosts: Vec<Host>,
    user: Option<String>,
    secret: Secret,
    database: String,
    ssl_mode: PgSslMode,
    ssl_root_cert: Option<PathBuf>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    application_name: String,
    pub(super) schema: String,
    pub(super) pool_size: usize,
    pub(super) connect_timeout: Duration,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`Error::BadUrl`] naming the part that is wrong.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let bad = |reason: String| bad_url(url, &reason);
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| bad("it should begin with postgres://".to_owned()))?;
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        let decoded = |what: &str, text: &str| decode(text).ok_or_else(|| bad(format!("{what} has a bad % escape")));
        let mut target = Self {
            hosts: parse_hosts(hosts).map_err(bad)?,
            user: None,
            secret: Secret::Environment,
            database: decoded("the database", database)?,
            ssl_mode: PgSslMode::Prefer,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
            application_name: "trawl".to_owned(),
            schema: "trawl".to_owned(),
            pool_size: POOL_SIZE,
            connect_timeout: CONNECT_TIMEOUT,
        };
        if let Some(login) = login {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
            target.user = Some(decoded("the user", user)?).filter(|user| !user.is_empty());
            if let Some(password) = password {
                target.secret = Secret::Given(decoded("the password", password)?);
            }
        }
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or_else(|| bad(format!("{parameter} has no value")))?;
            target.set(name, decoded(name, value)?).map_err(bad)?;
        }
        target.check().map_err(bad)?;
        Ok(target)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "sslmode" => {
                self.ssl_mode = match &*value {
                    "disable" => PgSslMode::Disable,
                    "prefer" => PgSslMode::Prefer,
                    "require" => PgSslMode::Require,
                    "verify-ca" => PgSslMode::VerifyCa,
                    "verify-full" => PgSslMode::VerifyFull,
                    _ => {
                        return Err(format!(
                            "sslmode {value} is not one of disable, prefer, require, verify-ca, verify-full"
                        ));
                    }
                }
            }
            "sslrootcert" => self.ssl_root_cert = Some(value.into()),
            "sslcert" => self.ssl_cert = Some(value.into()),
            "sslkey" => self.ssl_key = Some(value.into()),
            "target_session_attrs" => {
                if !matches!(&*value, "read-write" | "primary") {
                    return Err(format!(
                        "target_session_attrs {value} will not do: the cluster's state can only be kept on a server \
                         that takes writes (read-write)"
                    ));
                }
            }
            "schema" => self.schema = value,
            "pool_size" => {
                self.pool_size = match value.parse() {
                    Ok(size @ 1..=1_000) => size,
                    _ => return Err(format!("pool_size {value} is not a number from 1 to 1000")),
                }
            }
            "connect_timeout" => {
                self.connect_timeout = match value.parse() {
                    Ok(seconds @ 1..=60) => Duration::from_secs(seconds),
                    _ => return Err(format!("connect_timeout {value} is not a number of seconds from 1 to 60")),
                }
            }
            "application_name" => self.application_name = value,
            "password_file" => self.secret = Secret::File(value.into()),
            "passfile" => self.secret = Secret::PassFile(value.into()),
            "host" => {
                let port = self.hosts.first().map_or(PORT, |host| host.port);
                self.hosts = vec![Host { name: value, port }];
            }
            _ => return Err(format!("{name} is not a parameter that is known")),
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        if self.hosts.iter().any(|host| host.name.is_empty()) {
            return Err("a host is missing, as in postgres://user@host:5432/database".to_owned());
        }
        if self.database.is_empty() {
            return Err("the database is missing, as in postgres://user@host:5432/database".to_owned());
        }
        let mut letters = self.schema.chars();
        let starts = letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_');
        let goes_on = letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
        if !(starts && goes_on) || self.schema.len() > SCHEMA_BYTES_MAX || self.schema.starts_with("pg_") {
            return Err(format!(
                "schema {} is not a name of at most {SCHEMA_BYTES_MAX} small letters, digits and _ (and not pg_…)",
                self.schema
            ));
        }
        // As libpq: with a root certificate at hand, `require` verifies against it.
        if matches!(self.ssl_mode, PgSslMode::Require) && self.ssl_root_cert.is_some() {
            self.ssl_mode = PgSslMode::VerifyCa;
        }
        Ok(())
    }

    /// Options to connect to one of the hosts, with the password as it is now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a file cannot be read.
    pub(super) fn options(&self, host: &Host) -> Result<PgConnectOptions, Error> {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(host.port)
            .database(&self.database)
            .application_name(&self.application_name)
            .ssl_mode(self.ssl_mode)
            .extra_float_digits(None)
            .statement_cache_capacity(64)
            .disable_statement_logging();
        options = if host.name.starts_with('/') { options.socket(&host.name) } else { options.host(&host.name) };
        if let Some(user) = &self.user {
            options = options.username(user);
        }
        if let Some(path) = &self.ssl_root_cert {
            options = options.ssl_root_cert(path);
        }
        if let Some(path) = &self.ssl_cert {
            options = options.ssl_client_cert(path);
        }
        if let Some(path) = &self.ssl_key {
            options = options.ssl_client_key(path);
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| unavailable(format!("cannot read the password in {}", path.display()), error))
        };
        let password = match &self.secret {
            Secret::Environment => None,
            Secret::Given(password) => Some(password.clone()),
            Secret::File(path) => Some(read(path)?.trim_end_matches(['\n', '\r']).to_owned()),
            Secret::PassFile(path) => find_password(&read(path)?, host, &self.database, options.get_username()),
        };
        Ok(match password {
            Some(password) => options.password(&password),
            None => options,
        })
    }

    /// The hosts, for messages.
    pub(super) fn name(&self) -> String {
        self.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",")
    }
}

fn parse_hosts(text: &str) -> Result<Vec<Host>, String> {
    let hosts = text.split(',').map(|host| {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (name, port) = rest.split_once(']').ok_or_else(|| format!("host {host} has no closing ]"))?;
                (name, port.strip_prefix(':').unwrap_or(port))
            }
            None => host.rsplit_once(':').unwrap_or((host, "")),
        };
        let port = match port {
            "" => PORT,
            port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("port {port} is not one"))?,
        };
        let name = decode(name).ok_or_else(|| format!("host {name} has a bad % escape"))?;
        Ok(Host { name, port })
    });
    let hosts: Vec<Host> = hosts.collect::<Result<_, String>>()?;
    if hosts.len() > HOSTS_MAX {
        return Err(format!("{} hosts are more than {HOSTS_MAX}", hosts.len()));
    }
    Ok(hosts)
}

/// The password of the first line that fits.
fn find_password(file: &str, host: &Host, database: &str, user: &str) -> Option<String> {
    let wanted = [host.name.clone(), host.port.to_string(), database.to_owned(), user.to_owned()];
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = pass_fields(line);
        let [patterns @ .., password] = &fields[..] else { return None };
        let fits =
            patterns.len() == 4 && patterns.iter().zip(&wanted).all(|(pattern, it)| pattern == "*" || pattern == it);
        fits.then(|| password.clone())
    })
}

/// The fields of a line, in which `\:` and `\\` stand for themselves.
fn pass_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let literal = match letter {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => letters.next().unwrap_or('\\'),
            letter => letter,
        };
        if let Some(field) = fields.last_mut() {
            field.push(literal);
        }
    }
    fields
}

/// Undoes `%` escapes; `None` when one is broken.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engines::redacted;

    #[test]
    fn a_whole_url_is_understood() {
        let target = Target::parse(
            "postgresql://me%40home:p%3Aw@one:1,[::1]:2,three/data?sslmode=verify-full&sslrootcert=/ca.pem\
             &target_session_attrs=read-write&schema=other&pool_size=3&connect_timeout=7",
        )
        .unwrap();
        assert_eq!(target.name(), "one:1,[::1]:2,three:5432");
        assert_eq!((target.user.as_deref(), &*target.database), (Some("me@home"), "data"));
        assert!(target.secret == Secret::Given("p:w".to_owned()));
        assert!(matches!(target.ssl_mode, PgSslMode::VerifyFull));
        assert_eq!((&*target.schema, target.pool_size, target.connect_timeout.as_secs()), ("other", 3, 7));
        let local = Target::parse("postgres://me@:77/data?host=/run/postgresql").unwrap();
        assert_eq!(local.hosts, [Host { name: "/run/postgresql".to_owned(), port: 77 }]);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (url, named) in [
            ("postgres://", "host"),
            ("postgres://u:secret@h", "database"),
            ("postgres://u:secret@/data", "host"),
            ("postgres://u:secret@h:x/data", "port x"),
            ("postgres://u:secret@h:0/data", "port 0"),
            ("postgres://u:secret%zz@h/data", "password"),
            ("postgres://u:secret@[::1/data", "[::1"),
            ("postgres://u:secret@h/data?sslmode=allow", "sslmode"),
            ("postgres://u:secret@h/data?sslmod=x", "sslmod"),
            ("postgres://u:secret@h/data?schema", "schema"),
            ("postgres://u:secret@h/data?schema=pg_x", "schema"),
            ("postgres://u:secret@h/data?schema=a;b", "schema"),
            ("postgres://u:secret@h/data?schema=A", "schema"),
            ("postgres://u:secret@h/data?pool_size=0", "pool_size"),
            ("postgres://u:secret@h/data?connect_timeout=x", "connect_timeout"),
            ("postgres://u:secret@h/data?target_session_attrs=any", "target_session_attrs"),
            ("postgres://u:secret@a,b,,c/data", "host"),
        ] {
            let error = Target::parse(url).err().unwrap();
            let Error::BadUrl { url: told, reason } = &error else { panic!("{url}: {error}") };
            assert!(reason.contains(named), "{url}: {reason}");
            assert!(!format!("{told} {error} {error:?}").contains("secret"), "{error:?}");
        }
        assert_eq!(redacted("postgres://u:a@b:c@h/d?x=1"), "postgres://u:***@h/d?x=1");
        assert_eq!(redacted("postgres://u@h/d?password=secret&x=1"), "postgres://u@h/d?password=***&x=1");
        assert_eq!(redacted("sqlite:some/where"), "sqlite:some/where");
    }

    #[test]
    fn passwords_are_found_in_files() {
        let file = "# all\none:5432:data:me:first\n*:*:data:m\\:e:sec:ond\\\\\n";
        let host = Host { name: "one".to_owned(), port: 5432 };
        assert_eq!(find_password(file, &host, "data", "me").as_deref(), Some("first"));
        assert_eq!(find_password(file, &host, "data", "m:e").as_deref(), Some("sec:ond\\"));
        assert_eq!(find_password(file, &host, "other", "me"), None);
    }
}
