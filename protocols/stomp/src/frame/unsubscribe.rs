//! UNSUBSCRIBE.

use super::Frame;
use super::subscribe::SubscriptionName;
use crate::error::Refusal;

/// A parsed UNSUBSCRIBE frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsubscribe<'a> {
    pub(crate) name: SubscriptionName,
    /// A durable subscription is deleted, instead of kept until its client returns.
    pub(crate) for_good: bool,
    pub(crate) receipt: Option<&'a str>,
}

impl<'a> Unsubscribe<'a> {
    /// Parses an UNSUBSCRIBE frame.
    pub(crate) fn parse(frame: &Frame<'a>) -> Result<Unsubscribe<'a>, Refusal> {
        let headers = frame.headers;
        let name = SubscriptionName::of(headers).ok_or_else(Refusal::unsubscribe_needs_id)?;
        if matches!(&name, SubscriptionName::Id(id) if id.starts_with("/temp-queue/")) {
            return Err(Refusal::unsubscribe_temp_queue());
        }
        // `persistent` is an older name of RabbitMQ's header; ActiveMQ repeats the subscription's name instead.
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
