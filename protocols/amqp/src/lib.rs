//! Gatepost's AMQP frames and session state machine.
mod codec;
mod error;
mod frame;
