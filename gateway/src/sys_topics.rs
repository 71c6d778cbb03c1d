//! `$SYS`: topics with values of the node for MQTT clients, like Mosquitto's.
//!
//! Every `mqtt.sys_interval`, changed figures are published in each vhost as retained messages. Each round uses an in-process
//! connection, so subscribers' rights are checked as usual, and there is no connection between two rounds. Nothing is
//! written to the log.
//!
//! Figures are the vhost's, except uptime, free disk, quarantine and sockets, which are the node's. `messages` counts all
//! protocols, `publish/messages` MQTT only. Acknowledgements and pings, which Mosquitto includes in `messages`, are not
//! counted.

use crate::node::Node;
use crate::protocols;
use crate::vhost::Vhost;
use gatepost_core::command::{Command, PublishFlags};
use gatepost_core::engine::{Counters, Traffic};
use gatepost_core::in_process::{self, InProcess};
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::store::VhostId;
use gatepost_core::time::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ROOT: &str = "$SYS/broker/";

/// Publishes at the configured interval. Never returns.
pub(crate) async fn run(node: &Node) {
    let mut tellers: BTreeMap<VhostId, Teller> = BTreeMap::new();
    loop {
        let every = node.config().mqtt.sys_interval.0;
        let vhosts = node.vhosts.list();
        tellers.retain(|number, _| vhosts.iter().any(|vhost| vhost.number == *number));
        for vhost in vhosts.iter() {
            let teller = tellers.entry(vhost.number).or_default();
            let figures = if every.is_zero() {
                BTreeMap::new()
            } else {
                let counters = vhost.counters();
                teller.figures(&counters, &NodeFigures::of(node), node.clock.now().monotonic)
            };
            let news = teller.news(figures);
            if !news.is_empty() {
                publish(node, vhost, news).await;
            }
        }
        let pause = async {
            match every {
                Duration::ZERO => std::future::pending().await,
                every => tokio::time::sleep(every).await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = node.sys_interval_changed.notified() => {}
        }
    }
}

/// Publishes topics and their new values; an empty one clears the topic.
async fn publish(node: &Node, vhost: &Arc<Vhost>, news: Vec<(String, String)>) {
    let envelope = Envelope {
        dialect: Dialect::Slash,
        retain: true,
        ..Envelope::default()
    };
    let exchange = node.config().mqtt.exchange.clone();
    let now = node.clock.now();
    // No memory for a connection: skip this round.
    let Ok(mut connection) = vhost.enter(|engine| InProcess::attach_as_node(engine, now, "$SYS")) else {
        return;
    };
    for (topic, value) in news {
        connection.send(Command::Publish {
            channel: 1,
            // If the exchange does not exist, there are no subscribers and nothing is done.
            flags: PublishFlags::LENIENT,
            packet_id: 0,
            message: Message::new(envelope, &exchange, &format!("{ROOT}{topic}"), &[], value.as_bytes()),
        });
    }
    connection.detach();
    // With many subscribers it takes more than one hold; other connections get their turns in between.
    while vhost.enter(|engine| connection.visit(engine, node.clock.now())) {
        tokio::task::yield_now().await;
    }
}

/// Figures of the node, published in every vhost.
struct NodeFigures {
    uptime: Duration,
    disk_free: u64,
    quarantined: u64,
    /// Connections accepted, by any listener.
    sockets: u64,
}

impl NodeFigures {
    fn of(node: &Node) -> NodeFigures {
        NodeFigures {
            uptime: node.started.elapsed(),
            disk_free: node.health.disk_free.load(Ordering::Relaxed),
            quarantined: node.store_stats.quarantined.load(Ordering::Relaxed),
            sockets: node.connections.iter().map(|c| c.opened.load(Ordering::Relaxed)).sum(),
        }
    }
}

/// The values last published in a vhost, and moving averages.
#[derive(Default)]
struct Teller {
    told: BTreeMap<String, String>,
    /// Most clients seen at once.
    clients_max: u64,
    /// The counts of the previous round, and its time.
    last: Option<(Time, [u64; LOADS.len()])>,
    averages: [[f64; SPANS.len()]; LOADS.len()],
}

/// Topics with moving averages.
const LOADS: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/received",
    "publish/sent",
    "publish/dropped",
    "bytes/received",
    "bytes/sent",
    "connections",
    "sockets",
];

/// Time spans of the averages, by name and in minutes.
const SPANS: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

impl Teller {
    /// The current value of each topic.
    fn figures(&mut self, c: &Counters, node: &NodeFigures, now: Time) -> BTreeMap<String, String> {
        let (all, mqtt) = (of_clients(c), of_mqtt(c));
        let connected = all.links();
        let away = c.sessions.saturating_sub(c.sessions_connected);
        self.clients_max = self.clients_max.max(connected);
        let out = |t: &Traffic| t.delivered + t.delivered_no_ack + t.got;
        let plain = [
            ("clients/connected", connected),
            ("clients/disconnected", away),
            ("clients/total", connected + away),
            ("clients/maximum", self.clients_max),
            ("clients/expired", c.sessions_expired),
            ("messages/received", all.published),
            ("messages/sent", out(&all)),
            ("publish/messages/received", mqtt.published),
            ("publish/messages/sent", out(&mqtt)),
            ("publish/messages/dropped", c.dropped_full),
            ("bytes/received", all.bytes_in),
            ("bytes/sent", all.bytes_out),
            ("subscriptions/count", c.subscriptions),
            ("retained messages/count", c.retained),
            ("store/messages/count", c.messages_ready + c.messages_unsettled),
            ("store/messages/bytes", c.messages_ready_bytes),
            ("store/disk_free", node.disk_free),
            ("store/quarantined", node.quarantined),
            ("queue/bytes", c.messages_ready_bytes),
            ("queue/dropped", c.dropped_full),
        ];
        let mut figures: BTreeMap<String, String> = plain
            .into_iter()
            .map(|(topic, value)| (topic.to_owned(), value.to_string()))
            .collect();
        figures.insert("uptime".to_owned(), format!("{} seconds", node.uptime.as_secs()));
        let counts = [
            all.published,
            out(&all),
            mqtt.published,
            out(&mqtt),
            c.dropped_full,
            all.bytes_in,
            all.bytes_out,
            all.links_attached,
            node.sockets,
        ];
        self.average(counts, now);
        for (name, averages) in LOADS.iter().zip(&self.averages) {
            for ((span, _), average) in SPANS.iter().zip(averages) {
                figures.insert(format!("load/{name}/{span}"), format!("{average:.2}"));
            }
        }
        figures
    }

    /// Updates the exponential moving averages of the rates per minute.
    fn average(&mut self, counts: [u64; LOADS.len()], now: Time) {
        if let Some((before, last)) = self.last {
            let minutes = (now - before).as_secs_f64() / 60.0;
            if minutes <= 0.0 {
                return;
            }
            for ((averages, count), last) in self.averages.iter_mut().zip(counts).zip(last) {
                let rate = count.saturating_sub(last) as f64 / minutes;
                for (average, (_, span)) in averages.iter_mut().zip(SPANS) {
                    *average = rate + decay(minutes / span) * (*average - rate);
                }
            }
        }
        self.last = Some((now, counts));
    }

    /// The changes from the last round to `figures`. A topic that is gone gets an empty value.
    fn news(&mut self, figures: BTreeMap<String, String>) -> Vec<(String, String)> {
        let gone = self.told.keys().filter(|topic| !figures.contains_key(*topic));
        let mut news: Vec<(String, String)> = gone.map(|topic| (topic.clone(), String::new())).collect();
        let changed = figures
            .iter()
            .filter(|(topic, value)| self.told.get(*topic) != Some(value));
        news.extend(changed.map(|(topic, value)| (topic.clone(), value.clone())));
        self.told = figures;
        news
    }
}

/// e to the power of `-exponent`, for exponents that are not negative, to nine digits.
///
/// `f64::exp` would be the only call into libm, and a program that links libm has half a megabyte more in memory.
fn decay(exponent: f64) -> f64 {
    const STEPS: i32 = 1 << 20;
    (1.0 + exponent / f64::from(STEPS)).powi(-STEPS)
}

/// Traffic of clients' connections, without in-process ones.
fn of_clients(c: &Counters) -> Traffic {
    let clients = c.by_protocol.iter().filter(|(name, _)| *name != in_process::PROTOCOL);
    clients.map(|(_, traffic)| *traffic).sum()
}

fn of_mqtt(c: &Counters) -> Traffic {
    let is_mqtt = |version: &str| protocols::of_version(version).is_some_and(|(protocol, _)| protocol.name == "mqtt");
    let mqtt = c.by_protocol.iter().filter(|(version, _)| is_mqtt(version));
    mqtt.map(|(_, traffic)| *traffic).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(published: u64) -> Counters {
        let traffic = Traffic {
            links_attached: 3,
            links_detached: 1,
            published,
            bytes_in: 10 * published,
            ..Traffic::default()
        };
        Counters {
            by_protocol: vec![
                ("MQTT 5.0", traffic),
                ("AMQP 0-9-1", traffic),
                (in_process::PROTOCOL, traffic),
            ],
            sessions: 4,
            sessions_connected: 1,
            ..Counters::default()
        }
    }

    const NODE: NodeFigures = NodeFigures {
        uptime: Duration::from_secs(7),
        disk_free: 1,
        quarantined: 0,
        sockets: 9,
    };

    #[test]
    fn figures_are_of_clients_and_averages_of_what_comes_in_a_minute() {
        let mut teller = Teller::default();
        let first = teller.figures(&counters(0), &NODE, Time(0));
        let then = teller.figures(&counters(100), &NODE, Time(0) + Duration::from_secs(60));
        let of = |figures: &BTreeMap<String, String>, topic: &str| figures[topic].clone();
        assert_eq!(of(&first, "uptime"), "7 seconds");
        assert_eq!(of(&then, "clients/connected"), "4");
        assert_eq!(of(&then, "clients/disconnected"), "3");
        assert_eq!(of(&then, "clients/total"), "7");
        assert_eq!(of(&then, "messages/received"), "200");
        assert_eq!(of(&then, "publish/messages/received"), "100");
        assert_eq!(of(&then, "bytes/received"), "2000");
        assert_eq!(of(&first, "load/messages/received/1min"), "0.00");
        // After one minute at 200 per minute the average is (1 - 1/e) of it.
        assert_eq!(of(&then, "load/messages/received/1min"), "126.42");
        assert_eq!(of(&then, "load/messages/received/15min"), "12.90");
    }

    #[test]
    fn only_what_has_changed_is_told_and_what_is_gone_is_cleared() {
        let mut teller = Teller::default();
        let figures = teller.figures(&counters(1), &NODE, Time(0));
        assert_eq!(teller.news(figures.clone()).len(), figures.len());
        assert!(teller.news(figures).is_empty());
        let later = teller.figures(&counters(2), &NODE, Time(0));
        let mut topics: Vec<String> = teller.news(later).into_iter().map(|(topic, _)| topic).collect();
        topics.sort();
        assert_eq!(
            topics,
            ["bytes/received", "messages/received", "publish/messages/received"]
        );
        let cleared = teller.news(BTreeMap::new());
        assert!(cleared.len() > 20 && cleared.iter().all(|(_, value)| value.is_empty()));
    }

    #[test]
    fn the_decay_is_the_exponential_function() {
        for exponent in [0.0, 1e-9, 0.011, 1.0 / 6.0, 1.0, 30.0, 700.0] {
            let (right, ours) = (f64::exp(-exponent), decay(exponent));
            assert!((right - ours).abs() < 1e-6, "{exponent}: {ours}, not {right}");
        }
        assert!(decay(f64::MAX) == 0.0);
    }
}
