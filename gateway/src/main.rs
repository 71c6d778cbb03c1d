//! The Gatepost daemon.
fn main() {}
