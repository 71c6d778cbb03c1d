//! Records of users, permissions, limits, policies and parameters.
//!
//! The fields are those of RabbitMQ's definitions export. Later releases add fields to `more`, which this release preserves.
//!
//! ```text
//!   of the node   user                name
//!                 permission          the vhost's number, user
//!                 topic permission    the vhost's number, user 0 exchange
//!                 limit               the vhost's number; or 0, user
//!   of a vhost    policy, operator policy    name
//!                 parameter           component 0 name (of vhost 0: a global one)
//! ```
//!
//! Permissions and limits contain a vhost's number, not its name. Numbers are never reused, so a permission in a
//! deleted vhost does not apply to a new vhost of the same name.

use super::{decode, encode};
pub use crate::policy::PolicyRecord;
use crate::properties::{Name, Table, Value};
use crate::store::{KeyKind, Record, Recovered, VhostId, key, parse_key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One kind of record.
pub trait Keyed: Serialize + DeserializeOwned {
    /// The kind in its keys.
    const KIND: KeyKind;
    /// Identifies a record.
    type Id: Ord;
    /// The key of a record.
    fn key(id: &Self::Id) -> Box<[u8]>;
    /// Parses a key: `vhost` is the key's vhost, `name` the part after the kind.
    fn parse(vhost: VhostId, name: &[u8]) -> Option<Self::Id>;
}

/// The log record that creates or changes a value.
pub fn record<T: Keyed>(id: &T::Id, value: &T) -> Record {
    Record::Key {
        key: T::key(id),
        value: Some(encode(value)),
    }
}

/// The log record that deletes a value.
pub fn deletion<T: Keyed>(id: &T::Id) -> Record {
    Record::Key {
        key: T::key(id),
        value: None,
    }
}

/// All values of one kind in the log.
pub struct Known<T: Keyed> {
    /// The readable ones.
    pub all: BTreeMap<T::Id, T>,
    /// Keys of unreadable ones.
    pub damaged: Vec<Box<[u8]>>,
}

/// Reads all values of one kind.
pub fn known<T: Keyed>(recovered: &Recovered) -> Known<T> {
    let mut known = Known {
        all: BTreeMap::new(),
        damaged: Vec::new(),
    };
    for (key, value) in &recovered.keys {
        let Some((vhost, kind, name)) = parse_key(key) else {
            continue;
        };
        if kind != T::KIND {
            continue;
        }
        match T::parse(vhost, name).zip(decode(value)) {
            Some((id, value)) => _ = known.all.insert(id, value),
            None => known.damaged.push(key.clone()),
        }
    }
    known
}

/// A user. The key is its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    /// The hash itself, not its base64; empty: no password is right.
    pub password_hash: Vec<u8>,
    /// Such as `rabbit_password_hashing_sha256`.
    pub hashing_algorithm: Name,
    /// Such as `administrator`.
    pub tags: Vec<Name>,
    /// What later releases add.
    pub more: Table,
}

/// What a user may do in a vhost: regular expressions over names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PermissionRecord {
    /// Declare and delete.
    pub configure: String,
    /// Publish.
    pub write: String,
    /// Consume.
    pub read: String,
    /// What later releases add.
    pub more: Table,
}

/// What a user may do with topics: regular expressions over routing keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TopicPermissionRecord {
    /// Publish.
    pub write: String,
    /// Bind, subscribe.
    pub read: String,
    /// What later releases add.
    pub more: Table,
}

/// Limits of a vhost or of a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitRecord {
    /// Such as `max-connections`; negative: none.
    pub limits: Vec<(Name, i64)>,
    /// What later releases add.
    pub more: Table,
}

/// An operator's policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorPolicyRecord(pub PolicyRecord);

/// A runtime parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterRecord {
    /// The value.
    pub value: Value,
    /// What later releases add.
    pub more: Table,
}

/// The owner of limits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitOf {
    /// A vhost's.
    Vhost(VhostId),
    /// A user's.
    User(Name),
}

impl Keyed for UserRecord {
    const KIND: KeyKind = KeyKind::User;
    type Id = Name;
    fn key(name: &Name) -> Box<[u8]> {
        key(VhostId::NODE, Self::KIND, &[name.as_bytes()])
    }
    fn parse(_: VhostId, name: &[u8]) -> Option<Name> {
        text(name)
    }
}

impl Keyed for PermissionRecord {
    const KIND: KeyKind = KeyKind::Permission;
    /// Vhost and user.
    type Id = (VhostId, Name);
    fn key((vhost, user): &Self::Id) -> Box<[u8]> {
        key(VhostId::NODE, Self::KIND, &[&vhost.0.to_be_bytes(), user.as_bytes()])
    }
    fn parse(_: VhostId, name: &[u8]) -> Option<Self::Id> {
        let (vhost, user) = split_vhost(name)?;
        Some((vhost, text(user)?))
    }
}

impl Keyed for TopicPermissionRecord {
    const KIND: KeyKind = KeyKind::TopicPermission;
    /// Vhost, user and exchange.
    type Id = (VhostId, Name, Name);
    fn key((vhost, user, exchange): &Self::Id) -> Box<[u8]> {
        let parts = [&vhost.0.to_be_bytes()[..], user.as_bytes(), &[0], exchange.as_bytes()];
        key(VhostId::NODE, Self::KIND, &parts)
    }
    fn parse(_: VhostId, name: &[u8]) -> Option<Self::Id> {
        let (vhost, rest) = split_vhost(name)?;
        let (user, exchange) = split_nul(rest)?;
        Some((vhost, user, exchange))
    }
}

impl Keyed for LimitRecord {
    const KIND: KeyKind = KeyKind::Limit;
    type Id = LimitOf;
    fn key(of: &LimitOf) -> Box<[u8]> {
        let (vhost, user) = match of {
            LimitOf::Vhost(vhost) => (*vhost, ""),
            LimitOf::User(user) => (VhostId::NODE, &**user),
        };
        key(VhostId::NODE, Self::KIND, &[&vhost.0.to_be_bytes(), user.as_bytes()])
    }
    fn parse(_: VhostId, name: &[u8]) -> Option<LimitOf> {
        Some(match split_vhost(name)? {
            (VhostId::NODE, user) => LimitOf::User(text(user)?),
            (vhost, b"") => LimitOf::Vhost(vhost),
            _ => return None,
        })
    }
}

/// A policy's vhost and name.
type PolicyId = (VhostId, Name);

impl Keyed for PolicyRecord {
    const KIND: KeyKind = KeyKind::Policy;
    type Id = PolicyId;
    fn key((vhost, name): &PolicyId) -> Box<[u8]> {
        key(*vhost, Self::KIND, &[name.as_bytes()])
    }
    fn parse(vhost: VhostId, name: &[u8]) -> Option<PolicyId> {
        Some((vhost, text(name)?))
    }
}

impl Keyed for OperatorPolicyRecord {
    const KIND: KeyKind = KeyKind::OperatorPolicy;
    type Id = PolicyId;
    fn key((vhost, name): &PolicyId) -> Box<[u8]> {
        key(*vhost, Self::KIND, &[name.as_bytes()])
    }
    fn parse(vhost: VhostId, name: &[u8]) -> Option<PolicyId> {
        Some((vhost, text(name)?))
    }
}

impl Keyed for ParameterRecord {
    const KIND: KeyKind = KeyKind::Parameter;
    /// Vhost, component and name.
    type Id = (VhostId, Name, Name);
    fn key((vhost, component, name): &Self::Id) -> Box<[u8]> {
        key(*vhost, Self::KIND, &[component.as_bytes(), &[0], name.as_bytes()])
    }
    fn parse(vhost: VhostId, name: &[u8]) -> Option<Self::Id> {
        let (component, name) = split_nul(name)?;
        Some((vhost, component, name))
    }
}

fn text(bytes: &[u8]) -> Option<Name> {
    Some(std::str::from_utf8(bytes).ok()?.into())
}

fn split_vhost(name: &[u8]) -> Option<(VhostId, &[u8])> {
    let (vhost, rest) = name.split_first_chunk()?;
    Some((VhostId(u32::from_be_bytes(*vhost)), rest))
}

/// Splits at the NUL. User and component names contain none; SASL PLAIN uses NUL as a separator.
fn split_nul(name: &[u8]) -> Option<(Name, Name)> {
    let at = name.iter().position(|byte| *byte == 0)?;
    Some((text(&name[..at])?, text(&name[at + 1..])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Durability, Store, StoreSettings, Ticket, describe};
    use crate::testing::disk::SimDisk;
    use crate::time::{Now, Time, Wall};
    use std::fmt::Debug;
    use std::sync::Arc;

    fn definition() -> Table {
        let mut table = Table::default();
        table.push("max-length", Value::Int(10, 64));
        table.push("dead-letter-exchange", Value::text("dlx"));
        table
    }

    fn user() -> UserRecord {
        UserRecord {
            password_hash: b"\x90\x8d\xc6\x0asalted".to_vec(),
            hashing_algorithm: "rabbit_password_hashing_sha256".into(),
            tags: vec!["administrator".into(), "monitoring".into()],
            more: Table::default(),
        }
    }

    /// Checks that written values are read back, and nothing else.
    fn round_trip<T: Keyed<Id: Debug> + Debug + PartialEq>(all: Vec<(T::Id, T)>) {
        let mut recovered = Recovered::default();
        for (id, value) in &all {
            let Record::Key { key, value } = record(id, value) else {
                unreachable!("a keyed record")
            };
            assert!(recovered.keys.insert(key, value.expect("a value")).is_none());
            let Record::Key { key, value: None } = deletion::<T>(id) else {
                unreachable!("a deletion")
            };
            assert!(recovered.keys.contains_key(&key), "of the same key");
        }
        // A record of another kind, and an unreadable one.
        recovered
            .keys
            .insert(key(VhostId(1), KeyKind::Exchange, &[b"x"]), [9].into());
        let damaged = key(VhostId(3), T::KIND, &[b"\0\0\0\x01a\0b"]);
        recovered.keys.insert(damaged.clone(), b"\x02".as_slice().into());
        let known = known::<T>(&recovered);
        assert_eq!(known.all.into_iter().collect::<Vec<_>>(), all);
        assert_eq!(known.damaged, [damaged]);
    }

    #[test]
    fn records_are_recovered_unchanged() {
        let more = definition();
        round_trip::<UserRecord>(vec![("guest".into(), UserRecord::default()), ("root".into(), user())]);
        let permission = PermissionRecord {
            configure: "^plant-".into(),
            write: ".*".into(),
            read: String::new(),
            more: more.clone(),
        };
        let ids = [(VhostId(1), "guest".into()), (VhostId(2), "guest".into())];
        round_trip(ids.map(|id| (id, permission.clone())).into());
        let topic = TopicPermissionRecord {
            write: "^{username}\\.".into(),
            read: ".*".into(),
            more: more.clone(),
        };
        let ids = ["", "amq.topic"].map(|exchange| (VhostId(1), "guest".into(), exchange.into()));
        round_trip(ids.map(|id| (id, topic.clone())).into());
        let limits = LimitRecord {
            limits: vec![("max-connections".into(), 10), ("max-queues".into(), -1)],
            more: Table::default(),
        };
        let ids = [LimitOf::Vhost(VhostId(1)), LimitOf::User("guest".into())];
        round_trip(ids.map(|id| (id, limits.clone())).into());
        let policy = PolicyRecord {
            pattern: "^amq\\.".into(),
            apply_to: "queues".into(),
            definition: definition(),
            priority: -3,
            more,
        };
        round_trip(vec![((VhostId(1), "limit".into()), policy.clone())]);
        round_trip(vec![((VhostId(1), "limit".into()), OperatorPolicyRecord(policy))]);
        let parameter = ParameterRecord {
            value: Value::Table(definition()),
            more: Table::default(),
        };
        let ids = [VhostId::NODE, VhostId(7)].map(|vhost| (vhost, "shovel".into(), "one".into()));
        round_trip(ids.map(|id| (id, parameter.clone())).into());
    }

    #[test]
    fn a_damaged_one_can_be_named() {
        assert_eq!(describe(&UserRecord::key(&"guest".into())), "user 'guest'");
        let policy = PolicyRecord::key(&(VhostId(3), "limit".into()));
        assert_eq!(describe(&policy), "policy 'limit' of vhost 3");
    }

    /// The log has lost a user's record, and its checkpoint has a second copy of it.
    #[test]
    fn a_user_with_a_damaged_record_is_restored_from_the_checkpoint() {
        let disk = SimDisk::new(1);
        let open =
            |disk: &SimDisk| Store::open(Arc::new(disk.clone()), StoreSettings::default(), Wall(0)).expect("a start");
        let now = Now {
            monotonic: Time(0),
            wall: Wall(1),
        };
        let (mut store, _) = open(&disk);
        let batch = Batch {
            records: vec![record(&"root".into(), &user())],
            need: Some(Durability::Always),
            ticket: Ticket(1),
            ..Batch::default()
        };
        store.commit(&mut [batch], now).expect("written");
        store.close(now).expect("a clean stop");
        let mut flipped = 0;
        for path in disk.paths().into_iter().filter(|path| path.ends_with(".seg")) {
            disk.damage(&path, |bytes| {
                let found = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"administrator"));
                for at in found.collect::<Vec<_>>() {
                    bytes[at] ^= 1;
                    flipped += 1;
                }
            });
        }
        assert_eq!(flipped, 1);
        let (_, recovered) = open(&disk);
        let known = known::<UserRecord>(&recovered);
        assert_eq!(known.all, BTreeMap::from([("root".into(), user())]));
    }
}
