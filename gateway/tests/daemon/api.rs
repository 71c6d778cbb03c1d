//! The management API with the requests that RabbitMQ's tools send.

use crate::support::daemon::{free_port, http};
use crate::support::raw::eventually;
use crate::support::tls::{Authority, connect};
use crate::support::{Gatepost, python};
use rustls::version::TLS13;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn the_management_api_authenticates_its_callers() {
    let settings = "[management]\ncors_origins = [\"https://panel.example\"]\n[metrics]\nauth = true\n";
    python(&mut Gatepost::with(1, settings), "api_door.py");
}

#[test]
fn changes_by_the_management_api_take_effect() {
    python(&mut Gatepost::with(1, ""), "api_changes.py");
}

#[test]
fn objects_are_shown_as_by_rabbitmq() {
    python(&mut Gatepost::with(2, ""), "api_reading.py");
}

#[test]
fn sessions_and_retained_messages_are_shown_and_changed() {
    python(&mut Gatepost::with(2, ""), "api_mqtt.py");
}

#[test]
fn retained_messages_are_read_from_the_log() {
    python(&mut Gatepost::with(1, ""), "api_retained_restart.py");
}

/// Behind a prefix the console's files are relative to the slash after it, and the browser's cookie is for that path
/// alone.
#[test]
fn the_console_works_behind_a_prefix() {
    let gatepost = Gatepost::with(1, "[management]\npath_prefix = \"/tools/gate\"\n");
    let answer = ask(&gatepost, "/tools/gate");
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    assert!(answer.to_lowercase().contains("location: gate/\r\n"), "{answer}");
    assert!(ask_by("HEAD", &gatepost, "/tools/gate/").contains("content-type: text/html"));
    assert!(ask(&gatepost, "/tools/gate/api/whoami").starts_with("HTTP/1.1 200"));
    for elsewhere in ["/", "/api/whoami", "/tools/gateway"] {
        assert!(ask(&gatepost, elsewhere).starts_with("HTTP/1.1 404"), "{elsewhere}");
    }
}

/// Unchanged tools for RabbitMQ, and the requests of tools that cannot run here.
#[test]
fn v2_v1_keda_flower_terraform_smoke() {
    python(&mut Gatepost::with(2, ""), "api_tools.py");
}

/// Datadog, Zabbix, Netdata, Telegraf and the exporter for Prometheus that people had before RabbitMQ had its own.
#[test]
fn monitoring_tools_find_what_they_read() {
    python(&mut Gatepost::with(1, ""), "api_monitors.py");
}

/// The answer to a request of `guest`, head and body.
fn ask(gatepost: &Gatepost, path: &str) -> String {
    ask_by("GET", gatepost, path)
}

fn ask_by(method: &str, gatepost: &Gatepost, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gatepost.management)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {GUEST}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Guessing passwords at the console's login is banned as elsewhere.
#[test]
fn passwords_tried_at_the_consoles_login_count_for_a_ban() {
    let settings = "[protection]\nexempt = []\nlogin_failures_free = 100\nlogin_failures_max = 3\nlogin_ban = \"1h\"\n";
    let gatepost = Gatepost::with(1, settings);
    let attempt = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gatepost.management)).expect("connected");
        // Z3Vlc3Q6d3Jvbmc=: guest:wrong.
        let head = "POST /api/session HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Z3Vlc3Q6d3Jvbmc=\r\n\
                    Content-Length: 0\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        // A banned client is disconnected before it can send a request.
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.read_to_string(&mut answer));
        answer
    };
    for _ in 0..3 {
        assert!(attempt().starts_with("HTTP/1.1 401"));
    }
    assert_eq!(attempt(), "");
    assert!(gatepost.log().contains("address banned: too many failed logins"));
}

/// More connections than there are places, each with half a request, are closed for new requests.
#[test]
fn half_a_request_delays_no_other() {
    let gatepost = Gatepost::with(1, "");
    let silent = |_| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gatepost.management)).expect("connected");
        stream
            .write_all(b"GET /api/overview HTTP/1.1\r\nHost: x\r\n")
            .expect("sent");
        stream
    };
    let crowd: Vec<TcpStream> = (0..200).map(silent).collect();
    assert!(ask(&gatepost, "/api/whoami").starts_with("HTTP/1.1 200"));
    drop(crowd);
}

const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

#[test]
fn health_alarm_503_body() {
    let gatepost = Gatepost::with(1, "[disk]\nfree_limit = \"100000000GiB\"\n");
    eventually("the alarm", || {
        ask(&gatepost, "/api/health/checks/alarms").starts_with("HTTP/1.1 503")
    });
    for check in ["alarms", "local-alarms"] {
        let answer = ask(&gatepost, &format!("/api/health/checks/{check}"));
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["status"], "failed", "{answer}");
        assert!(body["reason"].is_string(), "{answer}");
        let alarms = body["alarms"].as_array().expect("alarms");
        assert_eq!((alarms.len(), &alarms[0]["resource"]), (1, &"disk".into()), "{answer}");
        let node = alarms[0]["node"].as_str().expect("a node");
        assert!(node.starts_with("gatepost@"), "{answer}");
    }
    assert!(ask(&gatepost, "/api/nodes").contains("\"disk_free_alarm\":true"));
    eventually("publishers that wait", || {
        let page = http(gatepost.metrics, "/metrics").expect("metrics");
        page.contains("gatepost_publish_blocked{reason=\"disk\"} 1\n")
            && page.contains("gatepost_publish_blocked{reason=\"memory\"} 0\n")
            && page.contains("rabbitmq_alarms_memory_used_watermark 0\n")
    });
    assert!(ask(&gatepost, "/api/healthchecks/node").starts_with("HTTP/1.1 503"));
    assert!(ask(&gatepost, "/api/health/checks/virtual-hosts").starts_with("HTTP/1.1 200"));
}

#[test]
fn over_tls_and_below_a_prefix_the_api_is_the_same_and_knows_when_its_certificate_expires() {
    let authority = Authority::new();
    authority.sign_for("brief", &["localhost"], 2, Some(Duration::from_secs(3 * 86_400)));
    let (port, cert, key) = (free_port(), authority.path("brief.pem"), authority.path("brief.key"));
    let settings = format!(
        "[management]\npath_prefix = \"/gp\"\n\
         [listeners.secure]\nprotocol = \"management\"\ntls_bind = [\"127.0.0.1:{port}\"]\n\
         [listeners.secure.tls]\ncert = {cert:?}\nkey = {key:?}\n"
    );
    let gatepost = Gatepost::with(1, &settings);
    let client = Arc::new(authority.client(None, &[&TLS13]));
    let get = |path: &str| {
        let mut stream = connect(&client, "localhost", port);
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {GUEST}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    assert!(get("/gp/api/whoami").contains("\"name\":\"guest\""));
    assert!(get("/api/whoami").starts_with("HTTP/1.1 404"));
    assert!(get("/gp/api/overview").contains("\"protocol\":\"https\""));
    let expiry = |within: &str| get(&format!("/gp/api/health/checks/certificate-expiration/{within}"));
    assert!(expiry("2/days").starts_with("HTTP/1.1 200"), "{}", expiry("2/days"));
    for within in ["4/days", "1/weeks", "1/years"] {
        let answer = expiry(within);
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("brief.pem"),
            "{answer}"
        );
        // The file's certificate at the start or the last reload is in use; here it is the same.
        let until = answer.split_once("\"expires_at\":").expect("a time").1;
        let until = until.split(|c: char| !c.is_ascii_digit()).next().expect("a number");
        let until: f64 = until.parse().expect("seconds");
        let line = format!("gatepost_certificate_not_after_seconds{{listener=\"secure\"}} {until}\n");
        let page = http(gatepost.metrics, "/metrics").expect("metrics");
        assert!(page.contains(&line), "{line} in:\n{page}");
        let known = get("/gp/api/gatepost/certificates");
        let wanted = format!("[{{\"listener\":\"secure\",\"not_after\":{until}}}]");
        assert!(known.contains(&wanted), "{wanted} in {known}");
    }
    drop(gatepost);
}

/// The bug: httplib2 and others send a request without credentials first, and repeat it with them on the same
/// connection. The first body was left unread, so the connection was closed under the second request.
#[test]
fn a_connection_outlives_a_refused_request_with_a_body() {
    let gatepost = Gatepost::with(1, "");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gatepost.management)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let head = "PUT /api/vhosts/late HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n";
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("sent");
    // When this is answered, the gateway has seen the head above.
    assert!(ask(&gatepost, "/api/whoami").starts_with("HTTP/1.1 200"));
    stream.write_all(b"{}").expect("sent");
    let again = format!("{head}Authorization: {GUEST}\r\nConnection: close\r\n\r\n{{}}");
    stream.write_all(again.as_bytes()).expect("sent");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("both answers");
    assert!(
        answers.starts_with("HTTP/1.1 401") && answers.contains("HTTP/1.1 201"),
        "{answers}"
    );
}
