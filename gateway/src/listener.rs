//! Binds ports and accepts connections.

use crate::config::Listener;
use crate::exit::Failure;
use crate::machine;
use crate::node::Node;
use crate::terms::Terms;
use crate::threads::IoThreads;
use crate::transport::{self, Door};
use gatepost_core::keys::Address;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A bound port.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The listener's name in the configuration.
    pub name: String,
    /// On which terms connections are taken; `None`: it is HTTP, for metrics and health.
    pub terms: Option<Arc<Terms>>,
    /// TLS comes first.
    pub is_tls: bool,
    /// The address, with the port the system chose if it was to choose.
    pub address: Address,
    /// The socket, not blocking.
    pub socket: Listening,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket: removed when nobody listens there any more.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already, or no longer ours to remove: the next start sorts it out.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds all addresses of a listener, and those for TLS if it `has_tls`.
///
/// # Errors
/// An address is in use, not ours, or not allowed; the text says which, and what to do.
pub(crate) fn bind(name: &str, listener: &Listener, has_tls: bool) -> Result<Vec<Bound>, Failure> {
    let terms = Terms::of(name, listener);
    let plain = listener.bind.iter().map(|address| (address, false));
    let tls = listener.tls_bind.iter().map(|address| (address, true));
    plain
        .chain(tls.filter(|_| has_tls))
        .map(|(address, is_tls)| {
            let bound = match address {
                Address::Ip(address) => bind_ip(name, listener, *address, is_tls),
                Address::Unix(path) => bind_unix(name, listener, path),
            };
            bound.map(|bound| Bound {
                is_tls,
                terms: terms.clone(),
                ..bound
            })
        })
        .collect()
}

fn bind_unix(name: &str, listener: &Listener, path: &Path) -> Result<Bound, Failure> {
    let socket = listen_unix(path, i32::try_from(listener.backlog).unwrap_or(i32::MAX));
    socket
        .map(|socket| Bound {
            name: name.to_owned(),
            terms: None,
            is_tls: false,
            address: Address::Unix(path.to_owned()),
            socket,
        })
        .map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => "; another process listens there, or the file is no socket",
                ErrorKind::NotFound => "; its directory does not exist",
                ErrorKind::PermissionDenied => "; its directory must be writable",
                _ => "",
            };
            Failure::PortUnavailable(format!(
                "cannot listen on unix:{} for {name}: {error}{hint}",
                path.display()
            ))
        })
}

fn listen_unix(path: &Path, backlog: i32) -> io::Result<Listening> {
    // A process that was killed leaves its file behind, and a bind would fail on it. One that still listens is left alone.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    // Nobody can connect before `listen`, so nobody sees the mode it had before.
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(backlog)?;
    Ok(Listening::Unix(socket.into(), file))
}

/// Owner and group.
const SOCKET_MODE: u32 = 0o660;

fn bind_ip(name: &str, listener: &Listener, address: SocketAddr, is_tls: bool) -> Result<Bound, Failure> {
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
                terms: None,
                is_tls,
                address: Address::Ip(socket.local_addr()?),
                socket: Listening::Tcp(socket),
            })
        })
        .map_err(|error| {
            let port = address.port();
            let hint = match error.kind() {
                ErrorKind::AddrInUse => {
                    let key = if is_tls { "tls_bind" } else { "bind" };
                    format!("; `ss -ltnp sport = :{port}` shows who has it, listeners.{name}.{key} moves ours")
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

/// A listening socket at its runtime.
pub(crate) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix {
        listener: tokio::net::UnixListener,
        /// Removed with it.
        _file: SocketFile,
    },
}

impl Acceptor {
    /// Within its runtime.
    ///
    /// # Errors
    /// The runtime cannot have it.
    pub(crate) fn new(socket: Listening) -> io::Result<Acceptor> {
        Ok(match socket {
            Listening::Tcp(socket) => Acceptor::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Listening::Unix(socket, file) => Acceptor::Unix {
                listener: tokio::net::UnixListener::from_std(socket)?,
                _file: file,
            },
        })
    }

    /// Sockets come in a blocking-agnostic form: each is registered anew when it has its first turn.
    async fn accept(&self) -> io::Result<transport::Socket> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Fails on a socket that was reset before we looked; its first read will say so.
                let _ = stream.set_nodelay(true);
                Ok(transport::Socket::Tcp(stream.into_std()?, address))
            }
            Acceptor::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(transport::Socket::Unix(stream.into_std()?))
            }
        }
    }
}

/// Accepts connections that come to `door` and hands them to the I/O threads, for ever.
pub(crate) async fn accept(node: Arc<Node>, threads: Arc<IoThreads>, door: Door, listener: Acceptor) {
    let mut pause = PAUSE_MIN;
    let mut accepted = 0;
    loop {
        match listener.accept().await {
            Ok(socket) => {
                pause = PAUSE_MIN;
                admit(&node, &threads, &door, socket);
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

fn admit(node: &Arc<Node>, threads: &IoThreads, door: &Door, socket: transport::Socket) {
    let Some(counts) = node.connections.get(door.terms.protocol) else {
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
            tracing::warn!(
                peer = socket.peer_text(),
                limit,
                left_out,
                "connection refused: there are as many as limits.max_connections and the limit on open files allow"
            );
        }
        return;
    }
    let terms = &door.terms;
    let why = if !terms.has_room() {
        "there are as many as the listener's max_connections allows"
    } else if !terms.takes(&socket) {
        "its address is not in the listener's proxy_from"
    } else {
        ""
    };
    if !why.is_empty() {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = node.throttle.admit() {
            let peer = socket.peer_text();
            tracing::warn!(peer, listener = terms.name, left_out, "connection refused: {why}");
        }
        return;
    }
    counts.opened.fetch_add(1, Ordering::Relaxed);
    threads.deal(node, door.clone(), socket);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn loopback() -> Listener {
        Listener {
            protocol: "amqp".to_owned(),
            bind: vec!["127.0.0.1:0".parse().expect("an address")],
            backlog: 16,
            ..Config::default().listeners[0].1.clone()
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_a_way_out() {
        let first = bind("amqp", &loopback(), false).expect("bound");
        let address = first.first().expect("one").address.clone();
        let again = Listener {
            protocol: "mqtt".to_owned(),
            bind: vec![address.clone()],
            backlog: 16,
            ..Config::default().listeners[0].1.clone()
        };
        let error = bind("mqtt", &again, false).expect_err("in use").to_string();
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
            ..Config::default().listeners[0].1.clone()
        };
        let bound = bind("amqp", &any, false).expect("bound");
        let Address::Ip(address) = &bound.first().expect("one").address else {
            panic!("an IP address");
        };
        let port = address.port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("IPv4 connects");
    }

    #[test]
    fn a_unix_socket_takes_over_a_stale_file_and_leaves_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mqtt.sock");
        let listener = Listener {
            protocol: "mqtt".to_owned(),
            bind: vec![Address::Unix(path.clone())],
            backlog: 16,
            ..Config::default().listeners[0].1.clone()
        };
        // Nobody listens on it any more: a socket's file stays when it is closed.
        drop(UnixListener::bind(&path).expect("bound"));
        let bound = bind("mqtt", &listener, false).expect("the file is stale");
        let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        UnixStream::connect(&path).expect("connects");
        let error = bind("mqtt", &listener, false).expect_err("in use").to_string();
        assert!(error.contains("another process listens there"), "{error}");
        UnixStream::connect(&path).expect("the first one still listens");
        drop(bound);
        assert!(!path.exists());
        std::fs::write(&path, "precious").expect("written");
        bind("mqtt", &listener, false).expect_err("no socket, so not ours to remove");
        assert!(path.exists());
    }
}
