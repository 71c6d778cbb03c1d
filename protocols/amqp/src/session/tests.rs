//! Conversations, by script: octets and events in, commands and octets out, on virtual time.

mod channels;
mod consumers;
mod delivering;
mod handshake;
mod liveness;
mod publishing;
mod script;
