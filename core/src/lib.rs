//! Gatepost's engine.
//!
//! ```text
//!   sessions ──Command──► Engine ──► exchange (route) ──► queue ──► store (log)
//!   sessions ◄──Event──── Engine ◄────────────────────── queue ◄── store (log)
//! ```
//!
//! A deterministic state machine: commands and time go in, events and log records come out. It does I/O only through
//! [`store::disk::Disk`], and never reads a clock. It never asks which protocol a connection speaks: commands have
//! fields for what differs between protocols.
//!
//! Some terms of protocols appear here, because several protocols or the log need what they name:
//!
//! - RabbitMQ's names and texts, which clients of all protocols see: the exchanges `amq.*` (`router`), the queue
//!   arguments `x-*` (`arguments`, `queue::arguments`), the dead-letter headers `x-death` (`engine::dead_letter`), and
//!   the texts of refusals in [`fault::Fault`]. A session adds its protocol's code to the text, or drops it.
//! - Sessions that outlive a connection, with packet ids, the memory of QoS 2, wills and shared subscriptions
//!   (`engine::sessions`, `engine::packets`), come from MQTT. They are here because the log stores them. Their queues
//!   are called `mqtt-subscription-*` and `mqtt-share-*`, as operators know them from RabbitMQ.
//! - `$SYS`, where MQTT clients look for the broker's own topics.
//! - [`message::Dialect`]: whether a topic is spelled with dots or slashes. Each protocol says which it uses.

pub mod access;
mod arguments;
pub mod binding;
pub mod buffers;
pub mod catalog;
pub mod command;
mod durable_session;
pub mod engine;
pub mod event;
mod exchange;
pub mod fault;
mod freed;
mod in_flight;
pub mod in_process;
pub mod interop;
pub mod keys;
mod ledger;
pub mod message;
mod overflow;
pub mod packet_ids;
pub mod policy;
pub mod properties;
pub mod pump;
mod queue;
mod queue_type;
pub mod quota;
pub mod retained;
pub mod router;
mod segmented;
mod seldom;
pub mod session;
mod slots;
pub mod store;
mod subscription_ids;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod topic;
mod will;
