//! Position tokens: `X-Trawl-Position` on answers to writes, `X-Trawl-After` on searches.
//!
//! Opaque to clients: the encoded positions in base64url. Several tokens may be joined with commas.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use trawl_proto::v1;

use super::{error::illegal, respond::Answer};
use crate::error::Error;

/// Header of answers.
const POSITION: &str = "x-trawl-position";
/// Header of searches.
pub(crate) const AFTER: &str = "x-trawl-after";

/// The token of positions; `None` for none.
pub(crate) fn encode(positions: &[v1::Position]) -> Option<String> {
    if positions.is_empty() {
        return None;
    }
    // A message whose only content is a list of positions.
    let list = v1::RefreshRequest { positions: positions.to_vec() };
    Some(URL_SAFE_NO_PAD.encode(list.encode_to_vec()))
}

/// An answer with the token of positions, if there are any.
pub(crate) fn attach(answer: Answer, positions: &[v1::Position]) -> Answer {
    match encode(positions) {
        Some(token) => answer.with_header(POSITION, &token),
        None => answer,
    }
}

/// The positions of one token or several; the highest of each shard is kept.
pub(crate) fn decode(text: &str) -> Result<Vec<v1::Position>, Error> {
    let mut positions: Vec<v1::Position> = Vec::new();
    for token in text.split(',').map(str::trim).filter(|token| !token.is_empty()) {
        let list =
            URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| v1::RefreshRequest::decode(bytes.as_slice()).ok());
        let list = list.ok_or_else(|| illegal(format!("header [X-Trawl-After] has a malformed token [{token}]")))?;
        for position in list.positions {
            match positions.iter_mut().find(|known| known.shard == position.shard) {
                Some(known) if order(known) >= order(&position) => {}
                Some(known) => *known = position,
                None => positions.push(position),
            }
        }
    }
    Ok(positions)
}

fn order(position: &v1::Position) -> (u64, u64) {
    position.generation.as_ref().map_or((0, 0), |generation| (generation.incarnation, generation.seq))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn position(number: u32, seq: u64) -> v1::Position {
        v1::Position {
            shard: Some(v1::Shard { index_uid: "u".into(), number }),
            generation: Some(v1::Generation { incarnation: 1, seq }),
        }
    }

    #[test]
    fn tokens_join_and_the_highest_wins() {
        let first = encode(&[position(0, 5), position(1, 1)]).unwrap();
        let second = encode(&[position(0, 3)]).unwrap();
        assert_eq!(decode(&format!("{first}, {second}")).unwrap(), vec![position(0, 5), position(1, 1)]);
        assert_eq!(encode(&[]), None);
        assert!(decode("!!").is_err());
    }
}
