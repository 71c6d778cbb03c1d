//! Support for the tests: the daemon as a process, third-party clients, and raw sockets for bytes that no client
//! library sends. Nothing here depends on what is tested.

pub(crate) mod amqp;
pub(crate) mod clients;
pub(crate) mod daemon;
pub(crate) mod mqtt;
pub(crate) mod raw;
pub(crate) mod stomp;
pub(crate) mod tls;

pub(crate) use clients::{node, node_over_websocket, python, python_over_quic, python_over_websocket};
pub(crate) use daemon::Gatepost;
