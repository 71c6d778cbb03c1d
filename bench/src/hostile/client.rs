//! Offenders that log in properly and then misbehave.

use super::line::Line;
use super::scene::Scene;
use crate::body;
use crate::connect;
use crate::plan::{Plan, Protocol};
use crate::wire::amqp::{self, Amqp};
use crate::wire::{Address, Sink, mqtt};
use std::thread;
use std::time::{Duration, Instant};

const STALLED_MESSAGES: u64 = 100_000;
const STALLED_BODY_BYTES: usize = 1024;
/// Maximum unconfirmed messages of the publisher for a stalled subscriber.
const STALLED_WINDOW: u64 = 1000;
const UNREAD_CONFIRMS: u64 = 200_000;
const UNREAD_RETURNS: u64 = 100_000;
const RETURNED_BODY_BYTES: usize = 1024;
/// Messages written at once.
const BATCH: u64 = 100;
const CHANNELS: u16 = 2000;
const SUBSCRIPTIONS: usize = 10_000;
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 100;
/// The largest table that fits into a frame of 128 KiB beside the rest of a declare, and one that fits into no frame.
const TABLE_BYTES: [usize; 2] = [120 << 10, 1 << 20];
/// Declares on a connection before the one that closes it.
const DECLARES: usize = 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to read what the broker sent before it closed.
const LAST_WORDS: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(1);

/// Two subscribers, of QoS 0 and 1, that do not read while another client publishes for them at a steady rate.
pub(crate) fn stalled_subscriber(scene: &Scene) {
    let endpoint = scene.endpoint(Protocol::Mqtt);
    let plan = |qos: u8| {
        let mut plan = Plan::new(endpoint.clone(), endpoint.clone());
        plan.name = format!("gatepost-bench-stalled-{qos}");
        plan.address = Address::Topic(vec!["bench".into(), "stalled".into()]);
        plan.size = STALLED_BODY_BYTES;
        plan.qos = qos;
        plan
    };
    let subscribers = [0, 1].map(|qos| {
        let line = Line::logged_in(scene, connect::consumer(&plan(qos), 0));
        line.map(|(line, _)| (qos, line))
    });
    if let Some((mut line, mut wire)) = Line::logged_in(scene, connect::publisher(&plan(1), 0)) {
        scene.set_in_place();
        let body = body::blank(STALLED_BODY_BYTES);
        let (mut pace, mut tally) = (Spread::new(scene, STALLED_MESSAGES), Tally::default());
        while !scene.is_over() && !line.has_ended() {
            let batch = pace.due().min(STALLED_WINDOW.saturating_sub(pace.sent - tally.settled));
            let mut out = Vec::new();
            for _ in 0..batch {
                wire.publish(&mut out, &body);
            }
            pace.sent += batch;
            if line.say(scene, &out) {
                scene.add_acts(batch);
            }
            let heard = line.read();
            out.clear();
            match wire.parse(&line.heard, &mut out, &mut tally) {
                Ok(used) => drop(line.heard.drain(..used)),
                Err(error) => {
                    scene.note(&format!("publisher: {error}"));
                    break;
                }
            }
            if batch == 0 && !heard {
                thread::sleep(TICK);
            }
        }
        line.leave_as(scene, "publisher");
    }
    for (qos, mut line) in subscribers.into_iter().flatten() {
        line.hear_out(LAST_WORDS);
        line.leave_as(scene, &format!("subscriber of QoS {qos}"));
    }
}

/// Publishes at a steady rate, with confirms that it never reads.
pub(crate) fn unread_confirms(scene: &Scene) {
    let endpoint = scene.endpoint(Protocol::Amqp);
    let mut plan = Plan::new(endpoint.clone(), endpoint.clone());
    // No queue is bound there: only the confirms accumulate.
    plan.address = Address::Topic(vec!["bench".into(), "unheard".into()]);
    plan.confirm = true;
    if let Some((line, mut wire)) = Line::logged_in(scene, connect::publisher(&plan, 0)) {
        let body = body::blank(plan.size);
        publish_deaf(scene, line, UNREAD_CONFIRMS, |out| {
            wire.publish(out, &body);
        });
    }
}

/// Publishes unroutable messages at a steady rate, and never reads the returned ones.
pub(crate) fn unread_returns(scene: &Scene) {
    let mut message = Vec::new();
    amqp::put_method(&mut message, 1, (60, 40), |args| {
        args.extend_from_slice(&[0, 0]);
        amqp::put_short(args, "");
        amqp::put_short(args, "gatepost-bench-no-queue-of-this-name");
        // Mandatory. AMQP 0-9-1 1.8.3.7
        args.push(1);
    });
    amqp::put_frame(&mut message, amqp::FRAME_HEADER, 1, |header| {
        header.extend_from_slice(&[0, 60, 0, 0]);
        header.extend_from_slice(&(RETURNED_BODY_BYTES as u64).to_be_bytes());
        header.extend_from_slice(&[0, 0]);
    });
    amqp::put_frame(&mut message, amqp::FRAME_BODY, 1, |payload| {
        payload.extend_from_slice(&body::blank(RETURNED_BODY_BYTES));
    });
    let connected = connect::idle(scene.endpoint(Protocol::Amqp), 0);
    if let Some((line, _)) = Line::logged_in(scene, connected) {
        publish_deaf(scene, line, UNREAD_RETURNS, |out| out.extend_from_slice(&message));
    }
}

/// Publishes at a steady rate and does not read until the end.
pub(crate) fn publish_deaf(scene: &Scene, mut line: Line, messages: u64, mut publish: impl FnMut(&mut Vec<u8>)) {
    scene.set_in_place();
    let mut pace = Spread::new(scene, messages);
    let mut out = Vec::new();
    while !scene.is_over() && !line.has_ended() {
        let batch = pace.due();
        out.clear();
        for _ in 0..batch {
            publish(&mut out);
        }
        pace.sent += batch;
        if line.say(scene, &out) {
            scene.add_acts(batch);
        }
        if batch == 0 {
            thread::sleep(TICK);
        }
    }
    line.hear_out(LAST_WORDS);
    line.leave(scene);
}

/// Opens and closes many channels, again and again.
pub(crate) fn many_channels(scene: &Scene) {
    let mut open = Vec::new();
    let mut close = Vec::new();
    // Channel 1 is open since the login.
    for channel in 2..2 + CHANNELS {
        amqp::put_method(&mut open, channel, (20, 10), |args| args.push(0));
        amqp::put_method(&mut close, channel, (20, 40), |args| {
            args.extend_from_slice(&200_u16.to_be_bytes());
            amqp::put_short(args, "done");
            args.extend_from_slice(&[0; 4]);
        });
    }
    let connected = connect::idle(scene.endpoint(Protocol::Amqp), 0);
    let Some((mut line, _)) = Line::logged_in(scene, connected) else {
        return;
    };
    scene.set_in_place();
    while line.say(scene, &open)
        && line.hear(scene, CHANNELS.into(), ANSWER_TIMEOUT)
        && line.say(scene, &close)
        && line.hear(scene, CHANNELS.into(), ANSWER_TIMEOUT)
        && !line.is_refused()
    {
        scene.add_acts(CHANNELS.into());
    }
    line.leave(scene);
}

/// Makes and removes many subscriptions, again and again.
pub(crate) fn many_subscriptions(scene: &Scene) {
    let mut subscribe = Vec::new();
    let mut unsubscribe = Vec::new();
    let packets = SUBSCRIPTIONS / FILTERS;
    for packet in 1..=packets {
        let identifier = (packet as u16).to_be_bytes();
        let (mut filters, mut removed) = (identifier.to_vec(), identifier.to_vec());
        for filter in 0..FILTERS {
            let filter = format!("hostile/{packet}/{filter}/+/#");
            mqtt::put_text(&mut filters, &filter);
            filters.push(1);
            mqtt::put_text(&mut removed, &filter);
        }
        mqtt::put_packet(&mut subscribe, 0x82, &filters);
        mqtt::put_packet(&mut unsubscribe, 0xA2, &removed);
    }
    let connected = connect::idle(scene.endpoint(Protocol::Mqtt), 0);
    let Some((mut line, _)) = Line::logged_in(scene, connected) else {
        return;
    };
    scene.set_in_place();
    while line.say(scene, &subscribe)
        && line.hear(scene, packets, ANSWER_TIMEOUT)
        && line.say(scene, &unsubscribe)
        && line.hear(scene, packets, ANSWER_TIMEOUT)
    {
        scene.add_acts(SUBSCRIPTIONS as u64);
    }
    line.leave(scene);
}

/// Declares queues with large tables of arguments.
pub(crate) fn big_table(scene: &Scene) {
    let [fitting, oversized] = TABLE_BYTES.map(|bytes| {
        let mut out = Vec::new();
        amqp::put_method(&mut out, 1, (50, 10), |args| {
            args.extend_from_slice(&[0, 0]);
            amqp::put_short(args, "gatepost-bench-table");
            args.push(0);
            amqp::put_long(args, &table(bytes));
        });
        out
    });
    let mut delete = Vec::new();
    Amqp::queue_delete(&mut delete, "gatepost-bench-table");
    scene.set_in_place();
    while !scene.is_over() {
        let connected = connect::idle(scene.endpoint(Protocol::Amqp), 0);
        let Some((mut line, _)) = Line::logged_in(scene, connected) else {
            return;
        };
        for _ in 0..DECLARES {
            let declared = line.say(scene, &fitting)
                && line.hear(scene, 1, ANSWER_TIMEOUT)
                && line.say(scene, &delete)
                && line.hear(scene, 1, ANSWER_TIMEOUT);
            if !declared || line.is_refused() {
                break;
            }
            scene.note("AMQP: table of 120 KiB: declared");
            scene.add_acts(1);
        }
        if line.is_refused() || line.has_ended() {
            line.leave_as(scene, "AMQP: table of 120 KiB");
            continue;
        }
        line.say(scene, &oversized);
        line.hear(scene, 1, ANSWER_TIMEOUT);
        line.hear_out(LAST_WORDS);
        scene.add_acts(1);
        line.leave_as(scene, "AMQP: table of 1 MiB");
    }
}

/// A table of many small fields with about this many bytes. AMQP 0-9-1 4.2.5.5
fn table(bytes: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for field in 0_u32.. {
        if table.len() + 16 > bytes {
            break;
        }
        amqp::put_short(&mut table, &format!("k{field:06}"));
        table.push(b'I');
        table.extend_from_slice(&field.to_be_bytes());
    }
    table
}

/// Spreads messages evenly over the measured time.
struct Spread {
    begun: Instant,
    span: Duration,
    total: u64,
    sent: u64,
}

impl Spread {
    fn new(scene: &Scene, total: u64) -> Self {
        Self {
            begun: Instant::now(),
            span: scene.span,
            total,
            sent: 0,
        }
    }

    /// How many messages are due now, in one batch.
    fn due(&self) -> u64 {
        let share = self.begun.elapsed().as_secs_f64() / self.span.as_secs_f64();
        let due = (self.total as f64 * share.min(1.0)) as u64;
        due.saturating_sub(self.sent).min(BATCH)
    }
}

/// Counts confirmed messages.
#[derive(Default)]
struct Tally {
    settled: u64,
}

impl Sink for Tally {
    fn message(&mut self, _: &[u8]) {}

    fn confirmed(&mut self, count: u64) {
        self.settled += count;
    }

    fn refused(&mut self, count: u64) {
        self.settled += count;
    }
}
