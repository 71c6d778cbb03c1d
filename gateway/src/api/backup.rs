//! `GET /api/gatepost/backup`: streams an archive of the log, over the control socket only. See [`crate::archive`].
//!
//! The log's thread is asked once, for the list of its files. After that it is not delayed: a task reads the files
//! piece by piece, as fast as the client reads the archive. Until the end the log recycles no segment, so a client that
//! stops reading or reads too slowly is disconnected.

use super::caller::Caller;
use super::{Api, Refusal, stopping};
use crate::archive::{self, Sums};
use crate::node::Node;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use gatepost_core::store::disk::RealDisk;
use gatepost_core::store::{Cut, CutError};
use hyper::body::Frame;
use hyper::{StatusCode, header};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new().route("/api/gatepost/backup", get(stream))
}

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Maximum chunks that wait to be sent.
const CHUNKS_WAITING: usize = 2;
/// A backup whose client does not read for this long is abandoned ...
const STALL_MAX: Duration = Duration::from_secs(60);
/// ... and so is one whose client reads more slowly than this, in bytes a second.
const RATE_MIN: u64 = 64 << 10;
/// Response header with the approximate size of the archive, for progress.
pub(crate) const BYTES: &str = "x-gatepost-bytes";

async fn stream(caller: Caller, State(node): Api) -> Result<Response, Refusal> {
    if !caller.is_operator() {
        return Err(Refusal::not_authorised("backups are made over the control socket only"));
    }
    let cut = node.log.cut().await.map_err(|_| stopping())?;
    let cut = cut.map_err(|error| {
        let status = match error {
            CutError::Taken => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal::of(status, "backup_refused", error.to_string())
    })?;
    let bytes = cut.bytes();
    tracing::info!(bytes, "a backup is being made");
    let (to, chunks) = mpsc::channel(CHUNKS_WAITING);
    let whole = Duration::from_secs(bytes / RATE_MIN);
    let pipe = Pipe {
        to,
        stall_max: STALL_MAX,
        give_up_at: Instant::now() + STALL_MAX + whole,
    };
    let wall = node.clock.now().wall.0 / 1000;
    tokio::spawn(async move {
        match copy(Arc::new(cut), wall, &pipe).await {
            Ok(()) => tracing::info!(bytes, "the backup is done"),
            Err(error) => {
                tracing::warn!(%error, "the backup was given up");
                // The client sees that the archive is incomplete.
                let _ = pipe.send(Err(error)).await;
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/x-tar".to_owned()),
        (BYTES, bytes.to_string()),
    ];
    Ok((headers, Body::new(Chunks(chunks))).into_response())
}

/// Writes the archive. After each read it pauses for as long as the read took, so that the log gets half of the
/// medium's time.
async fn copy(cut: Arc<Cut<RealDisk>>, wall: u64, pipe: &Pipe) -> io::Result<()> {
    let mut sums = Sums::default();
    for nth in 0..cut.files().len() {
        let Some((path, len)) = cut.files().nth(nth) else { break };
        pipe.put(&archive::header(path, len, wall)?).await?;
        let (mut at, mut sum) = (0, Sums::begin());
        while at < len {
            let began = Instant::now();
            let from = Arc::clone(&cut);
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; CHUNK.min(usize::try_from(len - at).unwrap_or(CHUNK))];
                from.read(nth, at, &mut chunk)?;
                sum.update(&chunk);
                io::Result::Ok((chunk, sum))
            });
            let chunk;
            (chunk, sum) = read.await.map_err(io::Error::other)??;
            at += chunk.len() as u64;
            let took = began.elapsed();
            pipe.send(Ok(chunk.into())).await?;
            tokio::time::sleep(took).await;
        }
        sums.add(path, sum);
        pipe.put(&vec![0; archive::padding(len)]).await?;
    }
    let text = sums.text();
    let len = text.len() as u64;
    pipe.put(&archive::header(archive::SUMS, len, wall)?).await?;
    pipe.put(text.as_bytes()).await?;
    pipe.put(&vec![0; archive::padding(len)]).await?;
    pipe.put(&archive::END).await
}

/// From the task that reads files to the connection.
struct Pipe {
    to: mpsc::Sender<io::Result<Bytes>>,
    stall_max: Duration,
    give_up_at: Instant,
}

impl Pipe {
    async fn put(&self, bytes: &[u8]) -> io::Result<()> {
        self.send(Ok(Bytes::copy_from_slice(bytes))).await
    }

    async fn send(&self, chunk: io::Result<Bytes>) -> io::Result<()> {
        let patience = self.give_up_at.saturating_duration_since(Instant::now());
        let sent = tokio::time::timeout(patience.min(self.stall_max), self.to.send(chunk));
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("whoever asked for it is gone")),
            Err(_) => Err(io::Error::other("whoever asked for it does not read on, or too slowly")),
        }
    }
}

/// The body of the answer.
struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log keeps segments for the backup meanwhile, so it must not wait for ever.
    #[tokio::test]
    async fn whoever_stops_reading_reads_too_slowly_or_leaves_is_given_up() {
        let hour = Duration::from_secs(3600);
        for (stall_max, whole) in [(Duration::ZERO, hour), (hour, Duration::ZERO)] {
            let (to, mut chunks) = mpsc::channel(1);
            let pipe = Pipe {
                to,
                stall_max,
                give_up_at: Instant::now() + whole,
            };
            pipe.put(b"one").await.expect("there is room for one");
            let error = pipe.put(b"two").await.expect_err("nobody takes it");
            assert!(error.to_string().contains("does not read on"), "{error}");
            assert_eq!(chunks.recv().await.expect("a chunk").expect("good"), "one");
            pipe.put(b"three").await.expect("there is room again");
            drop(chunks);
            let error = pipe.put(b"four").await.expect_err("nobody is there");
            assert!(error.to_string().contains("is gone"), "{error}");
        }
    }
}
