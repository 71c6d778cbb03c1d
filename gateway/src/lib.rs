//! The Gatepost daemon.
pub mod config;
