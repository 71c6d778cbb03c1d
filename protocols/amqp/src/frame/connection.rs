//! Class 10, connection: the handshake, and methods about the connection as a whole.

use gatepost_core::properties::Table;

super::methods! {
    /// AMQP 0-9-1 1.4, with RabbitMQ's `blocked`, `unblocked` and `update-secret`.
    Connection<'a> = 10 {
        Start = 10 { version_major: u8, version_minor: u8, server_properties: Table, mechanisms: &'a [u8], locales: &'a [u8] }
        StartOk = 11 { client_properties: Table, mechanism: &'a str, response: &'a [u8], locale: &'a str }
        Secure = 20 { challenge: &'a [u8] }
        SecureOk = 21 { response: &'a [u8] }
        Tune = 30 { channel_max: u16, frame_max: u32, heartbeat: u16 }
        TuneOk = 31 { channel_max: u16, frame_max: u32, heartbeat: u16 }
        Open = 40 { vhost: &'a str, reserved: &'a str; [insist] }
        OpenOk = 41 { reserved: &'a str }
        Close = 50 { code: u16, text: &'a str, class: u16, method: u16 }
        CloseOk = 51 {}
        Blocked = 60 { reason: &'a str }
        Unblocked = 61 {}
        UpdateSecret = 70 { secret: &'a [u8], reason: &'a str }
        UpdateSecretOk = 71 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tune_and_close_golden_octets() {
        let mut out = Vec::new();
        Connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        }
        .encode(0, &mut out);
        assert_eq!(
            out,
            [1, 0, 0, 0, 0, 0, 12, 0, 10, 0, 30, 7, 255, 0, 2, 0, 0, 0, 60, 0xCE]
        );
        out.clear();
        Connection::Close {
            code: 320,
            text: "x",
            class: 0,
            method: 0,
        }
        .encode(0, &mut out);
        assert_eq!(
            out,
            [1, 0, 0, 0, 0, 0, 12, 0, 10, 0, 50, 1, 64, 1, b'x', 0, 0, 0, 0, 0xCE]
        );
    }

    #[test]
    fn open_decodes_from_golden_octets() {
        let open = Connection::decode(40, &[1, b'/', 0, 0]);
        assert_eq!(
            open,
            Ok(Connection::Open {
                vhost: "/",
                reserved: "",
                insist: false
            })
        );
    }
}
