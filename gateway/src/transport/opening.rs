//! From an accepted socket to transport, peer and protocol: the stages before the first byte of a session.
//!
//! A plain socket is ready at once. Stages that need bytes or time run here, one after another: a PROXY header (changes
//! the peer), a TLS handshake (wraps the transport, adds the peer's certificate), an HTTP upgrade (wraps the
//! transport), the first bytes (choose the protocol). Together with the login that follows, they must finish within the
//! handshake's time limit.

use super::proxy::{self, Claim};
use super::quic::{Arrival, Arriving, Unfit};
use super::tls::{Handshake, Progress, Refused};
use super::websocket::upgrading::{Refused as NoWebSocket, Upgrading};
use super::websocket::{Limits, WebSocket};
use super::{Tcp, Transport, Unix};
use crate::logging::lines::LineKind;
use crate::node::Node;
use crate::protocols;
use crate::terms::Terms;
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
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Sleep;

/// An accepted socket, which does not block.
pub(crate) enum Socket {
    /// TCP, with the client's address.
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    /// QUIC, whose handshake has begun.
    Quic(Box<Arrival>),
}

impl Socket {
    /// The client's address; `None`: it came through a Unix socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(_, address) => Some(*address),
            Socket::Unix(_) => None,
            Socket::Quic(arrival) => Some(arrival.from),
        }
    }
}

/// The settings of a listener that its new connections need.
#[derive(Clone)]
pub(crate) struct Door {
    /// Limits, vhost and login rules of its connections.
    pub(crate) terms: Arc<Terms>,
    /// TLS settings; `None`: plain text.
    pub(crate) tls: Option<Arc<Port>>,
}

/// A connection that has no session yet.
pub(crate) struct Opening {
    stage: Stage,
    door: Door,
    since: Now,
}

enum Stage {
    Accepted(Socket),
    /// The stage it is at.
    Waiting(Box<Waiting>),
    Done,
}

struct Waiting {
    step: Step,
    peer: Peer,
    /// When the time for the handshake ends, or that for a refusal's last bytes.
    timer: Pin<Box<Sleep>>,
}

enum Step {
    /// Waits for a PROXY header; holds its bytes so far.
    Proxy(Transport, Vec<u8>),
    Handshake(Box<Handshake>),
    Quic(Arriving),
    /// The handshake failed; the TLS alert is being written.
    HandshakeEnding(Box<Handshake>),
    Upgrade(Upgrading),
    /// The upgrade is refused; the HTTP answer is being written.
    UpgradeEnding(Upgrading),
}

/// The outcome of one step.
enum Next {
    Pending(Step),
    Step(Step),
    Opened(Transport),
    /// The peer is refused; this stage tells it why.
    Farewell(Step),
    Gone,
}

/// A connection that is ready for its session.
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    pub(crate) peer: Peer,
    pub(crate) protocol: usize,
    /// When it was accepted.
    pub(crate) since: Now,
}

/// How long a refused peer may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

impl Opening {
    pub(crate) fn new(socket: Socket, door: Door, since: Now) -> Opening {
        Opening {
            stage: Stage::Accepted(socket),
            door,
            since,
        }
    }

    /// Must be called within the runtime that owns the sockets.
    ///
    /// # Errors
    /// The peer has gone, or is refused: there will be no session. The refusal is counted and logged.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, node: &Node) -> Poll<io::Result<Opened>> {
        let (mut step, mut peer, mut timer) = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Accepted(socket) => {
                let (first, peer) = match socket {
                    Socket::Quic(arrival) => {
                        let peer = Peer::at(arrival.from, arrival.to);
                        (Next::Step(Step::Quic(Arriving::new(*arrival))), peer)
                    }
                    Socket::Tcp(socket, address) => {
                        let peer = Peer::at(address, socket.local_addr().ok());
                        (self.first(Transport::Tcp(Tcp::new(socket)?)), peer)
                    }
                    // Only processes on this machine that the file's permissions allow can connect here.
                    Socket::Unix(socket) => (self.first(Transport::Unix(Unix::new(socket)?)), Peer::on_this_machine()),
                };
                let step = match first {
                    Next::Step(step) => step,
                    Next::Opened(transport) => return Poll::Ready(Ok(self.opened(transport, peer))),
                    _ => return gone(),
                };
                let limit = node.config().limits.handshake_timeout.0;
                (step, peer, Box::pin(tokio::time::sleep(limit)))
            }
            Stage::Waiting(waiting) => (waiting.step, waiting.peer, waiting.timer),
            Stage::Done => return gone(),
        };
        loop {
            step = match self.step(cx, node, step, &mut peer) {
                Next::Step(step) => step,
                Next::Opened(transport) => return Poll::Ready(Ok(self.opened(transport, peer))),
                Next::Farewell(step) => {
                    timer.set(tokio::time::sleep(FAREWELL));
                    step
                }
                Next::Gone => return gone(),
                Next::Pending(step) => {
                    if timer.as_mut().poll(cx).is_ready() {
                        self.too_slow(node, &step, &peer);
                        return gone();
                    }
                    self.stage = Stage::Waiting(Box::new(Waiting { step, peer, timer }));
                    return Poll::Pending;
                }
            };
        }
    }

    fn step(&self, cx: &mut Context<'_>, node: &Node, step: Step, peer: &mut Peer) -> Next {
        match step {
            Step::Proxy(mut transport, mut header) => match read_proxy(cx, &mut transport, &mut header) {
                Poll::Pending => Next::Pending(Step::Proxy(transport, header)),
                Poll::Ready(Ok(claim)) => {
                    // The client's own bytes follow, which show its protocol.
                    transport.forget_first_bytes();
                    // A client behind a proxy is never trusted as local, even if the proxy runs on this machine.
                    peer.is_local = false;
                    if let Claim::Client { from, to } = claim {
                        (peer.address, peer.local_address) = (Some(from), Some(to));
                        let now = node.clock.now().monotonic;
                        if let Err(why) = node.protection.admit(now, from.ip(), true) {
                            self.unwelcome(node, peer, &why.to_string());
                            return Next::Gone;
                        }
                    }
                    self.after_proxy(transport)
                }
                Poll::Ready(Err(why)) => {
                    self.proxy_refused(node, peer, &why);
                    Next::Gone
                }
            },
            Step::Handshake(handshake) => match handshake.poll(cx) {
                Progress::Done((tls, certificate)) => {
                    (peer.certificate, peer.is_encrypted) = (certificate, true);
                    self.after_tls(Transport::Tls(tls))
                }
                Progress::Refused(handshake, refused) => {
                    self.report(node, handshake.port().name(), peer, &refused);
                    match refused {
                        Refused::Tls(_) => Next::Farewell(Step::HandshakeEnding(handshake)),
                        _ => Next::Gone,
                    }
                }
                Progress::Pending(handshake) => Next::Pending(Step::Handshake(handshake)),
            },
            Step::Quic(mut arriving) => match arriving.poll(cx) {
                Poll::Pending => Next::Pending(Step::Quic(arriving)),
                Poll::Ready(Ok((quic, certificate))) => {
                    // The handshake has proved the address: its packets reached the client there.
                    let now = node.clock.now().monotonic;
                    let welcome = peer.address.map(|from| node.protection.admit(now, from.ip(), true));
                    if let Some(Err(why)) = welcome {
                        self.unwelcome(node, peer, &why.to_string());
                        return Next::Gone;
                    }
                    (peer.certificate, peer.is_encrypted) = (certificate, true);
                    Next::Opened(Transport::Quic(Box::new(quic)))
                }
                Poll::Ready(Err(why)) => {
                    self.quic_refused(node, peer, &why);
                    Next::Gone
                }
            },
            Step::HandshakeEnding(mut handshake) => match handshake.poll_end(cx) {
                Poll::Pending => Next::Pending(Step::HandshakeEnding(handshake)),
                Poll::Ready(_) => Next::Gone,
            },
            Step::Upgrade(upgrading) => self.upgrade(cx, node, upgrading, peer),
            Step::UpgradeEnding(mut upgrading) => match upgrading.poll_end(cx) {
                Poll::Pending => Next::Pending(Step::UpgradeEnding(upgrading)),
                Poll::Ready(()) => Next::Gone,
            },
        }
    }

    /// The first stage of a stream socket.
    fn first(&self, transport: Transport) -> Next {
        match self.door.terms.proxies {
            Some(_) => Next::Step(Step::Proxy(transport, Vec::new())),
            None => self.after_proxy(transport),
        }
    }

    fn after_proxy(&self, transport: Transport) -> Next {
        match (transport, &self.door.tls) {
            (Transport::Tcp(tcp), Some(port)) => {
                Next::Step(Step::Handshake(Box::new(Handshake::new(tcp, Arc::clone(port)))))
            }
            (transport, _) => self.after_tls(transport),
        }
    }

    fn after_tls(&self, transport: Transport) -> Next {
        match self.door.terms.websocket {
            Some(_) => Next::Step(Step::Upgrade(Upgrading::new(transport))),
            None => Next::Opened(transport),
        }
    }

    fn upgrade(&self, cx: &mut Context<'_>, node: &Node, mut upgrading: Upgrading, peer: &mut Peer) -> Next {
        let Some((websocket, rules)) = &self.door.terms.websocket else {
            return Next::Gone;
        };
        match upgrading.poll(cx, rules) {
            Poll::Pending => Next::Pending(Step::Upgrade(upgrading)),
            Poll::Ready(Ok(trusted)) => {
                // A browser on this machine may run a page of any site, so loopback alone proves no trust.
                peer.is_local &= trusted;
                let (under, early) = upgrading.into_parts();
                let config = node.config();
                let limits = Limits {
                    message_max: config.limits.websocket_message_max.0,
                    ping_after: config.limits.websocket_ping.0,
                };
                let now = node.clock.now().monotonic;
                let websocket = WebSocket::new(under, websocket, limits, &early, now);
                Next::Opened(Transport::WebSocket(Box::new(websocket)))
            }
            Poll::Ready(Err(NoWebSocket::Gone(why))) => {
                let (peer, listener) = (address_text(peer), &*self.door.terms.name);
                tracing::debug!(peer, listener, %why, "the peer left before a WebSocket was agreed on");
                Next::Gone
            }
            Poll::Ready(Err(NoWebSocket::Told(why))) => {
                self.websocket_refused(node, peer, &why, upgrading.transport.began_with_tls());
                Next::Farewell(Step::UpgradeEnding(upgrading))
            }
        }
    }

    fn opened(&self, transport: Transport, peer: Peer) -> Opened {
        Opened {
            transport,
            peer,
            protocol: self.door.terms.protocol,
            since: self.since,
        }
    }

    /// The time limit for all steps has passed.
    fn too_slow(&self, node: &Node, step: &Step, peer: &Peer) {
        match step {
            Step::Proxy(..) => self.proxy_refused(node, peer, "not complete within limits.handshake_timeout"),
            Step::Handshake(handshake) => self.report(node, handshake.port().name(), peer, &Refused::TooSlow),
            Step::Upgrade(_) => {
                self.websocket_refused(node, peer, "no request within limits.handshake_timeout", false);
            }
            Step::Quic(_) => self.quic_failed(node, peer, "no stream within limits.handshake_timeout"),
            Step::HandshakeEnding(_) | Step::UpgradeEnding(_) => {}
        }
    }

    fn quic_refused(&self, node: &Node, peer: &Peer, why: &Unfit) {
        if let Unfit::Gone(why) = why {
            let (peer, listener) = (address_text(peer), &*self.door.terms.name);
            tracing::debug!(peer, listener, %why, "the peer left before it had opened its QUIC stream");
        } else {
            self.quic_failed(node, peer, &why.to_string());
        }
    }

    fn quic_failed(&self, node: &Node, peer: &Peer, why: &str) {
        if let Some(counts) = node.connections.get(self.door.terms.protocol) {
            counts.quic_refused.fetch_add(1, Ordering::Relaxed);
        }
        if node.lines.admit(LineKind::Quic) {
            let (peer, listener) = (address_text(peer), &*self.door.terms.name);
            tracing::warn!(peer, listener, why, "no QUIC connection");
        }
    }

    fn websocket_refused(&self, node: &Node, peer: &Peer, why: &str, began_with_tls: bool) {
        if let Some(counts) = node.connections.get(self.door.terms.protocol) {
            counts.websocket_refused.fetch_add(1, Ordering::Relaxed);
        }
        let (peer, listener) = (address_text(peer), &*self.door.terms.name);
        if !began_with_tls {
            if node.lines.admit(LineKind::WebSocket) {
                tracing::info!(peer, listener, why, "no WebSocket");
            }
        } else if node.lines.admit(LineKind::WrongProtocol) {
            tracing::warn!(peer, listener, "a client speaks TLS where the listener has plain text");
        }
    }

    /// The client's address, which a PROXY header or a QUIC handshake has only now established, is banned or over its limit.
    fn unwelcome(&self, node: &Node, peer: &Peer, why: &str) {
        if let Some(counts) = node.connections.get(self.door.terms.protocol) {
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        if node.lines.admit(LineKind::Refused) {
            let (peer, listener) = (address_text(peer), &*self.door.terms.name);
            tracing::warn!(peer, listener, "connection refused: {why}");
        }
    }

    fn proxy_refused(&self, node: &Node, peer: &Peer, why: &str) {
        if let Some(counts) = node.connections.get(self.door.terms.protocol) {
            counts.proxy_refused.fetch_add(1, Ordering::Relaxed);
        }
        if node.lines.admit(LineKind::Proxy) {
            let (peer, listener) = (address_text(peer), &*self.door.terms.name);
            tracing::warn!(peer, listener, why, "connection closed: bad PROXY header");
        }
    }

    fn report(&self, node: &Node, listener: &str, peer: &Peer, refused: &Refused) {
        let peer = address_text(peer);
        if let Refused::Gone(why) = refused {
            // Port scans and health probes would fill the log at `info`.
            tracing::debug!(peer, listener, %why, "the peer left before TLS was agreed on");
            return;
        }
        if let Some(counts) = node.connections.get(self.door.terms.protocol) {
            counts.tls_refused.fetch_add(1, Ordering::Relaxed);
        }
        let kind = match refused {
            Refused::PlainText(_) => LineKind::WrongProtocol,
            _ => LineKind::Tls,
        };
        if !node.lines.admit(kind) {
            return;
        }
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
                    "a client speaks plain text where the listener has TLS"
                );
            }
            Refused::Tls(why) => tracing::warn!(peer, listener, %why, "TLS handshake failed"),
            Refused::TooSlow => {
                tracing::warn!(
                    peer,
                    listener,
                    "TLS handshake took longer than limits.handshake_timeout"
                );
            }
            Refused::Gone(_) => {}
        }
    }
}

fn gone() -> Poll<io::Result<Opened>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

/// Reads a PROXY header and not a byte more: what follows belongs to TLS, HTTP or the session.
fn read_proxy(cx: &mut Context<'_>, transport: &mut Transport, header: &mut Vec<u8>) -> Poll<Result<Claim, String>> {
    loop {
        let more = match proxy::read(header) {
            proxy::Verdict::Done(claim) => return Poll::Ready(Ok(claim)),
            proxy::Verdict::Bad(why) => return Poll::Ready(Err(why.to_owned())),
            proxy::Verdict::More(more) => more,
        };
        let mut space = [0; proxy::HEADER_MAX];
        let mut space = ReadBuf::new(space.get_mut(..more).unwrap_or_default());
        match ready!(Pin::new(&mut *transport).poll_read(cx, &mut space)) {
            Ok(()) if space.filled().is_empty() => return Poll::Ready(Err("the peer left".to_owned())),
            Ok(()) => header.extend_from_slice(space.filled()),
            Err(error) => return Poll::Ready(Err(error.to_string())),
        }
    }
}

fn address_text(peer: &Peer) -> String {
    peer.address.map(|address| address.to_string()).unwrap_or_default()
}
