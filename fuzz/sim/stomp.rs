//! A STOMP 1.2 client.

use super::book::{Book, SAFE};
use super::wire::Wire;
use std::collections::VecDeque;

#[derive(Default)]
pub(crate) struct StompClient {
    /// Ack ids that are not settled.
    owed: VecDeque<String>,
}

impl Wire for StompClient {
    fn hello(&mut self, detail: u8) -> Vec<u8> {
        let beats = if detail & 1 == 0 { "0,0" } else { "1000,1000" };
        let hello = "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:";
        format!("{hello}{beats}\n\n\0").into_bytes()
    }

    fn phrase(&mut self, index: u8, detail: u8) -> Vec<u8> {
        let destination = match detail & 7 {
            0..=2 => format!("/queue/q{}", detail & 3),
            3 => format!("/queue/{SAFE}"),
            4 => "/topic/t.1".into(),
            5 => "/topic/t.#".into(),
            6 => "/exchange/amq.fanout/k".into(),
            _ => "/temp-queue/t".into(),
        };
        // Messages to the safe queue must come from the book.
        let target = if detail & 7 == 3 { "/queue/q3" } else { &destination };
        let id = detail >> 3 & 3;
        let ack = match detail >> 5 & 3 {
            // Messages to a subscription that does not settle may be lost on the way.
            0 if detail & 7 != 3 => "auto",
            0 | 1 => "client",
            _ => "client-individual",
        };
        let transaction = if index & 0x40 == 0 { "" } else { "transaction:t\n" };
        let frame = match index % 12 {
            0..=2 => {
                let durable = if detail & 0x80 == 0 {
                    ""
                } else {
                    "durable:true\nauto-delete:false\n"
                };
                let destination = if destination.starts_with("/temp") {
                    "/queue/q0"
                } else {
                    &destination
                };
                format!(
                    "SUBSCRIBE\nid:{id}\ndestination:{destination}\nack:{ack}\n{durable}prefetch-count:{id}\nreceipt:s\n"
                )
            }
            3 => format!("UNSUBSCRIBE\nid:{id}\n"),
            4 => format!("UNSUBSCRIBE\nid:{id}\ndurable:true\nreceipt:u\n"),
            5..=7 => {
                let persistent = if detail & 0x20 == 0 { "" } else { "persistent:true\n" };
                let expires = if detail & 0x40 == 0 { "" } else { "expiration:50\n" };
                let receipt = if detail & 0x80 == 0 { "" } else { "receipt:p\n" };
                return format!(
                    "SEND\ndestination:{target}\n{persistent}{expires}{receipt}{transaction}h:v\n\nbody {detail}\0"
                )
                .into_bytes();
            }
            8 => format!("SEND\ndestination:{target}\nreply-to:/temp-queue/t\n{transaction}"),
            9 => "BEGIN\ntransaction:t\n".into(),
            10 if detail & 1 == 0 => "COMMIT\ntransaction:t\nreceipt:c\n".into(),
            10 => "ABORT\ntransaction:t\n".into(),
            _ if detail & 0xe0 == 0 => "DISCONNECT\nreceipt:d\n".into(),
            _ => return b"\n".to_vec(),
        };
        format!("{frame}\n\0").into_bytes()
    }

    fn settle(&mut self, detail: u8) -> Vec<u8> {
        let Some(id) = self.owed.pop_front() else {
            return Vec::new();
        };
        let transaction = if detail & 0x40 == 0 { "" } else { "transaction:t\n" };
        match detail % 4 {
            0 | 1 => format!("ACK\nid:{id}\n{transaction}\n\0"),
            2 => format!("NACK\nid:{id}\n{transaction}\n\0"),
            _ => format!("NACK\nid:{id}\nrequeue:false\n{transaction}\n\0"),
        }
        .into_bytes()
    }

    fn receive(&mut self, octets: &[u8], _: &mut Vec<u8>, book: &mut Book) -> usize {
        match octets.first() {
            None => return 0,
            Some(b'\n') => return 1,
            _ => {}
        }
        let head = octets.windows(2).position(|two| two == b"\n\n").expect("a whole head");
        let lines = std::str::from_utf8(&octets[..head]).expect("UTF-8");
        let header = |name: &str| {
            lines
                .lines()
                .skip(1)
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let length = header("content-length").map_or(0, |length| length.parse().expect("a number"));
        let rest = &octets[head + 2..];
        let body = &rest[..length];
        assert_eq!(rest.get(length), Some(&0), "where a frame ends");
        match lines.lines().next() {
            Some("MESSAGE") => {
                book.see(body);
                self.owed.extend(header("ack").map(str::to_owned));
            }
            Some("CONNECTED" | "RECEIPT" | "ERROR") => {}
            other => panic!("no frame of a server: {other:?}"),
        }
        head + 2 + length + 1
    }
}
