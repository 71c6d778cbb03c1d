//! QUIC for a generator that uses blocking and polled sockets: each connection is a local TCP socket, and a thread of
//! this process copies between it and the connection's single stream.
//!
//! That thread counts towards the generator's processor time, and its copying adds some ten microseconds to a latency.

use super::{Anyone, provider};
use anyhow::{Context, anyhow};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    AsyncUdpSocket, Connection, EndpointConfig, RecvStream, Runtime, SendStream, TokioRuntime, UdpPoller, VarInt,
};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context as Task, Poll};
use std::thread;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The protocol that a client announces (RFC 7301).
const ALPN: &[u8] = b"mqtt";
/// Longer than any run: idle connections must stay open.
const IDLE: Duration = Duration::from_secs(3600);
const COPY_BYTES: usize = 64 * 1024;

/// The thread of all connections, and their UDP socket.
struct Bridge {
    runtime: Handle,
    endpoint: quinn::Endpoint,
}

/// Connects and opens the stream.
pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> anyhow::Result<TcpStream> {
    let bridge = bridge()?;
    let (ours, its) = pair()?;
    its.set_nonblocking(true)?;
    let (told, tells) = mpsc::sync_channel(1);
    bridge.runtime.spawn(async move {
        match open(&bridge.endpoint, address).await {
            Ok((connection, send, receive)) => {
                let _ = told.send(Ok(()));
                copy(its, &connection, send, receive).await;
                connection.close(VarInt::from_u32(0), b"");
            }
            Err(error) => {
                let _ = told.send(Err(error));
            }
        }
    });
    tells
        .recv_timeout(timeout)
        .map_err(|_| anyhow!("no answer"))
        .flatten()
        .with_context(|| format!("cannot reach {address} by QUIC"))?;
    Ok(ours)
}

/// Opens further streams on one connection as fast as they are refused, with a byte on each, until `over` returns true
/// or the broker closes the connection. Returns how many, and the broker's reason.
pub(crate) fn open_streams(
    address: SocketAddr,
    over: impl Fn() -> bool + Send + Sync + 'static,
    opened: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<Option<String>> {
    let bridge = bridge()?;
    let (told, tells) = mpsc::sync_channel(1);
    bridge.runtime.spawn(async move {
        let ended = async {
            // The first stream is the session's.
            let (connection, mut session, _receive) = open(&bridge.endpoint, address).await?;
            session.write_all(b"\x10").await?;
            while !over() {
                let (mut send, _) = match tokio::time::timeout(Duration::from_millis(100), connection.open_bi()).await {
                    Err(_) => continue,
                    Ok(Err(error)) => return Ok(Some(error.to_string())),
                    Ok(Ok(stream)) => stream,
                };
                let _ = send.write(b"x").await;
                opened();
            }
            anyhow::Ok(None)
        };
        let _ = told.send(ended.await);
    });
    tells.recv().context("the thread of QUIC ended")?
}

/// Sends first packets of handshakes and does not continue them: this end never receives an answer. Returns when `over`
/// returns true.
pub(crate) fn half_handshakes(
    address: SocketAddr,
    count: usize,
    over: impl Fn() -> bool + Send + Sync + 'static,
    begun: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let bridge = bridge()?;
    let (told, tells) = mpsc::sync_channel::<anyhow::Result<()>>(1);
    bridge.runtime.spawn(async move {
        let flood = async {
            let socket = TokioRuntime.wrap_udp_socket(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)?;
            let deaf = Arc::new(Deaf(socket));
            let endpoint = quinn::Endpoint::new_with_abstract_socket(
                EndpointConfig::default(),
                None,
                deaf,
                Arc::new(TokioRuntime),
            )?;
            let mut underway = JoinSet::new();
            for index in 0..count {
                if over() {
                    break;
                }
                let connecting = endpoint.connect_with(config()?, address, "localhost")?;
                underway.spawn(connecting);
                begun();
                if index % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            while !over() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        let _ = told.send(flood.await);
    });
    tells.recv().context("the thread of QUIC ended")?
}

/// A socket that sends and never receives.
#[derive(Debug)]
struct Deaf(Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for Deaf {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &quinn::udp::Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        _: &mut Task<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [quinn::udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn bridge() -> anyhow::Result<&'static Bridge> {
    static BRIDGE: OnceLock<Result<Bridge, String>> = OnceLock::new();
    let made = BRIDGE.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow!("{error}"))
}

fn make() -> anyhow::Result<Bridge> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let endpoint = {
        let _inside = runtime.enter();
        quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?
    };
    let handle = runtime.handle().clone();
    thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(Bridge {
        runtime: handle,
        endpoint,
    })
}

fn config() -> anyhow::Result<quinn::ClientConfig> {
    let provider = provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE.try_into()?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

async fn open(endpoint: &quinn::Endpoint, address: SocketAddr) -> anyhow::Result<(Connection, SendStream, RecvStream)> {
    let connection = endpoint.connect_with(config()?, address, "localhost")?.await?;
    let (send, receive) = connection.open_bi().await?;
    Ok((connection, send, receive))
}

/// Copies in both directions until both ends have closed, or the connection is lost.
async fn copy(local: TcpStream, connection: &Connection, mut send: SendStream, mut receive: RecvStream) {
    let Ok(mut local) = tokio::net::TcpStream::from_std(local) else {
        return;
    };
    let (mut read, mut write) = local.split();
    let out = async {
        let mut buffer = vec![0; COPY_BYTES];
        while let Ok(size @ 1..) = tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await {
            if send.write_all(&buffer[..size]).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
        // Data that was finished is delivered only while the connection is open.
        let _ = send.stopped().await;
    };
    let back = async {
        while let Ok(Some(chunk)) = receive.read_chunk(COPY_BYTES, true).await {
            if write.write_all(&chunk.bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(out, back) } => {}
        _ = connection.closed() => {}
    }
}

/// The two ends of a local connection.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (its, from) = listener.accept()?;
        // Another program on this machine may have connected first.
        if from == ours.local_addr()? {
            its.set_nodelay(true)?;
            return Ok((ours, its));
        }
    }
}
