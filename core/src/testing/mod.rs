//! Shared by the tests of this crate and of the crates above it: a disk that crashes, and a gateway's whole core on one
//! thread.

mod connections;
pub mod corpus;
pub mod disk;
pub mod pipe;
pub mod world;
