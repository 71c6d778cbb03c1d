//! What tests of this crate and of those above it share: a disk that crashes.

pub mod disk;
