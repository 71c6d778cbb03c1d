//! The PROXY protocol with every protocol.

use crate::support::Gatepost;
use crate::support::daemon::free_port;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w";
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
/// MQTT 3.1.1 code 5: not authorised.
const REFUSED: [u8; 4] = [0x20, 2, 0, 5];
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883\r\n";

/// Version 2: a command, and the client 127.0.0.1:50000 at 127.0.0.1:1883.
fn v2(command: u8) -> Vec<u8> {
    let addresses = [127, 0, 0, 1, 127, 0, 0, 1, 0xC3, 0x50, 0x07, 0x5B];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11, 0, 12], &addresses].concat()
}

/// Sends all of it in pieces of `size` bytes. Returns what comes until the peer closes or `wanted` bytes have come.
fn ask(port: u16, bytes: &[u8], size: usize, wanted: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    stream.set_nodelay(true).expect("no delay");
    for piece in bytes.chunks(size) {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut got = vec![0; wanted];
    let mut at = 0;
    while at < wanted {
        match stream.read(&mut got[at..]) {
            Ok(0) | Err(_) => break,
            Ok(size) => at += size,
        }
    }
    got.truncate(at);
    got
}

fn listener(name: &str, port: u16, more: &str) -> String {
    format!(
        "[listeners.{name}]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:{port}\"]\nproxy_protocol = true\n\
         proxy_from = [\"127.0.0.0/8\"]\n{more}\n"
    )
}

#[test]
fn a_header_names_the_client_and_no_client_behind_a_proxy_is_local() {
    let (strict, open) = (free_port(), free_port());
    let settings = listener("strict", strict, "") + &listener("open", open, "anonymous = \"allow\"");
    let gatepost = Gatepost::with(1, &(settings + "[log]\nlevel = \"debug\"\n"));
    for header in [V1, b"PROXY UNKNOWN\r\n", &v2(0x20), &v2(0x21)] {
        let all = [header, CONNECT].concat();
        for size in [1, 11, all.len()] {
            // Anonymous clients may log in from this machine only; a proxy on it does not make its clients local.
            assert_eq!(ask(strict, &all, size, 4), REFUSED, "{header:?}");
            assert_eq!(ask(open, &all, size, 4), CONNACK, "{header:?}");
        }
    }
    // The client's protocol is guessed from the bytes after the header.
    assert_eq!(ask(strict, &[V1, b"AMQP\x00\x00\x09\x01"].concat(), usize::MAX, 1), b"");
    let log = gatepost.log();
    assert!(
        log.contains("a client speaks amqp where the listener does not"),
        "{log}"
    );
    assert!(!log.contains("proxy_protocol is off"), "{log}");
    assert!(log.contains("192.0.2.7:50000"), "the client's address is in the log");
    assert!(log.contains("198.51.100.1:1883"), "so is the one it asked for");
}

#[test]
fn without_a_good_header_or_from_elsewhere_there_is_no_session() {
    let (port, elsewhere) = (free_port(), free_port());
    let settings = listener("proxied", port, "anonymous = \"allow\"")
        + &listener("elsewhere", elsewhere, "anonymous = \"allow\"").replace("127.0.0.0/8", "192.0.2.0/24");
    let gatepost = Gatepost::with(1, &(settings + "[limits]\nhandshake_timeout = \"1s\"\n"));
    for bytes in [CONNECT, b"PROXY TCP4 nonsense\r\n", b"", &V1[..20], &v2(0x21)[..20]] {
        assert_eq!(ask(port, bytes, usize::MAX, 4), b"", "{bytes:?}");
    }
    // Without `proxy_protocol` a header is not valid MQTT.
    assert_eq!(ask(gatepost.mqtt, &[V1, CONNECT].concat(), usize::MAX, 4), b"");
    assert_eq!(ask(elsewhere, &[V1, CONNECT].concat(), usize::MAX, 4), b"");
    assert_eq!(ask(port, &[V1, CONNECT].concat(), usize::MAX, 4), CONNACK);
    let log = gatepost.log();
    assert!(log.contains("no PROXY header, which this listener demands"), "{log}");
    assert!(log.contains("its address is not in the listener's proxy_from"), "{log}");
}

#[test]
fn a_header_comes_before_a_websocket_and_before_amqp_and_stomp() {
    let [web, amqp, stomp] = std::array::from_fn(|_| free_port());
    let settings = listener("web", web, "websocket = true")
        + &listener("amqps", amqp, "").replace("mqtt", "amqp")
        + &listener("stomps", stomp, "").replace("mqtt", "stomp");
    let _gatepost = Gatepost::with(1, &settings);
    let request = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    for header in [V1.to_vec(), v2(0x21)] {
        let before = |bytes: &[u8]| [&header[..], bytes].concat();
        assert_eq!(ask(web, &before(request), 7, 12), b"HTTP/1.1 101");
        assert_eq!(ask(amqp, &before(b"AMQP\x00\x00\x09\x01"), 7, 3), [1, 0, 0]);
        let connect = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0";
        // guest may log in from this machine only.
        assert_eq!(ask(stomp, &before(connect), 7, 5), b"ERROR");
    }
}

/// The first frames of an AMQP client that logs in: the header, and `connection.start-ok`.
fn amqp_login(user: &str, password: &str) -> Vec<u8> {
    let response = format!("\0{user}\0{password}");
    let mut arguments = vec![0, 10, 0, 11];
    // A client with this capability is told why it is refused; others are only disconnected.
    arguments.extend_from_slice(
        b"\x00\x00\x00\x31\x0ccapabilitiesF\x00\x00\x00\x1f\x1cauthentication_failure_closet\x01\x05",
    );
    arguments.extend_from_slice(b"PLAIN");
    arguments.extend_from_slice(&u32::try_from(response.len()).expect("short").to_be_bytes());
    arguments.extend_from_slice(response.as_bytes());
    arguments.extend_from_slice(b"\x05en_US");
    let size = u32::try_from(arguments.len()).expect("short").to_be_bytes();
    [&b"AMQP\x00\x00\x09\x01\x01\x00\x00"[..], &size, &arguments, b"\xCE"].concat()
}

/// As RabbitMQ ships, the password of `guest` is public, so it is valid on the machine itself only. (For HTTP there is
/// a test beside `api::login`.)
#[test]
fn guest_remote_refused_all_protocols() {
    let [mqtt, amqp, stomp] = std::array::from_fn(|_| free_port());
    let settings = listener("far_mqtt", mqtt, "")
        + &listener("far_amqp", amqp, "").replace("\"mqtt\"", "\"amqp\"")
        + &listener("far_stomp", stomp, "").replace("\"mqtt\"", "\"stomp\"");
    let gatepost = Gatepost::with(1, &settings);
    let connect = b"\x10\x1b\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01w\x00\x05guest\x00\x05guest";
    let stomp_connect = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0";
    let far = |bytes: &[u8]| [V1, bytes].concat();
    // On this machine, each of them can log in.
    assert_eq!(ask(gatepost.mqtt, connect, usize::MAX, 4), CONNACK);
    assert_eq!(ask(gatepost.stomp, stomp_connect, usize::MAX, 9), b"CONNECTED");
    let near = ask(gatepost.amqp, &amqp_login("guest", "guest"), usize::MAX, 8);
    assert_eq!(near[..3], [1, 0, 0], "{near:?}");

    assert_eq!(ask(mqtt, &far(connect), usize::MAX, 4), REFUSED);
    let refused = String::from_utf8_lossy(&ask(stomp, &far(stomp_connect), usize::MAX, 1 << 10)).into_owned();
    assert!(
        refused.starts_with("ERROR") && refused.contains("non-loopback access denied"),
        "{refused}"
    );
    // It waits for our close-ok, so only its message is read.
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, amqp)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    stream.write_all(&far(&amqp_login("guest", "guest"))).expect("sent");
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("ACCESS_REFUSED - Login was refused") {
        let mut bytes = [0; 512];
        let size = stream.read(&mut bytes).expect("a refusal");
        assert!(size > 0, "closed after {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&bytes[..size]);
    }
}
