//! What the store does, one behaviour at a time.
