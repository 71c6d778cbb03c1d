//! Why a message leaves its queue without a consumer's acceptance.

/// The reason why a message leaves its queue without being accepted by a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// A consumer rejected it.
    Rejected,
    /// It expired.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It came back from consumers more often than its queue allows.
    DeliveryLimit,
}

impl Death {
    /// The reason's name in `x-death`.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Death::Rejected => "rejected",
            Death::Expired => "expired",
            Death::MaxLength => "maxlen",
            Death::DeliveryLimit => "delivery_limit",
        }
    }
}
