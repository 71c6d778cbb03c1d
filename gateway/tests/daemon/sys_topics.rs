//! `$SYS` as an MQTT client sees it.

use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use std::collections::BTreeMap;
use std::fs;

type Told = BTreeMap<String, String>;

/// Reads topics until this one has come, and returns its value.
fn read_until(mqtt: &mut Mqtt, told: &mut Told, figure: &str) -> String {
    loop {
        let packet = mqtt.next().expect("a packet");
        let publish = packet.into_publish().expect("a PUBLISH");
        let payload = String::from_utf8(publish.payload).expect("text");
        let name = publish.topic.strip_prefix("$SYS/broker/").expect("a figure").to_owned();
        told.insert(name.clone(), payload.clone());
        if name == figure {
            return payload;
        }
    }
}

#[test]
fn values_are_retained_and_follow_the_traffic() {
    let gatepost = Gatepost::with(1, "[mqtt]\nsys_interval = \"1s\"\n");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("all", true).expect("declared");
    amqp.bind("all", "amq.topic", "#").expect("bound");
    let mut watcher = Mqtt::open(gatepost.mqtt, "watcher", true);
    watcher.subscribe("$SYS/#", 0).expect("subscribed");
    let mut told = Told::new();
    let uptime = read_until(&mut watcher, &mut told, "uptime");
    assert!(uptime.ends_with(" seconds"), "{uptime}");
    let mut publisher = Mqtt::open(gatepost.mqtt, "publisher", true);
    for id in 1..=5 {
        publisher.publish("plant/1", id, b"21.5");
    }
    for id in 1..=5 {
        assert_eq!(publisher.expect(0x40).expect("confirmed"), [0, id]);
    }
    // Each round publishes what has changed, this topic among it.
    while read_until(&mut watcher, &mut told, "publish/messages/received") != "5" {}
    let mut late = Mqtt::open(gatepost.mqtt, "late", true);
    late.subscribe("$SYS/broker/#", 0).expect("subscribed");
    let mut retained = Told::new();
    read_until(&mut late, &mut retained, "version");
    for figure in [
        "clients/connected",
        "subscriptions/count",
        "load/bytes/received/1min",
        "store/disk_free",
        "uptime",
    ] {
        assert!(retained.contains_key(figure), "{figure}: {retained:?}");
    }
    // None of them came to the queue that is bound with `#`: it holds only the five readings.
    assert_eq!(amqp.depth("all").expect("declared"), 5);
    // The same numbers by protocol, for Prometheus.
    let metrics = http(gatepost.metrics, "/metrics").expect("metrics");
    for line in [
        "gatepost_messages_in_total{protocol=\"mqtt311\"} 5",
        "gatepost_messages_in_bytes_total{protocol=\"mqtt311\"} 20",
        "gatepost_publishes_confirmed_total{protocol=\"mqtt311\"} 5",
        "gatepost_connections_attached{protocol=\"mqtt311\"} 3",
        "gatepost_connections_attached{protocol=\"amqp091\"} 1",
        "gatepost_messages_in_total{protocol=\"stomp\"} 0",
        "rabbitmq_global_messages_received_total{protocol=\"mqtt311\"} 5",
        "rabbitmq_global_messages_routed_total{protocol=\"mqtt311\"} 5",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}");
    }
    // Turned off: the retained values would be out of date, so they are cleared.
    let toml = fs::read_to_string(gatepost.config()).expect("the configuration");
    fs::write(gatepost.config(), toml.replace("\"1s\"", "\"0s\"")).expect("written");
    gatepost.signal("HUP");
    while !read_until(&mut watcher, &mut told, "uptime").is_empty() {}
    let mut after = Mqtt::open(gatepost.mqtt, "after", true);
    after.subscribe("$SYS/broker/uptime", 0).expect("subscribed");
    after.ping().expect("nothing before its answer");
}
