//! Which roots there are, kept current.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio_util::sync::CancellationToken;
use trawl_cluster::{EngineOptions, LEASE_TIME, View, Viewer};

use crate::config::{Config, Source};
use crate::error::StartError;
use crate::roots::Roots;

/// How long looking up a name may take.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// Where a root is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    /// `http://host:port` or `https://host:port`.
    pub(crate) base: String,
    /// The address to connect to, where it is one of several of the host's name.
    pub(crate) at: Option<SocketAddr>,
}

impl Address {
    /// # Errors
    /// It is no URL of a host.
    pub(crate) fn parse(text: &str, tls: bool) -> Result<Self, StartError> {
        let scheme = if tls { "https" } else { "http" };
        let given = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
        let wrong = |reason: &str| StartError::Address(format!("{text:?} is no address of a root: {reason}"));
        let url = Url::parse(&given).map_err(|error| wrong(&error.to_string()))?;
        match url.scheme() {
            "http" | "https" if url.host().is_some() => {}
            _ => return Err(wrong("neither http:// nor https://")),
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong("it has a path"));
        }
        Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), at: None })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.base.starts_with("https:")
    }

    /// The host without the port.
    pub(crate) fn host(&self) -> Option<&str> {
        let authority = self.base.split_once("://")?.1;
        Some(authority.rsplit_once(':').map_or(authority, |(host, _)| host))
    }

    /// For a person.
    pub(crate) fn shown(&self) -> String {
        match self.at {
            Some(at) => format!("{} at {at}", self.base),
            None => self.base.clone(),
        }
    }
}

/// Begins to follow the source; the set is known at once where it is a list.
///
/// # Errors
/// The source cannot be used at all.
pub(crate) async fn begin(config: &Config, roots: Arc<Roots>, stop: CancellationToken) -> Result<(), StartError> {
    match &config.source {
        Source::List(urls) => {
            let found = urls.iter().map(|url| Address::parse(url, config.tls)).collect::<Result<BTreeSet<_>, _>>()?;
            if found.is_empty() {
                return Err(StartError::Address("the list of roots is empty".to_owned()));
            }
            roots.set(&found);
        }
        Source::Dns(name) => {
            let base = Address::parse(name, config.tls)?;
            if name.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                return Err(StartError::Address(format!("{name:?} has to be HOST:PORT")));
            }
            let (name, interval) = (name.clone(), config.dns_interval);
            tokio::spawn(async move { stop.run_until_cancelled(follow_dns(name, base, interval, roots)).await });
        }
        Source::Cluster(url) => {
            let engine = trawl_cluster::connect(url, &EngineOptions::default()).await;
            let failed = |source| StartError::Cluster { url: trawl_cluster::redacted(url), source };
            let viewer = Viewer::start(engine.map_err(failed)?.store, LEASE_TIME, stop.clone());
            let tls = config.tls;
            tokio::spawn(async move { stop.run_until_cancelled(follow_view(viewer, tls, roots)).await });
        }
    }
    Ok(())
}

async fn follow_view(viewer: Viewer, tls: bool, roots: Arc<Roots>) {
    let mut views = viewer.subscribe();
    loop {
        let found = in_view(&views.borrow_and_update(), tls);
        believe(found, &roots);
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// The roots that live and take part.
fn in_view(view: &View, tls: bool) -> BTreeSet<Address> {
    let nodes = view.roots().filter(|node| node.alive && view.takes_part(&node.record));
    nodes.filter_map(|node| Address::parse(node.record.http.as_deref()?, tls).ok()).collect()
}

async fn follow_dns(name: String, base: Address, interval: Duration, roots: Arc<Roots>) {
    loop {
        match tokio::time::timeout(LOOKUP_TIME, tokio::net::lookup_host(&name)).await {
            Ok(Ok(found)) => {
                believe(found.map(|at| Address { at: Some(at), ..base.clone() }).collect(), &roots);
            }
            Ok(Err(error)) => tracing::warn!(name, %error, "cannot look up the roots"),
            Err(_) => tracing::warn!(name, "looking up the roots takes too long"),
        }
        tokio::time::sleep(interval).await;
    }
}

/// That there is no root at all is never believed: asking those of before costs little, and where the source is wrong
/// everything.
fn believe(found: BTreeSet<Address>, roots: &Roots) {
    if !found.is_empty() {
        roots.set(&found);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        for (text, tls, base) in [
            ("127.0.0.1:9200", false, "http://127.0.0.1:9200"),
            ("root.example:9200", true, "https://root.example:9200"),
            ("https://root.example:9243/", false, "https://root.example:9243"),
            ("[::1]:9200", false, "http://[::1]:9200"),
        ] {
            assert_eq!(Address::parse(text, tls).unwrap().base, base);
        }
        for text in ["", "ftp://a:1", "http://a:1/path", "http://a:1?x", "a:99999", "unix:/run/x"] {
            assert!(Address::parse(text, false).is_err(), "{text}");
        }
        assert_eq!(Address::parse("https://a.example:1", false).unwrap().host(), Some("a.example"));
    }
}
