//! TLS on the listeners, with clients of every kind and with bytes that are not TLS.

use crate::support::daemon::{free_port, http};
use crate::support::raw::{eventually, read_to_end, tcp};
use crate::support::tls::{Authority, TlsStream, connect};
use crate::support::{Gatepost, node, python};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01u";
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const PING: &[u8] = b"\xc0\x00";
const PONG: [u8; 2] = [0xd0, 0];

/// Says `hello` and returns as many bytes as `answer` has.
fn ask<const N: usize>(stream: &mut TlsStream, hello: &[u8]) -> std::io::Result<[u8; N]> {
    stream.write_all(hello)?;
    let mut answer = [0; N];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The daemon's refusal of a connection.
fn refusal(stream: &mut TlsStream) -> String {
    ask::<4>(stream, CONNECT).expect_err("refused").to_string()
}

#[test]
fn both_versions_are_spoken_with_good_ciphers_and_no_older_one() {
    let authority = Authority::new();
    let mut gatepost = Gatepost::with(1, &authority.settings(""));
    for (version, number) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let client = Arc::new(authority.client(None, &[version]));
        let mut stream = connect(&client, "localhost", authority.mqtts);
        assert_eq!(ask(&mut stream, CONNECT).expect("served"), CONNACK);
        assert_eq!(stream.conn.protocol_version(), Some(number));
        let suite = stream.conn.negotiated_cipher_suite().expect("a suite").suite();
        let expected = [
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ];
        assert!(expected.contains(&suite), "{suite:?}");
    }
    // OpenSSL's client, told to offer only this.
    for (offer, taken) in [
        ("-tls1_1 -cipher ALL:@SECLEVEL=0", false),
        ("-tls1_2 -cipher AES256-SHA:@SECLEVEL=0", false),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0", false),
        ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", true),
        ("-tls1_3", true),
        ("-alpn mqtt", true),
        ("-alpn h2", false),
    ] {
        let script = format!(
            "openssl s_client -connect 127.0.0.1:{} {offer} </dev/null",
            authority.mqtts
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("openssl");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            text.contains("no peer certificate available"),
            !taken,
            "{script}: {text}"
        );
    }
    gatepost.terminate();
}

#[test]
fn the_least_version_can_be_raised() {
    let authority = Authority::new();
    let _gatepost = Gatepost::with(1, &authority.settings("min_version = \"1.3\""));
    let mut new = connect(
        &Arc::new(authority.client(None, &[&TLS13])),
        "localhost",
        authority.mqtts,
    );
    assert_eq!(ask(&mut new, CONNECT).expect("served"), CONNACK);
    let mut old = connect(
        &Arc::new(authority.client(None, &[&TLS12])),
        "localhost",
        authority.mqtts,
    );
    assert!(refusal(&mut old).contains("ProtocolVersion"));
}

#[test]
fn plain_text_on_a_tls_port_and_tls_on_a_plain_one_are_told_apart() {
    let authority = Authority::new();
    let gatepost = Gatepost::with(1, &authority.settings(""));
    let mut plain = tcp(authority.mqtts);
    plain.write_all(CONNECT).expect("sent");
    // Closed at once, before the handshake's time limit.
    assert_eq!(read_to_end(plain), b"");
    eventually("a line", || {
        gatepost.log().contains("plain text where the listener has TLS")
    });
    assert!(gatepost.log().contains("speaks=\"mqtt\""), "{}", gatepost.log());
    let mut probe = tcp(authority.amqps);
    probe.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(read_to_end(probe), b"");
    eventually("a line", || gatepost.log().contains("speaks=\"something else\""));
    let page = http(gatepost.metrics, "/metrics").expect("metrics");
    for (protocol, failures) in [("mqtt", 1), ("amqp", 1), ("stomp", 0)] {
        let line = format!("gatepost_tls_handshake_failures_total{{protocol=\"{protocol}\"}} {failures}\n");
        assert!(page.contains(&line), "{line} in:\n{page}");
    }

    for port in [gatepost.mqtt, gatepost.amqp, gatepost.stomp] {
        let lines = |log: String| log.matches("TLS where the listener has plain text").count();
        let before = lines(gatepost.log());
        let client = Arc::new(authority.client(None, &[&TLS13]));
        ask::<1>(&mut connect(&client, "localhost", port), CONNECT).expect_err("no TLS here");
        eventually("a line", || lines(gatepost.log()) > before);
    }
}

#[test]
fn a_client_certificate_is_requested_verified_and_may_be_revoked() {
    let authority = Authority::new();
    for (name, serial) in [("guest", 2), ("lost", 3)] {
        authority.sign(name, &[], serial);
    }
    authority.revoke(&[3]);
    let stranger = Authority::new();
    stranger.sign("guest", &[], 2);
    let settings = |client_auth: &str| {
        let (ca, list) = (authority.path("ca.pem"), authority.path("crl.pem"));
        authority.settings(&format!(
            "client_auth = \"{client_auth}\"\nclient_ca = {ca:?}\nclient_crl = {list:?}"
        ))
    };
    for client_auth in ["require", "optional"] {
        let gatepost = Gatepost::with(1, &settings(client_auth));
        for version in [&TLS12, &TLS13] {
            let open = |identity| {
                connect(
                    &Arc::new(authority.client(identity, &[version])),
                    "localhost",
                    authority.mqtts,
                )
            };
            assert_eq!(ask(&mut open(Some("guest")), CONNECT).expect("served"), CONNACK);
            assert!(refusal(&mut open(Some("lost"))).contains("CertificateRevoked"));
            if client_auth == "require" {
                let refused = refusal(&mut open(None));
                assert!(
                    refused.contains("CertificateRequired") || refused.contains("HandshakeFailure"),
                    "{refused}"
                );
            } else {
                assert_eq!(ask(&mut open(None), CONNECT).expect("served"), CONNACK);
            }
            let theirs = stranger.client(Some("guest"), &[version]);
            let mut ours = authority.client(None, &[version]);
            ours.client_auth_cert_resolver = theirs.client_auth_cert_resolver;
            let refused = refusal(&mut connect(&Arc::new(ours), "localhost", authority.mqtts));
            assert!(
                refused.contains("UnknownCA") || refused.contains("DecryptError"),
                "{refused}"
            );
        }
        assert!(gatepost.log().contains("TLS handshake failed"), "{}", gatepost.log());
    }
}

#[test]
fn sessions_resume_over_a_restart_and_not_at_another_listener() {
    let authority = Authority::new();
    let mut gatepost = Gatepost::with(1, &authority.settings(""));
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(authority.client(None, &[version]));
        let shake = |port: u16| {
            let mut stream = connect(&client, "localhost", port);
            let hello: &[u8] = if port == authority.mqtts {
                CONNECT
            } else {
                b"AMQP\x00\x00\x09\x01"
            };
            ask::<4>(&mut stream, hello).expect("served");
            stream.conn.handshake_kind().expect("a handshake")
        };
        assert_eq!(shake(authority.mqtts), HandshakeKind::Full);
        assert_eq!(shake(authority.mqtts), HandshakeKind::Resumed);
        gatepost.kill();
        gatepost.start_again();
        assert_eq!(shake(authority.mqtts), HandshakeKind::Resumed);
        // The other listener may demand more of its clients than the first.
        assert_eq!(shake(authority.amqps), HandshakeKind::Full);
    }
}

#[test]
fn a_handshake_cut_or_changed_at_any_byte_affects_no_other() {
    let authority = Authority::new();
    let gatepost = Gatepost::with(1, &authority.settings(""));
    let client = Arc::new(authority.client(None, &[&TLS12, &TLS13]));
    let mut witness = connect(&client, "localhost", authority.mqtts);
    assert_eq!(ask(&mut witness, CONNECT).expect("served"), CONNACK);
    let name = "localhost".to_owned().try_into().expect("a name");
    let mut hello = Vec::new();
    let mut session = rustls::ClientConnection::new(Arc::clone(&client), name).expect("a client");
    session.write_tls(&mut hello).expect("a hello");
    for at in 0..hello.len() {
        let mut bent = hello.clone();
        bent[at] ^= 1 << (at % 8);
        for bytes in [&hello[..at], &bent] {
            let mut stream = tcp(authority.mqtts);
            // The daemon may have closed already.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
        }
        assert_eq!(ask(&mut witness, PING).expect("served"), PONG, "at byte {at}");
    }
    let mut late = connect(&client, "localhost", authority.mqtts);
    assert_eq!(ask(&mut late, CONNECT).expect("served"), CONNACK);
    drop((witness, late));
    eventually("all gone", || {
        crate::support::daemon::http(gatepost.metrics, "/metrics")
            .is_some_and(|m| m.contains("\nrabbitmq_connections 0\n"))
    });
}

#[test]
fn a_handshake_has_a_time_limit() {
    let authority = Authority::new();
    let settings = authority.settings("") + "[limits]\nhandshake_timeout = \"1s\"\n";
    let gatepost = Gatepost::with(1, &settings);
    let silent = tcp(authority.mqtts);
    let mut halting = tcp(authority.mqtts);
    halting.write_all(b"\x16\x03\x01").expect("sent");
    assert_eq!(read_to_end(silent), b"");
    assert_eq!(read_to_end(halting), b"");
    eventually("a line", || {
        gatepost.log().contains("longer than limits.handshake_timeout")
    });
}

#[test]
fn certificates_are_reloaded_under_live_connections_and_wrong_ones_refused() {
    let authority = Authority::new();
    let gatepost = Gatepost::with(1, &authority.settings(""));
    let client = || Arc::new(authority.client(None, &[&TLS13]));
    let seen = || {
        let mut stream = connect(&client(), "localhost", authority.mqtts);
        assert_eq!(ask(&mut stream, CONNECT).expect("served"), CONNACK);
        stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
    };
    let mut live = connect(&client(), "localhost", authority.mqtts);
    assert_eq!(
        ask(&mut live, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01l").expect("served"),
        CONNACK
    );
    let first = seen();
    authority.sign("server", &["localhost"], 9);
    gatepost.signal("HUP");
    eventually("another certificate", || seen() != first);
    let second = seen();

    fs::write(
        authority.path("server.pem"),
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    )
    .expect("written");
    gatepost.signal("HUP");
    eventually("a refusal", || gatepost.log().contains("the configuration is refused"));
    assert!(
        gatepost
            .log()
            .contains("server.pem holds a certificate that is damaged"),
        "{}",
        gatepost.log()
    );
    assert_eq!(seen(), second);
    assert_eq!(ask(&mut live, PING).expect("served"), PONG);
}

#[test]
fn metrics_and_health_are_served_over_tls() {
    let authority = Authority::new();
    let (port, cert, key) = (free_port(), authority.path("server.pem"), authority.path("server.key"));
    let settings = format!(
        "[listeners.metrics_tls]\nprotocol = \"metrics\"\ntls_bind = [\"127.0.0.1:{port}\"]\n\
         [listeners.metrics_tls.tls]\ncert = {cert:?}\nkey = {key:?}\n"
    );
    let gatepost = Gatepost::with(1, &settings);
    let mut client = authority.client(None, &[&TLS12, &TLS13]);
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = Arc::new(client);
    for (path, expected) in [("/readyz", "ready"), ("/metrics", "\nrabbitmq_connections 0\n")] {
        let mut stream = connect(&client, "localhost", port);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        // With `close_notify` at the end, otherwise the read would fail.
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(expected),
            "{answer}"
        );
    }
    // Plain HTTP there, and half a handshake, get no answer and affect nobody.
    let mut plain = tcp(port);
    plain.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sent");
    assert_eq!(read_to_end(plain), b"");
    let mut halting = tcp(port);
    halting.write_all(b"\x16\x03\x01").expect("sent");
    let mut stream = connect(&client, "localhost", port);
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("ok\n"), "{answer}");
    drop((halting, gatepost));
}

#[test]
fn unusable_files_are_named_with_the_reason() {
    let authority = Authority::new();
    authority.sign("other", &["localhost"], 2);
    let directory = authority.directory();
    let file = |name: &str, text: &str| fs::write(directory.join(name), text).expect("written");
    file("empty.pem", "");
    file("words.pem", "no certificate at all\n");
    file("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB");
    file(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    for (lines, expected) in [
        (
            "cert = D/nowhere.pem\nkey = D/server.key",
            "tls.cert: D/nowhere.pem cannot be read: No such file",
        ),
        ("cert = D/server.pem", "tls.key: must be set where cert is"),
        (
            "cert = D/empty.pem\nkey = D/server.key",
            "tls.cert: D/empty.pem holds no certificate in PEM form",
        ),
        (
            "cert = D/words.pem\nkey = D/server.key",
            "tls.cert: D/words.pem holds no certificate in PEM form",
        ),
        (
            "cert = D/cut.pem\nkey = D/server.key",
            "tls.cert: D/cut.pem is no good PEM file",
        ),
        (
            "cert = D/server.pem\nkey = D/other.key",
            "tls.key: D/other.key is not the key of the certificate",
        ),
        (
            "cert = D/server.pem\nkey = D/server.pem",
            "tls.key: D/server.pem holds no private key in PEM form",
        ),
        (
            "cert = D/server.pem\nkey = D/locked.key",
            "tls.key: D/locked.key holds an encrypted private key",
        ),
        (
            "cert = D/server.pem\nkey = D/server.key\nclient_auth = \"require\"",
            "tls.client_auth: clients' certificates need a CA",
        ),
        (
            "cert = D/server.pem\nkey = D/server.key\nclient_auth = \"require\"\nclient_ca = D/ca.pem\nclient_crl = D/ca.pem",
            "tls.client_crl: D/ca.pem holds no list of revoked certificates in PEM form",
        ),
        (
            "cert = D/server.pem\nkey = D/server.key\nsni_certs = [D/other.pem]",
            "tls.sni_keys: there are 0 keys for 1 certificates",
        ),
        (
            "cert = D/server.pem\nkey = D/server.key\nsni_certs = [D/other.pem]\nsni_keys = [D/server.key]",
            "tls.sni_keys: D/server.key is not the key of the certificate",
        ),
    ] {
        let path = directory.display().to_string();
        let quoted = lines.split("D/").collect::<Vec<_>>();
        let mut text = quoted[0].to_owned();
        for part in &quoted[1..] {
            let end = part.find([']', '\n']).unwrap_or(part.len());
            text += &format!("\"{path}/{}\"{}", &part[..end], &part[end..]);
        }
        file("gatepost.toml", &format!("[tls]\n{text}\n"));
        let config = directory.join("gatepost.toml").display().to_string();
        let output = crate::support::daemon::run(&["--config", &config, "--check-config"], &[]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}: {error}");
        assert!(
            error.contains(&expected.replace("D/", &format!("{path}/"))),
            "{text}: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_client_that_asks_for_a_name_sees_its_certificate() {
    let authority = Authority::new();
    authority.sign("plant", &["plant.example", "*.plant.example"], 2);
    let (cert, key) = (authority.path("plant.pem"), authority.path("plant.key"));
    let _gatepost = Gatepost::with(
        1,
        &authority.settings(&format!("sni_certs = [{cert:?}]\nsni_keys = [{key:?}]")),
    );
    let client = Arc::new(authority.client(None, &[&TLS12, &TLS13]));
    // The client checks the certificate against the name.
    for name in ["localhost", "plant.example", "line7.plant.example", "127.0.0.1"] {
        let mut stream = connect(&client, name, authority.mqtts);
        assert_eq!(ask(&mut stream, CONNECT).expect(name), CONNACK);
    }
    let refused = refusal(&mut connect(&client, "a.b.plant.example", authority.mqtts));
    assert!(refused.contains("certificate not valid for name"), "{refused}");
}

/// A daemon with TLS for the client scripts, on `io_threads`, and `tls.json` for them.
fn for_clients(authority: &Authority, io_threads: u32) -> Gatepost {
    authority.sign("guest", &[], 2);
    let ca = authority.path("ca.pem");
    let more = format!("client_auth = \"optional\"\nclient_ca = {ca:?}");
    let wss = free_port();
    let settings = authority.settings(&more) + &authority.websocket("mqtt", wss, "", &more);
    let gatepost = Gatepost::with(io_threads, &(settings + "[mqtt]\nanonymous = \"deny\"\n"));
    let (amqps, mqtts, stomps) = (authority.amqps, authority.mqtts, authority.stomps);
    let directory = authority.directory();
    let json = format!(
        "{{\"amqps\": {amqps}, \"mqtts\": {mqtts}, \"stomps\": {stomps}, \"wss\": {wss}, \"directory\": {directory:?}}}"
    );
    fs::write(gatepost.dir.join("tls.json"), json).expect("written");
    gatepost
}

#[test]
fn paho_mosquitto_pika_and_stomp_py_speak_tls_and_log_in_by_certificate() {
    let authority = Authority::new();
    python(&mut for_clients(&authority, 1), "tls.py");
}

#[test]
fn amqplib_and_mqtt_js_speak_tls_and_log_in_by_certificate() {
    let authority = Authority::new();
    node(&mut for_clients(&authority, 2), "tls.mjs");
}

#[test]
fn an_alternative_name_can_name_the_user() {
    let authority = Authority::new();
    authority.sign("edge 7", &["guest"], 2);
    authority.sign("guest", &["somebody"], 3);
    let ca = authority.path("ca.pem");
    let settings = authority.settings(&format!("client_auth = \"require\"\nclient_ca = {ca:?}"));
    let _gatepost = Gatepost::with(1, &(settings + "[auth.certificate]\nidentity = \"dns\"\n"));
    let connack = |identity| {
        let client = Arc::new(authority.client(Some(identity), &[&TLS12, &TLS13]));
        ask::<4>(&mut connect(&client, "localhost", authority.mqtts), CONNECT).expect("an answer")
    };
    assert_eq!(connack("edge 7"), CONNACK);
    // Bad user name or password: there is no user `somebody`.
    assert_eq!(connack("guest"), [0x20, 2, 0, 4]);
}

#[test]
fn cert_dev_makes_certificates_for_daemon_and_clients() {
    let authority = Authority::new();
    let directory = authority.path("dev");
    let dir = directory.display().to_string();
    let make = |arguments: &[&str]| {
        let output = crate::support::daemon::run(&[&["cert", "dev", "--dir", &dir], arguments].concat(), &[]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let said = make(&[]);
    assert!(said.contains("a new CA") && said.contains("server.key\""), "{said}");
    let ca = fs::read(directory.join("ca.pem")).expect("a CA");
    assert!(make(&["--client", "guest"]).contains("the CA that was there"));
    assert!(make(&["--name", "localhost", "--name", "10.0.0.7"]).contains("the CA that was there"));
    assert_eq!(fs::read(directory.join("ca.pem")).expect("a CA"), ca);
    for file in ["ca.pem", "ca.key", "server.pem", "server.key", "guest.pem", "guest.key"] {
        let mode = fs::metadata(directory.join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    for name in ["", "../guest", "ca"] {
        let refused = crate::support::daemon::run(&["cert", "dev", "--dir", &dir, "--client", name], &[]);
        assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    }

    let settings = format!(
        "[listeners.mqtts]\nprotocol = \"mqtt\"\ntls_bind = [\"127.0.0.1:{}\"]\n[listeners.mqtts.tls]\ncert = {:?}\nkey = {:?}\n\
         client_auth = \"require\"\nclient_ca = {:?}\n[mqtt]\nanonymous = \"deny\"\n",
        authority.mqtts,
        directory.join("server.pem"),
        directory.join("server.key"),
        directory.join("ca.pem"),
    );
    let _gatepost = Gatepost::with(1, &settings);
    let script = format!(
        "mosquitto_pub -h localhost -p {} --cafile {dir}/ca.pem --cert {dir}/guest.pem --key {dir}/guest.key -q 1 -t a -m b",
        authority.mqtts
    );
    let published = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("mosquitto_pub");
    assert!(published.status.success(), "{published:?}");
}

/// A record is decrypted when it is complete. Until then it is memory that the peer makes the daemon hold.
#[test]
fn records_that_do_not_end_count_as_buffers() {
    let authority = Authority::new();
    let gatepost = Gatepost::with(1, &authority.settings(""));
    let client = Arc::new(authority.client(None, &[&TLS13]));
    let held = || {
        let metrics = crate::support::daemon::http(gatepost.metrics, "/metrics").expect("metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("gatepost_buffers_bytes "))
            .expect("a gauge");
        line.parse::<f64>().expect("a number")
    };
    let mut peers = Vec::new();
    for n in 0..10 {
        let mut stream = connect(&client, "localhost", authority.mqtts);
        let connect = [&CONNECT[..CONNECT.len() - 1], &[b'a' + n]].concat();
        assert_eq!(ask(&mut stream, &connect).expect("served"), CONNACK);
        // 16,640 bytes are announced, and one of them does not come.
        stream
            .sock
            .write_all(&[&[0x17, 3, 3, 0x41, 0][..], &[0; 0x40ff]].concat())
            .expect("sent");
        peers.push(stream);
    }
    eventually("ten records", || held() >= 10.0 * 16_000.0);
    drop(peers);
    eventually("none", || held() == 0.0);
}

/// systemd's `LoadCredential=`, and a variable that names the key's file.
#[test]
fn certificates_and_keys_may_be_credentials_of_the_service_manager() {
    let authority = Authority::new();
    let port = authority.mqtts;
    let settings = format!(
        "[listeners.mqtts]\nprotocol = \"mqtt\"\ntls_bind = [\"127.0.0.1:{port}\"]\n\
         [listeners.mqtts.tls]\ncert = \"server.pem\"\n"
    );
    let mut gatepost = Gatepost::prepare(1, &settings);
    gatepost.start_with_environment(&[
        (
            "CREDENTIALS_DIRECTORY",
            authority.directory().to_str().expect("a path in Unicode"),
        ),
        ("GATEPOST__LISTENERS__MQTTS__TLS__KEY_FILE", "server.key"),
    ]);
    let client = Arc::new(authority.client(None, &[&TLS13]));
    let mut stream = connect(&client, "localhost", port);
    assert_eq!(ask(&mut stream, CONNECT).expect("served"), CONNACK);
    // A reload finds them there, too.
    gatepost.signal("HUP");
    eventually("a reload", || gatepost.log().contains("the configuration is reloaded"));
    let mut stream = connect(&client, "localhost", port);
    assert_eq!(ask(&mut stream, CONNECT).expect("served"), CONNACK);
    assert!(!gatepost.log().contains("PRIVATE KEY"), "{}", gatepost.log());
}
