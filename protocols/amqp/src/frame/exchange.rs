//! Class 40, exchange.

use gatepost_core::properties::Table;

super::methods! {
    /// AMQP 0-9-1 1.6, with RabbitMQ's bindings between exchanges. RabbitMQ's number of `unbind-ok` is 51, not 41.
    Exchange<'a> = 40 {
        Declare = 10 {
            ticket: u16, exchange: &'a str, kind: &'a str;
            [passive, durable, auto_delete, internal, nowait];
            arguments: Table
        }
        DeclareOk = 11 {}
        Delete = 20 { ticket: u16, exchange: &'a str; [if_unused, nowait] }
        DeleteOk = 21 {}
        Bind = 30 { ticket: u16, destination: &'a str, source: &'a str, key: &'a str; [nowait]; arguments: Table }
        BindOk = 31 {}
        Unbind = 40 { ticket: u16, destination: &'a str, source: &'a str, key: &'a str; [nowait]; arguments: Table }
        UnbindOk = 51 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declare_decodes_from_golden_octets() {
        let octets = [0, 0, 1, b'e', 5, b't', b'o', b'p', b'i', b'c', 0b01010, 0, 0, 0, 0];
        let declare = Exchange::Declare {
            ticket: 0,
            exchange: "e",
            kind: "topic",
            passive: false,
            durable: true,
            auto_delete: false,
            internal: true,
            nowait: false,
            arguments: Table::default(),
        };
        assert_eq!(Exchange::decode(10, &octets), Ok(declare));
    }

    #[test]
    fn unbind_ok_is_51() {
        let mut out = Vec::new();
        Exchange::UnbindOk {}.encode(1, &mut out);
        assert_eq!(out, [1, 0, 1, 0, 0, 0, 4, 0, 40, 0, 51, 0xCE]);
    }
}
