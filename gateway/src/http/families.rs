//! The metric families of `/metrics`: name, help, and which counter they show. Dashboards made for RabbitMQ join and subtract
//! families that begin with `rabbitmq_`, so each of those is exported from the start, at zero.

use gatepost_core::engine::{Counters, Traffic};
use gatepost_core::store::StoreStats;
use std::sync::atomic::AtomicU64;

/// A counter of the engine.
pub(super) type Field = fn(&Counters) -> u64;
/// A counter of connections' traffic.
pub(super) type TrafficField = fn(&Traffic) -> u64;
/// A counter of the store.
pub(super) type StoreField = fn(&StoreStats) -> &AtomicU64;

/// Label value for counters that the engine does not keep by protocol. Sums over the label are correct.
pub(super) const PROTOCOLS: &str = "all";
/// Label value for the type of all queues.
pub(super) const QUEUE_TYPE: &str = "rabbit_classic_queue";

/// Counters of the publishing side, by protocol.
pub(super) const PUBLISHING: &[(&str, &str, TrafficField)] = &[
    ("rabbitmq_global_messages_received_total", "Messages published.", |c| {
        c.published
    }),
    (
        "rabbitmq_global_messages_received_confirm_total",
        "Messages published to be confirmed.",
        |c| c.published_confirm,
    ),
    (
        "rabbitmq_global_messages_confirmed_total",
        "Publishes confirmed.",
        |c| c.confirmed,
    ),
    (
        "rabbitmq_global_messages_routed_total",
        "Publishes that reached a queue.",
        |c| c.routed,
    ),
    (
        "rabbitmq_global_messages_unroutable_dropped_total",
        "Publishes that reached no queue.",
        |c| c.unroutable_dropped,
    ),
    (
        "rabbitmq_global_messages_unroutable_returned_total",
        "Publishes that were returned.",
        |c| c.unroutable_returned,
    ),
];

/// Counters of the consuming side, by protocol and type of queue.
pub(super) const CONSUMING: &[(&str, &str, TrafficField)] = &[
    ("rabbitmq_global_messages_delivered_total", "Messages delivered.", |c| {
        c.delivered + c.delivered_no_ack + c.got
    }),
    (
        "rabbitmq_global_messages_delivered_consume_auto_ack_total",
        "Deliveries settled when sent.",
        |c| c.delivered_no_ack,
    ),
    (
        "rabbitmq_global_messages_delivered_consume_manual_ack_total",
        "Deliveries to be settled.",
        |c| c.delivered,
    ),
    (
        "rabbitmq_global_messages_delivered_get_manual_ack_total",
        "Messages fetched one by one, to be settled.",
        |c| c.got.saturating_sub(c.got_no_ack),
    ),
    (
        "rabbitmq_global_messages_delivered_get_auto_ack_total",
        "Messages fetched one by one, settled when sent.",
        |c| c.got_no_ack,
    ),
    (
        "rabbitmq_global_messages_redelivered_total",
        "Deliveries of messages handed out before.",
        |c| c.redelivered,
    ),
    (
        "rabbitmq_global_messages_acknowledged_total",
        "Deliveries settled.",
        |c| c.acknowledged,
    ),
    (
        "rabbitmq_global_messages_get_empty_total",
        "Fetches from an empty queue.",
        |c| c.get_empty,
    ),
];

/// Sums over all clients under RabbitMQ's names of channels' and connections' counters. Dashboards and alerts of RabbitMQ before
/// 3.9 and of those that followed it ask for these; which channel it was, `/metrics/detailed` says.
pub(super) const CLIENTS: &[(&str, &str, TrafficField)] = &[
    (
        "rabbitmq_channel_messages_published_total",
        "Messages published, of all clients.",
        |t| t.published,
    ),
    (
        "rabbitmq_channel_messages_confirmed_total",
        "Publishes confirmed, of all clients.",
        |t| t.confirmed,
    ),
    (
        "rabbitmq_channel_messages_unroutable_returned_total",
        "Publishes that reached no queue and were returned, of all clients.",
        |t| t.unroutable_returned,
    ),
    (
        "rabbitmq_channel_messages_unroutable_dropped_total",
        "Publishes that reached no queue and were dropped, of all clients.",
        |t| t.unroutable_dropped,
    ),
    (
        "rabbitmq_channel_get_ack_total",
        "Messages fetched one by one, to be settled, of all clients.",
        |t| t.got.saturating_sub(t.got_no_ack),
    ),
    (
        "rabbitmq_channel_get_total",
        "Messages fetched one by one, settled when sent, of all clients.",
        |t| t.got_no_ack,
    ),
    (
        "rabbitmq_channel_get_empty_total",
        "Fetches from an empty queue, of all clients.",
        |t| t.get_empty,
    ),
    (
        "rabbitmq_channel_messages_delivered_ack_total",
        "Deliveries to be settled, of all clients.",
        |t| t.delivered,
    ),
    (
        "rabbitmq_channel_messages_delivered_total",
        "Deliveries settled when sent, of all clients.",
        |t| t.delivered_no_ack,
    ),
    (
        "rabbitmq_channel_messages_redelivered_total",
        "Deliveries of messages handed out before, of all clients.",
        |t| t.redelivered,
    ),
    (
        "rabbitmq_channel_messages_acked_total",
        "Deliveries settled, of all clients.",
        |t| t.acknowledged,
    ),
    (
        "rabbitmq_connection_incoming_bytes_total",
        "Bytes read from connections.",
        |t| t.bytes_in,
    ),
    (
        "rabbitmq_connection_outgoing_bytes_total",
        "Bytes written to connections.",
        |t| t.bytes_out,
    ),
];

/// Counters of dead-lettered and dropped messages, by type of queue.
pub(super) const DEAD_LETTERS: &[(&str, &str, Field)] = &[
    (
        "rabbitmq_global_messages_dead_lettered_delivery_limit_total",
        "Messages that came back from consumers too often.",
        |c| c.dead_lettered_delivery_limit,
    ),
    (
        "rabbitmq_global_messages_dead_lettered_expired_total",
        "Messages whose time was over.",
        |c| c.dead_lettered_expired,
    ),
    (
        "rabbitmq_global_messages_dead_lettered_maxlen_total",
        "Messages a full queue dropped.",
        |c| c.dead_lettered_maxlen,
    ),
    (
        "rabbitmq_global_messages_dead_lettered_rejected_total",
        "Messages consumers rejected.",
        |c| c.dead_lettered_rejected,
    ),
];

/// Counters of connections, by protocol.
pub(super) const TRAFFIC: &[(&str, &str, TrafficField)] = &[
    (
        "gatepost_connections_attached_total",
        "Connections that reached their vhost.",
        |t| t.links_attached,
    ),
    (
        "gatepost_read_bytes_total",
        "Bytes read from connections, as of their last turns.",
        |t| t.bytes_in,
    ),
    ("gatepost_written_bytes_total", "Bytes written to them.", |t| {
        t.bytes_out
    }),
    ("gatepost_messages_in_total", "Messages published.", |t| t.published),
    ("gatepost_messages_in_bytes_total", "Bytes of their bodies.", |t| {
        t.published_bytes
    }),
    ("gatepost_messages_out_total", "Messages delivered and fetched.", |t| {
        t.delivered + t.delivered_no_ack + t.got
    }),
    ("gatepost_messages_out_bytes_total", "Bytes of their bodies.", |t| {
        t.delivered_bytes
    }),
    ("gatepost_publishes_confirmed_total", "Publishes confirmed.", |t| {
        t.confirmed
    }),
    ("gatepost_publishes_refused_total", "Publishes refused.", |t| t.refused),
    ("gatepost_messages_settled_total", "Deliveries settled.", |t| {
        t.acknowledged
    }),
    (
        "gatepost_messages_rejected_total",
        "Messages their consumer rejected.",
        |t| t.rejected,
    ),
];

/// Counters without labels.
pub(super) const COUNTERS: &[(&str, &str, Field)] = &[
    (
        "rabbitmq_queues_declared_total",
        "Declarations of queues, of those that were there as well.",
        |c| c.queues_declared,
    ),
    ("rabbitmq_queues_created_total", "Queues created.", |c| c.queues_created),
    (
        "rabbitmq_channels_opened_total",
        "Channels that AMQP clients have opened.",
        |c| c.channels_opened,
    ),
    (
        "rabbitmq_channels_closed_total",
        "Channels of AMQP clients that are closed.",
        |c| c.channels_closed,
    ),
    ("rabbitmq_queues_deleted_total", "Queues deleted.", |c| c.queues_deleted),
    (
        "gatepost_access_refused_total",
        "Commands, filters and wills refused because the user may not do that.",
        |c| c.access_refused,
    ),
    (
        "gatepost_messages_expired_total",
        "Messages whose time in a queue was over.",
        |c| c.expired,
    ),
    (
        "gatepost_messages_dropped_total",
        "Messages for which a queue had no room, or at QoS 0 a subscriber was too slow or away.",
        |c| c.dropped_full,
    ),
    ("gatepost_messages_enqueued_total", "Copies put into queues.", |c| {
        c.enqueued
    }),
    (
        "rabbitmq_queue_messages_published_total",
        "Copies put into queues, in the words of dashboards made for RabbitMQ.",
        |c| c.enqueued,
    ),
    (
        "gatepost_messages_damaged_total",
        "Messages whose record in the log was damaged.",
        |c| c.damaged,
    ),
    (
        "gatepost_log_writes_cancelled_total",
        "Messages settled before they were written.",
        |c| c.cancelled_writes,
    ),
    (
        "gatepost_wills_not_logged_total",
        "Wills delivered without the log because the disk was full.",
        |c| c.wills_not_logged,
    ),
    ("gatepost_bodies_evicted_total", "Bodies that left memory.", |c| {
        c.bodies_evicted
    }),
    ("gatepost_bodies_loaded_total", "Bodies read back.", |c| c.bodies_loaded),
];

/// Gauges without labels.
pub(super) const GAUGES: &[(&str, &str, Field)] = &[
    ("rabbitmq_queue_messages_ready", "Messages ready for consumers.", |c| {
        c.messages_ready
    }),
    ("rabbitmq_queue_messages_unacked", "Messages with consumers.", |c| {
        c.messages_unsettled
    }),
    (
        "rabbitmq_queue_messages",
        "Messages in queues, ready and with consumers.",
        |c| c.messages_ready + c.messages_unsettled,
    ),
    (
        "rabbitmq_queue_messages_ready_bytes",
        "Bytes of the bodies of messages ready for consumers.",
        |c| c.messages_ready_bytes,
    ),
    ("rabbitmq_queue_consumers", "Consumers of queues.", |c| c.consumers),
    ("rabbitmq_consumers", "Consumers.", |c| c.consumers),
    (
        "gatepost_unsettled_bytes",
        "Bytes of memory of deliveries that are not settled.",
        |c| c.unsettled_bytes,
    ),
    (
        "gatepost_consumers_held_back",
        "Consumers that are offered nothing until they settle.",
        |c| c.consumers_held_back,
    ),
    ("rabbitmq_queues", "Queues.", |c| c.queues),
    ("rabbitmq_channels", "Channels.", |c| c.channels),
    ("gatepost_retained_messages", "Retained messages.", |c| c.retained),
    (
        "gatepost_retained_bytes",
        "Bytes of memory that retained messages take without their bodies.",
        |c| c.retained_bytes,
    ),
    (
        "gatepost_objects_bytes_max",
        "Bytes of memory that objects may take; what would need more is refused.",
        |c| c.objects_bytes_max,
    ),
    (
        "gatepost_message_memory_bytes",
        "Bytes of queued and retained messages in memory.",
        |c| c.memory_bytes,
    ),
    (
        "gatepost_messages_paged",
        "Ready messages that are in the log only, not even their places in memory.",
        |c| c.messages_paged,
    ),
    ("gatepost_log_unreported_bytes", "Bytes the engine waits for.", |c| {
        c.log_backlog_bytes
    }),
    ("gatepost_publishers_blocked", "Vhosts whose publishers wait.", |c| {
        u64::from(c.publishers_wait_for.is_some())
    }),
];

/// Counters of the store.
pub(super) const STORE_COUNTERS: &[(&str, &str, StoreField)] = &[
    (
        "gatepost_store_bytes_written_total",
        "Bytes written to files, footers and checkpoints included.",
        |s| &s.bytes_written,
    ),
    (
        "gatepost_store_record_bytes_written_total",
        "Bytes of records among them.",
        |s| &s.record_bytes_written,
    ),
    (
        "gatepost_store_checkpoint_bytes_written_total",
        "Bytes of checkpoints among them.",
        |s| &s.checkpoint_bytes_written,
    ),
    (
        "gatepost_store_compaction_bytes_written_total",
        "Bytes that compaction copied among them.",
        |s| &s.compaction_bytes_written,
    ),
    ("gatepost_store_messages_written_total", "Messages written.", |s| {
        &s.messages_written
    }),
    (
        "gatepost_store_messages_skipped_total",
        "Messages settled before they were written.",
        |s| &s.messages_skipped,
    ),
    ("gatepost_store_checkpoints_total", "Checkpoints written.", |s| {
        &s.checkpoints
    }),
    (
        "gatepost_store_records_compacted_total",
        "Records moved to free their segment.",
        |s| &s.records_compacted,
    ),
    (
        "gatepost_store_background_failures_total",
        "Chores of the store that failed.",
        |s| &s.background_failures,
    ),
    (
        "rabbitmq_io_sync_ops_total",
        "Syncs of the log, in the words of dashboards made for RabbitMQ.",
        |s| &s.syncs,
    ),
    (
        "rabbitmq_io_write_bytes_total",
        "Bytes written to files, in the words of dashboards made for RabbitMQ.",
        |s| &s.bytes_written,
    ),
    (
        "rabbitmq_msg_store_write_total",
        "Messages written to the log, in the words of dashboards made for RabbitMQ.",
        |s| &s.messages_written,
    ),
    (
        "gatepost_store_quarantined_total",
        "Damaged places found since the start; each is in the log with its path, and in the directory's quarantine/.",
        |s| &s.quarantined,
    ),
    (
        "gatepost_store_read_errors_total",
        "Reads of the log that failed, whether or not a later try succeeded. None of them counts as damage.",
        |s| &s.read_errors,
    ),
];

/// Gauges of the store.
pub(super) const STORE_GAUGES: &[(&str, &str, StoreField)] = &[
    ("gatepost_store_segments", "Segments on disk.", |s| &s.segments),
    ("gatepost_store_segment_bytes", "Their bytes.", |s| &s.segment_bytes),
    (
        "gatepost_store_live_messages",
        "Live messages, counted once per queue.",
        |s| &s.live_messages,
    ),
    ("gatepost_store_live_keys", "Live keyed records.", |s| &s.live_keys),
    (
        "gatepost_store_open_files",
        "Files of segments that are open, at most store.open_files and those in use.",
        |s| &s.open_files,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: fetched messages that were settled when sent counted with those to be settled.
    #[test]
    fn fetched_messages_are_told_apart_by_how_they_are_settled() {
        let traffic = Traffic {
            delivered: 100,
            delivered_no_ack: 10,
            got: 5,
            got_no_ack: 2,
            ..Traffic::default()
        };
        let value = |name: &str| {
            let found = CONSUMING.iter().find(|(known, ..)| *known == name);
            found.map(|(_, _, of)| of(&traffic))
        };
        let ways = [
            "consume_manual_ack",
            "consume_auto_ack",
            "get_manual_ack",
            "get_auto_ack",
        ];
        let counts = ways.map(|way| value(&format!("rabbitmq_global_messages_delivered_{way}_total")));
        assert_eq!(counts, [Some(100), Some(10), Some(3), Some(2)]);
        assert_eq!(value("rabbitmq_global_messages_delivered_total"), Some(115));
    }
}
