//! Limits the memory of HTTP answers: lists of thousands of queues, metrics, definitions, fetched messages.
//!
//! A client that reads slowly, or not at all, keeps its answer in memory. So the answers that are being sent share a part of
//! `memory.input`. When a new one does not fit, the connections with the oldest ones are closed: a client that reads is done
//! within milliseconds, so they are those of clients that do not. Nobody has to wait for such clients.
//! [`Answers::turn`] limits how many are made at once, because their size is not known before.

use super::place::Place;
use axum::body::{Body, Bytes, to_bytes};
use axum::response::Response;
use gatepost_core::buffers::{Buffers, Part};
use gatepost_core::time::Time;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Shorter answers are not counted: a connection's other buffers are as large.
const LEAST: u64 = 64 << 10;
/// Bytes that are passed on at once. What was not passed on yet counts.
const CHUNK: usize = 64 << 10;
/// Answers may use `memory.input` divided by this, and one more answer.
const SHARE: usize = 2;
/// The most answers that are made at once. They are made on one thread, so more would not be faster.
const MADE_AT_ONCE: usize = 4;
/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The answers of all HTTP listeners that are being made or sent.
pub(crate) struct Answers {
    buffers: Arc<Buffers>,
    made: Semaphore,
    sent: Mutex<Sent>,
}

#[derive(Default)]
struct Sent {
    numbers: u64,
    bytes: usize,
    /// Oldest first.
    open: VecDeque<Open>,
}

struct Open {
    number: u64,
    bytes: usize,
    place: Arc<Place>,
}

impl Answers {
    /// No answers yet.
    pub(crate) fn new(buffers: Arc<Buffers>) -> Answers {
        Answers {
            buffers,
            made: Semaphore::new(MADE_AT_ONCE),
            sent: Mutex::default(),
        }
    }

    /// Waits until an answer may be made. `None`: others take too long.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(TURN_TIMEOUT, self.made.acquire()).await.ok()?.ok()
    }

    /// Bytes that one answer may have, if it can be shorter.
    pub(crate) fn bytes_max(&self) -> usize {
        self.buffers.bytes_max() / SHARE
    }

    /// Counts an answer of the connection at `place` until it is sent, and closes older ones that have no room beside it.
    pub(super) async fn send(self: &Arc<Self>, answer: Response, place: &Arc<Place>) -> Response {
        let Some(bytes) = answer.body().size_hint().exact().filter(|bytes| *bytes >= LEAST) else {
            return answer;
        };
        let (head, body) = answer.into_parts();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let Ok(rest) = to_bytes(body, bytes).await else {
            // Cannot happen: what has an exact size is in memory.
            return Response::from_parts(head, Body::empty());
        };
        let mut part = self.buffers.part(Time::default());
        part.set(rest.len());
        let number = self.open(rest.len(), place);
        let answers = Arc::clone(self);
        Response::from_parts(
            head,
            Body::new(Sending {
                rest,
                answers,
                number,
                _part: part,
            }),
        )
    }

    fn open(&self, bytes: usize, place: &Arc<Place>) -> u64 {
        let mut sent = self.sent.lock();
        while sent.bytes.saturating_add(bytes) > self.bytes_max()
            && let Some(oldest) = sent.open.pop_front()
        {
            sent.bytes -= oldest.bytes;
            if !Arc::ptr_eq(&oldest.place, place) {
                oldest.place.close();
            }
        }
        sent.numbers += 1;
        sent.bytes += bytes;
        let number = sent.numbers;
        sent.open.push_back(Open {
            number,
            bytes,
            place: Arc::clone(place),
        });
        number
    }
}

/// An answer that is being sent.
struct Sending {
    rest: Bytes,
    answers: Arc<Answers>,
    number: u64,
    _part: Part,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut sent = self.answers.sent.lock();
        if let Some(at) = sent.open.iter().position(|open| open.number == self.number)
            && let Some(open) = sent.open.remove(at)
        {
            sent.bytes -= open.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Response {
        Response::new(Body::from(vec![b'x'; bytes]))
    }

    #[tokio::test]
    async fn the_oldest_answers_give_way_to_new_ones() {
        let buffers = Arc::new(Buffers::new(400 << 10));
        let answers = Arc::new(Answers::new(Arc::clone(&buffers)));
        let places: [Arc<Place>; 3] = std::array::from_fn(|_| Arc::default());
        let first = answers.send(answer(100 << 10), &places[0]).await;
        let second = answers.send(answer(100 << 10), &places[1]).await;
        let small = answers.send(answer(1_000), &places[2]).await;
        assert_eq!(buffers.bytes(), 200 << 10, "small ones are not counted");
        assert!(!places[0].is_closed() && !places[1].is_closed());
        let third = answers.send(answer(100 << 10), &places[2]).await;
        assert!(places[0].is_closed() && !places[1].is_closed());
        drop((first, small));
        let whole = to_bytes(third.into_body(), 1 << 20).await.expect("all of it");
        assert_eq!((whole.len(), buffers.bytes()), (100 << 10, 100 << 10));
        // What is larger than all of the room is sent nevertheless, alone.
        let large = answers.send(answer(900 << 10), &places[2]).await;
        assert!(places[1].is_closed() && !places[2].is_closed());
        drop((second, large));
        assert_eq!(buffers.bytes(), 0);
    }
}
