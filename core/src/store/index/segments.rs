//! A list of segments.

/// A few segments, ascending. Most keys have none, for which no memory is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segments(Box<[u32]>);

impl Segments {
    pub(crate) fn from_sorted(segments: Vec<u32>) -> Segments {
        debug_assert!(segments.is_sorted_by(|a, b| a < b));
        Segments(segments.into())
    }
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = u32> {
        self.0.iter().copied()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn contains(&self, segment: u32) -> bool {
        self.0.binary_search(&segment).is_ok()
    }
    pub(crate) fn insert(&mut self, segment: u32) {
        if let Err(at) = self.0.binary_search(&segment) {
            let mut list = std::mem::take(&mut self.0).into_vec();
            list.insert(at, segment);
            self.0 = list.into();
        }
    }
    /// Keeps some of them.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        if !self.0.iter().all(|segment| keep(*segment)) {
            self.0 = self.0.iter().copied().filter(|segment| keep(*segment)).collect();
        }
    }
}
