//! The UDP socket of a listener. Decides who may begin a handshake there.

use super::arriving::{Arrival, Underway};
use crate::node::Node;
use crate::tls::Port;
use quinn::{Incoming, TokioRuntime};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A listening UDP socket, registered with its runtime.
pub(crate) struct Endpoint {
    endpoint: quinn::Endpoint,
    port: Arc<Port>,
    address: SocketAddr,
}

impl Endpoint {
    /// Must be called within the runtime that is to own the socket.
    ///
    /// # Errors
    /// The runtime cannot register the socket, or the listener has no certificate.
    pub(crate) fn new(socket: UdpSocket, port: Arc<Port>, node: &Node) -> io::Result<Endpoint> {
        let address = socket.local_addr()?;
        let Some((server, _)) = port.accept_quic() else {
            return Err(io::Error::other("the listener has no certificate"));
        };
        let endpoint = quinn::Endpoint::new(
            node.tls.quic().endpoint(),
            // Connections get the settings that are in force when they begin. These here open first packets and seal
            // tokens.
            Some((*server).clone()),
            socket,
            Arc::new(TokioRuntime),
        )?;
        Ok(Endpoint {
            endpoint,
            port,
            address,
        })
    }

    /// The next client that wants to connect.
    ///
    /// While few handshakes are in progress, addresses are trusted. Above that number, a client first has to prove that
    /// it receives packets at its address. This costs the client a round trip, and us no memory (RFC 9000 8.1.2).
    pub(crate) async fn next(&self, node: &Node) -> Incoming {
        loop {
            let Some(incoming) = self.endpoint.accept().await else {
                // The socket is broken, which quinn has logged: nobody can connect any more.
                std::future::pending::<()>().await;
                continue;
            };
            let limit = node.config().limits.quic_retry_over;
            if incoming.remote_address_validated() || node.quic.underway.load(Ordering::Relaxed) < limit {
                return incoming;
            }
            node.quic.retries.fetch_add(1, Ordering::Relaxed);
            // Fails only for a client that has proved its address already; those do not come here.
            let _ = incoming.retry();
        }
    }

    /// Begins the handshake. `None`: the first packet was invalid.
    pub(crate) fn begin(&self, incoming: Incoming, node: &Node) -> Option<Arrival> {
        let (server, settings) = self.port.accept_quic()?;
        let from = incoming.remote_address();
        let to = incoming.local_ip().map(|ip| SocketAddr::new(ip, self.address.port()));
        Some(Arrival {
            connecting: incoming.accept_with(server).ok()?,
            settings,
            underway: Underway::new(&node.quic),
            further_streams_max: node.config().limits.quic_further_streams as u64,
            from,
            to: to.or(Some(self.address)),
        })
    }
}
