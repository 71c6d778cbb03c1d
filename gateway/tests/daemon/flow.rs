//! The flow map under traffic of all protocols: which edges appear and disappear, and who may see it.

use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, tcp};
use crate::support::stomp::Stomp;
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `guest:guest`.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";

/// Status and body.
fn ask(gatepost: &Gatepost, method: &str, path: &str, who: &str, body: &str) -> (u16, String) {
    let mut stream = tcp(gatepost.management);
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {who}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

fn flow(gatepost: &Gatepost) -> Value {
    let (status, body) = ask(gatepost, "GET", "/api/gatepost/flow?vhost=%2F", GUEST, "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The edges between nodes of these kinds and names. An absent name matches any.
fn edges(flow: &Value, (from_kind, from): (&str, &str), (to_kind, to): (&str, &str)) -> Vec<Value> {
    let nodes = flow["nodes"].as_array().expect("nodes");
    let is = |id: &Value, kind: &str, name: &str| {
        let node = nodes.iter().find(|node| node["id"] == *id).expect("an edge's node");
        node["kind"] == *kind && (name.is_empty() || node["name"] == *name)
    };
    let edges = flow["edges"].as_array().expect("edges");
    let found = edges
        .iter()
        .filter(|edge| is(&edge["from"], from_kind, from) && is(&edge["to"], to_kind, to));
    found.cloned().collect()
}

/// Publishes a message a second, until told to stop.
fn publish_slowly(mut sensor: Mqtt, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sensor.publish("plant/1", 0, b"21.5");
        sensor.flush().expect("sent");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// `sensor` (MQTT) publishes a message a second. An AMQP queue and a STOMP subscription get it.
#[test]
fn an_edge_of_one_message_a_second_appears_on_the_flow_map_and_an_idle_one_is_removed() {
    let gatepost = Gatepost::with(2, "[management]\nflow_interval = \"1s\"\n");
    let mut store = Amqp::open(gatepost.amqp);
    store.declare_queue("readings", true).expect("declared");
    store.bind("readings", "amq.topic", "plant.#").expect("bound");
    store.consume("readings", 0, true).expect("consuming");
    let mut panel = Stomp::try_open(gatepost.stomp).expect("STOMP");
    panel.frame(
        "SUBSCRIBE",
        &[("id", "1"), ("destination", "/topic/plant.*"), ("receipt", "r")],
        b"",
    );
    assert_eq!(panel.next().expect("a frame").command, "RECEIPT");
    let sensor = Mqtt::open(gatepost.mqtt, "sensor", true);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| publish_slowly(sensor, &stop));
        let topic = ("topic", "plant/1");
        let wanted = [
            (("client", "sensor"), topic),
            (topic, ("queue", "readings")),
            (topic, ("queue", "")),
            (("queue", "readings"), ("client", "")),
            (("queue", ""), ("client", "")),
        ];
        let mut last = Value::Null;
        eventually("the edges", || {
            last = flow(&gatepost);
            let flowing = |edge: &Value| edge["rate"].as_f64() > Some(0.0);
            let timed = |edge: &Value| flowing(edge) && edge["latency_ms"]["p99"].is_number();
            let there = |(from, to): &(_, _)| edges(&last, *from, *to).iter().any(flowing);
            let receiving = edges(&last, ("queue", ""), ("client", ""));
            wanted.iter().all(there) && receiving.len() == 2 && receiving.iter().all(timed)
        });
        assert_eq!(edges(&last, topic, ("queue", "")).len(), 2, "two queues: {last}");
        let sent = &edges(&last, ("client", "sensor"), topic)[0];
        assert!(
            sent["bytes_rate"].as_f64() > Some(0.0) && sent["total"].as_u64() > Some(0),
            "{sent}"
        );
        let nodes = last["nodes"].as_array().expect("nodes");
        let client = nodes.iter().find(|node| node["name"] == "sensor").expect("the client");
        assert_eq!(
            (&client["protocol"], &client["vhost"]),
            (&"MQTT 3.1.1".into(), &"/".into()),
            "{client}"
        );
        let queue = nodes.iter().find(|node| node["name"] == "readings").expect("the queue");
        assert_eq!(queue["messages"], 0, "{queue}");

        let (status, graph) = ask(&gatepost, "GET", "/api/gatepost/flow.dot", GUEST, "");
        assert_eq!(status, 200);
        assert!(
            graph.starts_with("digraph flow {") && graph.contains("label=\"plant/1\""),
            "{graph}"
        );
        let metrics = http(gatepost.metrics, "/metrics").expect("metrics");
        let labels = "vhost=\"/\",from_kind=\"topic\",from=\"plant/1\",to_kind=\"queue\",to=\"readings\"";
        let line = format!("gatepost_flow_edge_messages_per_second{{{labels}}} ");
        assert!(metrics.contains(&line), "{line} in {metrics}");
        stop.store(true, Ordering::Relaxed);
    });
    // Without publishes the edges are removed, and their nodes with them.
    eventually("an empty map", || {
        let flow = flow(&gatepost);
        flow["edges"].as_array().expect("edges").is_empty() && flow["nodes"].as_array().expect("nodes").is_empty()
    });
    let metrics = http(gatepost.metrics, "/metrics").expect("metrics");
    assert!(
        !metrics.contains("gatepost_flow_edge_messages_per_second{"),
        "{metrics}"
    );
}

/// `work` expires what it has to the exchange `failed`, which passes it on to `audit`, which keeps it in `dead`.
#[test]
fn dead_letters_and_exchanges_between_are_on_the_map() {
    let gatepost = Gatepost::with(1, "[management]\nflow_interval = \"1s\"\n");
    let declare = |path: &str, body: &str| {
        let method = if path.starts_with("bindings") { "POST" } else { "PUT" };
        let (status, answer) = ask(&gatepost, method, &format!("/api/{path}"), GUEST, body);
        assert_eq!(status, 201, "{path}: {answer}");
    };
    declare("exchanges/%2F/failed", r#"{"type": "fanout"}"#);
    declare("exchanges/%2F/audit", r#"{"type": "fanout"}"#);
    let expiring = r#"{"arguments": {"x-message-ttl": 1, "x-dead-letter-exchange": "failed"}}"#;
    declare("queues/%2F/work", expiring);
    declare("queues/%2F/dead", r#"{"arguments": {"x-max-length": 10}}"#);
    declare("bindings/%2F/e/failed/e/audit", "{}");
    declare("bindings/%2F/e/audit/q/dead", "{}");
    let wanted = [
        (("exchange", ""), ("queue", "work")),
        (("queue", "work"), ("exchange", "failed")),
        (("exchange", "failed"), ("exchange", "audit")),
        (("exchange", "audit"), ("queue", "dead")),
    ];
    let job = r#"{"properties": {}, "routing_key": "work", "payload": "x", "payload_encoding": "string"}"#;
    let publish = "/api/exchanges/%2F/amq.default/publish";
    // What Prometheus sees is asked for while the edges are there.
    let labels = "from_kind=\"queue\",from=\"work\",to_kind=\"exchange\",to=\"failed\"";
    let line = format!("gatepost_flow_edge_messages_per_second{{vhost=\"/\",{labels}}} ");
    eventually("the edges", || {
        assert_eq!(ask(&gatepost, "POST", publish, GUEST, job).0, 200);
        let flow = flow(&gatepost);
        let (_, graph) = ask(&gatepost, "GET", "/api/gatepost/flow.dot", GUEST, "");
        let metrics = http(gatepost.metrics, "/metrics").expect("metrics");
        let there = |(from, to): &(_, _)| !edges(&flow, *from, *to).is_empty();
        let isolated = edges(&flow, ("exchange", "failed"), ("queue", "dead"));
        assert!(isolated.is_empty(), "not by way of the other exchange: {flow}");
        wanted.iter().all(there) && graph.contains("style=dashed") && metrics.contains(&line)
    });
}

#[test]
fn the_flow_map_is_for_monitors_and_can_be_turned_off() {
    let gatepost = Gatepost::with(1, "[management]\nflow_interval = \"1s\"\n");
    let user = r#"{"password":"watches","tags":"management"}"#;
    assert_eq!(ask(&gatepost, "PUT", "/api/users/mia", GUEST, user).0, 201);
    // `mia:watches`.
    let mia = "bWlhOndhdGNoZXM=";
    for path in ["/api/gatepost/flow", "/api/gatepost/flow.dot"] {
        assert_eq!(ask(&gatepost, "GET", path, mia, "").0, 401, "{path}");
        assert_eq!(ask(&gatepost, "GET", path, GUEST, "").0, 200, "{path}");
        assert_eq!(
            ask(&gatepost, "GET", &format!("{path}?vhost=no"), GUEST, "").0,
            404,
            "{path}"
        );
    }
    let mut sensor = Mqtt::open(gatepost.mqtt, "lonely", true);
    let lonely = |flow: &Value| !edges(flow, ("client", "lonely"), ("topic", "nowhere")).is_empty();
    eventually("the edge", || {
        sensor.publish("nowhere", 0, b"x");
        sensor.flush().expect("sent");
        lonely(&flow(&gatepost))
    });
    let toml = fs::read_to_string(gatepost.config()).expect("the configuration");
    let off = toml.replace("flow_interval = \"1s\"", "flow_interval = \"1s\"\nflow = false");
    fs::write(gatepost.config(), off).expect("written");
    gatepost.signal("HUP");
    eventually("no map", || {
        ask(&gatepost, "GET", "/api/gatepost/flow", GUEST, "").0 == 404
    });
    fs::write(gatepost.config(), toml).expect("written");
    gatepost.signal("HUP");
    eventually("the edge again", || {
        sensor.publish("nowhere", 0, b"x");
        sensor.flush().expect("sent");
        ask(&gatepost, "GET", "/api/gatepost/flow", GUEST, "").0 == 200 && lonely(&flow(&gatepost))
    });
}
