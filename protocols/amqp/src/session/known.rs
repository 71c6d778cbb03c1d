//! What a connection probably publishes next: the same again.
//!
//! Most clients publish to few addresses, with few lists of properties. To decode, check and hash the same octets again is a
//! sixth of what a message costs in all. So the last `basic.publish` is remembered as it came, and the last list of properties
//! with what the engine is told of it. What is the same, octet by octet, means the same.

use crate::frame::content::BasicProperties;
use gatepost_core::message::{Address, Dialect, Envelope};

/// Longer methods and lists of properties are not remembered.
const OCTETS_MAX: usize = 256;
/// After so many others, another is remembered: a client that takes turns between many need not pay for each.
const MISSES: u8 = 16;

/// A `basic.publish` that was handled before. It was not `immediate`.
#[derive(Debug)]
pub(super) struct KnownPublish {
    /// The method's payload.
    method: Vec<u8>,
    /// Other methods since then.
    missed: u8,
    pub(super) address: Address,
    pub(super) mandatory: bool,
    pub(super) properties: KnownProperties,
}

/// A list of properties that was checked before.
#[derive(Debug, Default)]
pub(super) struct KnownProperties {
    octets: Vec<u8>,
    /// Other lists since then.
    missed: u8,
    /// What the engine is told of messages with them; `None`: there are none yet.
    envelope: Option<Envelope>,
}

impl KnownPublish {
    /// Remembers a method.
    pub(super) fn new(method: &[u8], exchange: &str, key: &str, mandatory: bool) -> Option<Box<KnownPublish>> {
        (method.len() <= OCTETS_MAX).then(|| {
            Box::new(KnownPublish {
                method: method.to_vec(),
                missed: 0,
                address: Address::new(exchange, key, Dialect::Dot),
                mandatory,
                properties: KnownProperties::default(),
            })
        })
    }

    /// Another method came. It is remembered now and then.
    pub(super) fn miss(&mut self, method: &[u8], exchange: &str, key: &str, mandatory: bool) {
        self.missed = (self.missed + 1).min(MISSES);
        if self.missed == MISSES && method.len() <= OCTETS_MAX {
            self.missed = 0;
            self.method.clear();
            self.method.extend_from_slice(method);
            self.address.set(exchange, key);
            self.mandatory = mandatory;
        }
    }

    /// Whether that is the method.
    #[inline]
    pub(super) fn is(&self, method: &[u8]) -> bool {
        self.method == method
    }

    /// Octets that it takes.
    pub(super) fn memory(&self) -> usize {
        let lists = self.method.capacity() + self.properties.octets.capacity();
        size_of::<KnownPublish>() + lists + self.address.memory()
    }
}

impl KnownProperties {
    /// What the engine is told of a message with these properties, but for its time.
    #[inline]
    pub(super) fn envelope_of(&self, octets: &[u8]) -> Option<Envelope> {
        self.envelope.filter(|_| self.octets == octets)
    }

    /// Other properties came. They are remembered at once if there are none, else now and then.
    pub(super) fn miss(&mut self, octets: &[u8], list: &BasicProperties<'_>, envelope: Envelope) {
        // A deadline is another one each time. A user's name is compared with whoever is logged in, and direct reply-to is
        // rewritten.
        let varies = list.expiration.is_some() || list.user_id.is_some() || list.reply_to.is_some();
        if varies || octets.len() > OCTETS_MAX {
            return;
        }
        self.missed = (self.missed + 1).min(MISSES);
        if self.envelope.is_none() || self.missed == MISSES {
            self.missed = 0;
            self.octets.clear();
            self.octets.extend_from_slice(octets);
            self.envelope = Some(envelope);
        }
    }
}
