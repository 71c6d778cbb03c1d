//! Tests of the store as a whole, on the simulated disk.
