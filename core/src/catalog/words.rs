//! Describes keyed records in reports of damage.

use super::directory::{
    Keyed, LimitOf, LimitRecord, OperatorPolicyRecord, ParameterRecord, PermissionRecord, PolicyRecord,
    TopicPermissionRecord, UserRecord,
};
use super::{
    BindingRecord, BoundRecord, ExchangeRecord, QueueRecord, SessionRecord, SubscriptionRecord, VhostRecord, decode,
    parse_subscription,
};
use crate::store::{KeyKind, VhostId, as_vhost, describe, parse_key};
use serde::de::DeserializeOwned;

/// Describes a key and, if it can be read, its value.
pub fn words(key: &[u8], value: Option<&[u8]>) -> String {
    let Some((vhost, kind, name)) = parse_key(key) else {
        return describe(key);
    };
    let what = named(vhost, kind, name).unwrap_or_else(|| describe(key));
    match value.and_then(|value| said(key, kind, value)) {
        Some(said) => format!("{what} ({said})"),
        None => what,
    }
}

/// Describes keys for which the log's own description would show binary data.
fn named(vhost: VhostId, kind: KeyKind, name: &[u8]) -> Option<String> {
    Some(match kind {
        KeyKind::Binding => {
            let binding: BindingRecord = decode(name)?;
            let target = match (binding.queue, binding.exchange) {
                (Some(queue), _) => format!("queue {queue}"),
                (None, Some(exchange)) => format!("exchange '{exchange}'"),
                (None, None) => return None,
            };
            let (source, key) = (binding.source, binding.key);
            format!("binding from exchange '{source}' to {target} with key '{key}' of vhost {vhost}")
        }
        KeyKind::Subscription => {
            let (client, filter, share) = parse_subscription(name)?;
            let share = share.map_or(String::new(), |share| format!(", shared as '{share}',"));
            format!("subscription of session '{client}' to '{filter}'{share} of vhost {vhost}")
        }
        KeyKind::Permission => {
            let (of, user) = PermissionRecord::parse(vhost, name)?;
            format!("permission of user '{user}' in vhost {of}")
        }
        KeyKind::TopicPermission => {
            let (of, user, exchange) = TopicPermissionRecord::parse(vhost, name)?;
            format!("topic permission of user '{user}' for exchange '{exchange}' in vhost {of}")
        }
        KeyKind::Limit => match LimitRecord::parse(vhost, name)? {
            LimitOf::Vhost(of) => format!("limits of vhost {of}"),
            LimitOf::User(user) => format!("limits of user '{user}'"),
        },
        KeyKind::Parameter => {
            let (_, component, name) = ParameterRecord::parse(vhost, name)?;
            format!("parameter '{name}' of '{component}' of vhost {vhost}")
        }
        _ => return None,
    })
}

/// Describes a value.
fn said(key: &[u8], kind: KeyKind, value: &[u8]) -> Option<String> {
    Some(match kind {
        KeyKind::Vhost => {
            as_vhost(key)?;
            format!("'{}'", decode::<VhostRecord>(value)?.name)
        }
        KeyKind::Exchange => format!("type {}", decode::<ExchangeRecord>(value)?.kind),
        KeyKind::Queue => {
            let queue: QueueRecord = decode(value)?;
            let kind = ["classic", "quorum", "stream"];
            let kind = kind.get(usize::from(queue.queue_type)).unwrap_or(&"of an unknown type");
            match queue.client_id.as_ref() {
                "" => format!("'{}', {kind}", queue.name),
                client => format!("'{}', of session '{client}'", queue.name),
            }
        }
        KeyKind::Binding => {
            let bound: BoundRecord = decode(value)?;
            (!bound.queue.is_empty()).then(|| format!("queue '{}'", bound.queue))?
        }
        KeyKind::Session => {
            let session: SessionRecord = decode(value)?;
            format!("queue {}", session.queue?)
        }
        KeyKind::Subscription => {
            let subscription: SubscriptionRecord = decode(value)?;
            format!("queue {}, QoS {}", subscription.queue, subscription.qos)
        }
        KeyKind::User => {
            let user: UserRecord = decode(value)?;
            format!("tags: {}", user.tags.join(", "))
        }
        KeyKind::Permission => {
            let PermissionRecord {
                configure, write, read, ..
            } = decode(value)?;
            format!("configure '{configure}', write '{write}', read '{read}'")
        }
        KeyKind::TopicPermission => {
            let TopicPermissionRecord { write, read, .. } = decode(value)?;
            format!("write '{write}', read '{read}'")
        }
        KeyKind::Policy => policy(value, |policy: PolicyRecord| policy)?,
        KeyKind::OperatorPolicy => policy(value, |policy: OperatorPolicyRecord| policy.0)?,
        KeyKind::Limit | KeyKind::Parameter | KeyKind::Retained => return None,
    })
}

fn policy<T: DeserializeOwned>(value: &[u8], inner: impl Fn(T) -> PolicyRecord) -> Option<String> {
    let policy = inner(decode(value)?);
    Some(format!("pattern '{}', for {}", policy.pattern, policy.apply_to))
}

#[cfg(test)]
mod tests {
    use super::super::{binding_key, encode_bound, vhost_record};
    use super::*;
    use crate::binding::{Binding, Destination};
    use crate::catalog::directory::record;
    use crate::message::Dialect;
    use crate::properties::Table;
    use crate::store::{QueueId, Record};

    fn of(record: Record) -> (String, String) {
        let Record::Key { key, value } = record else {
            unreachable!("a keyed record")
        };
        (words(&key, value.as_deref()), words(&key, None))
    }

    #[test]
    fn a_record_is_named_with_and_without_its_value() {
        let vhost = VhostRecord {
            name: "plant".into(),
            ..VhostRecord::default()
        };
        let (known, unknown) = of(vhost_record(VhostId(3), &vhost));
        assert_eq!((known.as_str(), unknown.as_str()), ("vhost 3 ('plant')", "vhost 3"));
        let permission = PermissionRecord {
            configure: "^a".into(),
            write: ".*".into(),
            ..PermissionRecord::default()
        };
        let (known, unknown) = of(record(&(VhostId(3), "guest".into()), &permission));
        assert_eq!(unknown, "permission of user 'guest' in vhost 3");
        assert_eq!(known, format!("{unknown} (configure '^a', write '.*', read '')"));
        let destination = Destination::Exchange("audit".into());
        let binding = Binding {
            source: "plant".into(),
            destination: destination.clone(),
            key: "new".into(),
            arguments: Table::default(),
            dialect: Dialect::Dot,
            grant: None,
            durable: true,
        };
        let key = binding_key(VhostId(3), &binding, None);
        let expected = "binding from exchange 'plant' to exchange 'audit' with key 'new' of vhost 3";
        assert_eq!(words(&key, Some(&encode_bound(&destination))), expected);
        let key = binding_key(VhostId(3), &binding, QueueId::new(VhostId(3), 7));
        let bound = super::super::encode(&BoundRecord { queue: "orders".into() });
        let expected = "binding from exchange 'plant' to queue 7 with key 'new' of vhost 3";
        assert_eq!(words(&key, Some(&bound)), format!("{expected} (queue 'orders')"));
        // An unreadable value is described by its key only.
        assert_eq!(words(&key, Some(b"\xff")), expected);
        assert_eq!(words(b"\xff", None), "key \\xff");
    }
}
