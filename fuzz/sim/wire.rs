//! One client's side of a connection: what it says, what it hears, what it owes.

use super::amqp::AmqpClient;
use super::book::Book;
use super::mqtt::MqttClient;
use super::stomp::StompClient;

/// A client of one protocol.
pub(crate) trait Wire {
    /// Octets that log in.
    fn hello(&mut self, detail: u8) -> Vec<u8>;

    /// Well-formed octets: the `index`th thing a client can say, about what `detail` chooses.
    fn phrase(&mut self, index: u8, detail: u8) -> Vec<u8>;

    /// Publishes to the safe queue, to be confirmed. Nothing if this protocol, or this connection, cannot.
    fn publish_safely(&mut self, book: &mut Book) -> Vec<u8> {
        let _ = book;
        Vec::new()
    }

    /// Settles the oldest delivery not yet settled, as `detail` chooses.
    fn settle(&mut self, detail: u8) -> Vec<u8>;

    /// Reads the first whole frame. Returns how many octets it took, or none; panics at what no server may write.
    /// What the protocol requires in answer goes to `answer`.
    fn hear(&mut self, octets: &[u8], answer: &mut Vec<u8>, book: &mut Book) -> usize;
}

/// A client of the protocol of that index in the broker's list; `connection` is unique.
pub(crate) fn client(protocol: usize, connection: u64) -> Box<dyn Wire> {
    match protocol {
        0 => Box::new(AmqpClient::new(connection)),
        1 => Box::new(MqttClient::default()),
        _ => Box::new(StompClient::default()),
    }
}
