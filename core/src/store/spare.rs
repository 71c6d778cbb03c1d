//! Files that are made before they are needed: the log's next segments become of them.

/// A file that is a segment's room and nothing else. That it has this name is on the medium: if a power cut could still
/// give it the segment's name back, whatever is written to it would then be found there, as if it were that segment's.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: String,
    /// Its blocks were written before: a sync of a segment made of it changes no metadata.
    pub(super) written: bool,
}

/// Spares kept.
pub(super) const SPARES_MAX: usize = 2;
/// A spare being zeroed.
pub(super) const AHEAD: &str = "log/ahead";
