//! Binds ports and accepts connections.

use crate::config::Listener;
use crate::exit::Failure;
use crate::machine;
use crate::node::Node;
use crate::protocols;
use crate::threads::IoThreads;
use crate::transport;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A bound port.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The listener's name in the configuration.
    pub name: String,
    /// The place of the protocol that is spoken there; `None`: HTTP, for metrics and health.
    pub protocol: Option<usize>,
    /// The address, with the port the system chose if it was to choose.
    pub address: SocketAddr,
    /// The socket, not blocking.
    pub socket: TcpListener,
}

/// Binds all addresses of a listener.
///
/// # Errors
/// An address is in use, not ours, or not allowed; the text says which, and what to do.
pub(crate) fn bind(name: &str, listener: &Listener) -> Result<Vec<Bound>, Failure> {
    listener
        .bind
        .iter()
        .map(|address| bind_one(name, listener, *address))
        .collect()
}

fn bind_one(name: &str, listener: &Listener, address: SocketAddr) -> Result<Bound, Failure> {
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    let result = match (listen(address, backlog), address) {
        // A machine without IPv6 still has a default configuration.
        (Err(error), SocketAddr::V6(v6)) if v6.ip().is_unspecified() && is_without_ipv6(&error) => {
            listen((Ipv4Addr::UNSPECIFIED, v6.port()).into(), backlog)
        }
        (result, _) => result,
    };
    result
        .and_then(|socket| {
            Ok(Bound {
                name: name.to_owned(),
                protocol: protocols::find(&listener.protocol),
                address: socket.local_addr()?,
                socket,
            })
        })
        .map_err(|error| {
            let port = address.port();
            let hint = match error.kind() {
                ErrorKind::AddrInUse => {
                    format!("; `ss -ltnp sport = :{port}` shows who has it, listeners.{name}.bind moves ours")
                }
                ErrorKind::PermissionDenied => "; ports under 1024 need CAP_NET_BIND_SERVICE".to_owned(),
                ErrorKind::AddrNotAvailable => "; no interface of this machine has that address".to_owned(),
                _ => String::new(),
            };
            Failure::PortUnavailable(format!("cannot listen on {address} for {name}: {error}{hint}"))
        })
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT: not in the kernel; EADDRNOTAVAIL: switched off.
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        || error.kind() == ErrorKind::AddrNotAvailable
}

/// Accepts connections for the node's protocol number `protocol` and deals them to the I/O threads, for ever.
pub(crate) async fn accept(
    node: Arc<Node>,
    threads: Arc<IoThreads>,
    protocol: usize,
    listener: tokio::net::TcpListener,
) {
    let mut pause = PAUSE_MIN;
    let mut accepted = 0;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = PAUSE_MIN;
                admit(&node, &threads, protocol, stream, address);
                accepted += 1;
                if accepted == ACCEPTS_PER_TURN {
                    accepted = 0;
                    // Until the thread has served all others that are ready, the new ones among them.
                    tokio::task::yield_now().await;
                }
            }
            // The client gave up while it was queued: its own affair.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
                ) => {}
            // No descriptor or memory left. Trying again at once would only burn the processor that others need to finish.
            Err(error) => {
                if let Some(left_out) = node.throttle.admit() {
                    tracing::error!(%error, left_out, pause_ms = pause.as_millis(), "cannot accept connections");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Connections accepted at once: opening one costs as much as hundreds of messages.
const ACCEPTS_PER_TURN: usize = 4;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections that are admitted: as set, and never so many that the log would lack descriptors. A log that cannot open a
/// file ends the process; a connection that is refused costs one client a retry.
fn connections_max(set: u64, open_files: u64, reserved: u64) -> u64 {
    let room = open_files.saturating_sub(reserved).max(1);
    match set {
        0 => room,
        set => set.min(room),
    }
}

fn admit(node: &Arc<Node>, threads: &IoThreads, protocol: usize, stream: tokio::net::TcpStream, address: SocketAddr) {
    let Some(counts) = node.connections.get(protocol) else {
        return;
    };
    let reserved = machine::files_reserved(node.config().store.open_files);
    let limit = connections_max(
        node.config().limits.max_connections,
        machine::open_files_max(),
        reserved,
    );
    if node.connections_open() >= limit {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = node.throttle.admit() {
            tracing::warn!(peer = %address, limit, left_out, "connection refused: there are as many as limits.max_connections and the limit on open files allow");
        }
        return;
    }
    // Into a blocking-agnostic handle: it is registered anew with the thread that will drive it.
    let stream = match stream.set_nodelay(true).and_then(|()| stream.into_std()) {
        Ok(stream) => stream,
        // Reset before we looked.
        Err(_) => return,
    };
    counts.opened.fetch_add(1, Ordering::Relaxed);
    threads.deal(node, protocol, transport::Socket::Tcp(stream, address));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Listener {
        Listener {
            protocol: "amqp".to_owned(),
            bind: vec!["127.0.0.1:0".parse().expect("an address")],
            backlog: 16,
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_a_way_out() {
        let first = bind("amqp", &loopback()).expect("bound");
        let address = first.first().expect("one").address;
        let again = Listener {
            protocol: "mqtt".to_owned(),
            bind: vec![address],
            backlog: 16,
        };
        let error = bind("mqtt", &again).expect_err("in use").to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {address} for mqtt: ")),
            "{error}"
        );
        assert!(error.ends_with("listeners.mqtt.bind moves ours"), "{error}");
    }

    /// `limits.max_connections = 500` with 256 descriptors let clients take the last one, and the log failed.
    #[test]
    fn connections_never_take_the_descriptors_of_the_log() {
        assert_eq!(connections_max(0, 256, 128), 128);
        assert_eq!(connections_max(500, 256, 128), 128);
        assert_eq!(connections_max(100, 256, 128), 100);
        assert_eq!(connections_max(0, 64, 128), 1);
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let any = Listener {
            protocol: "amqp".to_owned(),
            bind: vec!["[::]:0".parse().expect("an address")],
            backlog: 16,
        };
        let bound = bind("amqp", &any).expect("bound");
        let port = bound.first().expect("one").address.port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("IPv4 connects");
    }
}
