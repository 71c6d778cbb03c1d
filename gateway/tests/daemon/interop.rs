//! Messages between the three protocols.

use crate::support::amqp::{Amqp, Args};
use crate::support::daemon::http;
use crate::support::mqtt::Mqtt;
use crate::support::stomp::Stomp;
use crate::support::{Gatepost, python};

#[test]
fn devices_backends_and_pages_meet_on_one_io_thread() {
    python(&mut Gatepost::with(1, ""), "interop_main.py");
}

#[test]
fn devices_backends_and_pages_meet_across_three_io_threads() {
    python(&mut Gatepost::with(3, ""), "interop_main.py");
}

#[test]
fn names_properties_and_durability_survive_between_protocols() {
    python(&mut Gatepost::start(), "interop.py");
}

/// Properties that the receiver's protocol cannot express are left out, and counted for the operator.
#[test]
fn properties_lost_between_protocols_are_counted() {
    let gatepost = Gatepost::start();
    let mut device = Mqtt::open(gatepost.mqtt, "device", true);
    device.subscribe("alarm", 1).expect("a subscription");
    let mut page = Stomp::try_open(gatepost.stomp).expect("a page");
    page.frame(
        "SUBSCRIBE",
        &[("id", "1"), ("destination", "/topic/alarm"), ("receipt", "r")],
        b"",
    );
    assert_eq!(page.next().expect("an answer").command, "RECEIPT");
    let mut backend = Amqp::open(gatepost.amqp);
    // One header, `zones`: an empty table.
    let header = b"\0\x3C\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0\x0B\x05zonesF\0\0\0\0";
    let publish = Args::new().short(0).text("amq.topic").text("alarm").octet(0);
    backend.method(1, (60, 40), publish);
    backend.frame(2, 1, header);
    backend.flush().expect("a publish");
    device.next().expect("the alarm");
    page.next().expect("the alarm");
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    for labels in [
        r#"field="properties",from="amqp",to="mqtt""#,
        r#"field="header",from="amqp",to="stomp""#,
    ] {
        let line = format!("gatepost_interop_dropped_total{{{labels}}} 1");
        assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
    }
}
