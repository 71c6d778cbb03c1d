//! Scripts on virtual time: bytes of a client and events of an engine go in, commands and bytes come out.

mod authenticating;
mod connecting;
mod delivering;
mod ending;
mod keep_alive;
mod publishing;
mod script;
mod subscribing;
