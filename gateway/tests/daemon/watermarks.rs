//! Low memory and low disk: publishers wait, or are refused in their protocol's words; consumers are always served.

use crate::durability::body;
use crate::support::amqp::{Amqp, Incoming};
use crate::support::daemon::{http, http_status};
use crate::support::{Gatepost, python};

/// More than any disk has.
const PLENTY: &str = "100000000GiB";

/// A queue `before` with a hundred messages from before the disk ran low.
fn with_messages(mut gatepost: Gatepost) -> Gatepost {
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("before", true).expect("a queue");
    amqp.confirm_select().expect("confirms");
    for n in 0..100 {
        amqp.publish("", "before", true, &body(n));
    }
    let mut covered = 0;
    while covered < 100 {
        match amqp.next().expect("a confirm") {
            Incoming::Ack { tag, .. } => covered = covered.max(tag),
            other => panic!("expected a confirm and got {other:?}"),
        }
    }
    drop(amqp);
    assert!(gatepost.terminate().0.success());
    gatepost
}

/// Summed over its labels.
fn metric(gatepost: &Gatepost, name: &str) -> f64 {
    let text = http(gatepost.metrics, "/metrics").expect("metrics");
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next())??;
        value.parse::<f64>().ok()
    });
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "{name} in:\n{text}");
    values.iter().sum()
}

#[test]
fn on_low_memory_publishers_are_told_to_wait_and_continue() {
    // Messages that cannot leave memory may fill four fifths of a mebibyte.
    python(&mut Gatepost::with(2, "[memory]\nbudget = \"1MiB\"\n"), "low_memory.py");
}

#[test]
fn on_low_disk_publishers_wait_and_consumers_are_served() {
    let mut gatepost = with_messages(Gatepost::start());
    gatepost.start_with_environment(&[("GATEPOST__DISK__FREE_LIMIT", PLENTY)]);
    python(&mut gatepost, "low_disk.py");
    assert_eq!(metric(&gatepost, "rabbitmq_alarms_free_disk_space_watermark"), 1.0);
    assert_eq!(metric(&gatepost, "gatepost_disk_full"), 0.0);
}

#[test]
fn on_a_full_disk_durable_publishes_are_refused_and_consumers_served() {
    let mut gatepost = with_messages(Gatepost::start());
    gatepost.start_with_environment(&[("GATEPOST__DISK__RESERVE", PLENTY)]);
    let answer = http(gatepost.metrics, "/readyz").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.ends_with("the disk is full: durable publishes are refused\n"),
        "{answer}"
    );
    assert_eq!(http_status(gatepost.metrics, "/healthz"), Some(200));
    python(&mut gatepost, "full_disk.py");
    assert_eq!(metric(&gatepost, "gatepost_disk_full"), 1.0);
    assert!(metric(&gatepost, "gatepost_publishes_refused_total") >= 3.0);
    // There is room again: publishers continue.
    assert!(gatepost.terminate().0.success());
    gatepost.start_again();
    assert_eq!(http_status(gatepost.metrics, "/readyz"), Some(200));
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.confirm_select().expect("confirms");
    amqp.publish("", "before", true, b"after");
    assert!(matches!(amqp.next(), Ok(Incoming::Ack { tag: 1, .. })));
    assert_eq!(amqp.depth("before").expect("the queue"), 1);
}
