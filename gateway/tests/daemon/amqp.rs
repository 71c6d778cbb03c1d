//! AMQP 0-9-1 under pika and amqplib, and on bare sockets.

use crate::support::{Gatepost, node, python};

#[test]
fn queues_are_declared_checked_and_deleted() {
    python(&mut Gatepost::start(), "amqp_queues.py");
}

#[test]
fn exchanges_route_by_their_type() {
    python(&mut Gatepost::start(), "amqp_exchanges.py");
}

#[test]
fn quorum_queues_count_returned_messages() {
    python(&mut Gatepost::start(), "amqp_quorum.py");
}

#[test]
fn quorum_queues_survive_a_kill_with_their_counts() {
    python(&mut Gatepost::start(), "amqp_quorum_restart.py");
}

#[test]
fn consumers_get_settle_and_requeue() {
    python(&mut Gatepost::start(), "amqp_consuming.py");
}

#[test]
fn publishers_get_confirms_returns_and_transactions() {
    python(&mut Gatepost::start(), "amqp_publishing.py");
}

#[test]
fn queues_expire_overflow_and_dead_letter() {
    python(&mut Gatepost::start(), "amqp_extensions.py");
}

#[test]
fn the_wire_format_is_exact_and_faults_get_their_code() {
    python(&mut Gatepost::start(), "amqp_wire.py");
}

#[test]
fn amqplib_works() {
    node(&mut Gatepost::start(), "amqp.mjs");
}
