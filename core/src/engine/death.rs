//! Why a message leaves its queue without a consumer's acceptance.

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// A consumer rejected it.
    Rejected,
    /// Its time was over.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It came back from consumers more often than its queue allows.
    DeliveryLimit,
}

impl Death {
    /// As `x-death` says it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Death::Rejected => "rejected",
            Death::Expired => "expired",
            Death::MaxLength => "maxlen",
            Death::DeliveryLimit => "delivery_limit",
        }
    }
}
