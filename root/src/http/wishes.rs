//! `/_cluster/reroute` and `/_trawl/drain`: what operators have moved.

use trawl_proto::NodeName;

use super::{
    call::Call,
    error::{ApiError, illegal},
    json::{Json, object},
    keys,
    respond::Answer,
};
use crate::wishes::{self, Drain, Move};

/// Parameters of `_cluster/reroute`.
pub(crate) const REROUTE_PARAMS: &[&[&str]] = &[&["timeout", "master_timeout", "metric"]];

/// `POST /_cluster/reroute`: commands of the kind `move`.
pub(crate) async fn reroute(call: Call) -> Result<Answer, ApiError> {
    let mut moves = Vec::new();
    for (key, value) in call.object()? {
        let Some(commands) = value.as_array().filter(|_| key == "commands") else {
            return Err(illegal(format!("unknown key [{key}]; known is [commands], a list")).into());
        };
        for command in commands {
            moves.push(parse(command)?);
        }
    }
    wishes::move_replicas(call.root(), &moves).await?;
    Ok(Answer::ok(object! { "acknowledged" => true }))
}

fn parse(command: &Json) -> Result<Move, ApiError> {
    let members = keys::object(command, "commands")?;
    let [(name, body)] = members.as_slice() else {
        return Err(illegal("each of [commands] is an object with one key, [move]").into());
    };
    if name != "move" {
        return Err(illegal(format!("unknown command [{name}]; known is [move]")).into());
    }
    let (mut index, mut shard, mut from, mut to) = (None, None, None, None);
    for (key, value) in keys::object(body, "move")? {
        match key.as_str() {
            "index" => index = Some(keys::text(value, "index")?.to_string()),
            "shard" => shard = keys::shown(value).parse().ok(),
            "from_node" => from = Some(NodeName(keys::text(value, "from_node")?.to_string())),
            "to_node" => to = Some(NodeName(keys::text(value, "to_node")?.to_string())),
            _ => return Err(illegal(format!("[move] has an unknown key [{key}]")).into()),
        }
    }
    match (index, shard, from, to) {
        (Some(index), Some(shard), Some(from), Some(to)) => Ok(Move { index, shard, from, to }),
        _ => Err(illegal("[move] takes [index], [shard] (a number), [from_node] and [to_node]").into()),
    }
}

/// `PUT /_trawl/drain/{leaf}`
pub(crate) async fn drain(call: Call) -> Result<Answer, ApiError> {
    set(call, true).await
}

/// `DELETE /_trawl/drain/{leaf}`
pub(crate) async fn undrain(call: Call) -> Result<Answer, ApiError> {
    set(call, false).await
}

async fn set(call: Call, draining: bool) -> Result<Answer, ApiError> {
    let leaf = NodeName(call.segment(0).to_owned());
    wishes::set_drain(call.root(), &leaf, draining).await?;
    Ok(shown(&leaf, &wishes::drain(call.root(), &leaf)?))
}

/// `GET /_trawl/drain/{leaf}`
pub(crate) async fn progress(call: Call) -> Result<Answer, ApiError> {
    let leaf = NodeName(call.segment(0).to_owned());
    Ok(shown(&leaf, &wishes::drain(call.root(), &leaf)?))
}

fn shown(leaf: &NodeName, drain: &Drain) -> Answer {
    let holds: Vec<Json> =
        drain.holds.iter().map(|(index, shard)| object! { "index" => index.as_str(), "shard" => *shard }).collect();
    Answer::ok(object! {
        "leaf" => leaf.as_str(),
        "draining" => drain.draining,
        "replicas" => holds.len(),
        "holds" => holds,
        "safe_to_remove" => drain.draining && drain.holds.is_empty(),
    })
}
