//! Follows single messages through the real binary, with all protocols.

use crate::control::{control, try_control};
use crate::support::Gatepost;
use crate::support::amqp::{Amqp, Args, Incoming};
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, tcp};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};

/// `guest:guest`.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";

/// Status and body.
fn ask(gatepost: &Gatepost, method: &str, path: &str, who: &str, body: &str) -> (u16, Value) {
    let mut stream = tcp(gatepost.management);
    let length = body.len();
    let head = format!(
        "{method} /api/gatepost/trace{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {who}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    (
        status.expect("a status"),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

fn start(gatepost: &Gatepost, body: &Value) -> String {
    let (status, trace) = ask(gatepost, "POST", "", GUEST, &body.to_string());
    assert_eq!(status, 201, "{trace}");
    trace["id"].as_str().expect("an id").to_owned()
}

fn show(gatepost: &Gatepost, id: &str) -> Value {
    let (status, trace) = ask(gatepost, "GET", &format!("/{id}"), GUEST, "");
    assert_eq!(status, 200, "{trace}");
    trace
}

/// The kinds of a message's hops, with their queues.
fn hops(message: &Value) -> Vec<String> {
    let hops = message["hops"].as_array().expect("hops");
    let text = |hop: &Value| match hop["queue"].as_str() {
        Some(queue) => format!("{} {queue}", hop["hop"].as_str().unwrap_or_default()),
        None => hop["hop"].as_str().unwrap_or_default().to_owned(),
    };
    hops.iter().map(text).collect()
}

/// A durable queue whose dead letters go to the queue `dead`.
fn declare_dying(amqp: &mut Amqp, name: &str) {
    let mut table = Vec::new();
    for (key, value) in [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "dead")] {
        table.push(u8::try_from(key.len()).expect("a short key"));
        table.extend(key.as_bytes());
        table.push(b'S');
        table.extend(u32::try_from(value.len()).expect("a short value").to_be_bytes());
        table.extend(value.as_bytes());
    }
    let args = Args::new().short(0).text(name).octet(2).bytes(&table);
    amqp.call(1, (50, 10), args, (50, 11)).expect("declared");
}

/// basic.reject without requeue.
fn reject(amqp: &mut Amqp, tag: u64) {
    amqp.method(1, (60, 90), Args::new().longlong(tag).octet(0));
    amqp.flush().expect("sent");
}

fn deliver(amqp: &mut Amqp) -> u64 {
    match amqp.next().expect("a delivery") {
        Incoming::Deliver(delivery) => delivery.tag,
        other => panic!("{other:?}"),
    }
}

/// An MQTT client publishes with QoS 1; an AMQP client acknowledges the first message and rejects the second.
#[test]
fn an_mqtt_publish_is_followed_to_its_amqp_consumer_and_a_rejected_one_to_the_dead_letters() {
    let gatepost = Gatepost::with(2, "");
    let mut store = Amqp::open(gatepost.amqp);
    store.declare_queue("dead", true).expect("declared");
    declare_dying(&mut store, "readings");
    store.bind("readings", "amq.topic", "plant.#").expect("bound");
    store.consume("readings", 10, false).expect("consuming");
    let id = start(&gatepost, &json!({ "topic": "plant/+", "messages": 2 }));
    let mut sensor = Mqtt::open(gatepost.mqtt, "sensor", true);
    for (number, outcome) in [(1, "acknowledges"), (2, "rejects")] {
        sensor.publish("plant/1", number, b"21.5");
        sensor.flush().expect("sent");
        let tag = deliver(&mut store);
        match outcome {
            "rejects" => reject(&mut store, tag),
            _ => {
                store.ack(tag, false);
                store.flush().expect("sent");
            }
        }
        sensor.expect(0x40).expect("PUBACK");
    }
    let has = |message: &Value, hop: &str| hops(message).iter().any(|known| known == hop);
    let mut trace = Value::Null;
    eventually("all hops", || {
        trace = show(&gatepost, &id);
        has(&trace["messages"][0], "acknowledged readings") && has(&trace["messages"][1], "queued dead")
    });
    let (accepted, rejected) = (&trace["messages"][0], &trace["messages"][1]);
    assert_eq!(
        (&accepted["exchange"], &accepted["routing_key"]),
        (&json!("amq.topic"), &json!("plant/1"))
    );
    assert_eq!(
        (&accepted["qos"], &accepted["bytes"], &accepted["durable"]),
        (&json!(1), &json!(4), &json!(true))
    );
    let publisher = &accepted["publisher"];
    assert_eq!(
        (&publisher["name"], &publisher["protocol"]),
        (&json!("sensor"), &json!("MQTT 3.1.1"))
    );
    assert_eq!(hops(accepted)[..3], ["published", "routed", "queued readings"]);
    for hop in ["delivered readings", "acknowledged readings", "confirmed"] {
        assert!(has(accepted, hop), "{hop} in {accepted}");
    }
    let list = accepted["hops"].as_array().expect("hops");
    let delivered = list.iter().find(|hop| hop["hop"] == "delivered").expect("delivered");
    assert_eq!(
        (&delivered["client"]["protocol"], &delivered["client"]["user"]),
        (&json!("AMQP 0-9-1"), &json!("guest"))
    );
    assert_eq!(
        (&delivered["ack_required"], &delivered["redelivered"]),
        (&json!(true), &json!(false))
    );
    let times: Vec<u64> = list.iter().filter_map(|hop| hop["after_ms"].as_u64()).collect();
    assert!(times.len() == list.len() && times.is_sorted(), "{accepted}");
    let rejected_hops = hops(rejected);
    let at = |hop: &str| rejected_hops.iter().position(|known| known == hop).expect("that hop");
    assert!(at("rejected readings") < at("dead_lettered readings"), "{rejected}");
    assert!(at("dead_lettered readings") < at("queued dead"), "{rejected}");
    let dead = rejected["hops"]
        .as_array()
        .expect("hops")
        .iter()
        .find(|hop| hop["hop"] == "dead_lettered");
    assert_eq!(dead.expect("dead-lettered")["routing_key"], "dead");
    assert_eq!((&trace["state"], &trace["caught"]), (&json!("following"), &json!(2)));
    // The message's last place is deleted, so the trace is complete.
    store
        .call(1, (50, 30), Args::new().short(0).text("dead").octet(0), (50, 31))
        .expect("purged");
    eventually("the end", || show(&gatepost, &id)["state"] == "ended");
    let last = show(&gatepost, &id);
    assert!(has(&last["messages"][1], "purged dead"), "{last}");
}

#[test]
fn a_trace_is_for_monitors() {
    let gatepost = Gatepost::with(1, "");
    control(
        &gatepost,
        &["user", "add", "mia", "--password", "watches", "--tag", "management"],
        "",
    );
    control(
        &gatepost,
        &["user", "add", "ben", "--password", "watches", "--tag", "monitoring"],
        "",
    );
    // `mia:watches` and `ben:watches`.
    let (mia, ben) = ("bWlhOndhdGNoZXM=", "YmVuOndhdGNoZXM=");
    let id = start(
        &gatepost,
        &json!({ "topic": "plant/#", "exchange": "amq.topic", "property": "header:a", "value": "1" }),
    );
    for (method, path) in [
        ("GET", String::new()),
        ("POST", String::new()),
        ("GET", format!("/{id}")),
        ("DELETE", format!("/{id}")),
    ] {
        assert_eq!(
            ask(&gatepost, method, &path, mia, "{\"topic\":\"#\"}").0,
            401,
            "{method} {path}"
        );
    }
    let (status, list) = ask(&gatepost, "GET", "?vhost=%2F", ben, "");
    assert_eq!((status, list.as_array().map(Vec::len)), (200, Some(1)), "{list}");
    let trace = &list[0];
    let expected = json!({ "id": id, "vhost": "/", "exchange": "amq.topic", "topic": "plant/#", "routing_key": null,
        "property": "header:a", "value": "1", "state": "catching", "messages_max": 100, "caught": 0, "missed": 0 });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&trace[key], value, "{key}");
    }
    assert_eq!(
        trace["until"].as_u64().expect("a time") - trace["began"].as_u64().expect("a time"),
        600_000
    );
    assert_eq!(ask(&gatepost, "DELETE", &format!("/{id}"), ben, "").0, 204);
    assert_eq!(ask(&gatepost, "DELETE", &format!("/{id}"), ben, "").0, 404);
}

#[test]
fn an_invalid_request_for_a_trace_is_refused_with_the_reason() {
    let gatepost = Gatepost::with(1, "");
    for (body, why) in [
        ("{}", "say what to trace: topic, routing_key, exchange or property"),
        ("{\"topic\":\"a/#/b\"}", "topic: 'a/#/b' is no topic filter"),
        ("{\"topic\":\"\"}", "topic: '' is no topic filter"),
        (
            "{\"topic\":\"a\",\"routing_key\":\"a\"}",
            "topic, routing_key: give one of the two",
        ),
        ("{\"topic\":7}", "topic: expected a string"),
        ("{\"property\":\"message-id\"}", "key_missing: value"),
        ("{\"value\":\"x\"}", "key_missing: property"),
        (
            "{\"property\":\"colour\",\"value\":\"x\"}",
            "property: expected message-id, correlation-id, content-type, reply-to, type, app-id, user-id or header:NAME",
        ),
        ("{\"topic\":\"a\",\"messages\":0}", "messages: expected 1 to 1000"),
        ("{\"topic\":\"a\",\"messages\":1001}", "messages: expected 1 to 1000"),
        ("{\"topic\":\"a\",\"seconds\":86401}", "seconds: expected 1 to 86400"),
        ("[]", "expected a JSON object"),
    ] {
        let (status, answer) = ask(&gatepost, "POST", "", GUEST, body);
        assert_eq!((status, answer["reason"].as_str()), (400, Some(why)), "{body}");
    }
    let long = json!({ "topic": "x".repeat(1025) }).to_string();
    assert_eq!(
        ask(&gatepost, "POST", "", GUEST, &long).1["reason"],
        "topic: longer than 1024 bytes"
    );
    let deep = json!({ "routing_key": "x.".repeat(200) }).to_string();
    assert_eq!(ask(&gatepost, "POST", "", GUEST, &deep).0, 400);
    assert_eq!(
        ask(&gatepost, "POST", "", GUEST, "{\"topic\":\"a\",\"vhost\":\"no\"}").0,
        404
    );
    assert_eq!(ask(&gatepost, "GET", "?vhost=no", GUEST, "").0, 404);
    for unknown in ["/no", "/1-0", "/99-0", "/-", "/1-zz"] {
        assert_eq!(ask(&gatepost, "GET", unknown, GUEST, "").0, 404, "{unknown}");
    }
    let ids: Vec<String> = (0..16)
        .map(|_| start(&gatepost, &json!({ "routing_key": "#" })))
        .collect();
    let (status, answer) = ask(&gatepost, "POST", "", GUEST, "{\"topic\":\"a\"}");
    assert_eq!(status, 400, "{answer}");
    assert_eq!(answer["reason"], "vhost '/' has 16 active traces: delete one");
    assert_eq!(ask(&gatepost, "DELETE", &format!("/{}", ids[3]), GUEST, "").0, 204);
    start(&gatepost, &json!({ "topic": "a" }));
}

/// The same from the command line: messages that an operator publishes are traced too.
#[test]
fn messages_are_traced_from_the_command_line() {
    let gatepost = Gatepost::with(1, "");
    control(&gatepost, &["queue", "declare", "orders"], "");
    let start = [
        "trace",
        "start",
        "--routing-key",
        "orders",
        "--exchange",
        "amq.default",
        "--messages",
        "1",
    ];
    let id = control(&gatepost, &start, "");
    let id = id.trim();
    control(&gatepost, &["publish", "amq.default", "orders", "m"], "");
    let shown = control(&gatepost, &["trace", "show", id], "");
    assert!(
        shown.contains("published") && shown.contains("queued") && shown.contains("management API"),
        "{shown}"
    );
    let listed: Value = serde_json::from_str(&control(&gatepost, &["trace", "list", "--json"], "")).expect("JSON");
    assert_eq!(
        (&listed[0]["id"], &listed[0]["state"]),
        (&json!(id), &json!("following"))
    );
    control(&gatepost, &["get", "orders", "--remove"], "");
    // All messages to be followed have ended, so this ends too.
    let followed = control(&gatepost, &["trace", "show", id, "--follow", "--json"], "");
    let rows: Vec<Value> = followed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (&rows[0]["hop"], &rows[0]["after_ms"]),
        (&json!("published"), &json!(0)),
        "{followed}"
    );
    assert!(
        rows.iter()
            .any(|row| row["hop"] == "acknowledged" && row["queue"] == "orders"),
        "{followed}"
    );
    control(&gatepost, &["trace", "delete", id], "");
    let (code, text) = try_control(&gatepost, &["trace", "show", id], "");
    assert_ne!(code, Some(0), "{text}");
    let (code, text) = try_control(&gatepost, &["trace", "start"], "");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("say what to trace"), "{text}");
}
