//! Starting and stopping, as seen by an operator, a script and a service manager.

use crate::support::amqp::Amqp;
use crate::support::daemon::{self, Gatepost, http, http_status};
use crate::support::mqtt::Mqtt;
use crate::support::raw::eventually;
use std::fs;
use std::process::Output;
use std::time::Duration;

#[test]
fn the_banner_says_where_everything_is_and_readiness_comes_soon() {
    let gatepost = Gatepost::start();
    eventually("the banner", || gatepost.log().contains("ready in"));
    let log = gatepost.log();
    for port in [gatepost.amqp, gatepost.mqtt, gatepost.stomp, gatepost.metrics] {
        assert!(log.contains(&format!("127.0.0.1:{port}")), "port {port} in:\n{log}");
    }
    assert!(
        log.contains(&gatepost.data().display().to_string()),
        "the data directory in:\n{log}"
    );
    // With a slash at its end it would name a vhost with an empty name.
    assert!(
        log.contains(&format!("amqp://guest:guest@localhost:{}  ", gatepost.amqp)),
        "{log}"
    );
    println!("ready {:?} after the spawn", gatepost.ready_after);
}

/// The bug: in the container's configuration no user is created at the first start, but the banner told people to log
/// in as `guest`.
#[test]
fn the_banner_names_guest_only_if_it_exists() {
    let gatepost = Gatepost::with(1, "[auth]\ndefault_user = \"\"\n");
    eventually("the banner", || gatepost.log().contains("Try it, from this machine"));
    eventually("its last line", || gatepost.log().contains("in a browser: the console"));
    let log = gatepost.log();
    assert!(!log.contains("guest"), "{log}");
    assert!(log.contains("gatepost user add NAME --tag administrator"), "{log}");
    assert!(
        log.contains(&format!("amqp://NAME:PASSWORD@localhost:{}  ", gatepost.amqp)),
        "{log}"
    );
}

#[test]
fn health_and_metrics_answer_over_http() {
    let gatepost = Gatepost::start();
    assert_eq!(http_status(gatepost.metrics, "/healthz"), Some(200));
    assert_eq!(http_status(gatepost.metrics, "/readyz"), Some(200));
    assert_eq!(http_status(gatepost.metrics, "/nosuch"), Some(404));
    let mut mqtt = Mqtt::open(gatepost.mqtt, "m", true);
    mqtt.publish("a/b", 1, b"x");
    mqtt.expect(0x40).expect("a PUBACK");
    let metrics = http(gatepost.metrics, "/metrics").expect("metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    for family in [
        "rabbitmq_identity_info{",
        "rabbitmq_connections ",
        "rabbitmq_global_messages_received_total{",
    ] {
        assert!(metrics.contains(family), "{family} in:\n{metrics}");
    }
}

#[test]
fn sigterm_ends_it_soon_with_zero_and_loses_nothing() {
    ends_in_good_order("TERM");
}

#[test]
fn ctrl_c_ends_it_soon_with_zero_and_loses_nothing() {
    ends_in_good_order("INT");
}

fn ends_in_good_order(signal: &str) {
    let mut gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("kept", true).expect("a queue");
    amqp.confirm_select().expect("confirms");
    let mut device = Mqtt::open(gatepost.mqtt, "device", false);
    device.subscribe("kept/#", 1).expect("a subscription");
    // Published without waiting: the stop must process what has arrived.
    for n in 0..100 {
        amqp.publish("", "kept", true, format!("{n}").as_bytes());
    }
    amqp.flush().expect("sent");
    eventually("all of it has arrived", || {
        Amqp::open(gatepost.amqp).depth("kept").is_ok_and(|ready| ready == 100)
    });
    gatepost.signal(signal);
    let (status, _) = gatepost.wait_for_end(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", gatepost.log());

    // AMQP clients are told: connection.close with 320.
    let told = loop {
        match amqp.next() {
            Ok(crate::support::amqp::Incoming::Method(10, 50, args)) => {
                break crate::support::amqp::close_reason(&args).0;
            }
            Ok(_) => {}
            Err(e) => panic!("the connection ended without a close: {e}"),
        }
    };
    assert_eq!(told, 320);

    gatepost.start_again();
    let mut amqp = Amqp::open(gatepost.amqp);
    assert_eq!(amqp.depth("kept").expect("the queue is there"), 100);
    assert!(
        Mqtt::open(gatepost.mqtt, "device", false).present,
        "the session is there"
    );
}

#[test]
fn a_directory_in_use_is_refused_and_its_owner_is_named() {
    let gatepost = Gatepost::start();
    let metrics = daemon::free_port().to_string();
    let second = daemon::run(
        &["--config", path(&gatepost.config())],
        &[
            ("GATEPOST__LISTENERS__AMQP__BIND", "[]"),
            ("GATEPOST__LISTENERS__MQTT__BIND", "[]"),
            ("GATEPOST__LISTENERS__STOMP__BIND", "[]"),
            ("GATEPOST__LISTENERS__WEB_MQTT__BIND", "[]"),
            ("GATEPOST__LISTENERS__WEB_STOMP__BIND", "[]"),
            ("GATEPOST__LISTENERS__MANAGEMENT__BIND", "[]"),
            (
                "GATEPOST__LISTENERS__METRICS__BIND",
                &format!("[\"127.0.0.1:{metrics}\"]"),
            ),
        ],
    );
    let said = errors(&second);
    assert_eq!(second.status.code(), Some(75), "{said}");
    assert!(
        said.contains(&gatepost.pid().to_string()),
        "the process {} in: {said}",
        gatepost.pid()
    );
    assert!(said.contains(path(&gatepost.data())), "the directory in: {said}");
    // The first gateway is not affected.
    Amqp::open(gatepost.amqp).declare_queue("q", true).expect("a queue");
}

#[test]
fn a_lock_file_of_a_killed_process_does_not_prevent_a_start() {
    let mut gatepost = Gatepost::start();
    gatepost.kill();
    gatepost.start_again();
    Amqp::open(gatepost.amqp).declare_queue("q", true).expect("a queue");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_with_its_path() {
    let gatepost = Gatepost::prepare(1, "");
    let file = gatepost.dir.join("a file");
    fs::write(&file, "not a directory").expect("a file");
    let inside = file.join("data");
    let refused = daemon::run(&["--config", path(&gatepost.config()), "--data", path(&inside)], &[]);
    let said = errors(&refused);
    assert_eq!(refused.status.code(), Some(73), "{said}");
    assert!(said.contains(path(&inside)), "the path in: {said}");
}

#[test]
fn a_port_in_use_is_refused_with_its_address() {
    let gatepost = Gatepost::prepare(1, "");
    let taken = std::net::TcpListener::bind(("127.0.0.1", gatepost.mqtt)).expect("the port");
    let refused = daemon::run(&["--config", path(&gatepost.config())], &[]);
    drop(taken);
    let said = errors(&refused);
    assert_eq!(refused.status.code(), Some(69), "{said}");
    assert!(
        said.contains(&format!("127.0.0.1:{}", gatepost.mqtt)),
        "the address in: {said}"
    );
}

#[test]
fn the_configuration_is_checked_without_starting() {
    let gatepost = Gatepost::prepare(1, "");
    let good = daemon::run(&["--check-config", "--config", path(&gatepost.config())], &[]);
    assert_eq!(good.status.code(), Some(0), "{}", errors(&good));
    assert!(!gatepost.data().exists(), "a check makes no directory");
}

#[test]
fn all_errors_in_the_configuration_are_reported_with_file_and_line() {
    let gatepost = Gatepost::prepare(1, "[limits]\nmax_conections = 5\n[store]\ndurability = \"sometimes\"\n");
    let refused = daemon::run(&["--check-config", "--config", path(&gatepost.config())], &[]);
    let said = errors(&refused);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    let text = fs::read_to_string(gatepost.config()).expect("the file");
    let line = |word: &str| 1 + text.lines().position(|line| line.starts_with(word)).expect("a line");
    let unknown = format!(
        "gatepost.toml:{}:1: limits.max_conections: unknown key, did you mean max_connections?",
        line("max_conections")
    );
    assert!(said.contains(&unknown), "{unknown} in: {said}");
    assert!(
        said.contains(&format!("gatepost.toml:{}:", line("durability"))),
        "the second problem in: {said}"
    );
    // The daemon itself refuses it in the same way.
    let refused = daemon::run(&["--config", path(&gatepost.config())], &[]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(errors(&refused).contains(&unknown));
}

#[test]
fn the_configuration_in_effect_is_printed_with_the_environment_over_the_file() {
    let gatepost = Gatepost::prepare(1, "[limits]\nmax_connections = 5\n");
    let config = gatepost.config();
    let arguments = ["--print-config", "--config", path(&config)];
    let printed = |environment: &[(&str, &str)]| {
        let output = daemon::run(&arguments, environment);
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(printed(&[]).contains("max_connections = 5"));
    let text = printed(&[("GATEPOST__LIMITS__MAX_CONNECTIONS", "500")]);
    assert!(text.contains("max_connections = 500"), "{text}");
    // Its output can be read again.
    fs::write(gatepost.config(), text).expect("the file");
    assert!(printed(&[]).contains("max_connections = 500"));

    let output = daemon::run(&arguments, &[("GATEPOST__LIMITS__NOSUCH", "1")]);
    assert_eq!(output.status.code(), Some(78), "{}", errors(&output));
    assert!(
        errors(&output).contains("GATEPOST__LIMITS__NOSUCH"),
        "{}",
        errors(&output)
    );
}

#[test]
fn an_environment_variable_moves_a_port() {
    let mut gatepost = Gatepost::prepare(1, "");
    let elsewhere = daemon::free_port();
    gatepost.start_with_environment(&[(
        "GATEPOST__LISTENERS__AMQP__BIND",
        &format!("[\"127.0.0.1:{elsewhere}\"]"),
    )]);
    Amqp::open(elsewhere).declare_queue("q", true).expect("a queue");
    assert!(Amqp::try_open(gatepost.amqp).is_err(), "the old port is not bound");
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("a path in Unicode")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
