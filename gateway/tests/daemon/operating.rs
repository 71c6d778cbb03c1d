//! What an operator does with a running gateway: probes, signals, changes of the configuration.

use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::daemon::{self, http, http_status};
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, tcp};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// The bug: 128 half-sent requests took all places for 30 s, and `/healthz` did not answer. An orchestrator kills such
/// a gateway.
#[test]
fn probes_are_answered_during_many_half_sent_requests() {
    let gatepost = Gatepost::start();
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = tcp(gatepost.metrics);
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lo").expect("sent");
            stream
        })
        .collect();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http_status(gatepost.metrics, path), Some(200), "{path}");
    }
    drop(crowd);
}

/// An address of this machine that others can reach, if it has one. No packet is sent.
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn status_at(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn metrics_are_for_this_machine_until_they_are_opened_and_probes_are_for_all() {
    let mut gatepost = Gatepost::prepare(1, "");
    let everywhere = (
        "GATEPOST__LISTENERS__METRICS__BIND",
        format!("[\"[::]:{}\"]", gatepost.metrics),
    );
    gatepost.start_with_environment(&[(everywhere.0, &everywhere.1)]);
    assert_eq!(http_status(gatepost.metrics, "/metrics"), Some(200));
    // A machine without a network has no such address, and nobody could connect from there.
    let Some(address) = outward_address() else { return };
    let outside = SocketAddr::new(address, gatepost.metrics);
    assert_eq!(status_at(outside, "/healthz"), Some(200));
    assert_eq!(status_at(outside, "/readyz"), Some(200));
    assert_eq!(status_at(outside, "/metrics"), Some(403));
    assert!(gatepost.terminate().0.success());
    gatepost.start_with_environment(&[
        (everywhere.0, &everywhere.1),
        ("GATEPOST__METRICS__LOOPBACK_ONLY", "false"),
    ]);
    assert_eq!(status_at(outside, "/metrics"), Some(200));
}

/// The bug: they ended the process at once, for example a shell's `kill -QUIT` or a log rotation script.
#[test]
fn unused_signals_are_ignored_and_one_logs_the_state() {
    let gatepost = Gatepost::start();
    for signal in ["QUIT", "USR2", "USR1"] {
        gatepost.signal(signal);
    }
    eventually("the state in the log", || {
        let log = gatepost.log();
        ["state of the node", "state of a protocol", "state of a vhost"]
            .iter()
            .all(|line| log.contains(line))
    });
    Amqp::open(gatepost.amqp).declare_queue("q", true).expect("a queue");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn other_users_cannot_read_messages_or_the_log() {
    let mut gatepost = Gatepost::prepare(1, "");
    let log = gatepost.dir.join("gatepost.log");
    gatepost.start_with_environment(&[("GATEPOST__LOG__TARGET", log.to_str().expect("a path in Unicode"))]);
    Amqp::open(gatepost.amqp).declare_queue("q", true).expect("a queue");
    assert_eq!(mode(&log), 0o640);
    let mut directories = vec![gatepost.data()];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        assert_eq!(mode(&directory), 0o750, "{}", directory.display());
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files += 1;
                // A process that may write to the control socket is an administrator: its group may, as with other
                // sockets.
                let expected = if path.ends_with("control.sock") { 0o660 } else { 0o640 };
                assert_eq!(mode(&path), expected, "{}", path.display());
            }
        }
    }
    assert!(files > 0, "the data directory holds files");
}

/// Replaces the configuration file's further tables.
fn configure(gatepost: &Gatepost, before: &str, after: &str) {
    let text = fs::read_to_string(gatepost.config()).expect("the file");
    assert!(text.contains(before), "{before} in:\n{text}");
    fs::write(gatepost.config(), text.replace(before, after)).expect("the file");
}

#[test]
fn a_reload_applies_some_keys_and_names_those_that_need_a_restart() {
    let before = "[mqtt]\nanonymous = \"loopback\"\n[limits]\nmax_queues = 1\n[store]\nopen_files = 100\n[memory]\nbudget = \"64MiB\"\n";
    let after = "[mqtt]\nanonymous = \"deny\"\n[limits]\nmax_queues = 2\n[store]\nopen_files = 200\n[memory]\nbudget = \"32MiB\"\n";
    let gatepost = Gatepost::with(1, before);
    drop(Mqtt::open(gatepost.mqtt, "m", true));
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("first", true).expect("a queue");
    let objects_max = || {
        let metrics = http(gatepost.metrics, "/metrics").expect("metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("gatepost_objects_bytes_max "));
        line.and_then(|n| n.parse::<f64>().ok()).expect("a number")
    };
    let objects_before = objects_max();
    configure(&gatepost, before, after);
    gatepost.signal("HUP");
    eventually("the reload", || {
        gatepost.log().contains("the configuration is reloaded")
    });
    let log = gatepost.log();
    let line = |key: &str| {
        log.lines()
            .find(|line| line.contains(key))
            .unwrap_or_else(|| panic!("{key} in:\n{log}"))
    };
    let anonymous = line("mqtt.anonymous");
    for part in ["changed", "loopback", "deny"] {
        assert!(anonymous.contains(part), "{part} in {anonymous}");
    }
    assert!(
        line("store.open_files").contains("not changed: this needs a restart"),
        "{log}"
    );
    assert!(Mqtt::try_open(gatepost.mqtt, "m", true).is_err(), "the new rule holds");
    // For the running engine, and for a connection that existed before.
    amqp.declare_queue("second", true).expect("the new limit holds");
    assert!(amqp.declare_queue("third", true).is_err(), "and is one");
    eventually("half of the memory", || objects_max() < 0.6 * objects_before);
}

#[test]
fn a_configuration_that_is_refused_changes_nothing() {
    let before = "[mqtt]\nanonymous = \"loopback\"\n";
    let gatepost = Gatepost::with(1, before);
    let broken = "[mqtt]\nanonymous = \"deny\"\n[limits]\nmax_conections = 5\n";
    configure(&gatepost, before, broken);
    gatepost.signal("HUP");
    eventually("the refusal", || {
        gatepost.log().contains("the configuration is refused")
    });
    let log = gatepost.log();
    assert!(
        log.contains("limits.max_conections: unknown key, did you mean max_connections?"),
        "{log}"
    );
    drop(Mqtt::open(gatepost.mqtt, "m", true));
    // After the mistake is corrected, it is accepted.
    configure(&gatepost, broken, "[mqtt]\nanonymous = \"deny\"\n");
    gatepost.signal("HUP");
    eventually("the reload", || {
        gatepost.log().contains("the configuration is reloaded")
    });
    assert!(Mqtt::try_open(gatepost.mqtt, "m", true).is_err(), "the new rule holds");
}

#[test]
fn a_reload_reopens_the_log_file_even_if_the_configuration_is_refused() {
    // The bug: after logrotate had moved the file away, the gateway continued to write to it.
    let directory = tempfile::tempdir().expect("a directory");
    let (path, moved) = (directory.path().join("gatepost.log"), directory.path().join("moved"));
    let settings = format!("[log]\ntarget = {path:?}\n");
    let gatepost = Gatepost::with(1, &settings);
    let text = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    for (word, configuration) in [
        ("reloaded", settings.clone()),
        ("refused", "[log]\nlevels = 1\n".to_owned()),
    ] {
        fs::rename(&path, &moved).expect("the log file");
        let before = text(&moved);
        if word == "refused" {
            configure(&gatepost, &settings, &configuration);
        }
        gatepost.signal("HUP");
        eventually("a line in a new file", || {
            text(&path).contains(&format!("the configuration is {word}"))
        });
        assert_eq!(text(&moved), before, "nothing follows in the old one");
    }
}

#[test]
fn the_longest_keep_alive_is_told_to_clients_of_mqtt_5() {
    let gatepost = Gatepost::with(1, "[mqtt]\nkeep_alive_max = \"60s\"\n");
    let mut stream = tcp(gatepost.mqtt);
    // Version 5, clean start, a keep-alive of 120 s, no properties, the client id "c".
    let connect = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x78\x00\x00\x01c";
    stream.write_all(connect).expect("a CONNECT");
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a CONNACK");
    let mut connack = vec![0; usize::from(head[1])];
    stream.read_exact(&mut connack).expect("all of it");
    assert_eq!((head[0], connack[1]), (0x20, 0));
    // Server Keep Alive.
    assert!(connack.windows(3).any(|w| w == [0x13, 0, 60]), "{connack:?}");
}

#[test]
fn a_protocol_may_have_several_listeners() {
    let port = daemon::free_port();
    let settings = format!("[listeners.plant]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:{port}\"]\n");
    let gatepost = Gatepost::with(1, &settings);
    let mut subscriber = Mqtt::open(port, "s", true);
    subscriber.subscribe("a/b", 0).expect("a subscription");
    let mut publisher = Mqtt::open(gatepost.mqtt, "p", true);
    publisher.publish("a/b", 1, b"x");
    publisher.expect(0x40).expect("a PUBACK");
    subscriber.expect(0x30).expect("a message");
    assert!(http(gatepost.metrics, "/metrics").is_some());
}

#[test]
fn a_password_file_that_is_missing_is_refused_by_the_check() {
    let gatepost = Gatepost::prepare(
        1,
        "[auth]\ndefault_user = \"edge\"\ndefault_password_file = \"/nowhere/password\"\n[log]\nlevel = \"loud\"\n",
    );
    let config = gatepost.config();
    let refused = daemon::run(&["--check-config", "--config", config.to_str().expect("Unicode")], &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(
        said.contains("log.level: expected error, warn (or warning), info"),
        "{said}"
    );
    assert!(
        said.contains("auth.default_password_file: /nowhere/password cannot be read: "),
        "{said}"
    );
}

#[test]
fn refusals_are_counted_by_the_key_of_the_limit() {
    let gatepost = Gatepost::start();
    let mut client = Mqtt::open(gatepost.mqtt, "wild", true);
    let filter = ["+"; 33].join("/");
    assert_eq!(client.subscribe(&filter, 0).expect("an answer"), 0x80);
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    for line in [
        r#"gatepost_limit_refusals_total{limit="filter_wildcards_max"} 1"#,
        r#"gatepost_limit_refusals_total{limit="session_filters_max"} 0"#,
        "gatepost_access_refused_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
    }
}

/// The bug otherwise: `systemctl start` would wait for the message and then end a gateway that serves, and a reload
/// would never end.
#[test]
fn a_service_manager_is_notified_of_start_reload_liveness_and_stop() {
    let mut gatepost = Gatepost::prepare(1, "");
    let path = gatepost.dir.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let told = |wanted: &str| {
        let mut buffer = [0; 1024];
        let size = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{wanted}: {error}"));
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    // Messages in between report that the process is alive.
    let next = |wanted: &str| loop {
        let text = told(wanted);
        if text != "WATCHDOG=1" {
            return text;
        }
    };
    gatepost.start_with_environment(&[
        ("NOTIFY_SOCKET", path.to_str().expect("Unicode")),
        ("WATCHDOG_USEC", "300000"),
    ]);
    assert_eq!(next("the start"), "READY=1");
    for _ in 0..3 {
        assert_eq!(told("life"), "WATCHDOG=1");
    }
    gatepost.signal("HUP");
    let reloading = next("the reload");
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next("its end"), "READY=1");
    gatepost.signal("TERM");
    assert_eq!(next("the end"), "STOPPING=1");
    assert!(gatepost.wait_for_end(Duration::from_secs(30)).0.success());
}
