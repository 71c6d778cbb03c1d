//! Files that are prepared for the log's next segments.

/// A file that is only space for a segment. Its name is durable: if a power cut could restore the name of the segment
/// that it was, whatever is written to it would then be found as that segment's content.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: String,
    /// Whether its blocks have been written before. If so, a sync of a segment made from it changes no metadata.
    pub(super) written: bool,
}

/// The number of spares that are kept.
pub(super) const SPARES_MAX: usize = 2;
/// A spare that is being zeroed.
pub(super) const AHEAD: &str = "log/ahead";
