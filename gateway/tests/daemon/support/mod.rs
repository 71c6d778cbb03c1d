//! What the tests stand on: the daemon as a process, the third-party clients, and raw sockets for what no decent client
//! would send. Nothing here knows what is being tested.

pub(crate) mod amqp;
pub(crate) mod clients;
pub(crate) mod daemon;
pub(crate) mod mqtt;
pub(crate) mod raw;
pub(crate) mod stomp;
pub(crate) mod tls;

pub(crate) use clients::{node, node_over_websocket, python, python_over_quic, python_over_websocket};
pub(crate) use daemon::Gatepost;
