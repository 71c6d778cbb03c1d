//! TLS and transport settings of QUIC, and keys that are kept over a restart.

use crate::config::Limits;
use crate::secret::{self, Secret};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, ServerConfig, TransportConfig, VarInt};
use ring::{hkdf, hmac};
use rustls::server::ServerSessionMemoryCache;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Maximum bytes that we have written and the peer has not acknowledged.
const SEND_WINDOW: u64 = 128 << 10;
/// Maximum bytes of the stream that have arrived and are not read yet.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;
/// The same for all streams together. It exceeds one stream's, so that a further stream, which will be refused, does
/// not block the first.
const RECEIVE_WINDOW: u32 = 256 << 10;
/// The session's stream, and one more that is refused with a code. At a limit of one, a client would wait for the
/// second instead.
const STREAMS: u32 = 2;
/// Maximum handshakes that are not handled yet. They are handled in the turn in which they arrive.
const INCOMING_MAX: usize = 1024;
/// Maximum bytes of packets for such handshakes: of one, and of all together.
const INCOMING_BYTES: u64 = 16 << 10;
const INCOMING_BYTES_TOTAL: u64 = 1 << 20;
/// Number of sessions remembered for 0-RTT.
const EARLY_SESSIONS: usize = 1024;

/// The secret from which a listener's keys are derived. It is kept over a restart: a client of the earlier process gets
/// a stateless reset (RFC 9000 10.3), so it knows that its connection is gone and reconnects at once.
#[derive(Clone)]
pub(crate) struct Keys {
    secret: Secret,
}

/// File name in the data directory.
const FILE: &str = "quic-secret";

impl Default for Keys {
    /// A secret that is not stored.
    fn default() -> Keys {
        Keys {
            secret: secret::fresh(),
        }
    }
}

impl Keys {
    /// Reads the secret in the data directory, or makes a new one.
    pub(crate) fn open(data: &Path) -> Keys {
        let otherwise = "after a restart, QUIC clients find out late that their connections are gone";
        Keys {
            secret: secret::open(&data.join(FILE), otherwise),
        }
    }

    /// Settings of a listener's endpoint.
    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.secret)));
        // Random ids without a check in them: packets to connections of the earlier process must be answered with a
        // reset, and ids that fail a check get no answer.
        config.cid_generator(|| Box::new(ConnectionIds));
        config
    }

    /// The key that seals the tokens by which clients prove their addresses.
    fn tokens(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"gatepost quic tokens").extract(&self.secret)
    }
}

/// Random connection ids.
struct ConnectionIds;

const CONNECTION_ID: usize = 8;

impl quinn::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&crate::random::random().to_le_bytes()[..CONNECTION_ID])
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The settings of new connections. With `early_data`, `tls` seals no tickets.
///
/// # Errors
/// These TLS settings cannot be used with QUIC.
pub(super) fn server(
    mut tls: rustls::ServerConfig,
    early_data: bool,
    limits: &Limits,
    keys: &Keys,
) -> Result<Arc<ServerConfig>, String> {
    if early_data {
        // A ticket that is used twice may be a replay. So each is remembered here and accepted once (RFC 8446 8.1).
        tls.max_early_data_size = u32::MAX;
        tls.session_storage = ServerSessionMemoryCache::new(EARLY_SESSIONS);
    }
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| format!("cannot be used with QUIC: {error}"))?;
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(keys.tokens()));
    config
        .transport_config(Arc::new(transport(limits)))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(Arc::new(config))
}

/// quinn's default windows suit few connections with much traffic: a few peers that do not read would fill the memory
/// of a small machine.
fn transport(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    let some = |period: Duration| Some(period).filter(|period| !period.is_zero());
    let idle = some(limits.quic_idle_timeout.0).and_then(|idle| idle.try_into().ok());
    config
        .send_window(SEND_WINDOW)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(some(limits.quic_ping.0))
        .max_idle_timeout(idle);
    config
}
