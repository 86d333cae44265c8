//! Bodies: a bounded part is kept, the rest is streamed.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Refusal;

/// Room for all bodies that are kept at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    pub(crate) fn free(&self) -> usize {
        self.0.available_permits()
    }

    /// Room for more bytes, beside what is there already; false when there is none.
    fn take(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).ok();
        let Some(more) = permits.and_then(|permits| self.0.clone().try_acquire_many_owned(permits).ok()) else {
            return false;
        };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        true
    }
}

/// The parts of a body as they come from the application.
type Parts = BoxStream<'static, Result<Bytes, axum::Error>>;

/// A request's body.
pub(crate) enum Payload {
    /// All of it, as often as it is needed.
    Whole(Bytes, #[allow(dead_code, reason = "held for as long as the bytes")] Option<OwnedSemaphorePermit>),
    /// Once.
    Stream(Arc<Mutex<Option<Parts>>>),
}

impl Payload {
    /// Reads up to a limit and as far as there is room. What is longer stays a stream.
    pub(crate) async fn read(body: Body, limit: usize, room: &Room) -> Result<Self, Refusal> {
        let mut rest = body.into_data_stream();
        let (read, end) = keep(&mut rest, limit, room).await;
        match end {
            End::Reached => Ok(Self::Whole(joined(read.parts), read.permit)),
            End::Failed(error) => Err(Refusal::Body { reason: format!("the body cannot be read: {error}") }),
            End::Ahead => Ok(Self::Stream(Arc::new(Mutex::new(Some(read.before(rest)))))),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(..))
    }

    /// Whether nothing of it has been sent yet, if it can be sent once only.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Whole(..) => true,
            Self::Stream(slot) => slot.lock().is_some(),
        }
    }

    /// The body of one attempt. A stream is taken when the first byte is wanted, hence by a connection that was made.
    pub(crate) fn to_body(&self) -> Option<reqwest::Body> {
        match self {
            Self::Whole(bytes, _) if bytes.is_empty() => None,
            Self::Whole(bytes, _) => Some(bytes.clone().into()),
            Self::Stream(slot) => {
                let slot = slot.clone();
                let taken = stream::once(async move { slot.lock().take() });
                let parts = taken.flat_map(|stream| stream.unwrap_or_else(|| stream::once(gone()).boxed()));
                Some(reqwest::Body::wrap_stream(parts))
            }
        }
    }
}

async fn gone() -> Result<Bytes, axum::Error> {
    Err(axum::Error::new("this body was sent already"))
}

/// What was kept of a stream.
#[derive(Default)]
pub(crate) struct Kept {
    parts: Vec<Bytes>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Kept {
    /// What was kept, and behind it the rest; room is given back when the kept part has gone.
    pub(crate) fn before<E: Send + 'static>(
        self,
        rest: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> BoxStream<'static, Result<Bytes, E>> {
        let Self { parts, permit } = self;
        let kept = stream::iter(parts.into_iter().map(Ok)).chain(stream::once(async move {
            drop(permit);
            Ok(Bytes::new())
        }));
        kept.filter(|part| std::future::ready(!matches!(part, Ok(part) if part.is_empty()))).chain(rest).boxed()
    }

    /// All of it, when that was all.
    pub(crate) fn whole(self) -> Bytes {
        joined(self.parts)
    }
}

/// How keeping ended.
pub(crate) enum End<E> {
    /// That was all.
    Reached,
    /// There is more.
    Ahead,
    /// It broke.
    Failed(E),
}

/// Keeps the beginning of a stream, up to a limit and as far as there is room.
pub(crate) async fn keep<E>(
    from: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    limit: usize,
    room: &Room,
) -> (Kept, End<E>) {
    let (mut kept, mut length) = (Kept::default(), 0);
    loop {
        match from.next().await {
            None => return (kept, End::Reached),
            Some(Err(error)) => return (kept, End::Failed(error)),
            Some(Ok(part)) => {
                length += part.len();
                let has_room = length <= limit && room.take(&mut kept.permit, part.len());
                kept.parts.push(part);
                if !has_room {
                    return (kept, End::Ahead);
                }
            }
        }
    }
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 | 1 => parts.pop().unwrap_or_default(),
        _ => {
            let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            parts.iter().for_each(|part| all.extend_from_slice(part));
            all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn body(parts: &[&'static str]) -> Body {
        let parts: Vec<Result<Bytes, std::io::Error>> =
            parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Body::from_stream(stream::iter(parts))
    }

    async fn sent(payload: &Payload) -> Result<String, String> {
        let Some(body) = payload.to_body() else { return Ok(String::new()) };
        let bytes = axum::body::to_bytes(Body::new(body), 1 << 20).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn small_bodies_are_sent_as_often_as_needed_and_large_ones_once() {
        let room = Room::new(100);
        let small = Payload::read(body(&["he", "llo"]), 5, &room).await.unwrap();
        assert!(small.is_whole());
        assert_eq!(room.free(), 95);
        assert_eq!((sent(&small).await, sent(&small).await), (Ok("hello".to_owned()), Ok("hello".to_owned())));
        drop(small);
        assert_eq!(room.free(), 100);

        let large = Payload::read(body(&["he", "llo", " and", " more"]), 5, &room).await.unwrap();
        assert!(!large.is_whole() && large.is_untouched());
        drop(large.to_body());
        assert!(large.is_untouched(), "a body that nobody read is still all there");
        assert_eq!(sent(&large).await.unwrap(), "hello and more");
        assert!(!large.is_untouched());
        assert!(sent(&large).await.is_err());
        assert_eq!(room.free(), 100);
    }

    #[tokio::test]
    async fn without_room_a_body_is_streamed() {
        let room = Room::new(3);
        let payload = Payload::read(body(&["he", "llo"]), 100, &room).await.unwrap();
        assert!(!payload.is_whole());
        assert_eq!(sent(&payload).await.unwrap(), "hello");
        assert_eq!(room.free(), 3);
        let empty = Payload::read(Body::empty(), 100, &room).await.unwrap();
        assert!(empty.is_whole() && empty.to_body().is_none());
    }
}
