//! What a full queue does with a message: `x-overflow`, or the policy key `overflow`.

/// What happens to a message for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The oldest waiting message is dropped.
    #[default]
    DropHead,
    /// The new message is refused.
    RejectPublish,
    /// The new message is refused, and dead-lettered.
    RejectPublishDeadLetter,
}

impl Overflow {
    /// Reads the word that clients and policies use.
    pub(crate) fn of(word: &str) -> Option<Overflow> {
        Some(match word {
            "drop-head" => Overflow::DropHead,
            "reject-publish" => Overflow::RejectPublish,
            "reject-publish-dlx" => Overflow::RejectPublishDeadLetter,
            _ => return None,
        })
    }
}
