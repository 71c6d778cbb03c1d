//! A message: one allocation behind one reference count.
//!
//! ```text
//!   ThinArc ─► ┌ Header ─────────────────────────────────────────────┬ payload ───────────────────────────┐
//!              │ envelope, lengths, route hash, state in the log     │ exchange │ key │ properties │ body │
//!              └─────────────────────────────────────────────────────┴────────────────────────────────────┘
//! ```
//!
//! The payload is what the log stores and what it gives back, byte for byte. The topic travels inside the message
//! rather than as a pointer to an interned one: interning would cost a look-up and an atomic increment on a line that
//! all threads share, per message, while the engine's route cache finds the topic's levels and destinations by
//! `route_hash`, which the session computes outside the engine's lock.

use crate::properties::{Codecs, Origin, Properties};
use crate::time::Wall;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use triomphe::{Arc, ThinArc};

/// How a routing key spells its levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// `plant.1.temp`, wildcards `*` and `#`.
    #[default]
    Dot = 0,
    /// `plant/1/temp`, wildcards `+` and `#`.
    Slash = 1,
}

/// Facts about a message that are parsed once, when it is received, and read by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The encoding of the properties.
    pub origin: Origin,
    /// How the key spells its levels.
    pub dialect: Dialect,
    /// Whether it survives a restart in durable queues.
    pub durable: bool,
    /// Quality of service it was published with, 0 to 2. Other protocols: 1 if durable, else 0.
    pub qos: u8,
    /// Whether it is to be its topic's retained message.
    pub retain: bool,
    /// The properties name further routing keys (AMQP CC and BCC): see [`Codecs::extra_keys`].
    pub extra_keys: bool,
    /// 0 to 255. `None` sorts as 0.
    pub priority: Option<u8>,
    /// When it expires; `None`: never.
    pub deadline: Option<Wall>,
    /// When it was received.
    pub received: Wall,
}

struct Header {
    envelope: Envelope,
    exchange_len: u8,
    key_len: u16,
    properties_len: u32,
    route_hash: u64,
    log: LogState,
}

/// A shared, immutable message. Cloning it is one atomic increment.
#[derive(Clone)]
pub struct Message(ThinArc<Header, u8>);

/// The position of a record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Byte offset of the record's header in it.
    pub offset: u32,
}

/// The most bytes of an exchange name. A longer one cannot be stored in a message.
pub const EXCHANGE_NAME_MAX: usize = 255;
/// The most bytes of a routing key. A longer one cannot be stored in a message.
pub const KEY_MAX: usize = 65_535;

impl Message {
    /// Builds a message, copying the parts once.
    ///
    /// # Panics
    /// If `exchange` is longer than 255 bytes, `key` than 65,535, or the properties than 4 GiB. The codecs' limits are
    /// lower.
    pub fn new(envelope: Envelope, exchange: &str, key: &str, properties: &[u8], body: &[u8]) -> Message {
        let (exchange_len, key_len) = name_lengths(exchange, key);
        let header = Header {
            envelope,
            exchange_len,
            key_len,
            properties_len: properties_length(properties),
            route_hash: route_hash(exchange.as_bytes(), key.as_bytes(), envelope.dialect),
            log: LogState::default(),
        };
        Message::joined(header, &[exchange.as_bytes(), key.as_bytes(), properties, body])
    }

    /// The same to a known address: nothing is hashed. The dialect is the address's, whatever the envelope says.
    ///
    /// # Panics
    /// If the properties are longer than 4 GiB.
    pub fn to(address: &Address, envelope: Envelope, properties: &[u8], body: &[u8]) -> Message {
        let dialect = address.dialect;
        let header = Header {
            envelope: Envelope { dialect, ..envelope },
            exchange_len: address.exchange_len,
            key_len: address.key_len,
            properties_len: properties_length(properties),
            route_hash: address.route_hash,
            log: LogState::default(),
        };
        Message::joined(header, &[address.names.as_bytes(), properties, body])
    }

    #[inline]
    fn joined<const PARTS: usize>(header: Header, parts: &[&[u8]; PARTS]) -> Message {
        let total = parts.iter().map(|p| p.len()).sum::<usize>();
        // Small messages are assembled on the stack, and then copied into the allocation at once. There are two sizes
        // of buffers, because clearing a buffer costs as much as the copy.
        if total <= 256 {
            Message(ThinArc::from_header_and_slice(header, join(parts, &mut [0; 256])))
        } else if total <= 2048 {
            Message(ThinArc::from_header_and_slice(header, join(parts, &mut [0; 2048])))
        } else {
            Message(ThinArc::from_header_and_slice(header, &parts.concat()))
        }
    }

    /// Rebuilds a message from a stored payload. `None` if the lengths do not fit it, or its names are not UTF-8.
    pub fn from_payload(envelope: Envelope, lengths: PayloadLengths, payload: &[u8]) -> Option<Message> {
        let e = usize::from(lengths.exchange);
        let k = usize::from(lengths.key);
        let exchange = payload.get(..e)?;
        let key = payload.get(e..e + k)?;
        payload.get(e + k..(e + k).checked_add(lengths.properties as usize)?)?;
        std::str::from_utf8(exchange).ok()?;
        std::str::from_utf8(key).ok()?;
        let header = Header {
            envelope,
            exchange_len: lengths.exchange,
            key_len: lengths.key,
            properties_len: lengths.properties,
            route_hash: route_hash(exchange, key, envelope.dialect),
            log: LogState::default(),
        };
        Some(Message(ThinArc::from_header_and_slice(header, payload)))
    }

    /// The same message with another exchange, key and envelope, for dead letters and wills.
    pub fn readdressed(&self, envelope: Envelope, exchange: &str, key: &str, properties: &[u8]) -> Message {
        Message::new(envelope, exchange, key, properties, self.body())
    }

    /// Counts its times from `now`, because it is published only now. A message that is shared keeps them.
    pub(crate) fn receive_at(&mut self, now: Wall) {
        self.0.with_arc_mut(|shared| {
            let Some(message) = Arc::get_mut(shared) else { return };
            let envelope = &mut message.header_mut().envelope;
            let late = now - envelope.received;
            envelope.deadline = envelope.deadline.map(|deadline| deadline + late);
            envelope.received = now;
        });
    }

    /// Whether both are the same allocation.
    pub(crate) fn is_same(&self, other: &Message) -> bool {
        std::ptr::eq(self.payload(), other.payload())
    }
    /// The facts parsed when it was received.
    pub fn envelope(&self) -> &Envelope {
        &self.0.header.header.envelope
    }
    /// The exchange it was published to; empty for the default exchange.
    pub fn exchange(&self) -> &str {
        std::str::from_utf8(&self.payload()[..self.key_start()]).unwrap_or("")
    }
    /// The routing key or topic, spelled in [`Envelope::dialect`].
    pub fn key(&self) -> &str {
        std::str::from_utf8(self.key_bytes()).unwrap_or("")
    }
    /// The exchange's name as bytes (always UTF-8), for encoders.
    pub fn exchange_bytes(&self) -> &[u8] {
        &self.payload()[..self.key_start()]
    }
    /// The key as bytes (always UTF-8), for encoders.
    pub fn key_bytes(&self) -> &[u8] {
        &self.payload()[self.key_start()..self.properties_start()]
    }
    /// The properties in their origin's encoding.
    pub fn properties_raw(&self) -> &[u8] {
        &self.payload()[self.properties_start()..self.body_start()]
    }
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.payload()[self.body_start()..]
    }
    /// Exchange, key, properties and body as one slice, which the log stores.
    pub fn payload(&self) -> &[u8] {
        &self.0.slice
    }
    /// The lengths of the parts of [`Message::payload`].
    pub fn lengths(&self) -> PayloadLengths {
        let h = &self.0.header.header;
        PayloadLengths {
            exchange: h.exchange_len,
            key: h.key_len,
            properties: h.properties_len,
        }
    }
    /// Hash of exchange, key and dialect, for the route cache. Differs from process to process.
    pub fn route_hash(&self) -> u64 {
        self.0.header.header.route_hash
    }
    /// The neutral view of the properties.
    pub fn properties(&self, codecs: &Codecs) -> Properties {
        codecs.decode(self.envelope().origin, self.properties_raw())
    }
    /// Bytes of memory that it occupies, including the allocator's overhead.
    pub fn memory(&self) -> usize {
        // Two counters are in front of the payload: references and length.
        crate::ledger::allocation(std::mem::size_of::<Header>() + 16 + self.payload().len())
    }
    /// Its state in the log.
    pub(crate) fn log_state(&self) -> &LogState {
        &self.0.header.header.log
    }
    /// The position of its record, once it is written.
    pub fn position(&self) -> Option<Position> {
        self.log_state().position()
    }

    fn key_start(&self) -> usize {
        usize::from(self.0.header.header.exchange_len)
    }
    fn properties_start(&self) -> usize {
        self.key_start() + usize::from(self.0.header.header.key_len)
    }
    fn body_start(&self) -> usize {
        self.properties_start() + self.0.header.header.properties_len as usize
    }
}

impl fmt::Debug for Message {
    /// Never prints the body, because this may end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange())
            .field("key", &self.key())
            .field("body_len", &self.body().len())
            .finish_non_exhaustive()
    }
}

fn name_lengths(exchange: &str, key: &str) -> (u8, u16) {
    let (Ok(exchange), Ok(key)) = (u8::try_from(exchange.len()), u16::try_from(key.len())) else {
        panic!("a codec let an oversized name through");
    };
    (exchange, key)
}

fn properties_length(properties: &[u8]) -> u32 {
    let Ok(length) = u32::try_from(properties.len()) else {
        panic!("a codec let oversized properties through");
    };
    length
}

/// An exchange and a key that somebody publishes to again and again. What a message says of them is computed once.
#[derive(Clone, Debug)]
pub struct Address {
    /// Exchange and key, as they are in a payload.
    names: String,
    exchange_len: u8,
    key_len: u16,
    dialect: Dialect,
    route_hash: u64,
}

impl Address {
    /// The address of an exchange and a key.
    ///
    /// # Panics
    /// If `exchange` is longer than 255 bytes or `key` than 65,535: codecs bound both.
    pub fn new(exchange: &str, key: &str, dialect: Dialect) -> Address {
        let mut address = Address {
            names: String::new(),
            exchange_len: 0,
            key_len: 0,
            dialect,
            route_hash: 0,
        };
        address.set(exchange, key);
        address
    }

    /// Becomes another address in the same dialect.
    ///
    /// # Panics
    /// As [`Address::new`].
    pub fn set(&mut self, exchange: &str, key: &str) {
        (self.exchange_len, self.key_len) = name_lengths(exchange, key);
        self.names.clear();
        self.names.push_str(exchange);
        self.names.push_str(key);
        self.route_hash = route_hash(exchange.as_bytes(), key.as_bytes(), self.dialect);
    }

    /// The exchange.
    pub fn exchange(&self) -> &str {
        self.names.get(..usize::from(self.exchange_len)).unwrap_or_default()
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &str {
        self.names.get(usize::from(self.exchange_len)..).unwrap_or_default()
    }

    /// Bytes of memory that its names take.
    pub fn memory(&self) -> usize {
        self.names.capacity()
    }
}

/// Copies the parts one after the other into `buffer`, which is large enough.
fn join<'a>(parts: &[&[u8]], buffer: &'a mut [u8]) -> &'a [u8] {
    let mut at = 0;
    for part in parts {
        buffer[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    &buffer[..at]
}

/// The lengths of the parts of a payload: exchange, key and properties. The rest is the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadLengths {
    /// Bytes of exchange name.
    pub exchange: u8,
    /// Bytes of key.
    pub key: u16,
    /// Bytes of properties.
    pub properties: u32,
}

/// The hash of an address, for the route cache. Seeded per process, so that a peer cannot choose keys that collide.
pub fn route_hash(exchange: &[u8], key: &[u8], dialect: Dialect) -> u64 {
    static STATE: OnceLock<foldhash::quality::RandomState> = OnceLock::new();
    let mut hasher = STATE
        .get_or_init(foldhash::quality::RandomState::default)
        .build_hasher();
    hasher.write(exchange);
    hasher.write_u8(dialect as u8);
    hasher.write(key);
    hasher.finish()
}

/// A message's state in the log, shared between the engine (under its lock) and the committer.
///
/// ```text
///   Unlogged ──engine stages it──► Pending ──committer──► Taken ──written──► position set
///                                     └─────engine: settled by all─────► Cancelled (never written)
/// ```
#[derive(Default)]
pub(crate) struct LogState {
    flush: AtomicU8,
    /// The number of queues that have it in the log and have not settled it. Only used under the engine's lock.
    outstanding: AtomicU32,
    /// The engine's confirm entry that waits for it, plus one. Only used under the engine's lock.
    confirm: AtomicU32,
    /// The number of queue entries that pin it in memory. Only used under the engine's lock.
    pins: AtomicU32,
    /// segment << 32 | offset; 0: not written.
    position: AtomicU64,
}

const UNLOGGED: u8 = 0;
const PENDING: u8 = 1;
const TAKEN: u8 = 2;
const CANCELLED: u8 = 3;

impl LogState {
    /// Engine: hands the message to the log for `outstanding` queues.
    pub(crate) fn stage(&self, outstanding: u32) {
        self.outstanding.store(outstanding, Ordering::Relaxed);
        self.flush.store(PENDING, Ordering::Release);
    }
    /// Engine: hands the message to the log for one more queue. Returns false if that is impossible: its first record
    /// was cancelled, and the committer may still have to skip it.
    pub(crate) fn join(&self) -> bool {
        match self.flush.load(Ordering::Relaxed) {
            UNLOGGED => self.stage(1),
            CANCELLED => return false,
            _ => _ = self.outstanding.fetch_add(1, Ordering::Relaxed),
        }
        true
    }
    /// Committer: whether it took the message before, so that its payload is or will be in the log.
    pub(crate) fn is_taken(&self) -> bool {
        self.flush.load(Ordering::Acquire) == TAKEN
    }
    /// Committer: takes the message for writing. Returns `false` if the engine cancelled it.
    pub(crate) fn take(&self) -> bool {
        self.flush
            .compare_exchange(PENDING, TAKEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            || self.flush.load(Ordering::Acquire) == TAKEN
    }
    /// Engine: one queue settled it. Returns true if that was the last one and the write could still be cancelled.
    pub(crate) fn settle(&self) -> Settled {
        let left = self.outstanding.load(Ordering::Relaxed).saturating_sub(1);
        self.outstanding.store(left, Ordering::Relaxed);
        if left > 0 {
            return Settled::Logged;
        }
        match self
            .flush
            .compare_exchange(PENDING, CANCELLED, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Settled::Cancelled,
            Err(_) => Settled::Logged,
        }
    }
    /// Engine: counts a queue entry that pins the message in memory. Returns whether it is the first.
    pub(crate) fn pin(&self) -> bool {
        let before = self.pins.load(Ordering::Relaxed);
        self.pins.store(before + 1, Ordering::Relaxed);
        before == 0
    }
    /// Engine: uncounts a queue entry that pins the message in memory. Returns whether it was the last.
    pub(crate) fn unpin(&self) -> bool {
        let before = self.pins.load(Ordering::Relaxed);
        debug_assert!(before > 0, "what is unpinned was pinned");
        self.pins.store(before.saturating_sub(1), Ordering::Relaxed);
        before == 1
    }
    #[cfg(feature = "testing")]
    pub(crate) fn pins(&self) -> u32 {
        self.pins.load(Ordering::Relaxed)
    }
    /// Committer: the record was written at this position.
    pub(crate) fn written(&self, at: Position) {
        self.position
            .store(u64::from(at.segment) << 32 | u64::from(at.offset), Ordering::Release);
    }
    pub(crate) fn position(&self) -> Option<Position> {
        match self.position.load(Ordering::Acquire) {
            0 => None,
            p => Some(Position {
                segment: (p >> 32) as u32,
                offset: p as u32,
            }),
        }
    }
    /// Engine: remembers which confirm entry waits for this message.
    pub(crate) fn set_confirm(&self, entry: Option<u32>) {
        self.confirm.store(entry.map_or(0, |e| e + 1), Ordering::Relaxed);
    }
    pub(crate) fn confirm(&self) -> Option<u32> {
        self.confirm.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// The effect of a settle on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Other queues have not settled it, or it is being or has been written: the settle must be logged.
    Logged,
    /// The last queue settled it before it was written, so it never will be.
    Cancelled,
}
