//! Limits that keep a few clients from blocking all others.

use crate::support::daemon::{free_port, http};
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, read_to_end, tcp};
use crate::support::tls::{Authority, connect as connect_tls};
use crate::support::{Gatepost, python};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

/// Reason codes of an MQTT 5 CONNACK.
const BAD_CREDENTIALS: u8 = 0x86;
const NOT_AUTHORIZED: u8 = 0x87;
const BANNED: u8 = 0x8A;

fn metric(gatepost: &Gatepost, name: &str) -> u64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in:\n{text}"))
        .trim()
        .parse()
        .expect("a number")
}

fn rule(gatepost: &Gatepost, rule: &str) -> u64 {
    metric(gatepost, &format!("gatepost_protection_total{{rule=\"{rule}\"}}"))
}

/// A listener whose clients name their addresses in a PROXY header.
fn proxied(port: u16, more: &str) -> String {
    format!(
        "[listeners.proxied]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:{port}\"]\nproxy_protocol = true\n\
         proxy_from = [\"127.0.0.0/8\"]\nanonymous = \"allow\"\n{more}\n"
    )
}

fn connect(client: &str, login: Option<(&str, &str)>) -> Vec<u8> {
    let text = |text: &str| [&[0, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let flags = if login.is_some() { 0xC2 } else { 2 };
    let mut body = [text("MQTT"), vec![5, flags, 0, 0, 0], text(client)].concat();
    if let Some((user, password)) = login {
        body.extend([text(user), text(password)].concat());
    }
    [&[0x10, u8::try_from(body.len()).expect("short")], &body[..]].concat()
}

/// The code of the CONNACK for a client from `address`; `None`: it is closed without one.
fn knock(port: u16, address: Option<&str>, client: &str, login: Option<(&str, &str)>) -> Option<u8> {
    let mut stream = tcp(port);
    let header = address.map(|address| format!("PROXY TCP4 {address} 198.51.100.1 50000 1883\r\n"));
    let mut hello = header.unwrap_or_default().into_bytes();
    hello.extend(connect(client, login));
    stream.write_all(&hello).ok()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).ok()?;
    assert_eq!(answer[0], 0x20, "{answer:?}");
    Some(answer[3])
}

#[test]
fn over_the_limit_clients_are_refused_in_their_protocols_words() {
    let settings = "[limits]\nmax_connections = 3\n[protection]\nrefusals_max = 16\n";
    let mut gatepost = Gatepost::with(1, settings);
    python(&mut gatepost, "no_room.py");
    assert!(rule(&gatepost, "told_full") >= 12);
    assert!(
        gatepost.log().contains("as many as limits.max_connections"),
        "{}",
        gatepost.log()
    );
    gatepost.terminate();
}

#[test]
fn failed_logins_are_delayed_then_banned_and_successful_ones_never_count() {
    let port = free_port();
    let settings = proxied(port, "")
        + "[protection]\nlogin_failures_free = 2\nlogin_failures_max = 5\nlogin_ban = \"1h\"\nlogin_failures_window = \"1h\"\n";
    let gatepost = Gatepost::with(1, &settings);
    let (here, there) = (Some("192.0.2.1"), Some("192.0.2.2"));
    for n in 0..20 {
        assert_eq!(knock(port, here, &format!("good{n}"), None), Some(0));
    }
    for _ in 0..5 {
        assert_eq!(
            knock(port, here, "bad", Some(("guest", "guess-7"))),
            Some(BAD_CREDENTIALS)
        );
    }
    assert_eq!(knock(port, here, "bad", Some(("guest", "guess-7"))), None);
    assert_eq!(knock(port, here, "good", None), None);
    assert_eq!(knock(port, there, "good", None), Some(0));
    assert_eq!((rule(&gatepost, "login_delay"), rule(&gatepost, "login_ban")), (3, 1));
    assert_eq!(
        (
            rule(&gatepost, "banned"),
            metric(&gatepost, "gatepost_addresses_banned")
        ),
        (2, 1)
    );
    let log = gatepost.log();
    assert!(log.contains("address banned: too many failed logins"), "{log}");
    assert!(!log.contains("guess-7"), "no password in the log: {log}");
    // This machine's own addresses are exempt.
    for _ in 0..8 {
        assert_eq!(
            knock(gatepost.mqtt, None, "bad", Some(("guest", "guess-7"))),
            Some(BAD_CREDENTIALS)
        );
    }
    assert_eq!(knock(gatepost.mqtt, None, "good", None), Some(0));
}

#[test]
fn an_address_that_connects_too_fast_is_closed_and_others_are_not() {
    let port = free_port();
    let settings =
        proxied(port, "") + "[protection]\naddress_connections_per_second = 1\naddress_connections_burst = 2\n";
    let gatepost = Gatepost::with(1, &settings);
    eventually("too fast", || knock(port, Some("192.0.2.1"), "one", None).is_none());
    assert_eq!(knock(port, Some("192.0.2.2"), "two", None), Some(0));
    assert!(rule(&gatepost, "address_rate") >= 1);
    assert!(
        gatepost
            .log()
            .contains("more than protection.address_connections_per_second allows")
    );
}

#[test]
fn a_listener_that_accepts_so_many_a_second_makes_the_others_wait() {
    let gatepost = Gatepost::with(1, "[protection]\nlistener_connections_per_second = 2\n");
    // None is refused.
    let mut open: Vec<Mqtt> = (0..5)
        .map(|n| Mqtt::open(gatepost.mqtt, &format!("c{n}"), true))
        .collect();
    for mqtt in &mut open {
        mqtt.ping().expect("served");
    }
    assert!(rule(&gatepost, "listener_rate") >= 1);
}

#[test]
fn the_oldest_connections_without_a_login_are_closed_for_new_ones() {
    let gatepost = Gatepost::with(
        1,
        "[protection]\nhalf_open_max = 5\n[limits]\nhandshake_timeout = \"1h\"\n",
    );
    let mut silent: Vec<TcpStream> = (0..20).map(|_| tcp(gatepost.mqtt)).collect();
    let newest = silent.split_off(15);
    for stream in silent {
        assert_eq!(read_to_end(stream), b"");
    }
    assert_eq!(metric(&gatepost, "gatepost_half_open_connections"), 5);
    let mut open: Vec<Mqtt> = (0..20)
        .map(|n| Mqtt::open(gatepost.mqtt, &format!("c{n}"), true))
        .collect();
    // Connected clients stay, and the newest of those that wait can still log in.
    assert!(rule(&gatepost, "half_open") >= 15);
    for mqtt in &mut open {
        mqtt.ping().expect("served");
    }
    drop(newest);
}

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A WebSocket whose upgrade is answered.
fn upgraded(port: u16) -> TcpStream {
    let mut stream = tcp(port);
    stream.write_all(UPGRADE).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{:?}",
        String::from_utf8_lossy(&head)
    );
    stream
}

/// At every stage of a client: TLS, the upgrade, or the login after either.
#[test]
fn unfinished_tls_and_websocket_handshakes_are_closed_for_new_connections() {
    let authority = Authority::new();
    let limits = "[protection]\nhalf_open_max = 5\n[limits]\nhandshake_timeout = \"1h\"\n";
    let gatepost = Gatepost::with(1, &(authority.settings("") + limits));
    let client = Arc::new(authority.client(None, &[&rustls::version::TLS13]));
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(tcp(authority.mqtts));
        let mut half = tcp(gatepost.web_mqtt);
        half.write_all(&UPGRADE[..40]).expect("sent");
        silent.push(half);
        let mut shaken = connect_tls(&client, "localhost", authority.mqtts);
        shaken.conn.complete_io(&mut shaken.sock).expect("a handshake");
        silent.push(shaken.sock);
        silent.push(upgraded(gatepost.web_mqtt));
    }
    let newest = silent.split_off(15);
    for stream in silent {
        read_to_end(stream);
    }
    eventually("the bound", || metric(&gatepost, "gatepost_half_open_connections") == 5);
    assert!(rule(&gatepost, "half_open") >= 15);
    Mqtt::open(gatepost.mqtt, "in", true).ping().expect("served");
    drop(newest);
}

/// Code 0x97 over every transport.
#[test]
fn over_the_limit_clients_are_refused_over_tls_and_websocket_too() {
    let authority = Authority::new();
    let gatepost = Gatepost::with(1, &(authority.settings("") + "[limits]\nmax_connections = 2\n"));
    let in_it = ["a", "b"].map(|name| Mqtt::open(gatepost.mqtt, name, true));
    let client = Arc::new(authority.client(None, &[&rustls::version::TLS13]));
    let hello = connect("c", None);
    let mut tls = connect_tls(&client, "localhost", authority.mqtts);
    tls.write_all(&hello).expect("sent");
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).expect("an answer and the end");
    assert_eq!((answer[0], answer[3]), (0x20, 0x97), "{answer:?}");
    let mut websocket = upgraded(gatepost.web_mqtt);
    let size = u8::try_from(hello.len()).expect("short");
    websocket
        .write_all(&[&[0x82, 0x80 | size, 0, 0, 0, 0], &hello[..]].concat())
        .expect("sent");
    let answer = read_to_end(websocket);
    // After the header of its frame; then the close frame.
    assert_eq!((answer[2], answer[5]), (0x20, 0x97), "{answer:?}");
    assert_eq!(answer[answer.len() - 4..answer.len() - 2], [0x88, 2], "{answer:?}");
    drop(in_it);
}

#[test]
fn a_publisher_over_its_quota_waits_and_loses_nothing() {
    let gatepost = Gatepost::with(1, "[protection]\nclient_publishes_per_second = 100\n");
    let mut listener = Mqtt::open(gatepost.mqtt, "listener", true);
    listener.subscribe("t", 1).expect("subscribed");
    let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
    const COUNT: u16 = 300;
    for id in 1..=COUNT {
        publisher.publish("t", id, &id.to_be_bytes());
    }
    publisher.flush().expect("sent");
    let mut confirmed = 0;
    while confirmed < COUNT {
        publisher.expect(0x40).expect("a confirm");
        confirmed += 1;
    }
    for id in 1..=COUNT {
        let packet = listener.next().expect("a message");
        let publish = packet.into_publish().expect("a publish");
        assert_eq!(publish.payload, id.to_be_bytes());
        listener.ack(publish.id);
        listener.flush().expect("sent");
    }
    publisher.ping().expect("served");
    // A second's worth came at once, and the publisher waited two seconds, in several steps.
    let waits = rule(&gatepost, "publish_quota");
    assert!(waits >= 2);
    let throttled = |protocol: &str| {
        metric(
            &gatepost,
            &format!("gatepost_client_throttled_total{{protocol=\"{protocol}\"}}"),
        )
    };
    assert_eq!((throttled("mqtt"), throttled("amqp")), (waits, 0));
}

#[test]
fn a_user_over_its_quota_waits_in_each_protocol_and_loses_nothing() {
    for quota in [
        "user_publishes_per_second = 50",
        "user_publish_bytes_per_second = \"12KiB\"",
    ] {
        let mut gatepost = Gatepost::with(2, &format!("[protection]\n{quota}\n"));
        python(&mut gatepost, "quotas.py");
        // 180 messages, or 45 KiB, by three connections of one user.
        assert!(rule(&gatepost, "publish_quota") >= 2, "{quota}");
    }
}

#[test]
fn a_client_that_does_not_read_is_closed_after_its_time_limit() {
    let gatepost = Gatepost::with(1, "[protection]\nslow_reader_timeout = \"1s\"\n");
    let mut stuck = Mqtt::open(gatepost.mqtt, "stuck", true);
    stuck.subscribe("t", 0).expect("subscribed");
    let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
    eventually("the slow one goes", || {
        for _ in 0..20 {
            publisher.publish("t", 0, &[0; 100_000]);
        }
        publisher.flush().expect("sent");
        publisher.ping().expect("served");
        rule(&gatepost, "slow_reader") == 1
    });
}

#[test]
fn banned_users_clients_and_addresses_are_refused_and_a_reload_lifts_it() {
    let port = free_port();
    let bans = "[protection]\nbanned_users = [\"guest\"]\nbanned_clients = [\"loud\"]\nbanned_addresses = [\"192.0.2.0/24\"]\n";
    let gatepost = Gatepost::with(1, &(proxied(port, "") + bans));
    let guest = Some(("guest", "guest"));
    assert_eq!(knock(gatepost.mqtt, None, "c", guest), Some(BANNED));
    assert_eq!(knock(gatepost.mqtt, None, "loud", None), Some(NOT_AUTHORIZED));
    assert_eq!(knock(gatepost.mqtt, None, "quiet", None), Some(0));
    assert_eq!(knock(port, Some("192.0.2.99"), "quiet", None), None);
    assert_eq!(knock(port, Some("192.0.3.99"), "quiet", None), Some(0));
    assert_eq!(rule(&gatepost, "banned"), 3);
    let text = std::fs::read_to_string(gatepost.config()).expect("the configuration");
    std::fs::write(gatepost.config(), text.replace(bans, "")).expect("written");
    gatepost.signal("HUP");
    eventually("a reload", || knock(gatepost.mqtt, None, "c", guest) == Some(0));
    assert_eq!(knock(gatepost.mqtt, None, "loud", None), Some(0));
    assert_eq!(knock(port, Some("192.0.2.99"), "quiet", None), Some(0));
}
