//! How bodies are stored: as they are, or compressed, whichever is smaller.

use std::io;

use bytes::Bytes;
use parking_lot::Mutex;
use zstd::bulk::{Compressor, Decompressor};

use crate::Error;

/// Stored as it is.
const PLAIN: i64 = 0;
/// Stored as one zstd frame.
const ZSTD: i64 = 1;
/// The fastest ordinary level: JSON shrinks to a quarter, and a log lives for minutes.
const LEVEL: i32 = 1;
/// Below this, a frame's header eats up what is gained.
const COMPRESS_BYTES_MIN: usize = 128;

/// Contexts at rest at most. One that has seen large bodies has some 600 KB.
const AT_REST_MAX: usize = 2;

static COMPRESSORS: Pool<Compressor<'static>> = Pool(Mutex::new(Vec::new()));
static DECOMPRESSORS: Pool<Decompressor<'static>> = Pool(Mutex::new(Vec::new()));

/// Contexts of zstd: making one takes longer than a small body does.
struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    fn with<R>(
        &self,
        make: impl FnOnce() -> io::Result<T>,
        work: impl FnOnce(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        let at_rest = self.0.lock().pop();
        let mut context = match at_rest {
            Some(context) => context,
            None => make()?,
        };
        let result = work(&mut context)?;
        let mut at_rest = self.0.lock();
        if at_rest.len() < AT_REST_MAX {
            at_rest.push(context);
        }
        Ok(result)
    }
}

/// A body as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) codec: i64,
    pub(super) bytes: Bytes,
}

/// Encodes a body.
pub(super) fn encode(body: &Bytes) -> Encoded {
    if body.len() >= COMPRESS_BYTES_MIN
        && let Ok(bytes) = COMPRESSORS.with(|| Compressor::new(LEVEL), |compressor| compressor.compress(body))
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
        ZSTD => DECOMPRESSORS
            .with(Decompressor::new, |decompressor| decompressor.decompress(&stored, body_bytes))
            .map_err(|error| Error::Corrupt(format!("log row: {error}")))?,
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
