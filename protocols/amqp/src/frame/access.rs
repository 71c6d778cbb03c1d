//! Class 30, access. Removed after AMQP 0-8; kept because old clients request a ticket before anything else.

super::methods! {
    /// AMQP 0-8 `access.request`. The ticket in the answer has no meaning.
    Access<'a> = 30 {
        Request = 10 { realm: &'a str; [exclusive, passive, active, write, read] }
        RequestOk = 11 { ticket: u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_decodes_and_the_ticket_is_two_octets() {
        let request = Access::decode(10, &[5, b'/', b'd', b'a', b't', b'a', 0b11100]).unwrap();
        let Access::Request {
            realm: "/data",
            exclusive: false,
            passive: false,
            active: true,
            write: true,
            read: true,
        } = request
        else {
            panic!("{request:?}");
        };
        let mut out = Vec::new();
        Access::RequestOk { ticket: 1 }.encode(1, &mut out);
        assert_eq!(out, [1, 0, 1, 0, 0, 0, 6, 0, 30, 0, 11, 0, 1, 0xCE]);
    }
}
