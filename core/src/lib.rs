//! Gatepost's engine.
//!
//! ```text
//!   sessions ──Command──► Engine ──► exchange (route) ──► queue ──► store (log)
//!   sessions ◄──Event──── Engine ◄────────────────────── queue ◄── store (log)
//! ```
//!
//! A deterministic state machine: commands and time go in, events and log records come out. It never does I/O but
//! through [`store::disk::Disk`], never reads a clock, never names a protocol.

mod arguments;
pub mod binding;
pub mod command;
mod durable_session;
pub mod engine;
pub mod event;
mod exchange;
pub mod fault;
pub mod keys;
mod ledger;
pub mod message;
pub mod properties;
pub mod pump;
mod queue;
pub mod retained;
pub mod router;
pub mod session;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod topic;
