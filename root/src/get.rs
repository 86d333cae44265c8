//! Documents by id: from any serving replica of their shard, real-time unless told otherwise.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use trawl_data::routing::shard_of;
use trawl_proto::v1::failure::Kind;
use trawl_proto::{ShardKey, v1};

use crate::catalog;
use crate::error::Error;
use crate::hedging::Phase;
use crate::plan::{Planner, Preference, Target};
use crate::request::ShardFailure;
use crate::root::Root;
use crate::scatter::{Scatter, by_position, load_of};

/// How long a get may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One document, none, or why it is not known.
pub type Gotten = Result<Option<v1::Document>, Error>;

/// Gets documents in the order asked.
///
/// 1. Each id's shard, by its routing.
/// 2. One request per leaf with all its shards; a failed one goes to another replica.
/// 3. Back into the order asked.
pub(crate) async fn get(
    root: &Root,
    index: &str,
    ids: Vec<(String, Option<String>)>,
    realtime: bool,
    options: v1::FetchOptions,
) -> Result<Vec<Gotten>, Error> {
    let (targets, places) = plan(root, index, &ids)?;
    let preference = Preference::Any;
    let scatter = Scatter {
        leaves: &root.leaves,
        viewer: &root.viewer,
        preference: &preference,
        deadline: Instant::now() + TIMEOUT,
        margin: root.config.search.margin,
        attempts_max: root.config.search.attempts_max,
        hedging: &root.hedging,
        metrics: &root.metrics,
    };
    let (targets, places, ids, options) = (&targets, &places, &ids, &options);
    let shard_get = |at: &usize| {
        let of_shard = &places[&targets[*at].shard.number];
        let ids = of_shard.iter().map(|place| ids[*place].0.clone()).collect();
        v1::ShardGet { shard: Some((&targets[*at].shard).into()), ids }
    };
    let mut scattered = scatter
        .run(Phase::Get, targets, &|leaf, asked, timeout| {
            let shards = asked.iter().map(shard_get).collect();
            let request = v1::GetRequest { shards, options: Some(options.clone()), realtime };
            Box::pin(async move {
                let response = leaf.get(request, timeout).await?;
                Ok(by_position(targets, &asked, response.shards))
            })
        })
        .await;
    let mut gotten: Vec<Gotten> = ids.iter().map(|_| Ok(None)).collect();
    for (of_shard, result) in places.values().zip(&mut scattered.shards) {
        match result {
            Ok(answer) => {
                for (place, document) in of_shard.iter().zip(std::mem::take(&mut answer.value.documents)) {
                    gotten[*place] = Ok(Some(document).filter(|document| document.id == ids[*place].0));
                }
            }
            Err(failure) => of_shard.iter().for_each(|place| gotten[*place] = Err(error(failure))),
        }
    }
    Ok(gotten)
}

/// The shards that hold the ids, and each one's places in the order asked.
#[allow(clippy::type_complexity)]
fn plan(
    root: &Root,
    index: &str,
    ids: &[(String, Option<String>)],
) -> Result<(Vec<Target>, BTreeMap<u32, Vec<usize>>), Error> {
    let view = root.viewer.view();
    let record = catalog::record(&view, index)?;
    let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, (id, routing)) in ids.iter().enumerate() {
        places.entry(shard_of(routing.as_deref().unwrap_or(id), record.shards)).or_default().push(place);
    }
    let load = load_of(&root.leaves, &view);
    let mut planner = Planner::new(&view, &Preference::Any, &load, root.turn.fetch_add(1, Ordering::Relaxed));
    let shard_key = |number: &u32| ShardKey { index_uid: record.uid.clone(), number: *number };
    Ok((places.keys().map(|number| planner.target(&record, shard_key(number))).collect(), places))
}

fn error(failure: &ShardFailure) -> Error {
    let reason = format!("[{}][{}] {}", failure.index, failure.shard, failure.failure.reason);
    match failure.failure.kind() {
        Kind::Rejected => Error::TooManyRequests { reason, retry_after: Duration::from_secs(1) },
        Kind::Invalid => Error::illegal_argument(reason),
        Kind::Internal => Error::Internal(reason),
        Kind::Deadline => Error::Timeout(reason),
        Kind::Unavailable | Kind::Unspecified => Error::Unavailable(reason),
    }
}
