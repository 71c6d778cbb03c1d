//! The real daemon with real clients: pika, amqplib, paho-mqtt, mqtt.js, stomp.py and stompjs as installed from their
//! registries, and bare sockets for bytes that those would never send.
//!
//! Every test starts a daemon of its own, with its own ports and data, so all tests run side by side. Client actions
//! are scripts in `gateway/tests/clients/`, made of cases that also run by hand against any broker (see `harness.py`
//! there). A test here runs one script, or keeps its own record of what the daemon confirmed.

mod access;
mod amqp;
mod api;
mod asking;
mod backup;
mod churn;
mod console;
mod control;
mod damage;
mod dashboards;
mod definitions;
mod deploy;
mod descriptors;
mod docs;
mod durability;
mod failure;
mod flow;
mod hostile;
mod interop;
mod kills;
mod log_lines;
mod memory;
mod metrics;
mod mqtt;
mod operating;
mod process;
mod protection;
mod proxy;
mod quic;
mod reading;
mod readme;
mod startup;
mod stomp;
mod support;
mod sys_topics;
mod threads;
mod tls;
mod tls_connections;
mod trace;
mod unix;
mod watermarks;
mod websocket;
