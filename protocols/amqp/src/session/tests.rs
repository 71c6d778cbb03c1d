//! Scripts of octets and events against a session, with the commands and octets expected, on virtual time.

mod channels;
mod consumers;
mod delivering;
mod handshake;
mod known;
mod liveness;
mod publishing;
mod script;
