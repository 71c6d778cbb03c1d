//! Serves HTTP with a bounded number of connections, so that a health probe is answered even if all places are taken.
//!
//! A client may open connections and send half a request on each. Such a connection ends after [`Bounds::head_timeout`]. Until
//! then, when all places are taken, a new connection replaces the oldest one that has no request in progress.
//! A probe sends its request at once, so it is answered however many connections send none.

use super::answers::Answers;
use super::place::Place;
use crate::tls::Port;
use crate::transport::HttpStream;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

pub(crate) use super::place::Waiting;

/// Maximum time for which a connection makes no progress in either direction.
const IDLE: Duration = Duration::from_secs(30);
/// Maximum bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Limits of one server.
#[derive(Clone)]
pub(crate) struct Bounds {
    /// Maximum open connections.
    pub connections_max: usize,
    /// Time for the TLS handshake, for a whole request head, and from one request of a connection to the next.
    pub head_timeout: Duration,
    /// Counts the answers.
    pub answers: Arc<Answers>,
}

/// The address of the request's peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CameFrom(pub SocketAddr);

/// Whether the request arrived at a loopback address, such as 127.0.0.1, which no other machine can reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtLoopback(pub bool);

/// Whether the request came over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverTls(pub bool);

/// Accepts and serves connections that `admit` accepts, over TLS if there is a `port`. Never returns; connections end when
/// the future is dropped.
pub(crate) async fn serve(
    mut listener: TcpListener,
    port: Option<Arc<Port>>,
    router: Router,
    bounds: Bounds,
    admit: impl Fn(IpAddr) -> bool,
) {
    // Oldest first. The connection's task holds the other reference to its place.
    let mut open: VecDeque<Arc<Place>> = VecDeque::new();
    let mut tasks = JoinSet::new();
    loop {
        // axum's accept handles errors: it retries, and pauses when descriptors have run out.
        let (stream, from) = Listener::accept(&mut listener).await;
        if !admit(from.ip()) {
            continue;
        }
        while tasks.try_join_next().is_some() {}
        open.retain(|place| Arc::strong_count(place) > 1);
        if open.len() >= bounds.connections_max {
            let waiting = open.iter().position(|place| !place.busy.load(Ordering::Relaxed));
            match waiting.and_then(|oldest| open.remove(oldest)) {
                Some(place) => place.close(),
                None => continue,
            }
            // Lets the closed connection drop its socket before another is accepted, because descriptors are limited.
            tokio::task::yield_now().await;
        }
        let place = Arc::new(Place::default());
        open.push_back(Arc::clone(&place));
        tasks.spawn(connection(
            (stream, from),
            port.clone(),
            router.clone(),
            bounds.clone(),
            place,
        ));
    }
}

async fn connection(
    (stream, from): (TcpStream, SocketAddr),
    port: Option<Arc<Port>>,
    router: Router,
    bounds: Bounds,
    place: Arc<Place>,
) {
    let at_loopback = stream.local_addr().is_ok_and(|at| at.ip().to_canonical().is_loopback());
    let over_tls = port.is_some();
    let stream = tokio::select! {
        stream = HttpStream::open(stream, port) => stream,
        () = tokio::time::sleep(bounds.head_timeout) => return,
        () = place.cut.notified() => return,
    };
    // A failed handshake was already answered by a TLS alert.
    let Ok(stream) = stream else { return };
    let io = Connection {
        stream,
        idle: Box::pin(tokio::time::sleep(IDLE)),
    };
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let (router, place, answers) = (router.clone(), Arc::clone(&place), Arc::clone(&bounds.answers));
        async move {
            place.busy.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(AtLoopback(at_loopback));
            extensions.insert(OverTls(over_tls));
            extensions.insert(CameFrom(from));
            extensions.insert(Waiting::at(&place));
            let answer = match router.call(request).await {
                Ok(answer) => Ok(answers.send(answer, &place).await),
                Err(never) => Err(never),
            };
            place.busy.store(false, Ordering::Relaxed);
            answer
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        // Errors need no log line: the peer sent nothing or no HTTP, or has closed.
        _ = serving => {}
        () = place.cut.notified() => {}
    }
}

/// A stream that fails when it makes no progress for [`IDLE`].
struct Connection {
    stream: HttpStream,
    idle: Pin<Box<Sleep>>,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
        } else if self.idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
        } else if self.idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use gatepost_core::buffers::Buffers;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        text
    }

    #[tokio::test]
    async fn who_waits_longest_for_a_request_gives_up_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", get(|| async { "here" }));
        let bounds = Bounds {
            connections_max: 2,
            head_timeout: Duration::from_secs(30),
            answers: Arc::new(Answers::new(Arc::new(Buffers::new(usize::MAX)))),
        };
        let serving = tokio::spawn(serve(listener, None, router, bounds, |_| true));
        let mut silent = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.expect("sent");
            silent.push(stream);
        }
        let mut third = TcpStream::connect(address).await.expect("connected");
        third
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        assert!(answer(&mut third).await.ends_with("here"));
        // The first connection was closed for a new one, and the second was not.
        assert_eq!(silent[0].read(&mut [0]).await.expect("the end"), 0);
        silent[1]
            .write_all(b" x\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        assert!(answer(&mut silent[1]).await.ends_with("here"));
        serving.abort();
    }
}
