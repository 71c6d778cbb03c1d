//! Class 85, confirm: RabbitMQ's publisher confirms.

super::methods! {
    /// RabbitMQ's `confirm.select`.
    Confirm = 85 {
        Select = 10 { ; [nowait] }
        SelectOk = 11 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn select_ok_golden_octets() {
        let mut out = Vec::new();
        Confirm::SelectOk {}.encode(1, &mut out);
        assert_eq!(out, [1, 0, 1, 0, 0, 0, 4, 0, 85, 0, 11, 0xCE]);
        assert_eq!(Confirm::decode(10, &[1]), Ok(Confirm::Select { nowait: true }));
    }
}
