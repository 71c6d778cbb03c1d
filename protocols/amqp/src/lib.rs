//! Gatepost's AMQP frames and session state machine.
