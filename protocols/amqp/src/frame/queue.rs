//! Class 50, queue.

use gatepost_core::properties::Table;

super::methods! {
    /// AMQP 0-9-1 1.7. `unbind` has no nowait.
    Queue<'a> = 50 {
        Declare = 10 {
            ticket: u16, queue: &'a str;
            [passive, durable, exclusive, auto_delete, nowait];
            arguments: Table
        }
        DeclareOk = 11 { queue: &'a str, messages: u32, consumers: u32 }
        Bind = 20 { ticket: u16, queue: &'a str, exchange: &'a str, key: &'a str; [nowait]; arguments: Table }
        BindOk = 21 {}
        Purge = 30 { ticket: u16, queue: &'a str; [nowait] }
        PurgeOk = 31 { messages: u32 }
        Delete = 40 { ticket: u16, queue: &'a str; [if_unused, if_empty, nowait] }
        DeleteOk = 41 { messages: u32 }
        Unbind = 50 { ticket: u16, queue: &'a str, exchange: &'a str, key: &'a str, arguments: Table }
        UnbindOk = 51 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declare_ok_golden_octets() {
        let mut out = Vec::new();
        Queue::DeclareOk {
            queue: "q",
            messages: 2,
            consumers: 1,
        }
        .encode(1, &mut out);
        assert_eq!(
            out,
            [
                1, 0, 1, 0, 0, 0, 14, 0, 50, 0, 11, 1, b'q', 0, 0, 0, 2, 0, 0, 0, 1, 0xCE
            ]
        );
    }

    #[test]
    fn unbind_has_no_bits() {
        let octets = [0, 0, 1, b'q', 1, b'e', 1, b'k', 0, 0, 0, 0];
        let unbind = Queue::Unbind {
            ticket: 0,
            queue: "q",
            exchange: "e",
            key: "k",
            arguments: Table::default(),
        };
        assert_eq!(Queue::decode(50, &octets), Ok(unbind));
    }
}
