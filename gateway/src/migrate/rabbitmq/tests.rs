//! Files of RabbitMQ, as in its documentation and in public repositories.

use super::translate;
use crate::cert::{DevelopmentCertificates, make_development_certificates};
use crate::config::{Config, Layers};
use std::fs;

/// The translation, and the configuration that the gateway reads from it. `/tls/` is replaced by a directory with
/// certificates.
fn imported(text: &str) -> (String, Config) {
    let directory = tempfile::tempdir().expect("a directory");
    make_development_certificates(directory.path(), &DevelopmentCertificates::default()).expect("made");
    fs::write(directory.path().join("definitions.json"), "{}").expect("written");
    let text = text.replace("/tls/", &format!("{}/", directory.path().display()));
    let toml = translate("r.conf", &text).print("r.conf");
    let file = directory.path().join("gatepost.toml");
    fs::write(&file, &toml).expect("written");
    let layers = Layers {
        file: Some(file),
        ..Layers::default()
    };
    let config = layers.load().unwrap_or_else(|problems| panic!("{problems}\n{toml}"));
    (toml, config)
}

/// The comments about keys that were not translated.
fn left(toml: &str) -> Vec<&str> {
    let comments = toml.lines().skip_while(|line| *line != "# Not taken over:").skip(1);
    let comments = comments.map_while(|line| line.strip_prefix("#   "));
    comments.collect()
}

fn assert_has(toml: &str, lines: &[&str]) {
    for line in lines {
        assert!(toml.lines().any(|found| found == *line), "{line} in:\n{toml}");
    }
}

/// The bug: with comments after the values, clients needed no certificate any more, and no comment said so.
#[test]
fn clients_need_certificates_whatever_stands_behind_the_values() {
    let (toml, _) = imported(
        "listeners.ssl.default            = 5671\nssl_options.cacertfile           = /tls/ca.pem\n\
         ssl_options.certfile             = /tls/server.pem\nssl_options.keyfile              = /tls/server.key\n\
         ssl_options.verify               = verify_peer     # verify_none for server-only TLS\n\
         ssl_options.fail_if_no_peer_cert = true            # true => require client certs (mutual TLS)\n",
    );
    assert_has(&toml, &["tls_bind = [\"[::]:5671\"]", "client_auth = \"require\""]);
    assert!(left(&toml).is_empty(), "{toml}");
}

/// The bug: the last line decided. RabbitMQ reads all lines first.
#[test]
fn the_order_of_lines_about_certificates_does_not_matter() {
    let (toml, _) = imported(
        "ssl_options.fail_if_no_peer_cert = true\nssl_options.verify = verify_peer\nssl_options.cacertfile = /tls/ca.pem\n\
         ssl_options.certfile = /tls/server.pem\nssl_options.keyfile = /tls/server.key\nssl_options.versions.1 = tlsv1.3\n\
         management.ssl.port = 15671\nmanagement.ssl.certfile = /tls/server.pem\nmanagement.ssl.keyfile = /tls/server.key\n\
         ssl_options.password = secret\nssl_options.depth = 2\n",
    );
    assert_has(
        &toml,
        &[
            "client_auth = \"require\"",
            "min_version = \"1.3\"",
            "[listeners.management.tls]",
        ],
    );
    let left = left(&toml);
    assert!(left[0].starts_with("r.conf:10: ssl_options.password: "), "{toml}");
    assert!(!toml.contains("secret"), "a password is not repeated:\n{toml}");
}

/// The bug: these addresses did not load. RabbitMQ writes an IPv6 address without brackets.
#[test]
fn addresses_are_read_as_rabbitmq_writes_them() {
    let (toml, _) = imported(
        "listeners.tcp.1 = ::1:5672\nlisteners.tcp.2 = :::5673\nlisteners.tcp.3 = 127.0.0.1:5674\nlisteners.tcp.4 = :::5673\n\
         stomp.listeners.tcp.1 = localhost:61613\nmqtt.listeners.tcp = none\nmanagement.tcp.ip = 127.0.0.1\n\
         management.tcp.port = 15673\nweb_stomp.tcp.ip = 127.0.0.1\nprometheus.tcp.port = 9100\n\
         mqtt.listeners.tcp.default = broker.example:1883\nmqtt.listeners.ssl.default = 8883\n",
    );
    assert_has(
        &toml,
        &[
            "bind = [\"[::1]:5672\", \"[::]:5673\", \"127.0.0.1:5674\"]",
            "bind = [\"127.0.0.1:61613\"]",
            "bind = [\"127.0.0.1:15673\"]",
            "bind = [\"127.0.0.1:15674\"]",
            "bind = [\"[::]:9100\"]",
            "bind = []",
        ],
    );
    let left = left(&toml);
    assert!(
        left[0].starts_with("r.conf:11: mqtt.listeners.tcp.default: broker.example is a name"),
        "{toml}"
    );
    // The bug: with a port for TLS but no certificate, the file did not load.
    assert!(
        left[1].starts_with("listeners.mqtt: nothing listens with TLS"),
        "{toml}"
    );
}

#[test]
fn what_has_a_counterpart_is_taken_over() {
    let (toml, config) = imported(
        "vm_memory_high_watermark.relative = 0.6          # 60% of the memory\ndisk_free_limit.absolute = 2GiB\n\
         cluster_name = 'a \"b\" # c'\nheartbeat = 580\nchannel_max = 0\nframe_max = 0\nmax_message_size = 2147483648\n\
         auth_backends.2 = internal\nauth_backends.1 = http\nauth_http.http_method = post\n\
         auth_http.user_path = http://auth.example:8000/auth/user\nauth_http.vhost_path = http://auth.example:8000/auth/vhost\n\
         auth_http.resource_path = http://auth.example:8000/auth/resource\nauth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n\
         load_definitions = /tls/definitions.json\ndefinitions.skip_if_unchanged = true\nlog.console.level = warning\n\
         log.console.formatter = json\nlog.file = false\nmqtt.prefetch = 10\nmqtt.subscription_ttl = 3600000\nmqtt.vhost = /\n\
         default_vhost = /\ndefault_user = guest\ndefault_pass = guest\nheartbeat = 30\n",
    );
    assert!(left(&toml).is_empty(), "{toml}");
    assert_eq!(config.node.cluster_name, "a \"b\" # c");
    assert_has(
        &toml,
        &[
            "budget = 0.6",
            "free_limit = \"2147483648B\"",
            "heartbeat = \"30s\"",
            "max_message_size = 1073741824",
            "backends = [\"http\", \"internal\"]",
            "mechanisms = [\"PLAIN\", \"EXTERNAL\"]",
            "user_url = \"http://auth.example:8000/auth/user\"",
            "skip_if_unchanged = true",
            "level = \"warning\"",
            "format = \"json\"",
            "max_inflight = 10",
            "session_expiry_max = \"3600000ms\"",
        ],
    );
}

/// With another default user there is no `guest`, but there was one after the import.
#[test]
fn a_default_user_of_its_own_is_named_and_guest_is_not_made() {
    let (toml, config) =
        imported("default_user = plant\ndefault_pass = secret\ndefault_user_tags.administrator = true\n");
    assert_eq!(config.auth.default_user, "");
    assert!(toml.contains("gatepost user add plant --tag administrator"), "{toml}");
    assert!(!toml.contains("secret"), "{toml}");
}

#[test]
fn what_has_no_counterpart_is_named_with_its_line_and_the_reason() {
    let (toml, _) = imported(
        "listeners.tcp.default = 5672\n\n# a comment\ncluster_formation.classic_config.nodes.1 = rabbit@mq1\n\
         listners.tcp.default = 5673\nnonsense\nheartbeat = soon\nauth_backends.1 = ldap\nmqtt.default_pass = secret\n\
         vm_memory_high_watermark.relative = 1.5\nstomp.proxy_protocol = false\nproxy_protocol = true\n\
         auth_http.user_path = http://auth.example/user\n",
    );
    assert!(!toml.contains("secret"), "{toml}");
    let wanted = [
        "r.conf:4: cluster_formation.classic_config.nodes.1: there is one node",
        "r.conf:5: listners.tcp.default: this key is not known",
        "r.conf:6: this is no setting",
        "r.conf:7: heartbeat: soon is not a whole number",
        "r.conf:8: auth_backends.1: there is no back end ldap",
        "r.conf:9: mqtt.default_pass: anonymous clients",
        "r.conf:10: vm_memory_high_watermark.relative: it is no share",
        "r.conf:12: proxy_protocol: set proxy_protocol of the listener",
        "auth_http.http_method: the server is asked by POST",
    ];
    let left = left(&toml);
    assert_eq!(left.len(), wanted.len(), "{toml}");
    for (line, wanted) in left.iter().zip(wanted) {
        assert!(line.starts_with(wanted), "{wanted} in:\n{toml}");
    }
}
