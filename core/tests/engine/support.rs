//! Scripts: what a client sends, as a line; what it receives, as a line.
//!
//! Received lines are for example `confirmed 3`, `deliver c1 #2 hello again` (consumer token, delivery number, body,
//! redelivered) and, for MQTT, `publish q1 #2 a/b hello dup retain ids 7` (QoS, packet id, topic, body, flags).

use gatepost_core::catalog::directory::PolicyRecord;
use gatepost_core::command::*;
use gatepost_core::event::{DeliveryFlags, Event};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::policy::PolicyKind;
use gatepost_core::properties::{Table, Value};
use gatepost_core::testing::world::{Client, ROOM, World};
use std::time::Duration;

/// The channel that AMQP-like scripts use.
pub(crate) const CH: u16 = 1;

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Sends, lets the log and the reader catch up, and takes everything.
pub(crate) fn run(w: &mut World, c: Client, commands: impl Into<Vec<Command>>) -> Vec<String> {
    w.send(c, commands.into());
    hear(w, c)
}

/// Lets the log and the reader catch up, and takes everything, as long as there is more.
pub(crate) fn hear(w: &mut World, c: Client) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        w.catch_up();
        heard.extend(now(w, c));
        if !w.is_running() || (!w.is_due(c) && w.is_caught_up()) {
            return heard;
        }
    }
}

/// Takes what there is now, whatever the log has done.
pub(crate) fn now(w: &mut World, c: Client) -> Vec<String> {
    w.take(c, ROOM).iter().map(line).collect()
}

pub(crate) fn line(event: &Event) -> String {
    match event {
        Event::Deliver(d) if d.consumer == 0 => {
            let body = String::from_utf8_lossy(d.message.body());
            let mut s = format!("publish q{} #{} {} {}", d.qos, d.number, d.message.key(), short(&body));
            if d.flags.contains(DeliveryFlags::REDELIVERED) {
                s += " dup";
            }
            if d.flags.contains(DeliveryFlags::RETAIN) {
                s += " retain";
            }
            if let Some(extra) = d.extra.as_ref().filter(|e| !e.subscription_ids.is_empty()) {
                let mut ids = extra.subscription_ids.clone();
                ids.sort_unstable();
                let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
                s += &format!(" ids {}", ids.join(","));
            }
            s
        }
        Event::Deliver(d) => format!("deliver c{} #{} {}", d.consumer, d.number, body(d)),
        Event::Got { delivery, remaining } => format!("got #{} {} left {remaining}", delivery.number, body(delivery)),
        Event::GetEmpty { .. } => "empty".into(),
        Event::Confirmed { upto, .. } => format!("confirmed {upto}"),
        Event::Refused { number, why, .. } => format!("refused {number} {why:?}"),
        Event::Unrouted { number, .. } => format!("unrouted {number}"),
        Event::Returned { number, message, .. } => {
            format!("returned {number} {}", short(&String::from_utf8_lossy(message.body())))
        }
        Event::Done { op, consumer: 0, .. } => format!("done {op:?}"),
        Event::Done { op, consumer, .. } => format!("done {op:?} c{consumer}"),
        Event::Failed { op, fault, .. } => format!("failed {op:?} {:?} {}", fault.kind, fault.text),
        Event::QueueDeclared { queue, .. } => format!("declared {} {}/{}", queue.name, queue.messages, queue.consumers),
        Event::QueueDeleted { messages, .. } => format!("deleted {messages}"),
        Event::QueuePurged { messages, .. } => format!("purged {messages}"),
        Event::Consuming { consumer, .. } => format!("consuming c{consumer}"),
        Event::ConsumerGone { consumer, .. } => format!("gone c{consumer}"),
        Event::Echo { token, .. } => format!("echo {token}"),
        Event::SessionOpened { present } => format!("open {}", if *present { "present" } else { "new" }),
        Event::Subscribed { packet_id, results } => format!("suback {packet_id} {results:?}"),
        Event::Unsubscribed { packet_id, existed } => format!("unsuback {packet_id} {existed:?}"),
        Event::Released { packet_id, known } => format!("pubcomp {packet_id}{}", if *known { "" } else { " unknown" }),
        Event::ReleaseDue { packet_id, known } => format!("pubrel {packet_id}{}", if *known { "" } else { " unknown" }),
        Event::Flow(pressure) => format!("flow {pressure:?}"),
        Event::Closed(why) => format!("closed {why:?}"),
        other => format!("{other:?}"),
    }
}

fn body(d: &gatepost_core::event::Delivery) -> String {
    let again = if d.flags.contains(DeliveryFlags::REDELIVERED) {
        " again"
    } else {
        ""
    };
    let retain = if d.flags.contains(DeliveryFlags::RETAIN) {
        " retain"
    } else {
        ""
    };
    format!("{}{again}{retain}", short(&String::from_utf8_lossy(d.message.body())))
}

/// Bodies are padded to use memory; lines show them without the padding.
fn short(body: &str) -> &str {
    body.split('.').next().unwrap_or("")
}

pub(crate) fn message(exchange: &str, key: &str, body: &str, durable: bool) -> Message {
    let envelope = Envelope {
        durable,
        qos: u8::from(durable),
        ..Envelope::default()
    };
    Message::new(envelope, exchange, key, &[], body.as_bytes())
}

/// A confirmed, durable publish to a queue.
pub(crate) fn put(queue: &str, body: &str) -> Command {
    publish(PublishFlags::CONFIRM, message("", queue, body, true))
}
/// A confirmed, transient publish to a queue.
pub(crate) fn put_transient(queue: &str, body: &str) -> Command {
    publish(PublishFlags::CONFIRM, message("", queue, body, false))
}
pub(crate) fn publish(flags: PublishFlags, message: Message) -> Command {
    Command::Publish {
        channel: CH,
        flags,
        packet_id: 0,
        message,
    }
}
/// A body with `size` bytes of padding behind the part that is shown.
pub(crate) fn padded(body: &str, size: usize) -> String {
    format!("{body}.{}", "x".repeat(size))
}

pub(crate) fn declare(name: &str, change: impl FnOnce(&mut DeclareQueue)) -> Command {
    let mut c = DeclareQueue::durable(CH, name);
    change(&mut c);
    Command::DeclareQueue(Box::new(c))
}
pub(crate) fn durable(name: &str) -> Command {
    declare(name, |_| {})
}
pub(crate) fn transient(name: &str) -> Command {
    declare(name, |d| d.durable = false)
}
/// A durable queue with integer arguments.
pub(crate) fn with_arguments(name: &str, arguments: &[(&str, i64)]) -> Command {
    declare(name, |d| {
        for (key, value) in arguments {
            d.arguments.push(*key, Value::Int(*value, 64));
        }
    })
}
pub(crate) fn delete(name: &str) -> Command {
    Command::DeleteQueue(Box::new(DeleteQueue {
        channel: CH,
        name: name.into(),
        if_unused: false,
        if_empty: false,
        reply: true,
    }))
}
pub(crate) fn delete_exchange(name: &str) -> Command {
    Command::DeleteExchange(Box::new(DeleteExchange {
        channel: CH,
        name: name.into(),
        if_unused: false,
        reply: true,
    }))
}
pub(crate) fn purge(name: &str) -> Command {
    Command::PurgeQueue(Box::new(PurgeQueue {
        channel: CH,
        name: name.into(),
        reply: true,
    }))
}
pub(crate) fn exchange(name: &str, kind: &str) -> Command {
    Command::DeclareExchange(Box::new(DeclareExchange {
        channel: CH,
        name: name.into(),
        kind: kind.into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
        reply: true,
    }))
}
pub(crate) fn bind(source: &str, queue: &str, key: &str) -> Command {
    Command::Bind(Box::new(Bind {
        channel: CH,
        source: source.into(),
        target: BindTarget::Queue(queue.into()),
        key: key.into(),
        arguments: Table::default(),
        reply: true,
    }))
}
/// Binds an exchange to another.
pub(crate) fn pass_on(from: &str, to: &str, key: &str) -> Command {
    Command::Bind(Box::new(Bind {
        channel: CH,
        source: from.into(),
        target: BindTarget::Exchange(to.into()),
        key: key.into(),
        arguments: Table::default(),
        reply: true,
    }))
}

pub(crate) fn with_alternate(name: &str, alternate: &str) -> Command {
    let mut arguments = Table::default();
    arguments.push("alternate-exchange", Value::text(alternate));
    Command::DeclareExchange(Box::new(DeclareExchange {
        channel: CH,
        name: name.into(),
        kind: "direct".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments,
        reply: true,
    }))
}

pub(crate) fn consume_with(queue: &str, consumer: u32, change: impl FnOnce(&mut Consume)) -> Command {
    let mut c = Consume::settling(CH, consumer, queue);
    change(&mut c);
    Command::Consume(Box::new(c))
}
pub(crate) fn consume(queue: &str, consumer: u32) -> Command {
    consume_with(queue, consumer, |_| {})
}
pub(crate) fn consume_no_ack(queue: &str, consumer: u32) -> Command {
    consume_with(queue, consumer, |c| c.no_ack = true)
}
pub(crate) fn cancel(consumer: u32) -> Command {
    Command::Cancel {
        channel: CH,
        consumer,
        reply: true,
    }
}
pub(crate) fn get(queue: &str) -> Command {
    Command::Get(Box::new(Get {
        channel: CH,
        queue: queue.into(),
        no_ack: false,
    }))
}
pub(crate) fn get_no_ack(queue: &str) -> Command {
    Command::Get(Box::new(Get {
        channel: CH,
        queue: queue.into(),
        no_ack: true,
    }))
}
pub(crate) fn settle(number: u64, multiple: bool, outcome: Outcome) -> Command {
    Command::Settle {
        channel: CH,
        number,
        multiple,
        outcome,
    }
}
pub(crate) fn ack(number: u64) -> Command {
    settle(number, false, Outcome::Accept)
}
pub(crate) fn ack_upto(number: u64) -> Command {
    settle(number, true, Outcome::Accept)
}
pub(crate) fn requeue(number: u64) -> Command {
    settle(number, false, Outcome::Requeue)
}
pub(crate) fn reject(number: u64) -> Command {
    settle(number, false, Outcome::Reject)
}
pub(crate) fn prefetch(count: u32, global: bool) -> Command {
    Command::Qos {
        channel: CH,
        count,
        global,
    }
}
pub(crate) fn echo(token: u64) -> Command {
    Command::Echo { channel: CH, token }
}
pub(crate) fn close_channel() -> Command {
    Command::CloseChannel {
        channel: CH,
        reply: true,
    }
}
/// Sets a policy with priority 0 and a definition of keys and values.
pub(crate) fn policy(name: &str, pattern: &str, apply_to: &str, definition: &[(&str, Value)]) -> Command {
    policies(vec![change(
        PolicyKind::User,
        name,
        Some(policy_record(pattern, apply_to, 0, definition)),
    )])
}
pub(crate) fn operator_policy(name: &str, pattern: &str, definition: &[(&str, Value)]) -> Command {
    let record = policy_record(pattern, "queues", 0, definition);
    policies(vec![change(PolicyKind::Operator, name, Some(record))])
}
pub(crate) fn clear_policy(name: &str) -> Command {
    policies(vec![change(PolicyKind::User, name, None)])
}
pub(crate) fn policies(changes: Vec<PolicyChange>) -> Command {
    Command::SetPolicies(Box::new(SetPolicies {
        channel: CH,
        changes,
        reply: true,
    }))
}
pub(crate) fn change(kind: PolicyKind, name: &str, policy: Option<PolicyRecord>) -> PolicyChange {
    let name = name.into();
    PolicyChange { kind, name, policy }
}
pub(crate) fn policy_record(
    pattern: &str,
    apply_to: &str,
    priority: i64,
    definition: &[(&str, Value)],
) -> PolicyRecord {
    PolicyRecord {
        pattern: pattern.into(),
        apply_to: apply_to.into(),
        definition: Table(definition.iter().map(|(k, v)| ((*k).into(), v.clone())).collect()),
        priority,
        more: Table::default(),
    }
}
pub(crate) fn transaction(commands: Vec<Command>) -> Command {
    Command::Transaction(Box::new(Transaction { channel: CH, commands }))
}

// MQTT.

pub(crate) fn session(client_id: &str, change: impl FnOnce(&mut OpenSession)) -> Command {
    let mut c = OpenSession {
        client_id: client_id.into(),
        clean_start: false,
        expiry: Some(3600),
        receive_maximum: 100,
        will: None,
    };
    change(&mut c);
    Command::OpenSession(Box::new(c))
}
/// A client whose session outlives its connection.
pub(crate) fn kept(client_id: &str) -> Command {
    session(client_id, |_| {})
}
/// A client whose session ends with its connection.
pub(crate) fn clean(client_id: &str) -> Command {
    session(client_id, |s| {
        s.clean_start = true;
        s.expiry = Some(0);
    })
}
pub(crate) fn filter(filter: &str, qos: u8) -> Subscription {
    Subscription {
        filter: filter.into(),
        share: None,
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    }
}
pub(crate) fn shared(group: &str, name: &str, qos: u8) -> Subscription {
    Subscription {
        share: Some(group.into()),
        ..filter(name, qos)
    }
}
pub(crate) fn subscribe(filters: Vec<Subscription>) -> Command {
    subscribe_as(filters, None)
}
pub(crate) fn subscribe_as(filters: Vec<Subscription>, subscription_id: Option<u32>) -> Command {
    Command::Subscribe(Box::new(Subscribe {
        packet_id: 1,
        filters: filters.into_iter().map(Ok).collect(),
        subscription_id,
    }))
}
pub(crate) fn unsubscribe(filter: &str, share: Option<&str>) -> Command {
    Command::Unsubscribe(Box::new(Unsubscribe {
        packet_id: 2,
        filters: vec![(filter.into(), share.map(Into::into))],
    }))
}
pub(crate) fn topic_message(topic: &str, body: &str, change: impl FnOnce(&mut Envelope)) -> Message {
    let mut envelope = Envelope {
        dialect: Dialect::Slash,
        durable: true,
        qos: 1,
        ..Envelope::default()
    };
    change(&mut envelope);
    Message::new(envelope, "amq.topic", topic, &[], body.as_bytes())
}
/// An MQTT publish; packet ids above 0 only with QoS 2.
pub(crate) fn mqtt(topic: &str, body: &str, qos: u8, packet_id: u16) -> Command {
    let message = topic_message(topic, body, |e| {
        e.qos = qos;
        e.durable = qos > 0;
    });
    mqtt_message(message, packet_id)
}
pub(crate) fn retain(topic: &str, body: &str) -> Command {
    mqtt_message(topic_message(topic, body, |e| e.retain = true), 0)
}
pub(crate) fn mqtt_message(message: Message, packet_id: u16) -> Command {
    let confirmed = message.envelope().qos > 0;
    Command::Publish {
        channel: 0,
        flags: if confirmed {
            PublishFlags::CONFIRM
        } else {
            PublishFlags::default()
        },
        packet_id,
        message,
    }
}
/// PUBACK, PUBCOMP.
pub(crate) fn puback(packet_id: u16) -> Command {
    Command::Settle {
        channel: 0,
        number: u64::from(packet_id),
        multiple: false,
        outcome: Outcome::Accept,
    }
}
pub(crate) fn pubrec(packet_id: u16) -> Command {
    Command::Received { packet_id }
}
pub(crate) fn pubrel(packet_id: u16) -> Command {
    Command::Release { packet_id }
}

/// Asserts that these are the numbers from 0 on.
pub(crate) fn assert_counted(numbers: &[usize], upto: usize) {
    let wrong = numbers.iter().enumerate().find(|(n, found)| n != *found);
    assert!(wrong.is_none(), "{wrong:?}");
    assert_eq!(numbers.len(), upto);
}

/// A client of MQTT with a kept session.
pub(crate) fn open(w: &mut World, id: &str) -> Client {
    let c = w.connect("mqtt");
    run(w, c, [kept(id)]);
    c
}

/// A kept session with one subscription.
pub(crate) fn subscriber(w: &mut World, id: &str, name: &str, qos: u8) -> Client {
    let c = open(w, id);
    run(w, c, [subscribe(vec![filter(name, qos)])]);
    c
}

pub(crate) fn will(topic: &str, delay: u64) -> Will {
    Will {
        message: topic_message(topic, "will", |_| {}),
        delay: Duration::from_secs(delay),
        expiry: None,
    }
}
