//! SUBSCRIBE: a destination, how deliveries are acknowledged, and arguments for the queue.

use super::{Frame, Headers, is_true};
use crate::destination::Destination;
use crate::error::Refusal;
use gatepost_core::properties::{Table, Value};

/// How a client identifies a subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SubscriptionName {
    /// By `id`.
    Id(Box<str>),
    /// By its destination, as 1.0 allows. RabbitMQ never requires an id, so neither does this.
    Destination(Box<str>),
}

impl SubscriptionName {
    /// The name in the headers, if any.
    pub(crate) fn of(headers: &Headers) -> Option<SubscriptionName> {
        headers
            .lookup("id")
            .map(|id| SubscriptionName::Id(id.into()))
            .or_else(|| {
                headers
                    .lookup("destination")
                    .map(|d| SubscriptionName::Destination(d.into()))
            })
    }

    /// The name as the client wrote it.
    pub(crate) fn text(&self) -> &str {
        match self {
            SubscriptionName::Id(text) | SubscriptionName::Destination(text) => text,
        }
    }

    /// The `subscription` header of its MESSAGE frames.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            SubscriptionName::Id(id) => Some(id),
            SubscriptionName::Destination(_) => None,
        }
    }

    /// The consumer tag that lists show, in RabbitMQ's form.
    pub(crate) fn tag(&self) -> String {
        match self {
            SubscriptionName::Id(id) => format!("T_{id}"),
            SubscriptionName::Destination(destination) => format!("Q_{destination}"),
        }
    }

    /// The name as bodies of ERROR frames show it.
    pub(crate) fn description(&self) -> String {
        match self {
            SubscriptionName::Id(id) => format!("id='{id}'"),
            SubscriptionName::Destination(destination) => format!("destination='{destination}'"),
        }
    }
}

/// STOMP 1.2 SUBSCRIBE "ack Header".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AckMode {
    /// A delivery counts as acknowledged when it is sent.
    #[default]
    Auto,
    /// An ACK covers the delivery and all before it in the subscription.
    Client,
    /// An ACK covers one delivery.
    Individual,
}

/// A parsed SUBSCRIBE frame.
#[derive(Debug)]
pub(crate) struct Subscribe<'a> {
    pub(crate) name: SubscriptionName,
    pub(crate) destination: Destination<'a>,
    /// As written: it is part of a durable subscription's name.
    pub(crate) destination_text: &'a str,
    pub(crate) ack: AckMode,
    /// Maximum unsettled deliveries.
    pub(crate) prefetch: Option<u32>,
    /// Consumer priority.
    pub(crate) priority: i32,
    /// No other consumers are allowed on the queue (ActiveMQ).
    pub(crate) exclusive: bool,
    /// Name of a topic subscription that outlives the connection.
    pub(crate) durable: Option<String>,
    /// Replay retained messages.
    pub(crate) retained: bool,
    pub(crate) queue: QueueHeaders,
    /// Arguments of the consumer, such as the offset where a stream is read from.
    pub(crate) arguments: Table,
    pub(crate) receipt: Option<&'a str>,
}

/// ActiveMQ's header for the name of a durable subscription, and the misspelling that its documentation had for years.
pub(crate) const ACTIVEMQ_NAMES: [&str; 2] = ["activemq.subscriptionName", "activemq.subcriptionName"];

impl<'a> Subscribe<'a> {
    /// Parses a SUBSCRIBE frame of a client that connected as `client_id`.
    pub(crate) fn parse(frame: &Frame<'a>, client_id: Option<&str>) -> Result<Subscribe<'a>, Refusal> {
        let headers = frame.headers;
        let command = headers.command();
        let text = frame.require("destination", || Refusal::missing_destination(command))?;
        refuse_unsupported(headers)?;
        let destination = Destination::parse(text)?;
        if matches!(destination, Destination::TempQueue(_)) {
            return Err(Refusal::destination_not_for(text, command));
        }
        let name = SubscriptionName::of(headers).ok_or_else(|| Refusal::missing_destination(command))?;
        let ack = match headers.lookup("ack") {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some("client-individual") => AckMode::Individual,
            Some(_) => return Err(Refusal::invalid_header(command, "ack")),
        };
        let of_topic = matches!(destination, Destination::Topic(_) | Destination::Exchange(..));
        Ok(Subscribe {
            durable: if of_topic {
                durable_name(headers, &name, client_id)?
            } else {
                None
            },
            name,
            destination,
            destination_text: text,
            ack,
            prefetch: either(headers, "prefetch-count", "activemq.prefetchSize")?,
            priority: either(headers, "x-priority", "activemq.priority")?.unwrap_or(0),
            exclusive: headers.flag("activemq.exclusive"),
            retained: headers.flag("x-retained"),
            queue: QueueHeaders::parse(headers)?,
            arguments: consumer_arguments(headers)?,
            receipt: headers.lookup("receipt"),
        })
    }
}

/// The name of a durable topic subscription, if the frame asks for one.
fn durable_name(
    headers: &Headers,
    name: &SubscriptionName,
    client_id: Option<&str>,
) -> Result<Option<String>, Refusal> {
    if let Some(subscription) = ACTIVEMQ_NAMES.iter().find_map(|name| headers.lookup(name)) {
        // ActiveMQ: the name consists of the client's and the subscription's.
        let client_id = client_id.ok_or_else(|| Refusal::missing_header("CONNECT", "client-id"))?;
        return Ok(Some(format!("{client_id}\0{subscription}")));
    }
    if !headers.flag("durable") && !headers.flag("persistent") {
        return Ok(None);
    }
    name.id()
        .map(|id| Some(id.to_owned()))
        .ok_or_else(Refusal::durable_needs_id)
}

/// Refuses headers of ActiveMQ that change which messages a client gets and that are not built. If they were ignored,
/// the client would get messages it does not expect.
fn refuse_unsupported(headers: &Headers) -> Result<(), Refusal> {
    for (name, value) in headers.iter() {
        let refused = match name {
            "selector" | "transformation" => true,
            "browser" => is_true(value),
            "activemq.prefetchSize" | "activemq.priority" | "activemq.exclusive" | "activemq.dispatchAsync" => false,
            "activemq.noLocal" => is_true(value),
            _ => name.starts_with("activemq.") && !ACTIVEMQ_NAMES.contains(&name),
        };
        if refused {
            return Err(Refusal::unsupported_header(name));
        }
    }
    Ok(())
}

/// Headers about the queue behind a destination. An absent header differs from `false`.
#[derive(Debug, Default)]
pub(crate) struct QueueHeaders {
    pub(crate) durable: Option<bool>,
    pub(crate) auto_delete: Option<bool>,
    pub(crate) exclusive: Option<bool>,
    /// Name for the queue of a topic subscription, instead of a generated one.
    pub(crate) name: Option<Box<str>>,
    pub(crate) arguments: Table,
}

/// Queue arguments that are numbers, then those that are texts.
const INTEGER_ARGUMENTS: [&str; 7] = [
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
];
const TEXT_ARGUMENTS: [&str; 5] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-queue-type",
    "x-max-age",
    "x-overflow",
];

/// Maximum length of a queue's name, in octets.
const QUEUE_NAME_MAX: usize = 255;

impl QueueHeaders {
    /// Whether a header of that name may be one of them.
    #[inline]
    pub(crate) fn reads(name: &str) -> bool {
        name.starts_with("x-") || matches!(name, "durable" | "auto-delete" | "exclusive")
    }

    /// Reads them from the headers of a SUBSCRIBE or SEND.
    pub(crate) fn parse(headers: &Headers) -> Result<QueueHeaders, Refusal> {
        let mut queue = QueueHeaders::default();
        for (name, value) in headers.iter() {
            match name {
                "durable" => queue.durable = Some(is_true(value)),
                "auto-delete" => queue.auto_delete = Some(is_true(value)),
                "exclusive" => queue.exclusive = Some(is_true(value)),
                "x-queue-name" if value.is_empty() || value.len() > QUEUE_NAME_MAX => {
                    return Err(Refusal::invalid_header(headers.command(), name));
                }
                "x-queue-name" => queue.name = Some(value.into()),
                _ if !name.starts_with("x-") => {}
                _ if INTEGER_ARGUMENTS.contains(&name) => {
                    queue
                        .arguments
                        .push(name, Value::Int(integer(headers, name, value)?, 64));
                }
                _ if TEXT_ARGUMENTS.contains(&name) => queue.arguments.push(name, Value::text(value)),
                _ => {}
            }
        }
        Ok(queue)
    }

    /// Whether the frame has any header that an existing queue must match.
    pub(crate) fn are_given(&self) -> bool {
        self.durable.is_some() || self.auto_delete.is_some() || self.exclusive.is_some() || !self.arguments.is_empty()
    }
}

/// Arguments of the consumer: the offset in a stream, and filters.
fn consumer_arguments(headers: &Headers) -> Result<Table, Refusal> {
    let mut arguments = Table::default();
    for (name, value) in headers.iter() {
        match name {
            "x-stream-offset" => {
                let value = if let Some(offset) = value.strip_prefix("offset=") {
                    Value::Int(integer(headers, name, offset)?, 64)
                } else if let Some(seconds) = value.strip_prefix("timestamp=") {
                    let seconds = u64::try_from(integer(headers, name, seconds)?);
                    Value::Timestamp(seconds.map_err(|_| Refusal::invalid_header(headers.command(), name))?)
                } else {
                    Value::text(value)
                };
                arguments.push(name, value);
            }
            "x-stream-filter" => {
                let filters = value.split(',').map(|filter| Value::text(filter.trim())).collect();
                arguments.push(name, Value::Array(filters));
            }
            "x-stream-match-unfiltered" => arguments.push(name, Value::Bool(is_true(value))),
            _ => {}
        }
    }
    Ok(arguments)
}

fn integer(headers: &Headers, name: &str, value: &str) -> Result<i64, Refusal> {
    value
        .trim()
        .parse()
        .map_err(|_| Refusal::invalid_header(headers.command(), name))
}

/// The number in RabbitMQ's header `name`, or in ActiveMQ's header `other`.
fn either<N: std::str::FromStr>(headers: &Headers, name: &str, other: &str) -> Result<Option<N>, Refusal> {
    for name in [name, other] {
        if let Some(value) = headers.lookup(name) {
            let number = value
                .trim()
                .parse()
                .map_err(|_| Refusal::invalid_header(headers.command(), name))?;
            return Ok(Some(number));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::Verb;
    use super::super::tests::headers;
    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> String {
        let headers = headers(
            "SUBSCRIBE",
            &[&[("destination", "/topic/a"), ("id", "1")], pairs].concat(),
        );
        let frame = Frame {
            verb: Verb::Subscribe,
            headers: &headers,
            body: b"",
        };
        Subscribe::parse(&frame, None).expect_err("refused").to_string()
    }

    #[test]
    fn unsupported_headers_are_refused_by_name() {
        for name in [
            "selector",
            "activemq.retroactive",
            "activemq.maximumPendingMessageLimit",
            "transformation",
        ] {
            assert_eq!(
                refused(&[(name, "x")]),
                format!("Unsupported header: '{name}' is not supported")
            );
        }
        assert_eq!(
            refused(&[("browser", "true")]),
            "Unsupported header: 'browser' is not supported"
        );
    }

    #[test]
    fn a_bad_number_or_ack_mode_is_an_invalid_header() {
        for (name, value) in [
            ("x-message-ttl", "soon"),
            ("prefetch-count", "-1"),
            ("ack", "maybe"),
            ("x-stream-offset", "offset=x"),
        ] {
            let expected = format!("Invalid header: \"SUBSCRIBE\" must include a valid \"{name}\" header");
            assert_eq!(refused(&[(name, value)]), expected);
        }
    }

    #[test]
    fn queue_headers_become_typed_arguments() {
        let headers = headers(
            "SUBSCRIBE",
            &[
                ("durable", "True"),
                ("auto-delete", "no"),
                ("x-message-ttl", "5"),
                ("x-queue-type", "stream"),
                ("x-y", "z"),
            ],
        );
        let queue = QueueHeaders::parse(&headers).expect("legal");
        assert_eq!(
            (queue.durable, queue.auto_delete, queue.exclusive),
            (Some(true), Some(false), None)
        );
        assert_eq!(queue.arguments.lookup("x-message-ttl"), Some(&Value::Int(5, 64)));
        assert_eq!(queue.arguments.lookup("x-queue-type"), Some(&Value::text("stream")));
        assert_eq!(queue.arguments.0.len(), 2);
        assert!(queue.are_given());
    }

    /// A SEND reads them only if it has such a header.
    #[test]
    fn the_names_of_headers_about_the_queue_are_known() {
        let others = ["durable", "auto-delete", "exclusive", "x-queue-name"];
        let all = others.into_iter().chain(INTEGER_ARGUMENTS).chain(TEXT_ARGUMENTS);
        for name in all {
            assert!(QueueHeaders::reads(name), "{name}");
        }
        assert!(!QueueHeaders::reads("destination") && !QueueHeaders::reads("content-length"));
    }
}
