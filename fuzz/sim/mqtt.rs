//! An MQTT client, version 3.1.1 or 5.

use super::book::Book;
use super::wire::Wire;
use gatepost_mqtt::codec::{Limits, decode};
use gatepost_mqtt::frame::{Packet, Sender, Version};
use std::collections::VecDeque;

pub(crate) struct MqttClient {
    version: Version,
    /// First byte and packet id of answers that are owed.
    owed: VecDeque<(u8, u16)>,
}

impl Default for MqttClient {
    fn default() -> Self {
        MqttClient {
            version: Version::V5,
            owed: VecDeque::new(),
        }
    }
}

impl Wire for MqttClient {
    fn hello(&mut self, detail: u8) -> Vec<u8> {
        let v5 = detail & 1 == 0;
        self.version = if v5 { Version::V5 } else { Version::V311 };
        let (clean, will) = (detail & 2, detail & 4);
        let will_qos = detail & 8;
        let flags = clean | will | if will == 0 { 0 } else { will_qos };
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend([if v5 { 5 } else { 4 }, flags, 0, 2]);
        if v5 {
            // Session expiry of ten seconds or none; receive maximum 3.
            let expiry = if detail & 16 == 0 { 10 } else { 0 };
            body.extend([8, 0x11, 0, 0, 0, expiry, 0x21, 0, 3]);
        }
        body.extend([0, 2, b'c', b'0' + (detail >> 5) % 3]);
        if will != 0 {
            if v5 {
                // Delayed by a second.
                body.extend([5, 0x18, 0, 0, 0, 1]);
            }
            text(&mut body, "t/will");
            text(&mut body, "w");
        }
        packet(0x10, &body)
    }

    fn phrase(&mut self, index: u8, detail: u8) -> Vec<u8> {
        let v5 = self.version == Version::V5;
        let id = u16::from(detail >> 5) + 1;
        let mut body = Vec::new();
        match index % 16 {
            0..=3 => {
                body.extend(id.to_be_bytes());
                if v5 {
                    body.push(0);
                }
                text(&mut body, FILTERS[usize::from(detail) % FILTERS.len()]);
                let options = if v5 { detail >> 4 & 0x0c } else { 0 };
                body.push(options | ((detail >> 4) % 3));
                packet(0x82, &body)
            }
            4 => {
                body.extend(id.to_be_bytes());
                if v5 {
                    body.push(0);
                }
                text(&mut body, FILTERS[usize::from(detail) % FILTERS.len()]);
                packet(0xA2, &body)
            }
            5..=10 => {
                let qos = (index % 16 - 5) % 3;
                text(&mut body, TOPICS[usize::from(detail) % TOPICS.len()]);
                if qos > 0 {
                    body.extend(id.to_be_bytes());
                }
                if v5 {
                    // Some expire after a second, and some have a response topic.
                    match detail >> 3 & 3 {
                        0 => body.extend(b"\x05\x02\0\0\0\x01"),
                        1 => body.extend(b"\x0d\x08\0\x03t/1\x26\0\x01h\0\x01v"),
                        _ => body.push(0),
                    }
                }
                body.extend(vec![detail; if detail & 0x10 == 0 { 2 } else { 500 }]);
                let (retain, dup) = ((index / 16) & 1, if qos > 0 { (index / 32) & 1 } else { 0 });
                packet(0x30 | dup << 3 | qos << 1 | retain, &body)
            }
            11 => {
                // Clears a retained message.
                text(&mut body, TOPICS[usize::from(detail) % TOPICS.len()]);
                if v5 {
                    body.push(0);
                }
                packet(0x31, &body)
            }
            12 => packet(0x62, &id.to_be_bytes()),
            13 => packet(0xC0, &[]),
            14 if v5 && detail & 1 != 0 => packet(0xE0, &[4]),
            14 if v5 && detail & 2 != 0 => packet(0xE0, &[0, 5, 0x11, 0, 0, 0, detail >> 2]),
            14 => packet(0xE0, &[]),
            _ => packet(0x40 | (detail & 3) << 4, &id.to_be_bytes()),
        }
    }

    fn settle(&mut self, detail: u8) -> Vec<u8> {
        let Some((first, id)) = self.owed.pop_front() else {
            return Vec::new();
        };
        let mut body = id.to_be_bytes().to_vec();
        if self.version == Version::V5 && first < 0x60 && detail & 3 == 3 {
            body.push(0x80);
        }
        packet(first, &body)
    }

    fn receive(&mut self, octets: &[u8], _: &mut Vec<u8>, book: &mut Book) -> usize {
        if octets.is_empty() {
            return 0;
        }
        let decoded = decode(octets, self.version, Sender::Server, &Limits::WIRE);
        let Ok(Some((packet, used))) = decoded else {
            panic!("no MQTT: {decoded:?} {}", octets.escape_ascii());
        };
        match packet {
            Packet::Publish(publish) => {
                book.see(publish.payload);
                if publish.qos > 0 {
                    self.owed
                        .push_back((if publish.qos == 1 { 0x40 } else { 0x50 }, publish.packet_id));
                }
            }
            Packet::PubRec(ack) if ack.reason.0 < 0x80 => self.owed.push_back((0x62, ack.packet_id)),
            Packet::PubRel(ack) => self.owed.push_back((0x70, ack.packet_id)),
            _ => {}
        }
        used
    }
}

const FILTERS: [&str; 8] = ["#", "t/+", "t/1", "+/1/#", "$share/g/t/#", "$share/g/#", "t//", "q0"];
const TOPICS: [&str; 8] = ["t/1", "t/2", "t", "t/1/x", "t//", "q0", "t/1/x/y", "x/1"];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    while length > 127 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}
