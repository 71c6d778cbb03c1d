//! Class 90, tx: transactions of one channel.

super::methods! {
    /// AMQP 0-9-1 1.9.
    Tx = 90 {
        Select = 10 {}
        SelectOk = 11 {}
        Commit = 20 {}
        CommitOk = 21 {}
        Rollback = 30 {}
        RollbackOk = 31 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_ok_golden_octets() {
        let mut out = Vec::new();
        Tx::CommitOk {}.encode(1, &mut out);
        assert_eq!(out, [1, 0, 1, 0, 0, 0, 4, 0, 90, 0, 21, 0xCE]);
        assert_eq!(Tx::decode(30, &[]), Ok(Tx::Rollback {}));
    }
}
