//! Tests of the store as a whole, on the simulated disk.

mod behaviour;
mod crash;
mod damage;
mod script;
