//! The logs of all shards as operators see them: how much each one keeps.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use trawl_cluster::shard_log::Head;
use trawl_cluster::view::View;
use trawl_proto::ShardKey;

use crate::request::LogInfo;
use crate::root::Root;

/// How long the engine may take to tell; without it everything else is shown.
const TIME_MAX: Duration = Duration::from_millis(500);
/// Shards asked for in one call.
const SHARDS_MAX: usize = 1_000;

/// Heads of logs by shard.
pub(crate) type Heads = HashMap<ShardKey, Head>;

/// The heads of the logs of all shards, as far as the engine tells in time.
pub(crate) async fn heads(root: &Root, view: &View) -> Heads {
    let shards: Vec<ShardKey> = view.indices.values().flat_map(|record| record.shard_keys()).collect();
    let ask = async {
        let mut heads = Heads::new();
        for shards in shards.chunks(SHARDS_MAX) {
            let found = root.engine.log.heads(shards).await?;
            heads.extend(shards.iter().zip(found).filter_map(|(shard, head)| Some((shard.clone(), head?))));
        }
        Ok::<_, trawl_cluster::Error>(heads)
    };
    match tokio::time::timeout(TIME_MAX, ask).await {
        Ok(Ok(heads)) => heads,
        _ => Heads::new(),
    }
}

/// The logs by index name and shard.
pub(crate) fn infos(view: &View, heads: &Heads) -> Vec<LogInfo> {
    let shards = view.indices.values().flat_map(|record| record.shard_keys().map(move |shard| (record, shard)));
    shards
        .filter_map(|(record, shard)| {
            let head = heads.get(&shard)?;
            Some(LogInfo {
                index: record.name.clone(),
                shard: shard.number,
                operations: head.last.0.saturating_sub(head.trimmed.0),
                bytes: head.bytes,
                bytes_max: record.log_bytes_max,
            })
        })
        .collect()
}

/// The depth of every log, as metrics. Read from the engine when somebody reads the metrics.
#[derive(Clone, Debug, Default)]
pub struct LogDepths(std::sync::Arc<Mutex<Vec<LogInfo>>>);

impl LogDepths {
    pub(crate) async fn refresh(&self, root: &Root) {
        let view = root.viewer.view();
        let infos = infos(&view, &heads(root, &view).await);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = infos;
    }
}

impl Collector for LogDepths {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let infos = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut figure = |name: &str, help: &str, of: fn(&LogInfo) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for info in &infos {
                let labels = [("index", info.index.clone()), ("shard", info.shard.to_string())];
                let gauge = ConstGauge::new(i64::try_from(of(info)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        figure("trawl_root_log_operations", "Operations kept in the log of a shard", |info| info.operations)?;
        figure("trawl_root_log_bytes", "Bytes kept in the log of a shard", |info| info.bytes)
    }
}
