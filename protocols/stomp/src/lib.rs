//! Gatepost's STOMP frames and session state machine.
