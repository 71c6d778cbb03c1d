//! A publish whose content is not complete yet.

/// A message being assembled.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) address: Address<Box<str>>,
    /// The header's octets and the announced size, once the header frame came.
    pub(super) header: Option<(Box<[u8]>, u64)>,
    /// Octets of body received, kept or not.
    pub(super) received: u64,
    /// Empty if the body is too large to be kept.
    pub(super) body: Vec<u8>,
}

impl Content {
    /// Octets held until the message is complete.
    pub(super) fn unfinished_bytes(&self) -> usize {
        self.body.len()
    }
}

/// The fields of `basic.publish`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address<S> {
    pub(super) exchange: S,
    pub(super) key: S,
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
}
