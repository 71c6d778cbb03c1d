//! SEND: a message, its destination, and the headers that the engine needs.

use super::subscribe::QueueHeaders;
use super::{Frame, is_true};
use crate::destination::Destination;
use crate::error::Refusal;
use gatepost_core::time::Wall;
use std::time::Duration;

/// A parsed SEND frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Send<'a> {
    pub(crate) destination: Destination<'a>,
    pub(crate) transaction: Option<&'a str>,
    pub(crate) receipt: Option<&'a str>,
    /// A `reply-to` that names a temporary queue of this connection, `/temp-queue/…`.
    pub(crate) temp_queue: Option<&'a str>,
    pub(crate) durable: bool,
    pub(crate) retain: bool,
    /// It has headers for the declaration of its queue.
    pub(crate) declares: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) deadline: Option<Wall>,
    /// Time to live in milliseconds, computed from `expires` if there is no `expiration`.
    pub(crate) expiration_ms: Option<u64>,
}

impl<'a> Send<'a> {
    /// Parses a SEND frame of `user`, received at `now`. `None`: of one who may name any user.
    pub(crate) fn parse(frame: &Frame<'a>, user: Option<&str>, now: Wall) -> Result<Send<'a>, Refusal> {
        let command = frame.headers.command();
        let mut destination = None;
        let mut expires = None;
        let mut expiration = None;
        let mut send = Send {
            destination: Destination::TempQueue(""),
            transaction: None,
            receipt: None,
            temp_queue: None,
            durable: false,
            retain: false,
            declares: false,
            priority: None,
            deadline: None,
            expiration_ms: None,
        };
        for (name, value) in frame.headers.iter() {
            match name {
                "destination" => destination = Some(value),
                "transaction" => send.transaction = Some(value),
                "receipt" => send.receipt = Some(value),
                "persistent" => send.durable = is_true(value),
                "x-mqtt-retain" => send.retain = is_true(value),
                "priority" => {
                    let priority = value
                        .trim()
                        .parse()
                        .map_err(|_| Refusal::invalid_header(command, name))?;
                    send.priority = Some(priority);
                }
                "reply-to" if value.len() > TEMP_QUEUE.len() && value.starts_with(TEMP_QUEUE) => {
                    send.temp_queue = Some(value);
                }
                "expiration" => expiration = Some(milliseconds(name, value)?),
                // ActiveMQ's header: a time in milliseconds since 1970; 0 is never.
                "expires" => expires = Some(milliseconds(name, value)?).filter(|at| *at != 0),
                "message-id" => return Err(Refusal::header_not_allowed(command, name)),
                "user-id" => match user {
                    Some(user) if user != value => {
                        return Err(Refusal::precondition_failed(format_args!(
                            "user_id property set to '{value}' but authenticated user was '{user}'"
                        )));
                    }
                    _ => {}
                },
                "transformation" | "JMSXGroupID" => return Err(Refusal::unsupported_header(name)),
                _ => send.declares |= QueueHeaders::reads(name),
            }
        }
        let destination = destination.ok_or_else(|| Refusal::missing_destination(command))?;
        send.destination = match Destination::parse(destination)? {
            Destination::TempQueue(text) => return Err(Refusal::destination_not_for(text, command)),
            destination => destination,
        };
        send.deadline = expiration
            .map(|ms| now + Duration::from_millis(ms))
            .or(expires.map(Wall));
        if expiration.is_none() {
            send.expiration_ms = expires.map(|at| at.saturating_sub(now.0));
        }
        Ok(send)
    }
}

const TEMP_QUEUE: &str = "/temp-queue/";

fn milliseconds(name: &str, value: &str) -> Result<u64, Refusal> {
    let text = value.trim();
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| Refusal::precondition_failed(format_args!("invalid {name} '{value}'")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::headers;
    use super::super::{Headers, Verb};
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Headers {
        headers("SEND", &[&[("destination", "/queue/a")], pairs].concat())
    }

    fn parse(headers: &Headers) -> Result<Send<'_>, Refusal> {
        Send::parse(
            &Frame {
                verb: Verb::Send,
                headers,
                body: b"",
            },
            Some("me"),
            Wall(1000),
        )
    }

    #[test]
    fn the_envelope_is_parsed_once() {
        let headers = with(&[
            ("persistent", "true"),
            ("priority", "9"),
            ("expiration", "500"),
            ("x-mqtt-retain", "true"),
        ]);
        let send = parse(&headers).expect("legal");
        assert!(send.durable && send.retain);
        assert_eq!(
            (send.priority, send.deadline, send.expiration_ms),
            (Some(9), Some(Wall(1500)), None)
        );
    }

    #[test]
    fn an_absolute_expiry_becomes_a_time_to_live() {
        let headers = with(&[("expires", "1700")]);
        let send = parse(&headers).expect("legal");
        assert_eq!((send.deadline, send.expiration_ms), (Some(Wall(1700)), Some(700)));
        let headers = with(&[("expires", "0")]);
        assert_eq!(parse(&headers).expect("legal").deadline, None);
    }

    #[test]
    fn bad_properties_are_refused() {
        for (name, value, refusal) in [
            (
                "message-id",
                "1",
                "Invalid header: 'message-id' is not allowed on 'SEND'.",
            ),
            (
                "priority",
                "300",
                "Invalid header: \"SEND\" must include a valid \"priority\" header",
            ),
            ("expiration", "soon", "precondition_failed: invalid expiration 'soon'"),
            (
                "user-id",
                "you",
                "precondition_failed: user_id property set to 'you' but authenticated user was 'me'",
            ),
            ("JMSXGroupID", "g", "Unsupported header: 'JMSXGroupID' is not supported"),
        ] {
            assert_eq!(parse(&with(&[(name, value)])).expect_err(name).to_string(), refusal);
        }
    }

    #[test]
    fn an_impersonator_may_name_another_user() {
        let headers = with(&[("user-id", "you")]);
        let frame = Frame {
            verb: Verb::Send,
            headers: &headers,
            body: b"",
        };
        assert!(Send::parse(&frame, None, Wall(1000)).is_ok());
    }
}
