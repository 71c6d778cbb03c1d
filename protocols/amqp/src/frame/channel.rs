//! Class 20, channel.

super::methods! {
    /// AMQP 0-9-1 1.5.
    Channel<'a> = 20 {
        Open = 10 { reserved: &'a str }
        OpenOk = 11 { reserved: &'a [u8] }
        Flow = 20 { ; [active] }
        FlowOk = 21 { ; [active] }
        Close = 40 { code: u16, text: &'a str, class: u16, method: u16 }
        CloseOk = 41 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ok_carries_an_empty_long_string() {
        let mut out = Vec::new();
        Channel::OpenOk { reserved: b"" }.encode(3, &mut out);
        assert_eq!(out, [1, 0, 3, 0, 0, 0, 8, 0, 20, 0, 11, 0, 0, 0, 0, 0xCE]);
    }
}
