//! Gatepost's MQTT frames and session state machine.
