//! Class 60, basic: publishing, consuming, settling.

use super::field::put_short;
use super::{METHOD, put_frame};
use gatepost_core::properties::Table;

super::methods! {
    /// AMQP 0-9-1 1.8, with RabbitMQ's extensions: `nack`, and `ack` and `cancel` sent by the server.
    Basic<'a> = 60 {
        Qos = 10 { size: u32, count: u16; [global] }
        QosOk = 11 {}
        Consume = 20 {
            ticket: u16, queue: &'a str, tag: &'a str;
            [no_local, no_ack, exclusive, nowait];
            arguments: Table
        }
        ConsumeOk = 21 { tag: &'a str }
        Cancel = 30 { tag: &'a str; [nowait] }
        CancelOk = 31 { tag: &'a str }
        Publish = 40 { ticket: u16, exchange: &'a str, key: &'a str; [mandatory, immediate] }
        Return = 50 { code: u16, text: &'a str, exchange: &'a str, key: &'a str }
        Deliver = 60 { tag: &'a str, number: u64; [redelivered]; exchange: &'a str, key: &'a str }
        Get = 70 { ticket: u16, queue: &'a str; [no_ack] }
        GetOk = 71 { number: u64; [redelivered]; exchange: &'a str, key: &'a str, remaining: u32 }
        GetEmpty = 72 { reserved: &'a str }
        Ack = 80 { number: u64; [multiple] }
        Reject = 90 { number: u64; [requeue] }
        RecoverAsync = 100 { ; [requeue] }
        Recover = 110 { ; [requeue] }
        RecoverOk = 111 {}
        Nack = 120 { number: u64; [multiple, requeue] }
    }
}

/// Writes `basic.deliver`. The strings are octets known to be UTF-8: this runs for each delivery and must not check
/// them again.
pub(crate) fn put_deliver(
    out: &mut Vec<u8>,
    channel: u16,
    tag: &str,
    number: u64,
    redelivered: bool,
    exchange: &[u8],
    key: &[u8],
) {
    put_frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 60]);
        put_short(out, tag.as_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        out.push(u8::from(redelivered));
        put_short(out, exchange);
        put_short(out, key);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliver_golden_octets_both_ways_of_writing_it() {
        let golden = [
            [1, 0, 1, 0, 0, 0, 19].as_slice(),
            &[0, 60, 0, 60, 1, b't', 0, 0, 0, 0, 0, 0, 0, 7, 1, 1, b'e', 1, b'k', 0xCE],
        ]
        .concat();
        let mut out = Vec::new();
        Basic::Deliver {
            tag: "t",
            number: 7,
            redelivered: true,
            exchange: "e",
            key: "k",
        }
        .encode(1, &mut out);
        assert_eq!(out, golden);
        out.clear();
        put_deliver(&mut out, 1, "t", 7, true, b"e", b"k");
        assert_eq!(out, golden);
    }

    #[test]
    fn bits_pack_lowest_first() {
        let nack = Basic::decode(120, &[0, 0, 0, 0, 0, 0, 0, 9, 0b10]);
        assert_eq!(
            nack,
            Ok(Basic::Nack {
                number: 9,
                multiple: false,
                requeue: true
            })
        );
        let publish = Basic::decode(40, &[0, 0, 0, 1, b'k', 0b01]);
        let expected = Basic::Publish {
            ticket: 0,
            exchange: "",
            key: "k",
            mandatory: true,
            immediate: false,
        };
        assert_eq!(publish, Ok(expected));
    }
}
