//! The transports of a connection: TCP, TLS, WebSocket, WebSocket over TLS, QUIC.
//!
//! All of them look like a socket to the rest of the generator. A layered transport has buffers of its own, so code
//! that polls it must check two more things: whether bytes were read from the socket and not handed out yet, and
//! whether bytes were accepted and not written yet.

pub(crate) mod quic;

use anyhow::{Context, bail, ensure};
use rustix::fd::{AsFd, BorrowedFd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, HandshakeKind, SignatureScheme};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The transport to a broker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Carrier {
    pub(crate) tls: bool,
    pub(crate) websocket: bool,
    /// QUIC instead of TCP. Only MQTT uses it; TLS is part of it.
    pub(crate) quic: bool,
}

impl Carrier {
    pub(crate) const QUIC: Self = Self {
        tls: true,
        websocket: false,
        quic: true,
    };

    /// The transport of this name on the command line.
    ///
    /// # Errors
    /// There is none of that name. The text lists the names.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let carrier = |tls, websocket| Self {
            tls,
            websocket,
            quic: false,
        };
        Ok(match name {
            "tcp" => carrier(false, false),
            "tls" => carrier(true, false),
            "ws" => carrier(false, true),
            "wss" => carrier(true, true),
            "quic" => Self::QUIC,
            _ => return Err("one of tcp, tls, ws, wss, quic".to_owned()),
        })
    }
}

/// A connection's stream.
#[derive(Debug)]
pub(crate) struct Transport {
    tcp: TcpStream,
    layers: Option<Box<Layers>>,
}

#[derive(Debug)]
struct Layers {
    tls: Option<ClientConnection>,
    /// `None`: no WebSocket.
    frames: Option<Frames>,
    /// Decrypted bytes that are still in frames.
    raw: Vec<u8>,
    /// Bytes that can be handed out.
    plain: Vec<u8>,
    handed_out: usize,
    /// Bytes to be written, if there is no TLS.
    out: Vec<u8>,
    /// The peer has ended its side.
    ended: bool,
}

/// The position in reading WebSocket frames.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the current frame's payload that have not come yet.
    left: u64,
}

const READ_BYTES: usize = 64 * 1024;
const BINARY: u8 = 0x82;
const PONG: u8 = 0x8A;

impl Transport {
    /// Connects. With `resume`, TLS sessions are kept between the connections of this process.
    pub(crate) fn connect(
        address: SocketAddr,
        carrier: Carrier,
        path: &str,
        protocol: &str,
        resume: bool,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let tcp = if carrier.quic {
            quic::connect(address, timeout)?
        } else {
            TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?
        };
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(timeout))?;
        let mut transport = Self::plain(tcp);
        if carrier.quic || carrier == Carrier::default() {
            return Ok(transport);
        }
        let mut layers = Layers {
            tls: None,
            frames: None,
            raw: Vec::new(),
            plain: Vec::new(),
            handed_out: 0,
            out: Vec::new(),
            ended: false,
        };
        if carrier.tls {
            let name = ServerName::try_from("localhost").context("a name")?;
            let mut tls = ClientConnection::new(settings(resume), name)?;
            tls.set_buffer_limit(None);
            while tls.is_handshaking() {
                tls.complete_io(&mut transport.tcp).context("TLS")?;
            }
            layers.tls = Some(tls);
        }
        transport.layers = Some(Box::new(layers));
        if carrier.websocket {
            transport.upgrade(address, path, protocol)?;
        }
        Ok(transport)
    }

    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, layers: None }
    }

    /// Whether TLS resumed an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        let tls = self.layers.as_ref().and_then(|layers| layers.tls.as_ref());
        tls.and_then(|tls| tls.handshake_kind()) == Some(HandshakeKind::Resumed)
    }

    /// Changes the key we encrypt with, and asks the peer to change its key (RFC 8446 4.6.3).
    pub(crate) fn update_keys(&mut self) -> io::Result<()> {
        let tls = self.layers.as_mut().and_then(|layers| layers.tls.as_mut());
        let tls = tls.ok_or(ErrorKind::Unsupported)?;
        tls.refresh_traffic_keys().map_err(io::Error::other)
    }

    /// Writes bytes without WebSocket frames.
    pub(crate) fn write_unframed(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.layers {
            Some(layers) => {
                layers.flush(&mut self.tcp)?;
                layers.send(bytes)?;
                layers.flush(&mut self.tcp)
            }
            None => self.tcp.write_all(bytes),
        }
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.tcp.set_nonblocking(nonblocking)
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.tcp.set_read_timeout(timeout)
    }

    /// There is more to read, although the socket may have nothing.
    pub(crate) fn has_more(&self) -> bool {
        self.layers
            .as_ref()
            .is_some_and(|layers| layers.handed_out < layers.plain.len())
    }

    /// Bytes were accepted that are not written yet.
    pub(crate) fn is_unwritten(&self) -> bool {
        let unwritten =
            |layers: &Layers| !layers.out.is_empty() || layers.tls.as_ref().is_some_and(|tls| tls.wants_write());
        self.layers.as_deref().is_some_and(unwritten)
    }

    /// Ends our side: nothing more will be written.
    pub(crate) fn end(&mut self) {
        if let Some(tls) = self.layers.as_mut().and_then(|layers| layers.tls.as_mut()) {
            tls.send_close_notify();
            let _ = self.flush();
        }
        let _ = self.tcp.shutdown(Shutdown::Write);
    }

    fn upgrade(&mut self, address: SocketAddr, path: &str, protocol: &str) -> anyhow::Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Z2F0ZXBvc3QtYmVuY2ghIQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        self.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            ensure!(
                self.read(&mut byte)? == 1,
                "the broker closed the connection instead of taking a WebSocket"
            );
            head.extend_from_slice(&byte);
        }
        if !head.starts_with(b"HTTP/1.1 101") {
            bail!(
                "no WebSocket: {}",
                String::from_utf8_lossy(&head).lines().next().unwrap_or_default()
            );
        }
        if let Some(layers) = &mut self.layers {
            layers.frames = Some(Frames::default());
            // The bytes after the answer are in frames already.
            layers.raw = layers.plain.split_off(layers.handed_out);
            layers.unframe()?;
        }
        Ok(())
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(layers) = &mut self.layers else {
            return self.tcp.read(buffer);
        };
        while layers.handed_out == layers.plain.len() {
            layers.plain.clear();
            layers.handed_out = 0;
            if layers.ended {
                return Ok(0);
            }
            layers.fill(&mut self.tcp)?;
        }
        let waiting = &layers.plain[layers.handed_out..];
        let size = waiting.len().min(buffer.len());
        buffer[..size].copy_from_slice(&waiting[..size]);
        layers.handed_out += size;
        Ok(size)
    }
}

impl Write for Transport {
    /// A layered transport accepts all bytes, once everything before is written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(layers) = &mut self.layers else {
            return self.tcp.write(bytes);
        };
        layers.flush(&mut self.tcp)?;
        if layers.frames.is_some() {
            layers.send(&header(BINARY, bytes.len()))?;
        }
        layers.send(bytes)?;
        match layers.flush(&mut self.tcp) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layers {
            Some(layers) => layers.flush(&mut self.tcp),
            None => Ok(()),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Layers {
    /// Reads once from the socket.
    fn fill(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        match &mut self.tls {
            Some(tls) => {
                if tls.read_tls(tcp)? == 0 {
                    self.ended = true;
                }
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                self.ended |= state.peer_has_closed();
                let start = self.raw.len();
                self.raw.resize(start + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut self.raw[start..])?;
            }
            None => match tcp.read(&mut buffer)? {
                0 => self.ended = true,
                size => self.raw.extend_from_slice(&buffer[..size]),
            },
        }
        self.unframe()
    }

    /// Removes the frames from the bytes that are there.
    fn unframe(&mut self) -> io::Result<()> {
        if self.frames.is_none() {
            self.plain.append(&mut self.raw);
            return Ok(());
        }
        let mut at = 0;
        let mut pongs = Vec::new();
        while let Some(frames) = &mut self.frames {
            let rest = &self.raw[at..];
            if frames.left > 0 {
                let size = rest.len().min(usize::try_from(frames.left).unwrap_or(usize::MAX));
                self.plain.extend_from_slice(&rest[..size]);
                frames.left -= size as u64;
                at += size;
                if size == 0 {
                    break;
                }
                continue;
            }
            let Some((opcode, len, payload)) = read_header(rest) else {
                break;
            };
            let is_control = opcode & 8 != 0;
            if is_control && rest.len() < len + payload as usize {
                break;
            }
            at += len;
            if !is_control {
                frames.left = payload;
                continue;
            }
            let end = at + payload as usize;
            match opcode {
                8 => self.ended = true,
                9 => {
                    pongs.extend_from_slice(&header(PONG, payload as usize));
                    pongs.extend_from_slice(&self.raw[at..end]);
                }
                _ => {}
            }
            at = end;
        }
        self.raw.drain(..at);
        if !pongs.is_empty() {
            self.send(&pongs)?;
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes),
            None => {
                self.out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn flush(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(tcp)?;
            }
        }
        while !self.out.is_empty() {
            let written = tcp.write(&self.out)?;
            self.out.drain(..written);
        }
        Ok(())
    }
}

/// The header of a client's frame. Its mask is zero, so that the payload need not be changed.
fn header(first: u8, len: usize) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..126 => header.push(0x80 | len as u8),
        126..0x1_0000 => {
            header.push(0x80 | 126);
            header.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    header.extend_from_slice(&[0; 4]);
    header
}

/// Opcode, header length and payload length of a server's frame, if the header is complete.
fn read_header(input: &[u8]) -> Option<(u8, usize, u64)> {
    let opcode = input.first()? & 0x0F;
    Some(match input.get(1)? & 0x7F {
        126 => (
            opcode,
            4,
            u64::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)),
        ),
        127 => (opcode, 10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)),
        len => (opcode, 2, u64::from(len)),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// TLS settings, with sessions kept or not.
fn settings(resume: bool) -> Arc<ClientConfig> {
    static SETTINGS: [OnceLock<Arc<ClientConfig>>; 2] = [const { OnceLock::new() }; 2];
    let make = || {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .expect("ring has both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        if !resume {
            config.resumption = Resumption::disabled();
        }
        Arc::new(config)
    };
    Arc::clone(SETTINGS[usize::from(resume)].get_or_init(make))
}

/// Accepts any certificate: the broker is measured, and it runs on this machine.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers {
            tls: None,
            frames: Some(Frames::default()),
            raw: Vec::new(),
            plain: Vec::new(),
            handed_out: 0,
            out: Vec::new(),
            ended: false,
        }
    }

    /// A server's frame.
    fn framed(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = header(first, payload.len());
        frame.truncate(frame.len() - 4);
        frame[1] &= 0x7F;
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_may_come_in_any_pieces_and_a_ping_is_answered() {
        let long = vec![7; 70_000];
        let input = [
            framed(BINARY, b"ab"),
            framed(0x89, b"ping"),
            framed(BINARY, &[1; 300]),
            framed(BINARY, b""),
            framed(BINARY, &long),
            framed(0x88, b""),
        ]
        .concat();
        let expected = [&b"ab"[..], &[1; 300], &long].concat();
        for size in [1, 2, 3, 1000, input.len()] {
            let mut layers = layers();
            for piece in input.chunks(size) {
                assert!(!layers.ended);
                layers.raw.extend_from_slice(piece);
                layers.unframe().expect("well-formed");
            }
            assert!(layers.ended && layers.plain == expected, "{size}");
            assert_eq!(layers.out, [&[PONG, 0x84, 0, 0, 0, 0][..], b"ping"].concat());
        }
    }
}
