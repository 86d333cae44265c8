//! Search, fetch, statistics, count and get: each shard by itself, all at once, on the search pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use trawl_proto::v1::failure::Kind;
use trawl_proto::v1::{self, Failure};
use trawl_proto::{Seq, ShardKey, failure};

use super::Service;
use crate::ShardSearcher;
use crate::fetch::fetch_documents;
use crate::query_log;
use crate::replica::Replica;
use crate::replica::trust::looks_like_damage;
use crate::search::{Cancel, count_shard, search_shard, shard_statistics};

/// How long a real-time get waits for the engine before it serves what is applied.
const HEADS_TIMEOUT: Duration = Duration::from_secs(1);

fn shard_of(index_uid: &str, number: u32) -> v1::Shard {
    v1::Shard { index_uid: index_uid.to_owned(), number }
}

/// The query phase of all shards asked for.
pub async fn search(service: &Service, mut request: v1::SearchRequest, deadline: Instant) -> v1::SearchResponse {
    let (cancel, _guard) = service.cancel(deadline);
    if service.config.speaks.protocol < 2 {
        // What protocol 2 brought is not there for a leaf that speaks less.
        request.aggregation_formats.clear();
    }
    let request = Arc::new(request);
    let searches = request.indices.iter().enumerate().flat_map(|(index, search)| {
        let (request, cancel) = (&request, &cancel);
        (0..search.shards.len()).map(move |shard| search_one(service, request, index, shard, cancel))
    });
    v1::SearchResponse { shards: join_all(searches).await }
}

async fn search_one(
    service: &Service,
    request: &Arc<v1::SearchRequest>,
    index: usize,
    shard: usize,
    cancel: &Cancel,
) -> v1::ShardSearchResult {
    let search = &request.indices[index];
    let wanted = &search.shards[shard];
    let key = shard_of(&search.index_uid, wanted.shard);
    let replica = service.replicas.get(&ShardKey::from(&key));
    let log = service.config.query_log.as_ref();
    let watched = query_log::watch(log, request, search, wanted.shard, replica.as_deref());
    let result = async {
        let (replica, searcher) = searcher(service, &key, wanted.at_least_seq, cancel.deadline()).await?;
        let (own_request, own_searcher, own_cancel) = (request.clone(), searcher.clone(), cancel.clone());
        let ran = service.pool.run(cancel, move || {
            let search = &own_request.indices[index];
            search_shard(&own_searcher, &own_request, search, &search.shards[shard], &own_cancel)
        });
        let ran = vouched(service, &replica, searcher.id, ran.await)?;
        let mut result = ran.value;
        if let Some(failure) = result.failure.as_ref().filter(|failure| looks_like_damage(failure)) {
            replica.suspect_files(&failure.reason);
        }
        result.queue_us = u64::try_from(ran.queued.as_micros()).unwrap_or(u64::MAX);
        if !result.hits.is_empty() {
            replica.recent.note(request, index);
            service.pins.pin(&searcher);
        }
        Ok(result)
    };
    let result = result.await;
    let result = result.unwrap_or_else(|failure| v1::ShardSearchResult {
        shard: Some(key),
        failure: Some(failure),
        ..v1::ShardSearchResult::default()
    });
    watched.done(&result);
    result
}

async fn searcher(
    service: &Service,
    shard: &v1::Shard,
    at_least: u64,
    deadline: Instant,
) -> Result<(Arc<Replica>, Arc<ShardSearcher>), Failure> {
    let replica = service.replica(Some(shard))?;
    let searcher = match at_least {
        0 => replica.searcher()?,
        seq => replica.searcher_at_least(Seq(seq), deadline).await?,
    };
    Ok((replica, searcher))
}

/// What was read from a searcher, unless its files cannot be relied on: then another replica has to be asked. A
/// failure that damaged files would explain has them checked.
fn vouched<T>(service: &Service, replica: &Replica, searcher: u64, result: Result<T, Failure>) -> Result<T, Failure> {
    service.files.look();
    replica.vouch(searcher)?;
    if let Err(failure) = &result
        && looks_like_damage(failure)
    {
        replica.suspect_files(&failure.reason);
    }
    result
}

/// The fetch phase: from the searcher that scored the hits if it is still pinned, else by id.
pub async fn fetch(service: &Service, request: v1::FetchRequest, deadline: Instant) -> v1::FetchResponse {
    let (cancel, _guard) = service.cancel(deadline);
    let options = Arc::new(request.options.unwrap_or_default());
    let fetches = request.shards.into_iter().map(|wanted| {
        let (cancel, options) = (&cancel, options.clone());
        async move {
            let shard = wanted.shard.clone();
            let documents = fetch_one(service, wanted, options, cancel).await;
            let (documents, failure) = split(documents);
            v1::ShardFetchResult { shard, failure, documents }
        }
    });
    v1::FetchResponse { shards: join_all(fetches).await }
}

async fn fetch_one(
    service: &Service,
    wanted: v1::ShardFetch,
    options: Arc<v1::FetchOptions>,
    cancel: &Cancel,
) -> Result<Vec<v1::Document>, Failure> {
    let key = wanted.shard.as_ref().map(ShardKey::from);
    let pinned = service.pins.get(wanted.searcher).filter(|searcher| Some(&searcher.shard) == key.as_ref());
    // A replica that was closed meanwhile leaves its pinned searchers behind.
    let replica = service.replica(wanted.shard.as_ref());
    let (searcher, by_id) = match (pinned, &replica) {
        (Some(searcher), _) => (searcher, false),
        (None, Ok(replica)) => (replica.searcher()?, true),
        (None, Err(failure)) => return Err(failure.clone()),
    };
    let id = searcher.id;
    let task = move || fetch_documents(&searcher, &wanted.hits, by_id, wanted.query.as_ref(), &options);
    let fetched = service.pool.run(cancel, task).await.and_then(|ran| ran.value);
    match replica {
        Ok(replica) => vouched(service, &replica, id, fetched),
        Err(_) => fetched,
    }
}

/// Term statistics of live documents.
pub async fn statistics(
    service: &Service,
    request: v1::StatisticsRequest,
    deadline: Instant,
) -> v1::StatisticsResponse {
    let (cancel, _guard) = service.cancel(deadline);
    let request = Arc::new(request);
    let all = request.indices.iter().enumerate().flat_map(|(index, terms)| {
        let (request, cancel) = (&request, &cancel);
        terms.shards.iter().map(move |number| async move {
            let shard = shard_of(&request.indices[index].index_uid, *number);
            let result = async {
                let (replica, searcher) = searcher(service, &shard, 0, cancel.deadline()).await?;
                let (generation, id) = (searcher.generation.into(), searcher.id);
                let request = request.clone();
                let task = move || {
                    let terms = &request.indices[index];
                    shard_statistics(&searcher, &terms.fields, &terms.terms)
                };
                let ran = service.pool.run(cancel, task).await.and_then(|ran| ran.value);
                Ok((generation, vouched(service, &replica, id, ran)?))
            };
            match result.await {
                Ok((generation, statistics)) => v1::ShardStatistics {
                    shard: Some(shard),
                    failure: None,
                    generation: Some(generation),
                    statistics: Some(statistics),
                },
                Err(failure) => v1::ShardStatistics {
                    shard: Some(shard),
                    failure: Some(failure),
                    generation: None,
                    statistics: None,
                },
            }
        })
    });
    v1::StatisticsResponse { shards: join_all(all).await }
}

/// Exact numbers of matches.
pub async fn count(service: &Service, request: v1::CountRequest, deadline: Instant) -> v1::CountResponse {
    let (cancel, _guard) = service.cancel(deadline);
    let request = Arc::new(request);
    let all = request.indices.iter().enumerate().flat_map(|(index, search)| {
        let (request, cancel) = (&request, &cancel);
        search.shards.iter().map(move |wanted| async move {
            let shard = shard_of(&request.indices[index].index_uid, wanted.shard);
            let result = async {
                let (replica, searcher) = searcher(service, &shard, wanted.at_least_seq, cancel.deadline()).await?;
                let id = searcher.id;
                let (request, own_cancel) = (request.clone(), cancel.clone());
                let task = move || match &request.indices[index].query {
                    Some(query) => count_shard(&searcher, query, &own_cancel),
                    None => Err(failure(Kind::Invalid, "a count without a query")),
                };
                let ran = service.pool.run(cancel, task).await.and_then(|ran| ran.value);
                vouched(service, &replica, id, ran)
            };
            let (matched, failure) = match result.await {
                Ok(matched) => (matched, None),
                Err(failure) => (0, Some(failure)),
            };
            v1::ShardCount { shard: Some(shard), failure, matched }
        })
    });
    v1::CountResponse { shards: join_all(all).await }
}

/// Documents by id. Real-time: waits until everything acknowledged before the call is applied.
pub async fn get(service: &Service, request: v1::GetRequest, deadline: Instant) -> v1::GetResponse {
    let (cancel, _guard) = service.cancel(deadline);
    let options = Arc::new(request.options.unwrap_or_default());
    let heads = if request.realtime { heads(service, &request.shards, deadline).await } else { Vec::new() };
    let gets = request.shards.into_iter().enumerate().map(|(at, wanted)| {
        let (cancel, options) = (&cancel, options.clone());
        let head = heads.get(at).copied().flatten();
        let realtime = request.realtime;
        async move {
            let shard = wanted.shard.clone();
            let result = async {
                let replica = service.replica(wanted.shard.as_ref())?;
                let searcher = match realtime {
                    true => realtime_searcher(&replica, head, &wanted.ids, deadline).await?,
                    false => replica.searcher()?,
                };
                let hits: Vec<v1::HitAddress> =
                    wanted.ids.into_iter().map(|id| v1::HitAddress { id, ..v1::HitAddress::default() }).collect();
                let id = searcher.id;
                let task = move || fetch_documents(&searcher, &hits, true, None, &options);
                let ran = service.pool.run(cancel, task).await.and_then(|ran| ran.value);
                vouched(service, &replica, id, ran)
            };
            let (documents, failure) = split(result.await);
            v1::ShardGetResult { shard, failure, documents }
        }
    });
    v1::GetResponse { shards: join_all(gets).await }
}

/// The last seq of each shard's log; `None` where the engine does not say.
async fn heads(service: &Service, shards: &[v1::ShardGet], deadline: Instant) -> Vec<Option<Seq>> {
    let keys: Vec<ShardKey> =
        shards.iter().map(|wanted| wanted.shard.as_ref().map(ShardKey::from).unwrap_or_default()).collect();
    let until = deadline.min(Instant::now() + HEADS_TIMEOUT);
    match tokio::time::timeout_at(until.into(), service.engine.log.heads(&keys)).await {
        Ok(Ok(heads)) => heads.into_iter().map(|head| head.map(|head| head.last)).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "real-time get without the engine");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// A searcher that shows these ids as of the log's head. An id that was touched since the last commit
/// makes the replica commit now.
async fn realtime_searcher(
    replica: &Replica,
    head: Option<Seq>,
    ids: &[String],
    deadline: Instant,
) -> Result<Arc<ShardSearcher>, Failure> {
    replica.searcher()?;
    if let Some(head) = head {
        replica.applied(head, deadline).await?;
    }
    let applied = replica.progress().applied;
    if ids.iter().any(|id| replica.is_pending(id)) {
        return replica.searchable(applied, deadline).await;
    }
    replica.searcher()
}

fn split(result: Result<Vec<v1::Document>, Failure>) -> (Vec<v1::Document>, Option<Failure>) {
    match result {
        Ok(documents) => (documents, None),
        Err(failure) => (Vec::new(), Some(failure)),
    }
}
