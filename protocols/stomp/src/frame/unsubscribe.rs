//! UNSUBSCRIBE.

use super::Frame;
use super::subscribe::SubscriptionName;
use crate::error::Refusal;

/// Which subscription ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsubscribe<'a> {
    pub(crate) name: SubscriptionName,
    /// A durable subscription ends for good, instead of waiting for its client's return.
    pub(crate) for_good: bool,
    pub(crate) receipt: Option<&'a str>,
}

impl<'a> Unsubscribe<'a> {
    /// Understands an UNSUBSCRIBE frame.
    pub(crate) fn parse(frame: &Frame<'a>) -> Result<Unsubscribe<'a>, Refusal> {
        let headers = frame.headers;
        let name = SubscriptionName::of(headers).ok_or_else(Refusal::unsubscribe_needs_id)?;
        if matches!(&name, SubscriptionName::Id(id) if id.starts_with("/temp-queue/")) {
            return Err(Refusal::unsubscribe_temp_queue());
        }
        // `persistent` is what RabbitMQ called it first; ActiveMQ names the subscription again.
        let for_good = headers.flag("durable")
            || headers.flag("persistent")
            || super::subscribe::ACTIVEMQ_NAMES
                .iter()
                .any(|name| headers.lookup(name).is_some());
        Ok(Unsubscribe {
            name,
            for_good,
            receipt: headers.lookup("receipt"),
        })
    }
}
