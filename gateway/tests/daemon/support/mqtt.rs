//! MQTT 3.1.1 written by hand on a socket, for the same reasons as AMQP beside it.

use super::raw::try_tcp;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;

/// A connection that has received its CONNACK.
pub(crate) struct Mqtt {
    pub(crate) stream: TcpStream,
    /// Whether the session existed before.
    pub(crate) present: bool,
    input: Vec<u8>,
    read: usize,
    output: Vec<u8>,
}

/// A packet as received.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) byte: u8,
    pub(crate) body: Vec<u8>,
}

/// A decoded PUBLISH.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) dup: bool,
    pub(crate) payload: Vec<u8>,
}

impl Mqtt {
    pub(crate) fn open(port: u16, client_id: &str, clean: bool) -> Self {
        Mqtt::try_open(port, client_id, clean).unwrap_or_else(|e| panic!("MQTT on port {port}: {e}"))
    }

    pub(crate) fn try_open(port: u16, client_id: &str, clean: bool) -> Result<Self> {
        let mut body = b"\x00\x04MQTT\x04".to_vec();
        body.extend([if clean { 2 } else { 0 }, 0, 0]);
        text(&mut body, client_id);
        Mqtt::try_speak(port, &body)
    }

    /// Connects with a CONNECT given as bytes.
    pub(crate) fn try_speak(port: u16, connect: &[u8]) -> Result<Self> {
        let stream = try_tcp(port)?;
        let mut mqtt = Mqtt {
            stream,
            present: false,
            input: Vec::new(),
            read: 0,
            output: Vec::new(),
        };
        mqtt.packet(0x10, connect);
        let connack = mqtt.expect(0x20)?;
        if connack[1] != 0 {
            return Err(Error::other(format!("refused with {}", connack[1])));
        }
        mqtt.present = connack[0] == 1;
        Ok(mqtt)
    }

    /// Buffers a packet; [`Mqtt::flush`] sends it.
    pub(crate) fn packet(&mut self, byte: u8, body: &[u8]) {
        self.output.push(byte);
        let mut length = body.len();
        loop {
            let digit = (length % 128) as u8;
            length /= 128;
            self.output.push(if length > 0 { digit | 0x80 } else { digit });
            if length == 0 {
                break;
            }
        }
        self.output.extend(body);
    }

    /// Buffers a PUBLISH of QoS 1, or 0 if the id is 0.
    pub(crate) fn publish(&mut self, topic: &str, id: u16, payload: &[u8]) {
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        text(&mut body, topic);
        if id > 0 {
            body.extend(id.to_be_bytes());
        }
        body.extend(payload);
        self.packet(if id > 0 { 0x32 } else { 0x30 }, &body);
    }

    /// Buffers a PUBACK.
    pub(crate) fn ack(&mut self, id: u16) {
        self.packet(0x40, &id.to_be_bytes());
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> Result<u8> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(qos);
        self.packet(0x82, &body);
        Ok(self.expect(0x90)?[2])
    }

    /// Sends PINGREQ. Its answer must come next.
    pub(crate) fn ping(&mut self) -> Result<()> {
        self.packet(0xC0, &[]);
        self.expect(0xD0).map(drop)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<Vec<u8>> {
        let packet = self.next()?;
        if packet.byte == byte {
            Ok(packet.body)
        } else {
            Err(Error::other(format!("expected {byte:02X} and got {packet:?}")))
        }
    }

    /// Sends what is buffered and returns the next packet.
    pub(crate) fn next(&mut self) -> Result<Packet> {
        self.flush()?;
        loop {
            let input = &self.input[self.read..];
            if let Some((head, length)) = header(input)
                && input.len() >= head + length
            {
                let packet = Packet {
                    byte: input[0],
                    body: input[head..head + length].to_vec(),
                };
                self.read += head + length;
                return Ok(packet);
            }
            self.input.drain(..self.read);
            self.read = 0;
            let old = self.input.len();
            self.input.resize(old + 65_536, 0);
            let got = self.stream.read(&mut self.input[old..]);
            self.input.truncate(old + *got.as_ref().unwrap_or(&0));
            if got? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the other side closed"));
            }
        }
    }
}

impl Packet {
    /// This packet as a PUBLISH, if it is one.
    pub(crate) fn into_publish(self) -> Option<Publish> {
        if self.byte & 0xF0 != 0x30 {
            return None;
        }
        let size = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let (topic, rest) = self.body[2..].split_at(size);
        let (id, payload) = match self.byte & 6 {
            0 => (0, rest),
            _ => (u16::from_be_bytes([rest[0], rest[1]]), &rest[2..]),
        };
        Some(Publish {
            topic: String::from_utf8_lossy(topic).into_owned(),
            id,
            dup: self.byte & 8 != 0,
            payload: payload.to_vec(),
        })
    }
}

/// Size of the fixed header and remaining length, once they are there.
fn header(input: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (n, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((n + 2, length));
        }
    }
    None
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).expect("a string").to_be_bytes());
    body.extend(text.as_bytes());
}
