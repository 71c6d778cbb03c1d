//! From a client's first packet to its stream: the handshake, and then one bidirectional stream, which the client opens.

use super::{Counts, FURTHER_STREAM, NO_STREAM, Quic, TOO_MANY_STREAMS};
use crate::tls::Settings;
use gatepost_core::command::Certificate;
use quinn::{Connecting, Connection, ConnectionError};
use rustls::pki_types::CertificateDer;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

/// A handshake that has begun, as the listener hands it on.
pub(crate) struct Arrival {
    pub(super) connecting: Connecting,
    pub(super) settings: Settings,
    pub(super) underway: Underway,
    /// Maximum streams beside the session's that are refused before the connection is closed.
    pub(super) further_streams_max: u64,
    pub(crate) from: SocketAddr,
    /// Our address; `None` if the system does not report it.
    pub(crate) to: Option<SocketAddr>,
}

/// Counts a handshake while it is in progress.
pub(super) struct Underway(pub(super) Arc<Counts>);

impl Underway {
    pub(super) fn new(counts: &Arc<Counts>) -> Underway {
        counts.underway.fetch_add(1, Ordering::Relaxed);
        Underway(Arc::clone(counts))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.underway.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a client got no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// It has left.
    #[error("{0}")]
    Gone(ConnectionError),
    /// TLS or QUIC failed. quinn has told the client; the text is for the log.
    #[error("{0}")]
    Refused(ConnectionError),
    /// Its certificate has expired or was revoked.
    #[error("{0}")]
    Certificate(rustls::Error),
}

impl From<ConnectionError> for Unfit {
    fn from(error: ConnectionError) -> Unfit {
        match error {
            ConnectionError::ApplicationClosed(_) | ConnectionError::Reset | ConnectionError::TimedOut => {
                Unfit::Gone(error)
            }
            other => Unfit::Refused(other),
        }
    }
}

/// A connection with its stream, and the content of the client's certificate.
type Arrived = (Quic, Option<Arc<Certificate>>);

/// The steps from a client's first packet to its stream. Dropping this early closes the connection and tells the
/// client.
pub(crate) struct Arriving(Pin<Box<dyn Future<Output = Result<Arrived, Unfit>> + Send>>);

impl Arriving {
    /// Must be called within the runtime that owns the sockets.
    pub(crate) fn new(arrival: Arrival) -> Arriving {
        Arriving(Box::pin(arrive(arrival)))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, Unfit>> {
        self.0.as_mut().poll(cx)
    }
}

async fn arrive(arrival: Arrival) -> Result<Arrived, Unfit> {
    let Arrival {
        connecting,
        settings,
        underway,
        further_streams_max,
        ..
    } = arrival;
    // Early data waits in quinn until the handshake is done: bytes read before could be a replay.
    let mut unopened = Unopened {
        connection: connecting.await?,
        is_open: false,
    };
    let identity = unopened.connection.peer_identity();
    let chain = identity.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = chain.as_deref().map(Vec::as_slice).unwrap_or_default();
    // quinn does not report whether the session was resumed, so the certificate is always verified once more.
    let certificate = settings.proved_by(chain, true).map_err(Unfit::Certificate)?;
    let (send, receive) = unopened.connection.accept_bi().await?;
    unopened.is_open = true;
    let connection = unopened.connection.clone();
    tokio::spawn(refuse_further_streams(
        connection.clone(),
        Arc::clone(&underway.0),
        further_streams_max,
    ));
    Ok((Quic::new(connection, send, receive), certificate))
}

/// A connection whose stream is not open yet.
struct Unopened {
    connection: Connection,
    is_open: bool,
}

impl Drop for Unopened {
    fn drop(&mut self) {
        if !self.is_open {
            self.connection.close(NO_STREAM, b"no stream was opened in time");
        }
    }
}

/// Refuses further streams of the client with a code; its first stream goes on. A client that does not stop after `max` of them
/// is closed: each costs us packets and turns. Returns when the connection ends.
async fn refuse_further_streams(connection: Connection, counts: Arc<Counts>, max: u64) {
    let mut refused = 0;
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        counts.streams_refused.fetch_add(1, Ordering::Relaxed);
        refused += 1;
        if refused > max {
            connection.close(FURTHER_STREAM, TOO_MANY_STREAMS.as_bytes());
        }
        // An error means that the client has ended the stream itself.
        let _ = send.reset(FURTHER_STREAM);
        let _ = receive.stop(FURTHER_STREAM);
    }
}
