//! What tests of this crate and of those above it share: a disk that crashes, and a whole gateway's core on one thread.

pub mod corpus;
pub mod disk;
pub mod pipe;
pub mod world;
