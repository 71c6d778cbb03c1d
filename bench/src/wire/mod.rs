//! The client side of the protocols, written by hand, and only the parts that a load generator needs: bytes in and out
//! of slices, no socket. The broker's bytes are checked where a wrong one would falsify a measurement, and never used
//! as an index unchecked.

pub(crate) mod amqp;
mod confirms;
pub(crate) mod mqtt;
pub(crate) mod nats;
pub(crate) mod stomp;

/// Errors in a broker's bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The bytes are not valid in the protocol.
    #[error("the broker sent a malformed frame: {0}")]
    Malformed(&'static str),
    /// The broker refused something or closed the connection.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// Receives the messages and confirms of a connection.
pub(crate) trait Sink {
    /// A message arrived. It was acknowledged already.
    fn message(&mut self, body: &[u8]);
    /// The broker confirmed this many published messages.
    fn confirmed(&mut self, count: u64);
    /// The broker refused this many published messages.
    fn refused(&mut self, count: u64);
}

/// How a consumer acknowledges, if its protocol offers a choice.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AckMode {
    /// No acknowledgements: the broker deletes a message when it has sent it.
    #[default]
    None,
    /// One acknowledgement for each message, as in most applications.
    Each,
    /// One acknowledgement for all messages of one read.
    Multiple,
}

/// Properties of each published message.
#[derive(Clone, Debug)]
pub(crate) struct PublishStyle {
    pub(crate) address: Address,
    /// Further destinations, used in turn with the first; AMQP and MQTT.
    pub(crate) further: Vec<Address>,
    /// MQTT only.
    pub(crate) qos: u8,
    /// Retained: the broker keeps the last message of each topic. MQTT only.
    pub(crate) retain: bool,
    /// AMQP delivery mode 2, STOMP `persistent:true`. MQTT only has its quality of service.
    pub(crate) durable: bool,
    /// The broker is asked to confirm (AMQP confirm mode, STOMP receipts; MQTT above QoS 0 always does).
    pub(crate) confirm: bool,
}

/// A destination, in a form that each protocol translates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    /// A queue: AMQP's default exchange, STOMP's `/queue/`, the subject of a JetStream work queue.
    Queue(String),
    /// Levels of a topic: AMQP's `amq.topic`, STOMP's `/topic/`, and the only destination of MQTT.
    Topic(Vec<String>),
}

impl Address {
    /// AMQP's exchange and routing key.
    pub(crate) fn amqp(&self) -> (&'static str, String) {
        match self {
            Self::Queue(name) => ("", name.clone()),
            Self::Topic(levels) => ("amq.topic", levels.join(".")),
        }
    }

    /// STOMP's destination.
    pub(crate) fn stomp(&self) -> String {
        match self {
            Self::Queue(name) => format!("/queue/{name}"),
            Self::Topic(levels) => format!("/topic/{}", levels.join(".")),
        }
    }

    /// NATS's subject.
    pub(crate) fn nats(&self) -> String {
        match self {
            Self::Queue(name) => name.clone(),
            Self::Topic(levels) => levels.join("."),
        }
    }

    /// MQTT's topic name.
    pub(crate) fn mqtt(&self) -> String {
        match self {
            Self::Queue(name) => name.clone(),
            Self::Topic(levels) => levels.join("/"),
        }
    }
}

/// Big-endian numbers at an index of a slice; `None` if it is too short.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// A sink that records everything, for the codecs' tests.
#[cfg(test)]
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Heard {
    pub(crate) bodies: Vec<Vec<u8>>,
    pub(crate) confirmed: u64,
    pub(crate) refused: u64,
}

#[cfg(test)]
impl Sink for Heard {
    fn message(&mut self, body: &[u8]) {
        self.bodies.push(body.to_vec());
    }
    fn confirmed(&mut self, count: u64) {
        self.confirmed += count;
    }
    fn refused(&mut self, count: u64) {
        self.refused += count;
    }
}
