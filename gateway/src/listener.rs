//! Binds ports and accepts connections.

use crate::config::{Config, Listener, MANAGEMENT, METRICS};
use crate::exit::Failure;
use crate::logging::lines::LineKind;
use crate::node::{ConnectionCounts, Node};
use crate::terms::Terms;
use crate::threads::IoThreads;
use crate::transport::{self, Door, quic};
use gatepost_core::keys::Address;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A bound port.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The listener's name in the configuration.
    pub name: String,
    /// The listener's rules for connections; `None`: it speaks HTTP (metrics, health, management).
    pub terms: Option<Arc<Terms>>,
    /// The transport of the protocol.
    pub carrier: Carrier,
    /// The address. Port 0 is replaced by the port that the system chose.
    pub address: Address,
    /// The socket, not blocking.
    pub socket: Listening,
}

/// The addresses that the node listens on, for the management API. Empty until they are bound.
#[derive(Debug, Default)]
pub(crate) struct Listeners(OnceLock<Vec<ListensAt>>);

/// One address that the node listens on.
#[derive(Debug)]
pub(crate) struct ListensAt {
    /// RabbitMQ's name of the protocol there: `mqtt/ssl`, `http/web-mqtt`, `http`.
    pub protocol: String,
    pub at: SocketAddr,
    pub is_management: bool,
}

impl Listeners {
    /// Stores the bound addresses. Called once.
    pub(crate) fn remember(&self, ports: &[Bound], config: &Config) {
        let described = |port: &Bound| {
            let Address::Ip(at) = port.address else { return None };
            let (_, keys) = config.listeners.iter().find(|(name, _)| *name == port.name)?;
            let is_web = port.terms.as_ref().is_some_and(|terms| terms.websocket.is_some());
            let spoken = keys.protocol.as_str();
            let protocol = match (spoken, is_web, port.carrier) {
                (MANAGEMENT, _, Carrier::Plain) => "http".to_owned(),
                (MANAGEMENT, ..) => "https".to_owned(),
                (METRICS, _, Carrier::Plain) => "http/prometheus".to_owned(),
                (METRICS, ..) => "https/prometheus".to_owned(),
                (_, true, Carrier::Plain) => format!("http/web-{spoken}"),
                (_, true, _) => format!("https/web-{spoken}"),
                (_, false, Carrier::Plain) => spoken.to_owned(),
                (_, false, Carrier::Tls) => format!("{spoken}/ssl"),
                (_, false, Carrier::Quic) => format!("{spoken}/quic"),
            };
            Some(ListensAt {
                protocol,
                at,
                is_management: spoken == MANAGEMENT,
            })
        };
        let _ = self.0.set(ports.iter().filter_map(described).collect());
    }

    pub(crate) fn all(&self) -> &[ListensAt] {
        self.0.get().map(Vec::as_slice).unwrap_or_default()
    }
}

/// The transport of a listener at one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// The plain socket.
    Plain,
    /// TLS on it.
    Tls,
    Quic,
}

impl Carrier {
    /// The configuration key of such addresses.
    fn key(self) -> &'static str {
        match self {
            Carrier::Plain => "bind",
            Carrier::Tls => "tls_bind",
            Carrier::Quic => "quic_bind",
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
    /// For QUIC.
    Udp(UdpSocket),
}

/// The file of a Unix socket, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If this fails, the next start removes the file.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds all addresses of a listener. Those for TLS and QUIC are bound only if it has a certificate.
///
/// # Errors
/// An address is in use, not ours, or not allowed; the text says which, and what to do.
pub(crate) fn bind(name: &str, listener: &Listener, has_certificate: bool) -> Result<Vec<Bound>, Failure> {
    let terms = Terms::of(name, listener);
    let plain = listener.bind.iter().map(|address| (address, Carrier::Plain));
    let tls = listener.tls_bind.iter().map(|address| (address, Carrier::Tls));
    let quic = listener.quic_bind.iter().map(|address| (address, Carrier::Quic));
    plain
        .chain(tls.chain(quic).filter(|_| has_certificate))
        .map(|(address, carrier)| {
            let bound = match address {
                Address::Ip(address) => bind_ip(name, listener, *address, carrier),
                Address::Unix(path) => bind_unix(name, listener, path),
            };
            bound.map(|bound| Bound {
                carrier,
                terms: terms.clone(),
                ..bound
            })
        })
        .collect()
}

fn bind_unix(name: &str, listener: &Listener, path: &Path) -> Result<Bound, Failure> {
    let socket = listen_unix(path, i32::try_from(listener.backlog).unwrap_or(i32::MAX));
    socket
        .map(|(socket, file)| Bound {
            name: name.to_owned(),
            terms: None,
            carrier: Carrier::Plain,
            address: Address::Unix(path.to_owned()),
            socket: Listening::Unix(socket, file),
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

/// Listens on a Unix socket that its owner and group may use.
pub(crate) fn listen_unix(path: &Path, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    check_length(path)?;
    // A killed process leaves its file behind, which would make the bind fail. The file of a process that still listens stays.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile(path.to_owned());
    // Set before `listen`, because no client can connect until then.
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

/// Maximum length of a Unix socket's path in bytes (`sun_path` of Linux without the zero at its end).
const SOCKET_PATH_MAX: usize = 107;

/// Checks whether a Unix socket can have this path.
///
/// # Errors
/// The path is too long; the text says so.
pub(crate) fn check_length(path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_MAX {
        let text = format!("its path has {bytes} bytes, and a Unix socket's has at most {SOCKET_PATH_MAX}");
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// Mode of a socket's file: read and write for owner and group.
const SOCKET_MODE: u32 = 0o660;

fn bind_ip(name: &str, listener: &Listener, address: SocketAddr, carrier: Carrier) -> Result<Bound, Failure> {
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    let open = |address: SocketAddr| match carrier {
        Carrier::Plain | Carrier::Tls => listen(address, backlog).map(Listening::Tcp),
        Carrier::Quic => listen_udp(address).map(Listening::Udp),
    };
    let result = match (open(address), address) {
        // The default configuration listens on `[::]`, which must also work on a machine without IPv6.
        (Err(error), SocketAddr::V6(v6)) if v6.ip().is_unspecified() && is_without_ipv6(&error) => {
            open((Ipv4Addr::UNSPECIFIED, v6.port()).into())
        }
        (result, _) => result,
    };
    result
        .and_then(|socket| {
            let address = match &socket {
                Listening::Tcp(socket) => socket.local_addr()?,
                Listening::Udp(socket) => socket.local_addr()?,
                Listening::Unix(..) => address,
            };
            Ok(Bound {
                name: name.to_owned(),
                terms: None,
                carrier,
                address: Address::Ip(address),
                socket,
            })
        })
        .map_err(|error| {
            let port = address.port();
            let hint = match error.kind() {
                ErrorKind::AddrInUse => {
                    let (key, kind) = (carrier.key(), if carrier == Carrier::Quic { 'u' } else { 't' });
                    format!("; `ss -l{kind}np sport = :{port}` shows who has it, listeners.{name}.{key} moves ours")
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

fn listen_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // All connections of the port share the buffer. Linux may grant less than we ask for.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

const UDP_BUFFER: usize = 2 << 20;

fn is_without_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT: not in the kernel; EADDRNOTAVAIL: switched off.
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        || error.kind() == ErrorKind::AddrNotAvailable
}

/// A listening socket, registered with a runtime.
pub(crate) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix {
        listener: tokio::net::UnixListener,
        /// Removes the file when the listener is dropped.
        _file: SocketFile,
    },
    Quic(quic::Endpoint),
}

impl Acceptor {
    /// Registers the socket. Must be called within a runtime.
    ///
    /// # Errors
    /// The runtime refuses it.
    pub(crate) fn new(socket: Listening, door: Option<&Door>, node: &Node) -> io::Result<Acceptor> {
        Ok(match socket {
            Listening::Udp(socket) => {
                let port = door.and_then(|door| door.tls.clone());
                let port = port.ok_or_else(|| io::Error::other("QUIC needs a certificate"))?;
                Acceptor::Quic(quic::Endpoint::new(socket, port, node)?)
            }
            Listening::Tcp(socket) => Acceptor::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Listening::Unix(socket, file) => Acceptor::Unix {
                listener: tokio::net::UnixListener::from_std(socket)?,
                _file: file,
            },
        })
    }

    /// Accepts a connection. The socket is not registered with the runtime yet; that happens in the connection's first turn.
    async fn accept(&self, node: &Node) -> io::Result<Caller<'_>> {
        Ok(Caller::Socket(match self {
            Acceptor::Quic(endpoint) => return Ok(Caller::Quic(endpoint, Box::new(endpoint.next(node).await))),
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Fails if the peer has reset the connection already; the first read will report that.
                let _ = stream.set_nodelay(true);
                transport::Socket::Tcp(stream.into_std()?, address)
            }
            Acceptor::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                transport::Socket::Unix(stream.into_std()?)
            }
        }))
    }
}

/// A new connection that is not admitted yet.
enum Caller<'a> {
    Socket(transport::Socket),
    /// Dropping it refuses the connection.
    Quic(&'a quic::Endpoint, Box<quic::Incoming>),
}

impl Caller<'_> {
    /// The peer's address; `None`: a Unix socket, so the peer is on this machine.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Caller::Socket(socket) => socket.address(),
            Caller::Quic(_, incoming) => Some(incoming.remote_address()),
        }
    }

    /// Whether the peer really has that address. The source address of a datagram can be forged until the handshake is done.
    fn is_proven(&self) -> bool {
        matches!(self, Caller::Socket(_))
    }
}

/// Accepts a listener's connections and hands them to the I/O threads. Never returns.
pub(crate) async fn accept(node: Arc<Node>, threads: Arc<IoThreads>, door: Door, listener: Acceptor) {
    let mut pause = PAUSE_MIN;
    let mut paid = Instant::now();
    let mut accepted = 0;
    loop {
        match listener.accept(&node).await {
            Ok(caller) => {
                pause = PAUSE_MIN;
                admit(&node, &threads, &door, caller);
                pace(&node, &mut paid).await;
                accepted += 1;
                if accepted == ACCEPTS_PER_TURN {
                    accepted = 0;
                    // Lets the thread run all turns that are ready, including those of the new connections.
                    tokio::task::yield_now().await;
                }
            }
            // The client closed the connection before we accepted it.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
                ) => {}
            // No descriptor or memory is left. Retrying at once would take processor time from the connections that must end first.
            Err(error) => {
                if node.lines.admit(LineKind::NotAccepted) {
                    tracing::error!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Waits until the listener's rate allows another connection. `paid` is a token bucket in the form of a time: each
/// connection moves it ahead by one interval of the rate.
async fn pace(node: &Node, paid: &mut Instant) {
    let per_second = node.config().protection.listener_connections_per_second;
    if per_second == 0 {
        return;
    }
    let (now, each) = (Instant::now(), Duration::from_secs(1).div_f64(per_second as f64));
    *paid = (*paid).max(now) + each;
    // A burst of one second's connections is allowed.
    if let Some(wait) = paid.checked_duration_since(now + Duration::from_secs(1)) {
        node.protection.counts.listener_rate.fetch_add(1, Ordering::Relaxed);
        if node.lines.admit(LineKind::Paced) {
            tracing::warn!("a listener waits: more connect than protection.listener_connections_per_second");
        }
        tokio::time::sleep(wait).await;
    }
}

/// Connections accepted before others get their turns. Opening one costs as much as hundreds of messages.
const ACCEPTS_PER_TURN: usize = 4;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

fn admit(node: &Arc<Node>, threads: &IoThreads, door: &Door, caller: Caller<'_>) {
    let terms = &door.terms;
    let Some(counts) = node.connections.get(terms.protocol) else {
        return;
    };
    // With a PROXY header, the client's address is not known yet; the opening checks it.
    let address = caller.address().filter(|_| terms.proxies.is_none());
    let (now, is_proven) = (node.clock.now().monotonic, caller.is_proven());
    let welcome = address.map(|address| node.protection.admit(now, address.ip(), is_proven));
    if let Some(Err(why)) = welcome {
        return refuse(node, counts, door, &caller, &why.to_string());
    }
    if !terms.takes(caller.address()) {
        return refuse(
            node,
            counts,
            door,
            &caller,
            "its address is not in the listener's proxy_from",
        );
    }
    // Connections that are only accepted to be refused do not count against the limits.
    let turned_away = node.protection.turned_away.load(Ordering::Relaxed);
    let open = node.connections_open().saturating_sub(turned_away as u64);
    let full = if open >= node.connections_limit() {
        Some("there are as many as limits.max_connections and the limit on open files allow")
    } else if !terms.has_room(node.config().listener_max_connections(&terms.name)) {
        Some("there are as many as the listener's max_connections allows")
    } else {
        None
    };
    if let Some(why) = full {
        refuse(node, counts, door, &caller, why);
        // A few are accepted anyway, to be refused in their protocol's words.
        if turned_away >= node.refusals_max() {
            return;
        }
    }
    let socket = match caller {
        Caller::Socket(socket) => socket,
        Caller::Quic(endpoint, incoming) => match endpoint.begin(*incoming, node) {
            Some(arrival) => transport::Socket::Quic(Box::new(arrival)),
            // The first packet was not valid.
            None => return,
        },
    };
    counts.opened.fetch_add(1, Ordering::Relaxed);
    threads.deal(node, door.clone(), socket, full.is_some());
}

fn refuse(node: &Node, counts: &ConnectionCounts, door: &Door, caller: &Caller<'_>, why: &str) {
    counts.refused.fetch_add(1, Ordering::Relaxed);
    if node.lines.admit(LineKind::Refused) {
        let (peer, listener) = (peer_text(caller), &*door.terms.name);
        tracing::warn!(peer, listener, "connection refused: {why}");
    }
}

fn peer_text(caller: &Caller<'_>) -> String {
    let address = caller.address();
    address.map_or_else(|| "local".to_owned(), |address| address.to_string())
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
        // The file of a socket stays when the socket is closed.
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
