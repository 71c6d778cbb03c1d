//! From an accepted socket to (transport, peer, protocol): what comes before the first byte of a session.
//!
//! Today a socket is all there is, and it is ready at once. What needs bytes or time goes here, one stage after another,
//! each polled until it is done: a PROXY header (changes the peer), a TLS handshake (wraps the transport, adds the peer's
//! certificate), an HTTP upgrade (wraps the transport), the first bytes (choose the protocol). None of them may take
//! longer than the handshake's time limit.

use super::{Tcp, Transport, Unix};
use gatepost_core::command::Peer;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};

/// An accepted socket, which does not block.
pub(crate) enum Socket {
    /// With the address it comes from.
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Socket {
    /// Where it comes from, for the log.
    pub(crate) fn peer_text(&self) -> String {
        match self {
            Socket::Tcp(_, address) => address.to_string(),
            Socket::Unix(_) => "local".to_owned(),
        }
    }
}

/// A connection that has no session yet.
pub(crate) struct Opening {
    socket: Option<Socket>,
    /// What its listener speaks: the protocol's place in the node's list.
    protocol: usize,
}

/// A connection that is ready for its session.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) peer: Peer,
    pub(crate) protocol: usize,
}

impl Opening {
    pub(crate) fn new(socket: Socket, protocol: usize) -> Opening {
        Opening {
            socket: Some(socket),
            protocol,
        }
    }

    /// Within the runtime of the thread that will drive the connection.
    ///
    /// # Errors
    /// There will be no session: the runtime is shutting down, or the peer has gone.
    pub(crate) fn poll(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Opened>> {
        let Some(socket) = self.socket.take() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        Poll::Ready(self.open(socket))
    }

    fn open(&self, socket: Socket) -> io::Result<Opened> {
        let (transport, peer) = match socket {
            Socket::Tcp(socket, address) => {
                let peer = Peer::at(address, socket.local_addr().ok());
                (Transport::Tcp(Tcp::new(socket)?), peer)
            }
            // Whoever may open the file is on this machine and was let in by the file's owner.
            Socket::Unix(socket) => (Transport::Unix(Unix::new(socket)?), Peer::on_this_machine()),
        };
        Ok(Opened {
            transport,
            peer,
            protocol: self.protocol,
        })
    }
}
