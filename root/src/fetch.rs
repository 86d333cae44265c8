//! The fetch phase: the winners' documents, from the replica that scored them.
//!
//! That replica still has the searcher pinned. When it is gone or has forgotten, the documents are
//! found by `_id` on another replica; one that has vanished in between is left out.

use std::time::Duration;

use trawl_proto::{NodeName, v1};

use crate::gather::Ranked;
use crate::hedging::Phase;
use crate::plan::Target;
use crate::request::FoundHit;
use crate::scatter::{Scatter, Scattered, by_position};

/// Winners of one shard.
pub struct Winners<'a> {
    /// The shard, with replicas to ask: the one that scored first.
    pub target: Target,
    /// Who scored.
    pub leaf: NodeName,
    /// On which searcher.
    pub searcher: u64,
    /// For highlighting; `None` when not wanted.
    pub query: Option<&'a v1::Query>,
    /// Their places in the ranked list.
    pub places: Vec<usize>,
}

/// Fetches all winners; documents stand at their places in the ranked list, `None` when there is none.
pub async fn documents(
    scatter: &Scatter<'_>,
    winners: &[Winners<'_>],
    ranked: &[Ranked],
    options: &v1::FetchOptions,
) -> (Vec<Option<v1::Document>>, Scattered<v1::ShardFetchResult>) {
    let targets: Vec<Target> = winners.iter().map(|winners| winners.target.clone()).collect();
    let targets = &targets;
    let mut scattered = scatter
        .run(Phase::Fetch, targets, &|leaf, asked, timeout: Duration| {
            let shards = asked.iter().map(|at| shard_fetch(&winners[*at], ranked, leaf.name())).collect();
            let request = v1::FetchRequest { shards, options: Some(options.clone()) };
            Box::pin(async move {
                let response = leaf.fetch(request, timeout).await?;
                Ok(by_position(targets, &asked, response.shards))
            })
        })
        .await;
    let mut documents: Vec<Option<v1::Document>> = ranked.iter().map(|_| None).collect();
    for (at, winners) in winners.iter().enumerate() {
        let Ok(answer) = &mut scattered.shards[at] else { continue };
        let found = std::mem::take(&mut answer.value.documents);
        for (place, document) in winners.places.iter().zip(found) {
            // An empty id says that the document is gone; any other than asked for would be a mix-up.
            documents[*place] = Some(document).filter(|document| document.id == ranked[*place].hit.id);
        }
    }
    (documents, scattered)
}

fn shard_fetch(winners: &Winners<'_>, ranked: &[Ranked], asked: &NodeName) -> v1::ShardFetch {
    let hits = winners.places.iter().map(|place| &ranked[*place].hit);
    v1::ShardFetch {
        shard: Some((&winners.target.shard).into()),
        searcher: if *asked == winners.leaf { winners.searcher } else { 0 },
        hits: hits.map(|hit| v1::HitAddress { segment: hit.segment, doc: hit.doc, id: hit.id.clone() }).collect(),
        query: winners.query.cloned(),
    }
}

/// A hit with its document, as answered.
pub fn found(index: &str, hit: v1::Hit, document: v1::Document) -> FoundHit {
    FoundHit {
        index: index.to_owned(),
        id: hit.id,
        score: Some(hit.score).filter(|score| !score.is_nan()),
        sort: hit.sort,
        document,
    }
}
