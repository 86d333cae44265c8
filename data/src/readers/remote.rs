//! Objects behind `s3://`, `http://` and `https://`, read as if they were files.
//!
//! Where the server can give ranges, the object comes in ranges of a few MiB, the next one fetched while the last is read,
//! each tried again by the client when the network fails; where it cannot, as one stream. Every answer is checked to be of
//! the version that was asked for.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, RetryConfig};
use reqwest::Url;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::piece::{Identity, changed};

/// The first range, enough to find out what the object holds.
const FIRST_BYTES: u64 = 256 * 1024;
/// Every later range.
const RANGE_BYTES: u64 = 4 * 1024 * 1024;
/// How long one request is tried again.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// How long a server may be silent in the middle of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Where a virtual machine's own credentials are asked for.
const METADATA_ADDRESS: &str = "169.254.169.254";
/// Objects that one prefix may stand for.
const OBJECTS_MAX: usize = 1_000_000;

/// Why an object cannot be read. Travels inside an `io::Error` through decoders.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Changed(String),
    #[error("{0}")]
    CannotRead(String),
}

/// Whether an argument of the command line means an object elsewhere.
pub(super) fn is_url(argument: &str) -> bool {
    argument.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    })
}

/// One object.
#[derive(Clone)]
pub(super) struct Remote {
    url: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
}

/// What is known of an object before it is read.
pub(super) struct Probe {
    pub(super) identity: Identity,
    /// Whether the server can give parts of it.
    pub(super) ranges: bool,
}

impl Remote {
    /// The object of a URL. Does not ask whether it is there.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let (store, path) = match url.scheme() {
            "s3" | "s3a" => {
                let path = Path::from_url_path(url.path()).map_err(|error| error.to_string())?;
                (bucket(&url)?, path)
            }
            // The whole URL is the base, so that a query in it, as signed URLs have one, stays.
            "http" | "https" => (http(text)?, Path::default()),
            scheme => {
                return Err(format!("{scheme}:// is not supported, only s3://, http:// and https:// are"));
            }
        };
        Ok(Self { url: text.to_owned(), store, path })
    }

    /// Asks what it is.
    pub(super) async fn probe(&self) -> Result<Probe, String> {
        let range = GetOptions { range: Some(GetRange::Bounded(0..FIRST_BYTES)), ..GetOptions::default() };
        if let Ok(result) = self.store.get_opts(&self.path, range).await {
            return Ok(Probe { identity: identity(&result), ranges: true });
        }
        let result = self.store.get(&self.path).await.map_err(|error| self.reason(&error))?;
        Ok(Probe { identity: identity(&result), ranges: false })
    }

    /// Its bytes in a range, to be read on a thread outside of the runtime. With an identity every answer has to be of it.
    pub(super) fn reader(self, runtime: Handle, range: ops::Range<u64>, expected: Option<Identity>) -> Reader {
        let next_bytes = FIRST_BYTES;
        let state = State::Ranges { ahead: None, first: true, next_bytes };
        let from = range.start;
        Reader { remote: self, runtime, from, range, expected, current: Bytes::new(), state }
    }

    /// Without the URL, which stands before it.
    fn reason(&self, error: &object_store::Error) -> String {
        if let object_store::Error::NotFound { .. } = error {
            return "not found".to_owned();
        }
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !reason.contains(&cause_text) {
                reason = format!("{reason}: {cause_text}");
            }
            source = cause.source();
        }
        // What follows the `?` of a signed URL is a secret.
        reason = reason.replace(&self.url, &shown(&self.url));
        // Asking the machine's own address for credentials is what the client does when it was given none.
        if reason.contains(METADATA_ADDRESS) {
            reason.push_str(" (no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)");
        }
        reason
    }

    async fn get(&self, range: Option<ops::Range<u64>>, expected: Option<&Identity>) -> Result<GetResult, Error> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            if_match: expected.and_then(|expected| expected.etag.clone()),
            ..GetOptions::default()
        };
        let result = match self.store.get_opts(&self.path, options).await {
            Ok(result) => result,
            Err(object_store::Error::Precondition { .. }) => return Err(Error::Changed(changed(&shown(&self.url)))),
            Err(error) => return Err(Error::CannotRead(self.reason(&error))),
        };
        match expected {
            Some(expected) if *expected != identity(&result) => Err(Error::Changed(changed(&shown(&self.url)))),
            _ => Ok(result),
        }
    }

    async fn range(self, range: ops::Range<u64>, expected: Option<Identity>) -> Result<Bytes, Error> {
        let result = self.get(Some(range), expected.as_ref()).await?;
        result.bytes().await.map_err(|error| Error::CannotRead(self.reason(&error)))
    }
}

/// A URL as it may be shown: what follows the `?` can be a secret.
fn shown(url: &str) -> String {
    url.split_once('?').map_or(url, |(path, _)| path).to_owned()
}

/// The name of an object for messages and ids.
pub(super) fn name(url: &str) -> String {
    shown(url)
}

/// The objects that a URL stands for: itself, or everything under an `s3://` prefix that ends with `/`.
pub(super) async fn objects(url: &str) -> Result<Vec<String>, String> {
    if !url.starts_with("s3") || !(url.ends_with('/') || Url::parse(url).is_ok_and(|url| url.path().is_empty())) {
        return Ok(vec![url.to_owned()]);
    }
    let remote = Remote::new(url)?;
    let parsed = Url::parse(url).map_err(|error| error.to_string())?;
    let address = |location: &Path| {
        let mut address = parsed.clone();
        if let Ok(mut segments) = address.path_segments_mut() {
            segments.clear().extend(location.as_ref().split('/'));
        }
        address.to_string()
    };
    let mut listed = remote.store.list(Some(&remote.path));
    let mut found = Vec::new();
    while let Some(object) = listed.next().await {
        let object = object.map_err(|error| remote.reason(&error))?;
        if object.size > 0 && !object.location.as_ref().ends_with('/') {
            found.push(address(&object.location));
        }
        if found.len() > OBJECTS_MAX {
            return Err(format!("more than {OBJECTS_MAX} objects"));
        }
    }
    if found.is_empty() {
        return Err("nothing is there".to_owned());
    }
    found.sort();
    Ok(found)
}

fn identity(result: &GetResult) -> Identity {
    let modified = result.meta.last_modified.timestamp_nanos_opt().and_then(|time| u64::try_from(time).ok());
    // A server that tells no time of change counts as of the beginning of time.
    let modified_ns = modified.filter(|time| *time > 0);
    Identity { size: result.meta.size, modified_ns, etag: result.meta.e_tag.clone() }
}

/// The store of a bucket, with credentials and endpoint from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, …).
/// Kept, for credentials that are fetched over the network are worth keeping.
fn bucket(url: &Url) -> Result<Arc<dyn ObjectStore>, String> {
    static STORES: LazyLock<Mutex<HashMap<String, Arc<dyn ObjectStore>>>> = LazyLock::new(Mutex::default);
    let name = url.host_str().ok_or("no bucket: s3://BUCKET/KEY")?;
    let mut stores = STORES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(store) = stores.get(name) {
        return Ok(store.clone());
    }
    let allow_http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| matches!(value.as_str(), "true" | "1"));
    let builder = AmazonS3Builder::from_env()
        .with_bucket_name(name)
        .with_client_options(client_options().with_allow_http(allow_http))
        .with_retry(retry());
    let store: Arc<dyn ObjectStore> = Arc::new(builder.build().map_err(|error| error.to_string())?);
    stores.insert(name.to_owned(), store.clone());
    Ok(store)
}

fn http(url: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let builder = HttpBuilder::new()
        .with_url(url)
        .with_client_options(client_options().with_allow_http(true))
        .with_retry(retry());
    Ok(Arc::new(builder.build().map_err(|error| error.to_string())?))
}

fn client_options() -> ClientOptions {
    // The client wants a provider of cryptography; a second installation changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE_MAX)
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}

/// Reads an object. Blocks, so not for the runtime's own threads.
pub(super) struct Reader {
    remote: Remote,
    runtime: Handle,
    from: u64,
    /// What is still to be fetched.
    range: ops::Range<u64>,
    expected: Option<Identity>,
    current: Bytes,
    state: State,
}

enum State {
    Ranges {
        ahead: Option<JoinHandle<Result<Bytes, Error>>>,
        first: bool,
        next_bytes: u64,
    },
    /// The whole object, of which so many bytes are to be left out.
    Stream {
        stream: BoxStream<'static, object_store::Result<Bytes>>,
        skip: u64,
    },
}

impl Reader {
    /// The next bytes; empty at the end.
    fn fetch(&mut self) -> Result<Bytes, Error> {
        match &mut self.state {
            State::Ranges { ahead, first, next_bytes } => {
                let was_first = std::mem::replace(first, false);
                let fetched = match ahead.take() {
                    Some(ahead) => {
                        self.runtime.block_on(ahead).unwrap_or_else(|error| Err(Error::CannotRead(error.to_string())))
                    }
                    None if self.range.is_empty() => return Ok(Bytes::new()),
                    None => {
                        let part = Self::take(&mut self.range, *next_bytes);
                        let fetched = self.remote.clone().range(part, self.expected.clone());
                        self.runtime.block_on(fetched)
                    }
                };
                *next_bytes = RANGE_BYTES;
                match fetched {
                    Ok(bytes) => {
                        if !was_first && !self.range.is_empty() {
                            let part = Self::take(&mut self.range, RANGE_BYTES);
                            let fetching = self.remote.clone().range(part, self.expected.clone());
                            *ahead = Some(self.runtime.spawn(fetching));
                        }
                        Ok(bytes)
                    }
                    // A server that cannot give ranges is asked for everything, once.
                    Err(Error::CannotRead(_)) if was_first => self.stream(),
                    Err(error) => Err(error),
                }
            }
            State::Stream { stream, skip } => loop {
                let mut bytes = match self.runtime.block_on(stream.next()) {
                    None => return Ok(Bytes::new()),
                    Some(Ok(bytes)) => bytes,
                    Some(Err(error)) => return Err(Error::CannotRead(self.remote.reason(&error))),
                };
                let skipped = (*skip).min(bytes.len() as u64);
                *skip -= skipped;
                let rest = bytes.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
                if !rest.is_empty() {
                    return Ok(rest);
                }
            },
        }
    }

    fn stream(&mut self) -> Result<Bytes, Error> {
        let result = self.runtime.block_on(self.remote.get(None, self.expected.as_ref()))?;
        self.state = State::Stream { stream: result.into_stream(), skip: self.from };
        self.fetch()
    }

    fn take(range: &mut ops::Range<u64>, bytes: u64) -> ops::Range<u64> {
        let part = range.start..range.end.min(range.start + bytes);
        range.start = part.end;
        part
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            self.current = self.fetch().map_err(io::Error::other)?;
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let State::Ranges { ahead: Some(ahead), .. } = &self.state {
            ahead.abort();
        }
    }
}
