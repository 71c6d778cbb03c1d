//! Offenders whose filters and bindings make matching expensive for each message.

use super::client::publish_deaf;
use super::line::Line;
use super::scene::Scene;
use crate::connect;
use crate::plan::Protocol;
use crate::wire::amqp::{self, Amqp};
use crate::wire::mqtt;
use std::time::Duration;

/// Levels of the filters. Each level is `a` or a wildcard, so 8,192 filters match.
const LEVELS: usize = 13;
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 64;
const BINDINGS: u32 = 400;
/// Headers that each binding requires.
const KEYS: u32 = 200;
/// Headers of each message: fewer than `limits.message_headers_max`.
const HEADERS: u32 = 900;
/// Messages over the measured time, each to another topic, so that no remembered route helps.
const MESSAGES: u64 = 500;
const QUEUE: &str = "gatepost-bench-headers";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Subscribes with every combination of `a` and `+`, and publishes messages that all of them match.
pub(crate) fn wide_filters(scene: &Scene) {
    let mut subscribe = Vec::new();
    let packets = (1 << LEVELS) / FILTERS;
    for packet in 0..packets {
        let mut filters = (packet as u16 + 1).to_be_bytes().to_vec();
        for bits in packet * FILTERS..(packet + 1) * FILTERS {
            let levels = (0..LEVELS).map(|level| if bits >> level & 1 == 1 { "+/" } else { "a/" });
            mqtt::put_text(&mut filters, &(levels.collect::<String>() + "#"));
            filters.push(0);
        }
        mqtt::put_packet(&mut subscribe, 0x82, &filters);
    }
    let endpoint = scene.endpoint(Protocol::Mqtt);
    let Some((mut subscriber, _)) = Line::logged_in(scene, connect::idle(endpoint, 0)) else {
        return;
    };
    if !subscriber.say(scene, &subscribe) || !subscriber.hear(scene, packets, ANSWER_TIMEOUT) {
        return;
    }
    let topic = "a/".repeat(LEVELS);
    let mut sent = 0_u64;
    if let Some((publisher, _)) = Line::logged_in(scene, connect::idle(endpoint, 1)) {
        publish_deaf(scene, publisher, MESSAGES, |out| {
            sent += 1;
            let mut packet = Vec::new();
            mqtt::put_text(&mut packet, &format!("{topic}{sent}"));
            mqtt::put_packet(out, 0x30, &packet);
        });
    }
    subscriber.leave(scene);
}

/// Binds a queue with many headers, and publishes messages that have them all.
pub(crate) fn header_bindings(scene: &Scene) {
    let Some((mut line, _)) = Line::logged_in(scene, connect::idle(scene.endpoint(Protocol::Amqp), 0)) else {
        return;
    };
    let mut declare = Vec::new();
    Amqp::queue_declare(&mut declare, QUEUE, false);
    let mut is_bound = line.say(scene, &declare) && line.hear(scene, 1, ANSWER_TIMEOUT);
    for binding in 0..BINDINGS {
        let mut bind = Vec::new();
        amqp::put_method(&mut bind, 1, (50, 20), |args| {
            args.extend_from_slice(&[0, 0]);
            amqp::put_short(args, QUEUE);
            amqp::put_short(args, "amq.headers");
            amqp::put_short(args, &binding.to_string());
            args.push(0);
            let mut table = headers(0..KEYS);
            amqp::put_short(&mut table, "x-match");
            table.push(b'S');
            amqp::put_long(&mut table, b"any");
            amqp::put_long(args, &table);
        });
        is_bound = is_bound && line.say(scene, &bind) && line.hear(scene, 1, ANSWER_TIMEOUT);
    }
    if !is_bound {
        return line.leave(scene);
    }
    let mut message = Vec::new();
    amqp::put_method(&mut message, 1, (60, 40), |args| {
        args.extend_from_slice(&[0, 0]);
        amqp::put_short(args, "amq.headers");
        amqp::put_short(args, "");
        args.push(0);
    });
    amqp::put_frame(&mut message, amqp::FRAME_HEADER, 1, |header| {
        header.extend_from_slice(&[0, 60, 0, 0]);
        header.extend_from_slice(&0_u64.to_be_bytes());
        // Headers and no other properties. AMQP 0-9-1 1.8
        header.extend_from_slice(&[0x20, 0]);
        amqp::put_long(header, &headers(0..HEADERS));
    });
    publish_deaf(scene, line, MESSAGES, |out| out.extend_from_slice(&message));
}

fn headers(range: std::ops::Range<u32>) -> Vec<u8> {
    let mut table = Vec::new();
    for field in range {
        amqp::put_short(&mut table, &format!("k{field}"));
        table.push(b'I');
        table.extend_from_slice(&field.to_be_bytes());
    }
    table
}
