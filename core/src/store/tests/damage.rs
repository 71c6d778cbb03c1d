//! Bytes that are not what they were.
