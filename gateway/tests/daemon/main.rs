//! The real daemon under real clients: pika, amqplib, paho-mqtt, mqtt.js, stomp.py and stompjs as they are installed
//! from their registries, and bare sockets for what those would never send.
//!
//! Every test starts a daemon of its own, on ports and data of its own, so all of them run side by side. What a client
//! does is a script in `gateway/tests/clients/`, made of cases that also run by hand against any broker (see
//! `harness.py` there); a test here runs one script, or keeps a book of its own about what the daemon promised.

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
