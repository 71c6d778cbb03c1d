//! Serves HTTP within a bounded number of connections, and so that a crowd cannot keep a probe from its answer.
//!
//! A client may open connections and send half a request on each. Such a connection ends after [`Bounds::head_timeout`]. Until
//! then, when all places are taken, a new connection takes the place of the one that has waited longest for its request.
//! A probe sends its request at once, so it is answered however many others do not.

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
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

/// For a peer that takes none of its answer.
const IDLE: Duration = Duration::from_secs(30);
/// Of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How much of it there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub connections_max: usize,
    /// For TLS, for a whole request head, and from one request of a connection to the next.
    pub head_timeout: Duration,
}

/// Where the request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CameFrom(pub SocketAddr);

/// Whether the request came in at an address of this machine, such as 127.0.0.1, which nobody else can reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtLoopback(pub bool);

/// A connection's place among the open ones.
#[derive(Debug, Default)]
struct Place {
    /// A request is being answered, so the place is not given to another.
    busy: AtomicBool,
    /// The place is given to another.
    cut: Notify,
}

/// A connection's place, for a request that waits for nothing but time: see [`Waiting::aside`].
#[derive(Clone, Debug)]
pub(crate) struct Waiting(Arc<Place>);

impl Waiting {
    /// Waits, and others may have the place meanwhile: the connection then ends.
    pub(crate) async fn aside(&self, wait: impl Future) {
        self.0.busy.store(false, Ordering::Relaxed);
        wait.await;
        self.0.busy.store(true, Ordering::Relaxed);
    }
}

/// Accepts and serves, for ever, over TLS where there is a `port` for it: whom `admit` lets in. Connections end when this
/// is dropped.
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
        // axum's own, for its care with errors of accept.
        let (stream, from) = Listener::accept(&mut listener).await;
        if !admit(from.ip()) {
            continue;
        }
        while tasks.try_join_next().is_some() {}
        open.retain(|place| Arc::strong_count(place) > 1);
        if open.len() >= bounds.connections_max {
            let waiting = open.iter().position(|place| !place.busy.load(Ordering::Relaxed));
            match waiting.and_then(|oldest| open.remove(oldest)) {
                Some(place) => place.cut.notify_one(),
                None => continue,
            }
            // The one that is cut closes its socket before another is accepted: descriptors are bounded.
            tokio::task::yield_now().await;
        }
        let place = Arc::new(Place::default());
        open.push_back(Arc::clone(&place));
        tasks.spawn(connection((stream, from), port.clone(), router.clone(), bounds, place));
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
    let stream = tokio::select! {
        stream = HttpStream::open(stream, port) => stream,
        () = tokio::time::sleep(bounds.head_timeout) => return,
        () = place.cut.notified() => return,
    };
    // Whoever fails to agree on TLS is told by TLS.
    let Ok(stream) = stream else { return };
    let io = Connection {
        stream,
        idle: Box::pin(tokio::time::sleep(IDLE)),
    };
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let (router, place) = (router.clone(), Arc::clone(&place));
        async move {
            place.busy.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(AtLoopback(at_loopback));
            extensions.insert(CameFrom(from));
            extensions.insert(Waiting(Arc::clone(&place)));
            let answer = router.call(request).await;
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
        // However it ends, the peer knows why: it sent nothing, or not HTTP, or is gone.
        _ = serving => {}
        () = place.cut.notified() => {}
    }
}

/// An accepted connection, which ends if its peer takes nothing for long.
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
        // The first gave up its place, and the second still has its own.
        assert_eq!(silent[0].read(&mut [0]).await.expect("the end"), 0);
        silent[1]
            .write_all(b" x\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        assert!(answer(&mut silent[1]).await.ends_with("here"));
        serving.abort();
    }
}
