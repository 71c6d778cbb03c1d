//! ACK and NACK, and the identifiers of deliveries that they contain.

use super::{Frame, Verb, Version, push_decimal};
use crate::error::Refusal;
use gatepost_core::command::Outcome;

/// Settles one delivery, or several up to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack<'a> {
    /// The delivery.
    pub(crate) id: AckId<'a>,
    pub(crate) outcome: Outcome,
    pub(crate) transaction: Option<&'a str>,
    pub(crate) receipt: Option<&'a str>,
}

impl<'a> Ack<'a> {
    /// Parses an ACK or NACK frame.
    pub(crate) fn parse(frame: &Frame<'a>, version: Version, requeue_by_default: bool) -> Result<Ack<'a>, Refusal> {
        let command = frame.headers.command();
        // STOMP 1.2 ACK: `id` is the MESSAGE's `ack`. Before 1.2 it was the `message-id`; the `subscription` that 1.1
        // requires beside it is already part of that. NACK came with 1.1; it is accepted from 1.0 clients too.
        let name = if version == Version::V1_2 { "id" } else { "message-id" };
        let id = frame.require(name, || Refusal::missing_header(command, name))?;
        let id = AckId::parse(id).ok_or_else(|| Refusal::invalid_header(command, name))?;
        let requeue = frame
            .headers
            .lookup("requeue")
            .map_or(requeue_by_default, super::is_true);
        let outcome = match (frame.verb, requeue) {
            (Verb::Nack, true) => Outcome::Requeue,
            (Verb::Nack, false) => Outcome::Reject,
            _ => Outcome::Accept,
        };
        let (transaction, receipt) = (frame.headers.lookup("transaction"), frame.headers.lookup("receipt"));
        Ok(Ack {
            id,
            outcome,
            transaction,
            receipt,
        })
    }
}

/// Identifies a delivery to the client: `T_<session>@<subscription>@<number>`. It consists of `[A-Za-z0-9@_-]`, so no
/// client has to escape it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckId<'a> {
    /// The session that delivered it. An identifier that a client keeps over a reconnect matches no delivery.
    pub(crate) session: &'a str,
    /// Number of the subscription within the session.
    pub(crate) subscription: u32,
    /// Delivery number within the subscription.
    pub(crate) number: u64,
}

impl<'a> AckId<'a> {
    fn parse(text: &'a str) -> Option<AckId<'a>> {
        let mut parts = text.strip_prefix("T_")?.split('@');
        let id = AckId {
            session: parts.next()?,
            subscription: decimal(parts.next()?)?,
            number: decimal(parts.next()?)?,
        };
        parts.next().is_none().then_some(id)
    }

    /// Appends all but the number, which the caller appends with [`push_decimal`].
    pub(crate) fn push_prefix(out: &mut Vec<u8>, session: &str, subscription: u32) {
        out.extend_from_slice(b"T_");
        out.extend_from_slice(session.as_bytes());
        out.push(b'@');
        push_decimal(out, u64::from(subscription));
        out.push(b'@');
    }
}

fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::*;

    #[test]
    fn ack_ids_come_back_as_they_went() {
        let mut id = Vec::new();
        AckId::push_prefix(&mut id, "aB-_9", 7);
        push_decimal(&mut id, 42);
        assert_eq!(id, b"T_aB-_9@7@42");
        let parsed = AckId::parse("T_aB-_9@7@42");
        assert_eq!(
            parsed,
            Some(AckId {
                session: "aB-_9",
                subscription: 7,
                number: 42
            })
        );
        for bad in [
            "",
            "T_",
            "T_a@1",
            "T_a@1@",
            "T_a@1@2@3",
            "T_a@+1@2",
            "a@1@2",
            "T_a@1@99999999999999999999",
        ] {
            assert_eq!(AckId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_version_names_the_delivery_in_its_header() {
        let headers = headers("NACK", &[("message-id", "T_a@1@2"), ("requeue", "false")]);
        let frame = Frame {
            verb: Verb::Nack,
            headers: &headers,
            body: b"",
        };
        let ack = Ack::parse(&frame, Version::V1_1, true).expect("legal");
        assert_eq!((ack.id.number, ack.outcome), (2, Outcome::Reject));
        let refusal = Ack::parse(&frame, Version::V1_2, true).expect_err("1.2 wants id");
        assert_eq!(
            (refusal.message, &*refusal.body),
            ("Missing header", "\"NACK\" must include the \"id\" header\n")
        );
    }
}
