//! MQTT 3.1, 3.1.1 and 5 under paho-mqtt, mqtt.js and Mosquitto's bridge, and on bare sockets.

use crate::support::{Gatepost, node, python};

#[test]
fn messages_arrive_in_order_at_their_qos_and_retained_ones_replay() {
    python(&mut Gatepost::start(), "mqtt_delivery.py");
}

#[test]
fn sessions_are_kept_taken_over_and_expire_and_wills_are_published() {
    python(&mut Gatepost::start(), "mqtt_sessions.py");
}

#[test]
fn features_of_version_5_work() {
    python(&mut Gatepost::start(), "mqtt_five.py");
}

#[test]
fn what_the_operator_switches_off_is_announced_and_refused() {
    let settings = "[mqtt]\nretain_available = false\nmaximum_qos = 1\n";
    python(&mut Gatepost::with(1, settings), "mqtt_limited.py");
}

#[test]
fn the_wire_format_is_exact_and_faults_get_their_code() {
    python(&mut Gatepost::start(), "mqtt_wire.py");
}

#[test]
fn mosquitto_bridges_both_ways_over_restarts_of_both() {
    python(&mut Gatepost::start(), "mqtt_bridge.py");
}

#[test]
fn mqtt_js_works() {
    node(&mut Gatepost::start(), "mqtt.mjs");
}
