//! Metrics as Prometheus and dashboards read them: the format, RabbitMQ's families, single objects, and our own
//! dashboard and alerts with a real Prometheus (Debian's package `prometheus`).

use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::daemon::{free_port, http, http_status};
use crate::support::mqtt::Mqtt;
use crate::support::raw::eventually;
use crate::support::stomp::Stomp;
use crate::support::tls::Authority;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) fn page(gatepost: &Gatepost, path: &str) -> String {
    http(gatepost.metrics, path).unwrap_or_else(|| panic!("{path}"))
}

pub(crate) fn has(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "{line} in:\n{page}");
}

/// The families of a page, in order, with their types.
fn families(page: &str) -> Vec<(String, String)> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let split = types.map(|line| line.split_once(' ').expect("a name and a type"));
    split.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The families that Grafana's dashboard 10991 (RabbitMQ-Overview) and similar ones need. A panel that subtracts or
/// joins is empty if one of its families does not exist yet.
#[test]
fn all_families_of_the_dashboard_are_there_at_zero() {
    let gatepost = Gatepost::start();
    let text = page(&gatepost, "/metrics");
    for name in [
        "rabbitmq_queue_messages_ready",
        "rabbitmq_queue_messages_unacked",
        "rabbitmq_queues",
        "rabbitmq_channels",
        "rabbitmq_connections_opened_total",
        "rabbitmq_connections_closed_total",
        "rabbitmq_channels_opened_total",
        "rabbitmq_channels_closed_total",
        "rabbitmq_queues_declared_total",
        "rabbitmq_queues_created_total",
        "rabbitmq_queues_deleted_total",
        "rabbitmq_message_size_bytes_count",
        "rabbitmq_alarms_memory_used_watermark",
        "rabbitmq_alarms_free_disk_space_watermark",
        "rabbitmq_alarms_file_descriptor_limit",
        "rabbitmq_queue_messages",
        "rabbitmq_queue_consumers",
        "rabbitmq_consumers",
        "rabbitmq_channel_messages_unroutable_returned_total",
    ] {
        has(&text, &format!("{name} 0"));
    }
    for name in [
        "rabbitmq_connections",
        "rabbitmq_erlang_uptime_seconds",
        "rabbitmq_resident_memory_limit_bytes",
        "rabbitmq_process_resident_memory_bytes",
        "rabbitmq_disk_space_available_bytes",
        "rabbitmq_disk_space_available_limit_bytes",
        "rabbitmq_process_max_fds",
        "rabbitmq_process_open_fds",
        "rabbitmq_identity_info",
        "rabbitmq_build_info",
    ] {
        assert!(text.contains(&format!("# TYPE {name} gauge\n{name}")), "{name}");
    }
    for protocol in ["amqp091", "mqtt311", "mqtt50", "stomp"] {
        for name in ["publishers", "consumers"] {
            has(&text, &format!("rabbitmq_global_{name}{{protocol=\"{protocol}\"}} 0"));
        }
        for name in [
            "received",
            "received_confirm",
            "confirmed",
            "routed",
            "unroutable_dropped",
            "unroutable_returned",
        ] {
            has(
                &text,
                &format!("rabbitmq_global_messages_{name}_total{{protocol=\"{protocol}\"}} 0"),
            );
        }
        for name in [
            "delivered",
            "delivered_consume_auto_ack",
            "delivered_consume_manual_ack",
            "delivered_get_auto_ack",
            "delivered_get_manual_ack",
            "redelivered",
            "acknowledged",
            "get_empty",
        ] {
            let labels = format!("protocol=\"{protocol}\",queue_type=\"rabbit_classic_queue\"");
            has(&text, &format!("rabbitmq_global_messages_{name}_total{{{labels}}} 0"));
        }
    }
    // The panels compare these as text.
    for le in [
        "100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08", "+Inf",
    ] {
        has(&text, &format!("rabbitmq_message_size_bytes_bucket{{le=\"{le}\"}} 0"));
    }
    // Every panel joins on it, so there must be one series for each target.
    assert_eq!(text.matches("\nrabbitmq_identity_info{").count(), 1);
    assert!(text.contains("rabbitmq_endpoint=\"aggregated\"} 1\n"));
}

#[test]
fn every_family_is_explained_once_and_pages_keep_their_order() {
    let gatepost = Gatepost::start();
    let first = page(&gatepost, "/metrics");
    let families = families(&first);
    let names: BTreeSet<&str> = families.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), families.len(), "a family twice");
    for (name, kind) in &families {
        let help = first
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.len() > 5), "{name} is not explained");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    let _client = Mqtt::open(gatepost.mqtt, "m", true);
    let second = page(&gatepost, "/metrics");
    let order = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with("# "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&first), order(&second));
}

#[test]
fn queues_channels_and_connections_are_shown_one_by_one() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("a \"quoted\" queue", true).expect("a queue");
    amqp.declare_queue("work", true).expect("a queue");
    for size in [1, 200] {
        amqp.publish("", "work", false, &vec![b'x'; size]);
    }
    amqp.flush().expect("sent");
    eventually("two messages", || amqp.depth("work").expect("a queue") == 2);
    let text = page(&gatepost, "/metrics/per-object");
    has(&text, r#"rabbitmq_queue_messages_ready{vhost="/",queue="work"} 2"#);
    has(
        &text,
        r#"rabbitmq_queue_messages_ready{vhost="/",queue="a \"quoted\" queue"} 0"#,
    );
    has(&text, r#"rabbitmq_queue_consumers{vhost="/",queue="work"} 0"#);
    let port = gatepost.amqp;
    assert!(
        text.contains(&format!("-> 127.0.0.1:{port} (1)\"}} 0\n")),
        "a channel in:\n{text}"
    );
    assert!(
        text.contains("rabbitmq_connection_incoming_bytes_total{connection=\"127.0.0.1:"),
        "{text}"
    );
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("rabbitmq_queue_messages_ready ")),
        "no sum beside them"
    );
    assert!(text.contains("rabbitmq_endpoint=\"per-object\""));
    has(&text, r#"gatepost_metrics_objects_truncated{kind="queue"} 0"#);
    has(&text, r#"rabbitmq_message_size_bytes_bucket{le="100.0"} 1"#);
    has(&text, r#"rabbitmq_message_size_bytes_bucket{le="1000.0"} 2"#);
    has(&text, "rabbitmq_message_size_bytes_sum 201");
    has(&text, r#"rabbitmq_global_publishers{protocol="amqp091"} 1"#);
    has(&text, "rabbitmq_channels_opened_total 1");
    assert_eq!(
        families(&text)
            .iter()
            .filter(|(name, _)| name == "rabbitmq_queue_messages_ready")
            .count(),
        1
    );

    let detailed = page(&gatepost, "/metrics/detailed?family=queue_coarse_metrics&vhost=%2F");
    has(
        &detailed,
        r#"rabbitmq_detailed_queue_messages_ready{vhost="/",queue="work"} 2"#,
    );
    assert!(
        !detailed.contains("queue_consumers") && !detailed.contains("rabbitmq_detailed_connection"),
        "{detailed}"
    );
    let both = page(
        &gatepost,
        "/metrics/detailed?family=queue_consumer_count&family=connection_churn_metrics",
    );
    has(&both, r#"rabbitmq_detailed_queue_consumers{vhost="/",queue="work"} 0"#);
    has(&both, "rabbitmq_detailed_connections_opened_total 1");
    // An unknown vhost; and without a family, only the identity.
    for path in [
        "/metrics/detailed?family=queue_coarse_metrics&vhost=nowhere",
        "/metrics/detailed",
    ] {
        let text = page(&gatepost, path);
        assert!(!text.contains("queue=\"work\""), "{text}");
        assert!(text.contains("rabbitmq_endpoint=\"detailed\"} 1"), "{text}");
    }
    assert_eq!(families(&page(&gatepost, "/metrics/detailed")).len(), 1);
    assert_eq!(http_status(gatepost.metrics, "/metrics/nothing"), Some(404));
}

/// Every panel of a dashboard joins on the identity. A page with nothing else must have it exactly once.
#[test]
fn detailed_without_family_is_identity_only() {
    let gatepost = Gatepost::start();
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("q", true).expect("a queue");
    for path in [
        "/metrics/detailed",
        "/metrics/detailed?family=nosuch",
        "/metrics/detailed?vhost=%2F",
    ] {
        let text = page(&gatepost, path);
        let body = text.split_once("\r\n\r\n").expect("a body").1;
        let samples: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), 1, "{path}:\n{text}");
        assert!(samples[0].contains("identity_info{") && samples[0].ends_with("rabbitmq_endpoint=\"detailed\"} 1"));
    }
}

#[test]
fn single_objects_are_bounded_and_the_others_counted() {
    let gatepost = Gatepost::with(1, "[metrics]\nper_object_limit = 10\n");
    let mut amqp = Amqp::open(gatepost.amqp);
    for n in 0..25 {
        amqp.declare_queue(&format!("q{n}"), false).expect("a queue");
    }
    let text = page(&gatepost, "/metrics/per-object");
    assert_eq!(text.matches("\nrabbitmq_queue_messages_ready{").count(), 10);
    has(&text, r#"gatepost_metrics_objects_truncated{kind="queue"} 15"#);
    has(&text, "rabbitmq_queues 25");
}

#[test]
fn publishers_and_consumers_are_counted_by_protocol() {
    let gatepost = Gatepost::start();
    let mut mqtt = Mqtt::open(gatepost.mqtt, "m", true);
    mqtt.subscribe("a/#", 0).expect("a subscription");
    mqtt.publish("b", 1, b"x");
    mqtt.expect(0x40).expect("a PUBACK");
    let stomp = Stomp::try_open(gatepost.stomp).expect("a session");
    let text = page(&gatepost, "/metrics");
    has(&text, r#"rabbitmq_global_publishers{protocol="mqtt311"} 1"#);
    has(&text, r#"rabbitmq_global_consumers{protocol="mqtt311"} 1"#);
    has(&text, r#"rabbitmq_global_publishers{protocol="stomp"} 0"#);
    drop((mqtt, stomp));
    eventually("they are gone", || {
        page(&gatepost, "/metrics").contains("rabbitmq_global_publishers{protocol=\"mqtt311\"} 0\n")
    });
}

/// A Prometheus that scrapes one gateway, with our alerts.
pub(crate) struct Prometheus {
    port: u16,
    process: Child,
    directory: PathBuf,
}

impl Prometheus {
    pub(crate) fn start(gatepost: &Gatepost) -> Prometheus {
        let directory = gatepost.dir.join("prometheus");
        fs::create_dir_all(&directory).expect("a directory");
        let port = free_port();
        let rules = deploy("prometheus/gatepost.rules.yml");
        let config = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [{rules:?}]\nscrape_configs:\n  \
             - job_name: gatepost\n    static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]\n",
            gatepost.metrics
        );
        fs::write(directory.join("prometheus.yml"), config).expect("written");
        let log = fs::File::create(directory.join("log")).expect("a log");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus is installed (apt install prometheus; .ci/run does)");
        Prometheus {
            port,
            process,
            directory,
        }
    }

    /// The answer to a query of the API.
    fn api(&self, path: &str) -> Option<Value> {
        // In HTTP 1.0 an answer comes in one piece.
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The number of series that an expression gives.
    pub(crate) fn query(&self, expression: &str) -> Result<usize, String> {
        let answer = self.api(&format!("/api/v1/query?query={}", encoded(expression)));
        let answer = answer.ok_or("no answer")?;
        if answer["status"] != "success" {
            return Err(format!("{expression}: {}", answer["error"]));
        }
        Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            eprintln!("prometheus said:\n{log}");
        }
    }
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Names of metrics in an expression.
fn metrics_in(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("gatepost_") || word.starts_with("rabbitmq_"));
    ours.map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_alerts_hold_against_a_real_prometheus() {
    let rules = deploy("prometheus/gatepost.rules.yml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&rules).output();
    let checked = checked.expect("promtool is installed (apt install prometheus; .ci/run does)");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    // With certificates, whose expiry is shown and has an alert.
    let authority = Authority::new();
    let gatepost = Gatepost::with(2, &authority.settings(""));
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("q", true).expect("a queue");
    amqp.publish("", "q", true, b"x");
    amqp.flush().expect("sent");
    let prometheus = Prometheus::start(&gatepost);
    eventually("two scrapes", || {
        prometheus
            .query("count_over_time(up[5m]) > 2")
            .is_ok_and(|count| count == 1)
    });
    let text = page(&gatepost, "/metrics");
    let known = |metric: &str| text.contains(&format!("\n{metric} ")) || text.contains(&format!("\n{metric}{{"));

    let dashboard = fs::read_to_string(deploy("grafana/gatepost.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut expressions = 0;
    for target in targets {
        let expression = target["expr"].as_str().expect("an expression");
        expressions += 1;
        for metric in metrics_in(expression) {
            assert!(known(&metric), "{metric} of the dashboard is not there");
        }
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
        let mut last = Ok(0);
        eventually(&format!("a series for {expression}: {last:?}"), || {
            last = prometheus.query(&expression);
            assert!(last.is_ok(), "{last:?}");
            last != Ok(0)
        });
    }
    assert!(expressions > 40, "{expressions}");

    // A panel of RabbitMQ's own dashboard, as it joins.
    let join = "sum(rabbitmq_queue_messages_ready * on(instance) group_left(rabbitmq_cluster) rabbitmq_identity_info)";
    assert_eq!(prometheus.query(join), Ok(1));
    let subtraction = "sum(rabbitmq_global_messages_received_total - rabbitmq_global_messages_routed_total)";
    assert_eq!(prometheus.query(subtraction), Ok(1));

    let answer = prometheus.api("/api/v1/rules").expect("rules");
    let alerts = answer["data"]["groups"][0]["rules"].as_array().expect("alerts").clone();
    assert!(alerts.len() > 12, "{answer}");
    for alert in &alerts {
        let expression = alert["query"].as_str().expect("an expression");
        for metric in metrics_in(expression) {
            assert!(known(&metric), "{metric} of {} is not there", alert["name"]);
        }
        prometheus.query(expression).unwrap_or_else(|error| panic!("{error}"));
    }
    eventually("evaluated rules", || {
        let answer = prometheus.api("/api/v1/rules").expect("rules");
        let alerts = answer["data"]["groups"][0]["rules"].as_array().expect("alerts").clone();
        assert!(alerts.iter().all(|alert| alert["health"] != "err"), "{answer}");
        alerts.iter().all(|alert| alert["health"] == "ok")
    });
    // The free disk of the test's machine is not tested.
    for alert in prometheus.api("/api/v1/rules").expect("rules")["data"]["groups"][0]["rules"]
        .as_array()
        .expect("alerts")
    {
        if [
            "GatepostDown",
            "GatepostLogFailed",
            "GatepostReadsFail",
            "GatepostLoginsFail",
        ]
        .iter()
        .any(|name| alert["name"] == *name)
        {
            assert_eq!(alert["state"], "inactive", "{alert}");
        }
    }
}
