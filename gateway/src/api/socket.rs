//! The control socket: the management API on a Unix socket in the data directory. Processes that may open its file may
//! do everything: those of the gateway's own user and group.

use crate::listener::{SocketFile, listen_unix};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Maximum connections: operators and their scripts, on this machine.
const CONNECTIONS_MAX: usize = 16;
/// Time for a whole request head, and from one request of a connection to the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const BACKLOG: i32 = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// The path of the socket.
pub(crate) fn path(data: &Path) -> PathBuf {
    data.join("control.sock")
}

/// A listening socket.
pub(crate) struct Bound {
    listener: UnixListener,
    file: SocketFile,
}

/// Binds the socket. The lock of the data directory is held, so that no other gateway uses it.
///
/// # Errors
/// The system refuses it, for example because its path is too long (more than some hundred bytes).
pub(crate) fn bind(data: &Path) -> io::Result<Bound> {
    let (listener, file) = listen_unix(&path(data), BACKLOG)?;
    Ok(Bound { listener, file })
}

/// Serves requests. Never returns; connections end when this is dropped.
pub(crate) async fn serve(bound: Bound, router: Router) -> io::Result<()> {
    let Bound { listener, file } = bound;
    let _removed_with_it = file;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    connection(stream, router).await;
                    drop(place);
                });
            }
            // No descriptor is left, or the client has closed the connection.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Answers the requests of one connection.
pub(crate) async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    // If it fails, the peer notices.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}
