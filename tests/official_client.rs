//! The official Python client of Elasticsearch 8, unmodified, against a real cluster.
#![allow(missing_docs, clippy::unwrap_used)]

mod harness;

use harness::{Cluster, official_client};

#[tokio::test(flavor = "multi_thread")]
async fn it_connects_and_works() {
    if !official_client::is_here() {
        return;
    }
    let cluster = Cluster::start(1, 2).await;
    official_client::works_with(&cluster.client.endpoint).await;
}
