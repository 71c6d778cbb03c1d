//! What QUIC adds to TLS: windows and times of a connection, and the keys that outlive the process.

use crate::config::Limits;
use crate::secret::{self, Secret};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, ServerConfig, TransportConfig, VarInt};
use ring::{hkdf, hmac};
use rustls::server::ServerSessionMemoryCache;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that we have written and the peer has not confirmed.
const SEND_WINDOW: u64 = 128 << 10;
/// Bytes of the stream that have arrived and that nobody has read.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;
/// The same over all streams. More than one stream's, so that a further stream, which is refused, does not stop the first.
const RECEIVE_WINDOW: u32 = 256 << 10;
/// The session's stream, and one more that is refused with a code: at a limit of one, a client would wait instead.
const STREAMS: u32 = 2;
/// Handshakes that nobody has looked at yet. They are looked at in the turn in which they come.
const INCOMING_MAX: usize = 1024;
/// Bytes of packets that come before such a handshake is looked at, of one and of all.
const INCOMING_BYTES: u64 = 16 << 10;
const INCOMING_BYTES_TOTAL: u64 = 1 << 20;
/// How many sessions are remembered for 0-RTT.
const EARLY_SESSIONS: usize = 1024;

/// The secret from which a listener's keys are made. It outlives the process: a client of the one before is told with a
/// stateless reset (RFC 9000 10.3) that its connection is gone, and comes back at once.
#[derive(Clone)]
pub(crate) struct Keys {
    secret: Secret,
}

/// In the data directory.
const FILE: &str = "quic-secret";

impl Default for Keys {
    /// A secret that is not kept.
    fn default() -> Keys {
        Keys {
            secret: secret::fresh(),
        }
    }
}

impl Keys {
    /// With the secret that the data directory has, or a new one.
    pub(crate) fn open(data: &Path) -> Keys {
        let otherwise = "after a restart, QUIC clients find out late that their connections are gone";
        Keys {
            secret: secret::open(&data.join(FILE), otherwise),
        }
    }

    /// For the endpoint of a listener.
    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.secret)));
        // Random ones, without a check in them: packets to connections of the process before have to be answered with a reset,
        // and ids that fail a check get no answer.
        config.cid_generator(|| Box::new(ConnectionIds));
        config
    }

    /// Seals the tokens with which clients prove their addresses.
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

/// The settings of connections that begin. With `early_data`, `tls` seals no tickets.
///
/// # Errors
/// These settings of TLS cannot carry QUIC.
pub(super) fn server(
    mut tls: rustls::ServerConfig,
    early_data: bool,
    limits: &Limits,
    keys: &Keys,
) -> Result<Arc<ServerConfig>, String> {
    if early_data {
        // A ticket that is used twice could be a replay. So each is remembered here, and good once (RFC 8446 8.1).
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

/// quinn's default windows are for few connections with much traffic: a few peers that do not read would fill the memory
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
