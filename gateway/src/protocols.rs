//! The list of protocols. A new one is one folder in `protocols/`, and one line here.

use crate::config::{Config, Listener};
use gatepost_amqp::Amqp;
use gatepost_core::session::Protocol;
use gatepost_mqtt::Mqtt;
use gatepost_stomp::Stomp;

/// All protocols, set up as configured. Their order numbers them for the life of the process.
pub(crate) fn all(config: &Config) -> Vec<Box<dyn Protocol>> {
    vec![
        Box::new(Amqp::new(amqp(config))),
        Box::new(Mqtt::new(mqtt(config))),
        Box::new(Stomp::new(stomp(config))),
    ]
}

fn amqp(config: &Config) -> gatepost_amqp::Settings {
    let (node, limits) = (&config.node, &config.limits);
    gatepost_amqp::Settings {
        channel_max: limits.channel_max,
        frame_max: u32::try_from(limits.frame_max.0).unwrap_or(u32::MAX),
        heartbeat: limits.heartbeat.0,
        handshake_timeout: limits.handshake_timeout.0,
        max_message_size: limits.max_message_size.bytes(),
        version: env!("CARGO_PKG_VERSION").into(),
        cluster_name: node.cluster_name.as_str().into(),
        node: node.name.as_str().into(),
        ..gatepost_amqp::Settings::default()
    }
}

fn mqtt(config: &Config) -> gatepost_mqtt::Settings {
    let (mqtt, limits) = (&config.mqtt, &config.limits);
    gatepost_mqtt::Settings {
        exchange: mqtt.exchange.as_str().into(),
        default_vhost: mqtt.default_vhost.as_str().into(),
        connect_timeout: limits.handshake_timeout.0,
        connect_bytes_max: mqtt.connect_size_max.bytes(),
        max_message_size: limits.max_message_size.bytes(),
        receive_maximum: mqtt.receive_maximum,
        max_inflight: mqtt.max_inflight,
        session_expiry_max: Some(u32::try_from(mqtt.session_expiry_max.0.as_secs()).unwrap_or(u32::MAX)),
        ..gatepost_mqtt::Settings::default()
    }
}

fn stomp(config: &Config) -> gatepost_stomp::Settings {
    let limits = &config.limits;
    let defaults = gatepost_stomp::Settings::default();
    gatepost_stomp::Settings {
        default_vhost: config.stomp.default_vhost.as_str().into(),
        topic_exchange: config.mqtt.exchange.as_str().into(),
        login_timeout: limits.handshake_timeout.0,
        heart_beat_max: limits.heartbeat.0.max(defaults.heart_beat_min),
        max_message_size: limits.max_message_size.bytes(),
        ..defaults
    }
}

/// Where a protocol listens.
pub(crate) fn listener<'c>(config: &'c Config, protocol: &str) -> Option<&'c Listener> {
    let listeners = &config.listeners;
    [
        ("amqp", &listeners.amqp),
        ("mqtt", &listeners.mqtt),
        ("stomp", &listeners.stomp),
    ]
    .into_iter()
    .find_map(|(name, listener)| (name == protocol).then_some(listener))
}
