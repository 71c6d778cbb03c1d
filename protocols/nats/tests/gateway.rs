//! Drives the real gateway, built with NATS, over sockets: NATS and MQTT clients exchange messages by one topic.

#![expect(clippy::disallowed_types, reason = "it meets the gateway from outside, over sockets")]

use gatepost::config::Layers;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Connects once the gateway listens.
fn connect(port: u16) -> TcpStream {
    for _ in 0..6_000 {
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            return stream;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("nobody listens on {port}");
}

struct Nats(BufReader<TcpStream>);

impl Nats {
    fn open(port: u16) -> Nats {
        let mut nats = Nats(BufReader::new(connect(port)));
        assert!(nats.line().starts_with("INFO {"));
        nats.send("CONNECT {\"verbose\":false,\"user\":\"guest\",\"pass\":\"guest\"}\r\n");
        nats.flush();
        nats
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line
    }

    /// Returns once the gateway has applied everything sent before.
    fn flush(&mut self) {
        self.send("PING\r\n");
        assert_eq!(self.line(), "PONG\r\n");
    }
}

#[test]
fn a_device_and_nats_clients_meet_in_one_topic() {
    let directory = tempfile::tempdir().expect("a directory");
    let (nats_port, mqtt_port) = (free_port(), free_port());
    let bind = |name: &str, port: u16| {
        let bind = format!("[\"127.0.0.1:{port}\"]");
        (format!("GATEPOST__LISTENERS__{name}__BIND"), bind)
    };
    let off = |name: &str| (format!("GATEPOST__LISTENERS__{name}__BIND"), "[]".to_owned());
    let layers = Layers {
        environment: vec![
            bind("NATS", nats_port),
            bind("MQTT", mqtt_port),
            off("AMQP"),
            off("STOMP"),
            off("WEB_MQTT"),
            off("WEB_STOMP"),
            off("METRICS"),
        ],
        data: Some(directory.path().join("data")),
        ..Layers::default()
    };
    let config = layers.load().expect("a configuration");
    // This thread ends with the process.
    std::thread::spawn(move || gatepost::serve(config, layers));

    let mut backend = Nats::open(nats_port);
    backend.send("SUB plant.*.temp 1\r\nSUB work crew 2\r\n");
    backend.flush();

    let mut device = connect(mqtt_port);
    device
        .write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01d\x82\x0c\x00\x01\x00\x07valve/1\x00")
        .expect("sent");
    let mut answers = [0; 9];
    device.read_exact(&mut answers).expect("CONNACK and SUBACK");
    assert_eq!(answers, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]);
    device.write_all(b"\x30\x12\x00\x0cplant/1/temp21.5").expect("sent");
    assert_eq!(backend.line(), "MSG plant.1.temp 1 4\r\n");
    assert_eq!(backend.line(), "21.5\r\n");

    // Two subscribers of one group share the messages, and a reply subject is delivered.
    let mut colleague = Nats::open(nats_port);
    colleague.send("SUB work crew 5\r\nPUB valve.1 4\r\nopen\r\n");
    colleague.flush();
    let mut message = [0; 15];
    device.read_exact(&mut message).expect("a PUBLISH");
    assert_eq!(&message, b"\x30\x0d\x00\x07valve/1open");
    for _ in 0..2 {
        backend.send("PUB work answers 1\r\nx\r\n");
    }
    assert_eq!(
        (backend.line(), backend.line()),
        ("MSG work 2 answers 1\r\n".into(), "x\r\n".into())
    );
    assert_eq!(
        (colleague.line(), colleague.line()),
        ("MSG work 5 answers 1\r\n".into(), "x\r\n".into())
    );
}
