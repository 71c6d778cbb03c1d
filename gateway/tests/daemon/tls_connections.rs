//! Connections over TLS after the handshake: how they end, and slow readers. Also bytes before TLS.

use crate::control::control;
use crate::support::Gatepost;
use crate::support::daemon::free_port;
use crate::support::mqtt::Mqtt;
use crate::support::raw::eventually;
use crate::support::tls::{Authority, TlsStream, connect, connect_behind};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01u";
const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const DISCONNECT: &[u8] = b"\xe0\x00";

fn ask(stream: &mut TlsStream, hello: &[u8]) -> std::io::Result<[u8; 4]> {
    stream.write_all(hello)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn both_sides_may_end_with_close_notify_and_ours_always_comes() {
    let authority = Authority::new();
    let gatepost = Gatepost::with(1, &authority.settings(""));
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(authority.client(None, &[version]));
        let open = || {
            let mut stream = connect(&client, "localhost", authority.mqtts);
            assert_eq!(ask(&mut stream, CONNECT).expect("served"), ACCEPTED);
            stream
        };
        // rustls takes an end without close_notify for an attack, and reports UnexpectedEof.
        let to_its_end = |stream: &mut TlsStream| stream.read_to_end(&mut Vec::new());
        let mut polite = open();
        polite.write_all(DISCONNECT).expect("sent");
        assert_eq!(to_its_end(&mut polite).expect("close_notify"), 0);
        // After a mistake, too.
        let mut wrong = open();
        wrong.write_all(CONNECT).expect("sent");
        assert_eq!(to_its_end(&mut wrong).expect("close_notify"), 0);
        // A client that says that it sends no more, and keeps its socket open.
        let mut done = open();
        done.conn.send_close_notify();
        done.flush().expect("sent");
        assert_eq!(to_its_end(&mut done).expect("close_notify"), 0);
        // A client that just closes its socket is gone; the daemon does not wait for it.
        drop(open().sock);
    }
    eventually("all gone", || {
        let text = crate::support::daemon::http(gatepost.metrics, "/metrics");
        text.is_some_and(|text| text.contains("\nrabbitmq_connections 0\n"))
    });
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    const COUNT: u16 = 60;
    const SIZE: usize = 100_000;
    let authority = Authority::new();
    let gatepost = Gatepost::with(2, &authority.settings(""));
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(authority.client(None, &[version]));
        let mut slow = connect(&client, "localhost", authority.mqtts);
        assert_eq!(ask(&mut slow, CONNECT).expect("served"), ACCEPTED);
        slow.write_all(b"\x82\x06\x00\x01\x00\x01t\x01").expect("sent");
        let mut suback = [0; 5];
        slow.read_exact(&mut suback).expect("an answer");
        // More than fits into all buffers on the way, and within the client's limit of unacknowledged messages.
        let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
        for id in 1..=COUNT {
            publisher.publish("t", id, &vec![u8::try_from(id).expect("small"); SIZE]);
        }
        publisher.flush().expect("sent");
        for _ in 0..COUNT {
            publisher.expect(0x40).expect("a confirm");
        }
        let mut got = Vec::new();
        let mut piece = [0; 777];
        // The fixed header is 4 bytes, then the topic (3) and the packet id (2).
        while got.len() < usize::from(COUNT) * (SIZE + 9) {
            let count = slow.read(&mut piece).expect("more");
            assert!(count > 0, "it ended after {} bytes", got.len());
            got.extend_from_slice(&piece[..count]);
        }
        for (at, packet) in got.chunks(SIZE + 9).enumerate() {
            let expected = u8::try_from(at + 1).expect("small");
            assert!(packet[9..].iter().all(|byte| *byte == expected), "message {expected}");
        }
    }
}

#[test]
fn a_proxy_header_comes_before_tls() {
    let authority = Authority::new();
    let (port, cert, key) = (free_port(), authority.path("server.pem"), authority.path("server.key"));
    let settings = format!(
        "[listeners.proxied]\nprotocol = \"mqtt\"\ntls_bind = [\"127.0.0.1:{port}\"]\nproxy_protocol = true\n\
         proxy_from = [\"127.0.0.0/8\"]\n[listeners.proxied.tls]\ncert = {cert:?}\nkey = {key:?}\n"
    );
    let gatepost = Gatepost::with(1, &(settings + "[log]\nlevel = \"debug\"\n"));
    let client = Arc::new(authority.client(None, &[&TLS12, &TLS13]));
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 8883\r\n";
    // The client's address is 192.0.2.7, and anonymous clients may log in from this machine only.
    let refused = [0x20, 2, 0, 5];
    let mut behind = connect_behind(&client, header, port);
    assert_eq!(ask(&mut behind, CONNECT).expect("an answer"), refused);
    assert!(gatepost.log().contains("192.0.2.7:50000"), "{}", gatepost.log());
    // A handshake in place of the header, and plain text after the header.
    ask(&mut connect(&client, "localhost", port), CONNECT).expect_err("no header");
    let mut plain = crate::support::raw::tcp(port);
    plain.write_all(&[header, CONNECT].concat()).expect("sent");
    assert_eq!(crate::support::raw::read_to_end(plain), b"");
}

/// The bug: the list decided by the port of our end, which is wrong if two addresses share it or a PROXY header names
/// another.
#[test]
fn the_list_of_connections_says_which_are_encrypted() {
    let authority = Authority::new();
    let (proxied, cert, key) = (free_port(), authority.path("server.pem"), authority.path("server.key"));
    let settings = authority.settings("").replace(
        &format!("tls_bind = [\"127.0.0.1:{}\"]", authority.mqtts),
        &format!(
            "tls_bind = [\"127.0.0.1:{}\"]\nbind = [\"127.0.0.2:{}\"]",
            authority.mqtts, authority.mqtts
        ),
    );
    let settings = format!(
        "{settings}[listeners.proxied]\nprotocol = \"mqtt\"\ntls_bind = [\"127.0.0.1:{proxied}\"]\nproxy_protocol = true\n\
         proxy_from = [\"127.0.0.0/8\"]\nanonymous = \"allow\"\n[listeners.proxied.tls]\ncert = {cert:?}\nkey = {key:?}\n"
    );
    let gatepost = Gatepost::with(1, &settings);
    let client = Arc::new(authority.client(None, &[&TLS13]));
    let connect_as = |name: &str| [&CONNECT[..CONNECT.len() - 1], name.as_bytes()].concat();
    let mut tls = connect(&client, "localhost", authority.mqtts);
    assert_eq!(ask(&mut tls, &connect_as("t")).expect("an answer"), ACCEPTED);
    let mut plain = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), authority.mqtts)).expect("connected");
    plain.write_all(&connect_as("p")).expect("sent");
    let mut answer = [0; 4];
    plain.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, ACCEPTED);
    let mut behind = connect_behind(&client, b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1\r\n", proxied);
    assert_eq!(ask(&mut behind, &connect_as("b")).expect("an answer"), ACCEPTED);
    let listed = control(&gatepost, &["list", "connections", "variable_map", "ssl", "--json"], "");
    let rows: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let mut rows: Vec<_> = rows.as_array().expect("rows").iter().collect();
    rows.sort_by_key(|row| row["variable_map"]["client_id"].to_string());
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["variable_map"]["client_id"].as_str(), row["ssl"].as_bool()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("b"), Some(true)),
            (Some("p"), Some(false)),
            (Some("t"), Some(true))
        ],
        "{listed}"
    );
}

/// A ticket contains the certificate of the first handshake, and must not be valid for longer than it.
#[test]
fn a_session_is_not_resumed_with_a_certificate_that_has_expired_since() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let settings = authority.settings(&format!("client_auth = \"require\"\nclient_ca = {ca:?}"));
    let gatepost = Gatepost::with(1, &settings);
    for (version, serial) in [(&TLS12, 2), (&TLS13, 3)] {
        authority.sign_for("guest", &[], serial, Some(Duration::from_secs(4)));
        let client = || Arc::new(authority.client(Some("guest"), &[version]));
        let before = client();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = connect(&before, "localhost", authority.mqtts);
            assert_eq!(ask(&mut stream, CONNECT).expect("served"), ACCEPTED);
            assert_eq!(stream.conn.handshake_kind(), Some(kind));
        }
        eventually("the certificate's end", || {
            ask(&mut connect(&client(), "localhost", authority.mqtts), CONNECT).is_err()
        });
        let mut again = connect(&before, "localhost", authority.mqtts);
        let error = ask(&mut again, CONNECT).expect_err("expired");
        assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{error}");
        let ends = [
            ErrorKind::UnexpectedEof,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
            ErrorKind::InvalidData,
        ];
        assert!(ends.contains(&error.kind()), "{error:?}");
    }
    let log = gatepost.log();
    assert!(
        log.contains("TLS handshake failed") && log.contains("certificate expired"),
        "{log}"
    );
}
