//! A leaf: replicas of shards, the apply state machine and shard search.
