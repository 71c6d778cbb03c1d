//! Recognises configuration files of other brokers. Without this, a `mosquitto.conf` given by mistake would cause an error for
//! every line.

use super::rabbitmq;

/// The broker that a configuration file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// `mosquitto.conf`.
    Mosquitto,
    /// `rabbitmq.conf`.
    RabbitMq,
    /// RabbitMQ's older format, Erlang terms.
    RabbitMqErlang,
}

impl Foreign {
    /// The broker that `text` belongs to, if it is clearly another broker's configuration.
    pub(crate) fn recognise(text: &str) -> Option<Foreign> {
        let lines = || {
            text.lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with(['#', '%']))
        };
        if text.trim_start().starts_with('[') && lines().any(|line| line.contains("{rabbit")) {
            return Some(Foreign::RabbitMqErlang);
        }
        // Only our files have sections.
        if lines().any(|line| line.starts_with('[')) {
            return None;
        }
        let rabbitmq = lines().filter(|line| rabbitmq::is_line(line)).count();
        let mosquitto = lines().filter(|line| is_mosquitto(line)).count();
        let all = lines().count();
        // One of our files may have a key of the same name, so more than half of the lines must match.
        if mosquitto * 2 > all {
            Some(Foreign::Mosquitto)
        } else if rabbitmq * 2 > all {
            Some(Foreign::RabbitMq)
        } else {
            None
        }
    }

    /// Tells the operator what to do with the file.
    pub(crate) fn advice(self, path: &str) -> String {
        match self {
            Foreign::Mosquitto => {
                format!("this is a configuration of Mosquitto; `gatepost import {path} > gatepost.toml` translates it")
            }
            Foreign::RabbitMq => {
                format!("this is a configuration of RabbitMQ; `gatepost import {path} > gatepost.toml` translates it")
            }
            Foreign::RabbitMqErlang => {
                "this is a configuration of RabbitMQ in Erlang terms; write it as rabbitmq.conf \
                 first, then `gatepost import rabbitmq.conf > gatepost.toml` translates it"
                    .to_owned()
            }
        }
    }
}

/// Words that begin a line of `mosquitto.conf`, but no line of our files or of `rabbitmq.conf`.
const WORDS: &[&str] = &[
    "acl_file",
    "address",
    "addresses",
    "allow_anonymous",
    "allow_zero_length_clientid",
    "auth_plugin",
    "autosave_interval",
    "autosave_on_changes",
    "bind_address",
    "bind_interface",
    "bridge_attempt_unsubscribe",
    "bridge_cafile",
    "bridge_capath",
    "bridge_certfile",
    "bridge_insecure",
    "bridge_keyfile",
    "bridge_protocol_version",
    "cafile",
    "capath",
    "certfile",
    "ciphers",
    "ciphers_tls1.3",
    "cleansession",
    "clientid_prefixes",
    "connection",
    "connection_messages",
    "crlfile",
    "dhparamfile",
    "disable_client_cert_date_checks",
    "enable_control_api",
    "enable_proxy_protocol",
    "global_max_clients",
    "global_max_connections",
    "global_plugin",
    "http_dir",
    "include_dir",
    "keepalive_interval",
    "keyfile",
    "listener",
    "listener_allow_anonymous",
    "local_clientid",
    "local_password",
    "local_username",
    "log_dest",
    "log_facility",
    "log_timestamp",
    "log_timestamp_format",
    "log_type",
    "max_connections",
    "max_inflight_bytes",
    "max_inflight_messages",
    "max_keepalive",
    "max_packet_size",
    "max_qos",
    "max_queued_bytes",
    "max_queued_messages",
    "max_topic_alias",
    "memory_limit",
    "message_size_limit",
    "mount_point",
    "notification_topic",
    "notifications",
    "password_file",
    "per_listener_settings",
    "persistence",
    "persistence_file",
    "persistence_location",
    "persistent_client_expiration",
    "pid_file",
    "plugin",
    "port",
    "protocol",
    "psk_file",
    "psk_hint",
    "queue_qos0_messages",
    "remote_clientid",
    "remote_password",
    "remote_username",
    "require_certificate",
    "restart_timeout",
    "retain_available",
    "retain_expiry_interval",
    "round_robin",
    "set_tcp_nodelay",
    "socket_domain",
    "start_type",
    "sys_interval",
    "threshold",
    "tls_engine",
    "tls_version",
    "topic",
    "try_private",
    "upgrade_outgoing_qos",
    "use_identity_as_username",
    "use_subject_as_username",
    "use_username_as_clientid",
    "user",
    "websockets_headers_size",
    "websockets_log_level",
];

/// Whether a line is one of `mosquitto.conf`.
fn is_mosquitto(line: &str) -> bool {
    let (word, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    WORDS.contains(&word) && !value.trim_start().starts_with('=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::migrate::import;
    use std::fs;

    const MOSQUITTO: &str = "\
# Place your local configuration in /etc/mosquitto/conf.d/
pid_file /run/mosquitto/mosquitto.pid
persistence true
persistence_location /var/lib/mosquitto/
allow_anonymous true
max_inflight_messages 20
message_size_limit 65536
persistent_client_expiration 2w
sys_interval 30
log_dest file /tmp/gatepost-import-test.log
listener 1883 127.0.0.1
max_connections 100
listener 9001
protocol websockets
connection bridge-to-cloud
address cloud.example:8883
topic plant/# out 1
";

    const RABBITMQ: &str = "\
## Networking
listeners.tcp.default = 5672
mqtt.listeners.tcp.1 = 127.0.0.1:1883
stomp.listeners.tcp = none
loopback_users = none
heartbeat = 30
channel_max = 128
vm_memory_high_watermark.relative = 0.5
disk_free_limit.absolute = 2GB
cluster_name = plant
log.console.level = warning
mqtt.allow_anonymous = false
mqtt.exchange = amq.topic
management.tcp.port = 15672
stomp.proxy_protocol = false
";

    fn imported(text: &str, name: &str) -> (String, crate::config::Config) {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join(name), dir.path().join("gatepost.toml"));
        fs::write(&from, text).expect("written");
        let toml = import(&from).unwrap_or_else(|error| panic!("{error}"));
        fs::write(&to, &toml).expect("written");
        let layers = Layers {
            file: Some(to),
            ..Layers::default()
        };
        let config = layers.load().unwrap_or_else(|problems| panic!("{problems}\n{toml}"));
        (toml, config)
    }

    #[test]
    fn a_rabbitmq_conf_becomes_a_configuration_of_ours() {
        let (toml, config) = imported(RABBITMQ, "rabbitmq.conf");
        assert_eq!(config.node.cluster_name, "plant");
        assert!(config.auth.loopback_users.is_empty());
        for line in [
            "[listeners.stomp]\nbind = []",
            "bind = [\"127.0.0.1:1883\"]",
            "heartbeat = \"30s\"",
            "channel_max = 128",
            "budget = 0.5",
            "free_limit = \"2000000000B\"",
            "level = \"warning\"",
            "anonymous = \"deny\"",
            "[listeners.management]\nbind = [\"[::]:15672\"]",
        ] {
            assert!(toml.contains(line), "{line} in:\n{toml}");
        }
    }

    #[test]
    fn a_file_of_another_broker_is_recognised_and_ours_is_not() {
        assert_eq!(Foreign::recognise(MOSQUITTO), Some(Foreign::Mosquitto));
        assert_eq!(Foreign::recognise(RABBITMQ), Some(Foreign::RabbitMq));
        let erlang = "[\n {rabbit, [{tcp_listeners, [5672]}]}\n].\n";
        assert_eq!(Foreign::recognise(erlang), Some(Foreign::RabbitMqErlang));
        assert_eq!(Foreign::recognise("listener 1883\n"), Some(Foreign::Mosquitto));
        for ours in [
            "",
            "[limits]\nheartbeat = \"30s\"\nchannel_max = 7\n",
            &crate::config::sample(),
            "[node]\nname = \n",
        ] {
            assert_eq!(Foreign::recognise(ours), None, "{ours}");
        }
    }
}
