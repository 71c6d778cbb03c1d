//! From an accepted socket to (transport, peer, protocol): what comes before the first byte of a session.
//!
//! A plain socket is ready at once. What needs bytes or time goes here, one stage after another, each polled until it is
//! done: a PROXY header (changes the peer), a TLS handshake (wraps the transport, adds the peer's certificate), an HTTP
//! upgrade (wraps the transport), the first bytes (choose the protocol). All of them together, and the login after them, may
//! take the handshake's time limit.

use super::tls::{Handshake, Progress, Refused};
use super::{Tcp, Transport, Unix};
use crate::node::Node;
use crate::protocols;
use crate::tls::Port;
use gatepost_core::command::Peer;
use gatepost_core::session::FirstBytes;
use gatepost_core::time::Now;
use std::future::Future as _;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

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

/// What a listener has for those who connect.
#[derive(Clone)]
pub(crate) struct Door {
    /// What it speaks: the protocol's place in the node's list.
    pub(crate) protocol: usize,
    /// TLS comes first.
    pub(crate) tls: Option<Arc<Port>>,
}

/// A connection that has no session yet.
pub(crate) struct Opening {
    stage: Stage,
    protocol: usize,
    since: Now,
}

enum Stage {
    Accepted(Socket, Option<Arc<Port>>),
    Handshake {
        handshake: Box<Handshake>,
        peer: Peer,
        timer: Pin<Box<Sleep>>,
    },
    /// The handshake failed; the peer is told.
    Ending {
        handshake: Box<Handshake>,
        timer: Pin<Box<Sleep>>,
    },
    Done,
}

/// A connection that is ready for its session.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) peer: Peer,
    pub(crate) protocol: usize,
    /// When it was accepted.
    pub(crate) since: Now,
}

/// How long a peer whose handshake failed may take to hear why.
const FAREWELL: Duration = Duration::from_secs(1);

impl Opening {
    pub(crate) fn new(socket: Socket, door: Door, since: Now) -> Opening {
        Opening {
            stage: Stage::Accepted(socket, door.tls),
            protocol: door.protocol,
            since,
        }
    }

    /// Within the runtime that has the sockets.
    ///
    /// # Errors
    /// There will be no session: the peer has gone, or was turned away. That is counted and logged.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, node: &Node) -> Poll<io::Result<Opened>> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Accepted(Socket::Tcp(socket, address), Some(port)) => {
                    let peer = Peer::at(address, socket.local_addr().ok());
                    let limit = node.config().limits.handshake_timeout.0;
                    self.stage = Stage::Handshake {
                        handshake: Box::new(Handshake::new(Tcp::new(socket)?, port)),
                        peer,
                        timer: Box::pin(tokio::time::sleep(limit)),
                    };
                }
                Stage::Accepted(socket, _) => return Poll::Ready(plain(socket).map(|(t, peer)| self.opened(t, peer))),
                Stage::Handshake {
                    handshake,
                    mut peer,
                    mut timer,
                } => match handshake.poll(cx) {
                    Progress::Done((tls, certificate)) => {
                        peer.certificate = certificate;
                        return Poll::Ready(Ok(self.opened(Transport::Tls(tls), peer)));
                    }
                    Progress::Refused(handshake, refused) => {
                        self.report(node, handshake.port().name(), &peer, &refused);
                        if !matches!(refused, Refused::Tls(_)) {
                            return gone();
                        }
                        timer.set(tokio::time::sleep(FAREWELL));
                        self.stage = Stage::Ending { handshake, timer };
                    }
                    Progress::Pending(handshake) if timer.as_mut().poll(cx).is_ready() => {
                        self.report(node, handshake.port().name(), &peer, &Refused::TooSlow);
                        return gone();
                    }
                    Progress::Pending(handshake) => {
                        self.stage = Stage::Handshake { handshake, peer, timer };
                        return Poll::Pending;
                    }
                },
                Stage::Ending {
                    mut handshake,
                    mut timer,
                } => {
                    if handshake.poll_end(cx).is_pending() && timer.as_mut().poll(cx).is_pending() {
                        self.stage = Stage::Ending { handshake, timer };
                        return Poll::Pending;
                    }
                    return gone();
                }
                Stage::Done => return gone(),
            }
        }
    }

    fn opened(&self, transport: Transport, peer: Peer) -> Opened {
        Opened {
            transport,
            peer,
            protocol: self.protocol,
            since: self.since,
        }
    }

    fn report(&self, node: &Node, listener: &str, peer: &Peer, refused: &Refused) {
        let peer = peer.address.map(|address| address.to_string()).unwrap_or_default();
        if let Refused::Gone(why) = refused {
            // A port scan, or a probe whether somebody listens, is no news.
            tracing::debug!(peer, listener, %why, "the peer left before TLS was agreed on");
            return;
        }
        if let Some(counts) = node.connections.get(self.protocol) {
            counts.tls_refused.fetch_add(1, Ordering::Relaxed);
        }
        let Some(left_out) = node.throttle.admit() else {
            return;
        };
        match refused {
            Refused::PlainText(bytes) => {
                let speaks = protocols::ALL
                    .iter()
                    .find(|protocol| (protocol.first_bytes)(bytes) == FirstBytes::Yes)
                    .map_or("something else", |protocol| protocol.name);
                tracing::warn!(
                    peer,
                    listener,
                    speaks,
                    left_out,
                    "a client speaks plain text where the listener has TLS"
                );
            }
            Refused::Tls(why) => tracing::warn!(peer, listener, %why, left_out, "TLS handshake failed"),
            Refused::TooSlow => tracing::warn!(
                peer,
                listener,
                left_out,
                "TLS handshake took longer than limits.handshake_timeout"
            ),
            Refused::Gone(_) => {}
        }
    }
}

fn gone() -> Poll<io::Result<Opened>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

fn plain(socket: Socket) -> io::Result<(Transport, Peer)> {
    Ok(match socket {
        Socket::Tcp(socket, address) => {
            let peer = Peer::at(address, socket.local_addr().ok());
            (Transport::Tcp(Tcp::new(socket)?), peer)
        }
        // Whoever may open the file is on this machine and was let in by the file's owner.
        Socket::Unix(socket) => (Transport::Unix(Unix::new(socket)?), Peer::on_this_machine()),
    })
}
