//! From a client's first packet to its stream: the handshake, and then one bidirectional stream, which the client opens.

use super::{Counts, FURTHER_STREAM, NO_STREAM, Quic};
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
    pub(crate) from: SocketAddr,
    /// Our address, as far as the system says it.
    pub(crate) to: Option<SocketAddr>,
}

/// Counts a handshake for as long as it is under way.
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

/// Why a client came to no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// It has gone by itself.
    #[error("{0}")]
    Gone(ConnectionError),
    /// TLS or QUIC say why, and have told the client.
    #[error("{0}")]
    Refused(ConnectionError),
    /// Its certificate is not good any more.
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

/// A connection with its stream, and what the client's certificate has proved.
type Arrived = (Quic, Option<Arc<Certificate>>);

/// See the module. A client is told if this is dropped before it has opened its stream.
pub(crate) struct Arriving(Pin<Box<dyn Future<Output = Result<Arrived, Unfit>> + Send>>);

impl Arriving {
    /// Within the runtime that has the sockets.
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
        ..
    } = arrival;
    // Early data waits at quinn until here: whatever is read before could be a replay.
    let mut unopened = Unopened {
        connection: connecting.await?,
        is_open: false,
    };
    let identity = unopened.connection.peer_identity();
    let chain = identity.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = chain.as_deref().map(Vec::as_slice).unwrap_or_default();
    // quinn does not say whether the session was resumed, so the certificate is always held against the CAs once more.
    let certificate = settings.proved_by(chain, true).map_err(Unfit::Certificate)?;
    let (send, receive) = unopened.connection.accept_bi().await?;
    unopened.is_open = true;
    let connection = unopened.connection.clone();
    tokio::spawn(refuse_further_streams(connection.clone(), Arc::clone(&underway.0)));
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

/// The client's other streams end at once with a code; the first one and the connection go on. Ends with the connection.
async fn refuse_further_streams(connection: Connection, counts: Arc<Counts>) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        counts.streams_refused.fetch_add(1, Ordering::Relaxed);
        // Fails where the client has ended them itself.
        let _ = send.reset(FURTHER_STREAM);
        let _ = receive.stop(FURTHER_STREAM);
    }
}
