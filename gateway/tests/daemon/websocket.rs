//! MQTT, STOMP and AMQP over WebSocket: real clients, and raw sockets for bytes that those would never send.

use crate::support::daemon::free_port;
use crate::support::tls::{self, Authority};
use crate::support::{Gatepost, node, node_over_websocket, python_over_websocket};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

#[test]
fn paho_works_over_websocket() {
    python_over_websocket(&mut Gatepost::start(), "mqtt_delivery.py");
}

#[test]
fn mqtt_js_works_over_websocket() {
    node_over_websocket(&mut Gatepost::start(), "mqtt.mjs");
}

/// The page is a file, so its origin is `null`.
#[test]
fn the_example_page_and_browser_clients_work() {
    let mut gatepost = Gatepost::prepare(1, "");
    gatepost.start_with_environment(&[
        ("GATEPOST__LISTENERS__WEB_MQTT__ORIGINS", "[\"null\"]"),
        ("GATEPOST__LISTENERS__WEB_STOMP__ORIGINS", "[\"null\"]"),
    ]);
    node(&mut gatepost, "browser.mjs");
}

/// As for a page on the internet. The bug: browsers offer `http/1.1` for a WebSocket over TLS, which was refused,
/// because the listener accepted only the name of its protocol.
#[test]
fn the_example_page_and_browser_clients_work_over_tls() {
    let authority = Authority::new();
    let (mqtt, stomp) = (free_port(), free_port());
    let page = "origins = [\"null\"]";
    let settings = authority.websocket("mqtt", mqtt, page, "") + &authority.websocket("stomp", stomp, page, "");
    let mut gatepost = Gatepost::with(1, &settings);
    let certificate = authority.path("server.pem");
    let json = format!("{{\"webMqtt\": {mqtt}, \"webStomp\": {stomp}, \"certificate\": {certificate:?}}}");
    fs::write(gatepost.dir.join("wss.json"), json).expect("written");
    node(&mut gatepost, "browser.mjs");
}

/// A raw client.
struct Raw(TcpStream);

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Raw {
    fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        stream.set_nodelay(true).expect("no delay");
        Raw(stream)
    }

    /// With an agreed upgrade.
    fn open(port: u16, path: &str, subprotocol: &str) -> Raw {
        let mut raw = Raw::connect(port);
        raw.send(request(path, subprotocol, "").as_bytes());
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }

    /// The head of an HTTP answer.
    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.take::<1>()[0]);
        }
        String::from_utf8(head).expect("text")
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).expect("more");
        bytes
    }

    /// The next frame: opcode and payload.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let [first, second] = self.take();
        assert_eq!((first & 0xF0, second & 0x80), (0x80, 0), "whole, and not masked");
        let size = match second {
            126 => usize::from(u16::from_be_bytes(self.take())),
            127 => usize::try_from(u64::from_be_bytes(self.take())).expect("small"),
            short => usize::from(short),
        };
        let mut payload = vec![0; size];
        self.0.read_exact(&mut payload).expect("the payload");
        (first & 0x0F, payload)
    }

    /// Everything until the peer closes.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => panic!("reset after {rest:?}"),
            Err(error) => panic!("{error} after {rest:?}"),
        }
    }

    /// The close frame's code, and that nothing follows it.
    fn closed(&mut self) -> u16 {
        let (opcode, payload) = self.frame();
        assert_eq!(opcode, CLOSE, "{payload:?}");
        self.send(&masked(0x88, &payload));
        assert_eq!(self.rest(), b"");
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

fn request(path: &str, subprotocol: &str, fields: &str) -> String {
    let subprotocol = match subprotocol {
        "" => String::new(),
        offer => format!("Sec-WebSocket-Protocol: {offer}\r\n"),
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{subprotocol}{fields}\r\n"
    )
}

/// A masked frame of up to 65,535 bytes.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let size = u16::try_from(payload.len()).expect("short");
    let mut frame = match u8::try_from(size) {
        Ok(size) if size < 126 => vec![first, 0x80 | size],
        _ => [&[first, 0x80 | 126][..], &size.to_be_bytes()].concat(),
    };
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w";
const CONNACK: &[u8] = &[0x20, 2, 0, 0];
const STOMP_CONNECT: &[u8] = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0";

#[test]
fn a_request_without_an_upgrade_is_told_the_protocol_of_the_port() {
    let gatepost = Gatepost::start();
    let plain = "GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let cases = [
        (plain.to_owned(), "426 ", "This is a WebSocket port"),
        (
            plain.replace("/ws", "/favicon.ico"),
            "404 ",
            "the WebSocket is at /mqtt and /ws",
        ),
        (
            request("/nowhere", "mqtt", ""),
            "404 ",
            "the WebSocket is at /mqtt and /ws",
        ),
        (
            request("/ws", "v12.stomp", ""),
            "400 ",
            "must offer mqtt or mqttv3.1; it offers \"v12.stomp\"",
        ),
        (request("/ws", "", ""), "400 ", "it is missing"),
        (plain.replace("GET", "POST"), "405 ", "begins with GET"),
        (
            "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w".to_owned(),
            "400 ",
            "a WebSocket port",
        ),
    ];
    for (request, status, text) in cases {
        let mut raw = Raw::connect(gatepost.web_mqtt);
        raw.send(request.as_bytes());
        let answer = String::from_utf8(raw.rest()).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains(text), "{request}: {answer}");
    }
}

#[test]
fn bytes_may_come_one_by_one_or_all_at_once() {
    let gatepost = Gatepost::start();
    let mut pieces = masked(0x02, &CONNECT[..5]);
    pieces.extend(masked(0x89, b"here?"));
    pieces.extend(masked(0x80, &CONNECT[5..]));
    let all = [request("/mqtt", "mqtt", "").as_bytes(), &pieces].concat();
    // At every byte of the frames, and one by one.
    let request_size = all.len() - pieces.len();
    let cuts = (request_size - 2..all.len()).step_by(3).map(|cut| vec![cut]);
    for cuts in cuts.chain([Vec::new(), (0..all.len()).collect()]) {
        let mut raw = Raw::connect(gatepost.web_mqtt);
        let mut from = 0;
        for cut in cuts.iter().copied().chain([all.len()]) {
            raw.send(&all[from..cut]);
            from = cut;
        }
        let head = raw.head();
        assert!(head.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{head}");
        assert_eq!(raw.frame(), (PONG, b"here?".to_vec()), "{cuts:?}");
        assert_eq!(raw.frame(), (2, CONNACK.to_vec()), "{cuts:?}");
        raw.send(&masked(0x82, b"\xe0\x00"));
        assert_eq!(raw.closed(), 1000);
    }
}

#[test]
fn a_mistake_is_answered_with_its_close_code() {
    let gatepost = Gatepost::with(1, "[limits]\nwebsocket_message_max = \"2KiB\"\n");
    let large = [&[0x82, 0x80 | 126, 8, 1][..], &[0; 4]].concat();
    for (what, frame, code) in [
        ("not masked", b"\x82\x02\xc0\x00".to_vec(), 1002),
        ("an unknown opcode", masked(0x83, b"x"), 1002),
        ("text", masked(0x81, b"x"), 1003),
        ("too large", large, 1009),
        ("not MQTT", masked(0x82, b"\xff\xff\xff\xff\xff"), 1008),
    ] {
        let mut raw = Raw::open(gatepost.web_mqtt, "/ws", "mqtt");
        raw.send(&masked(0x82, CONNECT));
        assert_eq!(raw.frame().1, CONNACK);
        raw.send(&frame);
        assert_eq!(raw.closed(), code, "{what}");
    }
}

#[test]
fn a_client_that_closes_is_answered() {
    let gatepost = Gatepost::start();
    let mut raw = Raw::open(gatepost.web_mqtt, "/ws", "mqttv3.1, mqtt");
    raw.send(&masked(0x88, &4000u16.to_be_bytes()));
    assert_eq!(raw.frame(), (CLOSE, 4000u16.to_be_bytes().to_vec()));
    assert_eq!(raw.rest(), b"");
}

/// RabbitMQ closes first and loses its last frames.
#[test]
fn the_last_error_and_the_last_receipt_come_before_the_close() {
    let gatepost = Gatepost::start();
    let last_words = |frames: &[Vec<u8>]| {
        let mut raw = Raw::open(gatepost.web_stomp, "/ws", "v12.stomp");
        raw.send(&masked(0x81, STOMP_CONNECT));
        assert!(raw.frame().1.starts_with(b"CONNECTED\n"));
        raw.send(&frames.concat());
        let (opcode, payload) = raw.frame();
        assert_eq!(opcode, 1, "text");
        (String::from_utf8(payload).expect("text"), raw.closed())
    };
    let goodbye = b"DISCONNECT\nreceipt:bye\n\n\0";
    let (receipt, code) = last_words(&[masked(0x81, goodbye)]);
    assert!(receipt.starts_with("RECEIPT\nreceipt-id:bye"), "{receipt}");
    assert_eq!(code, 1000);
    // Frames after DISCONNECT are not read, not even to find that they are wrong.
    let (receipt, _) = last_words(&[masked(0x81, goodbye), b"\x81\x01x".to_vec()]);
    assert!(receipt.starts_with("RECEIPT"), "{receipt}");
    let (error, code) = last_words(&[masked(0x81, b"NONSENSE\n\n\0")]);
    assert!(error.starts_with("ERROR\n"), "{error}");
    assert_eq!(code, 1008);
}

#[test]
fn stomp_is_sent_as_text_unless_it_is_not_utf_8() {
    let gatepost = Gatepost::start();
    let mut raw = Raw::open(gatepost.web_stomp, "/ws/", "");
    // Joined in one message, then split anywhere.
    let subscribe = b"SUBSCRIBE\nid:1\ndestination:/topic/t\nreceipt:s\n\n\0";
    raw.send(&masked(0x81, &[STOMP_CONNECT, subscribe].concat()));
    let mut said = String::new();
    while !said.contains("RECEIPT") {
        let (opcode, payload) = raw.frame();
        assert_eq!(opcode, 1);
        said.push_str(std::str::from_utf8(&payload).expect("text"));
    }
    let send = |body: &[u8]| {
        let head = format!("SEND\ndestination:/topic/t\ncontent-length:{}\n\n", body.len());
        [head.as_bytes(), body, b"\0"].concat()
    };
    for piece in send("grün".as_bytes()).chunks(7) {
        raw.send(&masked(
            0x81,
            &piece
                .iter()
                .map(|b| if b.is_ascii() { *b } else { b'u' })
                .collect::<Vec<_>>(),
        ));
    }
    let (opcode, payload) = raw.frame();
    assert!(opcode == 1 && payload.starts_with(b"MESSAGE\n"), "{payload:?}");
    raw.send(&masked(0x82, &send(&[0xFF, 0, 0xFE])));
    let (opcode, payload) = raw.frame();
    assert!(
        opcode == 2 && payload.windows(3).any(|w| w == [0xFF, 0, 0xFE]),
        "{payload:?}"
    );
}

#[test]
fn a_silent_peer_is_pinged_and_a_half_open_one_closed() {
    let gatepost = Gatepost::with(1, "[limits]\nwebsocket_ping = \"1s\"\nhandshake_timeout = \"2s\"\n");
    // A silent client, half a request, and a refusal that is not read: all are closed.
    for bytes in ["", "GET /ws HTTP/1.1\r\nHost: loc"] {
        let mut raw = Raw::connect(gatepost.web_mqtt);
        raw.send(bytes.as_bytes());
        assert_eq!(raw.rest(), b"", "{bytes:?}");
    }
    let mut raw = Raw::open(gatepost.web_mqtt, "/ws", "mqtt");
    raw.send(&masked(0x82, CONNECT));
    assert_eq!(raw.frame().1, CONNACK);
    for _ in 0..3 {
        let (opcode, payload) = raw.frame();
        assert_eq!(opcode, PING);
        raw.send(&masked(0x8A, &payload));
    }
    // Then the peer is silent.
    assert_eq!(raw.frame().0, PING);
    assert_eq!(raw.rest(), b"");
}

#[test]
fn pages_from_elsewhere_are_not_users_of_this_machine() {
    let listed = "[listeners.listed]\nprotocol = \"stomp\"\nwebsocket = true\nbind = [\"127.0.0.1:PORT\"]\n\
                  origins = [\"null\", \"https://panel.example\"]\n";
    let port = free_port();
    let gatepost = Gatepost::with(1, &listed.replace("PORT", &port.to_string()));
    let answer = |port: u16, origin: &str| {
        let mut raw = Raw::connect(port);
        raw.send(request("/ws", "v12.stomp", &format!("Origin: {origin}\r\n")).as_bytes());
        let head = raw.head();
        if !head.starts_with("HTTP/1.1 101 ") {
            return head[9..12].to_owned();
        }
        raw.send(&masked(0x81, STOMP_CONNECT));
        let said = String::from_utf8(raw.frame().1).expect("text");
        said.split('\n').next().expect("a verb").to_owned()
    };
    // guest may log in from this machine only.
    assert_eq!(answer(gatepost.web_stomp, "http://localhost:8000"), "CONNECTED");
    assert_eq!(answer(gatepost.web_stomp, "https://evil.example"), "ERROR");
    assert_eq!(answer(gatepost.web_stomp, "null"), "ERROR");
    assert_eq!(answer(port, "null"), "CONNECTED");
    assert_eq!(answer(port, "https://panel.example"), "CONNECTED");
    assert_eq!(answer(port, "https://evil.example"), "403");
}

#[test]
fn amqp_is_spoken_over_websocket_where_a_listener_says_so() {
    let port = free_port();
    let settings =
        format!("[listeners.web_amqp]\nprotocol = \"amqp\"\nwebsocket = true\nbind = [\"127.0.0.1:{port}\"]\n");
    let _gatepost = Gatepost::with(1, &settings);
    let mut raw = Raw::open(port, "/ws", "amqp");
    raw.send(&masked(0x82, b"AMQP\x00\x00\x09\x01"));
    let (opcode, start) = raw.frame();
    // AMQP 0-9-1's connection.start.
    assert_eq!((opcode, &start[..3]), (2, &[1, 0, 0][..]));
}

#[test]
fn a_listener_has_its_own_vhost_anonymous_rule_and_number_of_connections() {
    let (port, plant) = (free_port(), free_port());
    let settings = format!(
        "[listeners.strict]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:{port}\"]\nanonymous = \"deny\"\n\
         max_connections = 2\n[listeners.plant]\nprotocol = \"stomp\"\nbind = [\"127.0.0.1:{plant}\"]\n\
         vhost = \"plant\"\n"
    );
    let gatepost = Gatepost::with(1, &settings);
    let answer = |raw: &mut Raw| {
        raw.send(CONNECT);
        let mut connack = [0; 4];
        raw.0
            .read(&mut connack)
            .map(|size| connack[..size].to_vec())
            .unwrap_or_default()
    };
    // MQTT 3.1.1 code 5: not authorised.
    assert_eq!(answer(&mut Raw::connect(port)), [0x20, 2, 0, 5]);
    assert_eq!(answer(&mut Raw::connect(gatepost.mqtt)), CONNACK);
    let user = b"\x10\x1b\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01w\x00\x05guest\x00\x05guest";
    let held: Vec<Raw> = (0..2)
        .map(|n| {
            // The refused client above may still be counted for a moment.
            loop {
                let mut raw = Raw::connect(port);
                let mut connect = user.to_vec();
                connect[14] = b'a' + n;
                raw.send(&connect);
                let mut connack = [0; 4];
                // A refused connection may not have ended yet.
                if raw.0.read_exact(&mut connack).is_ok() && connack == CONNACK {
                    return raw;
                }
            }
        })
        .collect();
    // In MQTT's words: the server is unavailable.
    assert_eq!(answer(&mut Raw::connect(port)), [0x20, 2, 0, 3], "two are there");
    assert_eq!(
        answer(&mut Raw::connect(gatepost.mqtt)),
        CONNACK,
        "elsewhere there is room"
    );
    drop(held);
    // That vhost does not exist, so clients of the listener that name none are told that it is missing.
    let mut raw = Raw::connect(plant);
    raw.send(STOMP_CONNECT);
    let said = String::from_utf8(raw.rest()).expect("text");
    assert!(said.starts_with("ERROR\n") && said.contains("access denied"), "{said}");
}

#[test]
fn websockets_are_spoken_over_tls() {
    let (authority, port) = (Authority::new(), free_port());
    let _gatepost = Gatepost::with(1, &authority.websocket("mqtt", port, "", ""));
    let offering = |names: &[&[u8]]| {
        let mut client = authority.client(None, &[&rustls::version::TLS13]);
        client.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        tls::connect(&client.into(), "localhost", port)
    };
    // The upgrade and CONNECT in one record.
    let hello = [request("/mqtt", "mqtt", "").as_bytes(), &masked(0x82, CONNECT)].concat();
    let offers: [&[&[u8]]; 3] = [&[], &[b"http/1.1"], &[b"h2", b"http/1.1"]];
    for names in offers {
        let mut stream = offering(names);
        stream.write_all(&hello).expect("sent");
        let mut said = Vec::new();
        while !said.ends_with(&[&[0x82, 4][..], CONNACK].concat()) {
            let mut piece = [0; 512];
            let size = stream.read(&mut piece).expect("an answer");
            assert!(size > 0, "closed after {said:?}");
            said.extend_from_slice(&piece[..size]);
        }
        stream.write_all(&masked(0x82, b"\xe0\x00")).expect("sent");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("closed in good order");
        assert_eq!(rest, [0x88, 2, 0x03, 0xE8]);
    }
    // No HTTP is served there (RFC 7301 3.2).
    offering(&[b"mqtt"]).read(&mut [0]).expect_err("refused");
}
