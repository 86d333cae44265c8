//! How bodies are stored: as they are, or compressed, whichever is smaller.

use bytes::Bytes;

use crate::Error;

/// Stored as it is.
const PLAIN: i64 = 0;
/// Stored as one zstd frame.
const ZSTD: i64 = 1;
/// The fastest ordinary level: JSON shrinks to a quarter, and a log lives for minutes.
const LEVEL: i32 = 1;
/// Below this, a frame's header eats up what is gained.
const COMPRESS_BYTES_MIN: usize = 128;

/// A body as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) codec: i64,
    pub(super) bytes: Bytes,
}

/// Encodes a body.
pub(super) fn encode(body: &Bytes) -> Encoded {
    if body.len() >= COMPRESS_BYTES_MIN
        && let Ok(bytes) = zstd::bulk::compress(body, LEVEL)
        && bytes.len() < body.len()
    {
        return Encoded { codec: ZSTD, bytes: bytes.into() };
    }
    Encoded { codec: PLAIN, bytes: body.clone() }
}

/// Decodes a body that had `body_bytes` before encoding.
///
/// # Errors
/// [`Error::Corrupt`] when it does not decode to exactly that size, or the codec is unknown.
pub(super) fn decode(codec: i64, stored: Vec<u8>, body_bytes: usize) -> Result<Bytes, Error> {
    let body = match codec {
        PLAIN => stored,
        ZSTD => {
            zstd::bulk::decompress(&stored, body_bytes).map_err(|error| Error::Corrupt(format!("log row: {error}")))?
        }
        _ => return Err(Error::Corrupt(format!("log row: codec {codec} is unknown to this version"))),
    };
    if body.len() != body_bytes {
        return Err(Error::Corrupt(format!("log row: {} bytes where {body_bytes} were stored", body.len())));
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(unit in proptest::collection::vec(any::<u8>(), 0..40), times in 0usize..40) {
            let body = Bytes::from(unit.repeat(times));
            let Encoded { codec, bytes } = encode(&body);
            prop_assert!(bytes.len() <= body.len());
            prop_assert_eq!(decode(codec, bytes.to_vec(), body.len()).unwrap(), body);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let Encoded { codec, bytes } = encode(&Bytes::from(vec![7; 1_000]));
        assert_eq!(codec, ZSTD);
        assert!(matches!(decode(codec, bytes[1..].to_vec(), 1_000), Err(Error::Corrupt(_))));
        assert!(matches!(decode(codec, bytes.to_vec(), 999), Err(Error::Corrupt(_))));
        assert!(matches!(decode(codec, bytes.to_vec(), 1_001), Err(Error::Corrupt(_))));
        assert!(matches!(decode(9, bytes.to_vec(), 1_000), Err(Error::Corrupt(_))));
    }
}
