//! The beginning of the keys of keyed records, which is all that the log knows about them.
//!
//! ```text
//!   vhost 3 │ kind 1 │ name…        big-endian, so that keys sort by vhost
//! ```
//!
//! The catalog defines the values, and the names behind the kind.

use super::QueueId;
use std::fmt;

/// A vhost's number, which is never reused within a data directory. 0 is the node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VhostId(pub u32);

impl VhostId {
    /// The node, for objects that belong to no vhost.
    pub const NODE: VhostId = VhostId(0);
    /// The highest possible number.
    pub const MAX: VhostId = VhostId((1 << 24) - 1);
}

impl fmt::Display for VhostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a key names. The numbers are stored on disk.
///
/// Values of kinds below 0x40 are small and precious: checkpoints repeat them. Clients choose how many keys of kinds
/// from 0x80 on exist. Checkpoints do not list these, so that their size does not depend on clients; a start finds them
/// in the directories of the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// A vhost. Its deletion deletes everything whose key or queue number begins with its number.
    Vhost = 0x01,
    /// A user.
    User = 0x02,
    /// A user's permissions in a vhost.
    Permission = 0x03,
    /// A user's permissions on the topics of an exchange.
    TopicPermission = 0x04,
    /// A limit of a vhost or a user.
    Limit = 0x05,
    /// An exchange.
    Exchange = 0x10,
    /// A queue. Its deletion deletes its messages.
    Queue = 0x11,
    /// A policy.
    Policy = 0x12,
    /// An operator policy.
    OperatorPolicy = 0x13,
    /// A runtime parameter.
    Parameter = 0x14,
    /// A binding.
    Binding = 0x15,
    /// An MQTT session.
    Session = 0x40,
    /// A subscription of an MQTT session.
    Subscription = 0x41,
    /// A retained message.
    Retained = 0x80,
}

impl KeyKind {
    fn from_u8(kind: u8) -> Option<KeyKind> {
        use KeyKind::*;
        let all = [
            Vhost,
            User,
            Permission,
            TopicPermission,
            Limit,
            Exchange,
            Queue,
            Policy,
            OperatorPolicy,
            Parameter,
            Binding,
            Session,
            Subscription,
            Retained,
        ];
        all.into_iter().find(|known| *known as u8 == kind)
    }
    fn word(self) -> &'static str {
        match self {
            KeyKind::Vhost => "vhost",
            KeyKind::User => "user",
            KeyKind::Permission => "permission",
            KeyKind::TopicPermission => "topic permission",
            KeyKind::Limit => "limit",
            KeyKind::Exchange => "exchange",
            KeyKind::Queue => "queue",
            KeyKind::Policy => "policy",
            KeyKind::OperatorPolicy => "operator policy",
            KeyKind::Parameter => "parameter",
            KeyKind::Binding => "binding",
            KeyKind::Session => "session",
            KeyKind::Subscription => "subscription",
            KeyKind::Retained => "retained message",
        }
    }
}

const PREFIX: usize = 4;
/// Longer values are not repeated in checkpoints.
pub(crate) const PRECIOUS_BYTES_MAX: usize = 4096;

/// Builds a key.
pub fn key(vhost: VhostId, kind: KeyKind, parts: &[&[u8]]) -> Box<[u8]> {
    debug_assert!(vhost <= VhostId::MAX);
    let [_, number @ ..] = vhost.0.to_be_bytes();
    let mut key = Vec::with_capacity(PREFIX + parts.iter().map(|part| part.len()).sum::<usize>());
    key.extend_from_slice(&number);
    key.push(kind as u8);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key.into()
}

/// The key of a vhost.
pub fn vhost_key(vhost: VhostId) -> Box<[u8]> {
    key(VhostId::NODE, KeyKind::Vhost, &[&vhost.0.to_be_bytes()])
}

/// The key of a queue.
pub fn queue_key(queue: QueueId) -> Box<[u8]> {
    key(queue.vhost(), KeyKind::Queue, &[&queue.number().to_be_bytes()])
}

/// The vhost of a key.
pub fn vhost_of(key: &[u8]) -> Option<VhostId> {
    let &[a, b, c, ..] = key else { return None };
    Some(VhostId(u32::from_be_bytes([0, a, b, c])))
}

/// Splits a key. `None` if it is not one that this release knows.
pub fn parse(key: &[u8]) -> Option<(VhostId, KeyKind, &[u8])> {
    let kind = KeyKind::from_u8(*key.get(PREFIX - 1)?)?;
    Some((vhost_of(key)?, kind, &key[PREFIX..]))
}

/// The vhost that a key names, if it is the key of a vhost.
pub fn as_vhost(key: &[u8]) -> Option<VhostId> {
    match parse(key)? {
        (VhostId::NODE, KeyKind::Vhost, name) => Some(VhostId(u32::from_be_bytes(name.try_into().ok()?))),
        _ => None,
    }
}

/// The queue that a key names, if it is the key of a queue.
pub fn as_queue(key: &[u8]) -> Option<QueueId> {
    match parse(key)? {
        (vhost, KeyKind::Queue, name) => QueueId::new(vhost, u64::from_be_bytes(name.try_into().ok()?)),
        _ => None,
    }
}

/// Whether checkpoints repeat the key's value.
pub(crate) fn is_precious(key: &[u8]) -> bool {
    key.get(PREFIX - 1).is_some_and(|kind| (1..0x40).contains(kind))
}

/// Whether checkpoints leave the key out.
pub(crate) fn is_bulk(key: &[u8]) -> bool {
    key.get(PREFIX - 1).is_some_and(|kind| *kind >= 0x80)
}

/// The key in words, for reports of damage.
pub fn describe(key: &[u8]) -> String {
    const NAME_MAX: usize = 80;
    if let Some(vhost) = as_vhost(key) {
        return format!("vhost {vhost}");
    }
    if let Some(queue) = as_queue(key) {
        return format!("queue {} of vhost {}", queue.number(), queue.vhost());
    }
    match parse(key) {
        Some((vhost, kind, name)) => {
            let name = &name[..name.len().min(NAME_MAX)];
            let name = String::from_utf8_lossy(name).replace('\0', " ");
            let name = name.escape_debug();
            match vhost {
                VhostId::NODE => format!("{} '{name}'", kind.word()),
                vhost => format!("{} '{name}' of vhost {vhost}", kind.word()),
            }
        }
        None => format!("key {}", key[..key.len().min(NAME_MAX)].escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_apart_as_they_were_put_together_and_sort_by_vhost() {
        let queue = QueueId::new(VhostId(7), 99).unwrap();
        assert_eq!(as_queue(&queue_key(queue)), Some(queue));
        assert_eq!(as_vhost(&vhost_key(VhostId(70_000))), Some(VhostId(70_000)));
        assert_eq!(as_vhost(&queue_key(queue)), None);
        let session = key(VhostId(300), KeyKind::Session, &[b"client"]);
        assert_eq!(
            parse(&session),
            Some((VhostId(300), KeyKind::Session, b"client".as_slice()))
        );
        assert!(queue_key(queue) < session && vhost_key(VhostId::MAX) < queue_key(queue));
        assert_eq!(parse(b"\0\0\x01\x7f"), None);
        assert_eq!(parse(b"\0\0\x01"), None);
        assert_eq!(QueueId::new(VhostId(1), 1 << 40), None);
    }

    #[test]
    fn a_key_is_described_in_words() {
        let queue = QueueId::new(VhostId(7), 99).unwrap();
        assert_eq!(describe(&queue_key(queue)), "queue 99 of vhost 7");
        let subscription = key(VhostId(1), KeyKind::Subscription, &[b"client\0a/+\0"]);
        assert_eq!(describe(&subscription), "subscription 'client a/+ ' of vhost 1");
        assert_eq!(describe(&vhost_key(VhostId(3))), "vhost 3");
        assert_eq!(describe(b"\xff"), "key \\xff");
    }
}
