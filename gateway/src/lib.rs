//! The Gatepost daemon: sockets, threads, clock, configuration and HTTP around the engine.
//!
//! ```text
//!   main thread     configuration, signals, HTTP, free disk
//!   io-N            accept; connections: driver ──► vhost's lock ──► engine
//!   log             committer: batches of all vhosts, in groups ──► store
//!   log-read        reader: loads bodies back into memory
//! ```
//!
//! `io-0` has all sockets and timers, and runs the connections' turns. `io-1` and so on sleep until more turns are ready than
//! `io-0` can run, and then help: a connection's turns run on any of them, one at a time. Lock order: vhost, then the log's
//! queue. No thread holds the locks of two vhosts. This crate never parses a protocol's frame and never decides where a message
//! goes.

mod accountant;
mod api;
mod archive;
mod banner;
mod cert;
mod check;
mod clock;
mod committer;
pub mod config;
pub mod control;
mod control_group;
mod directory;
mod doctor;
mod driver;
mod exit;
mod histogram;
mod http;
mod listener;
mod logging;
mod machine;
mod migrate;
mod network;
mod node;
mod outbound;
mod protection;
mod protocols;
mod random;
mod reader;
mod reload;
mod secret;
mod server;
mod service_manager;
mod shutdown;
mod store;
mod sys_topics;
mod terms;
mod threads;
mod tls;
mod transport;
mod vhost;
mod vhosts;
mod watch;

pub use cert::{DevelopmentCertificates, make_development_certificates};
pub use check::check;
#[cfg(any(test, feature = "fuzzing"))]
pub use directory::fuzz::{fuzz_grants, fuzz_mosquitto, fuzz_scram, fuzz_token};
#[cfg(any(test, feature = "fuzzing"))]
pub use directory::question::fuzz_auth_answer;
pub use doctor::doctor;
pub use exit::{Failure, print};
pub use machine::keep_files_private;
pub use migrate::import;
pub use server::serve;
#[cfg(any(test, feature = "fuzzing"))]
pub use transport::fuzz::{fuzz_frames, fuzz_proxy, fuzz_upgrade};
