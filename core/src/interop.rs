//! Counts properties that are lost when a message is delivered by another protocol than it was published with.
//!
//! Each protocol that delivers messages of other protocols has one [`Drops`], shared by its sessions. The labels are bounded: the
//! fields are a fixed list, and the origin is a code of which few exist.

use crate::properties::Origin;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)+) => {
        /// What was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field {
            $($(#[$doc])* $field,)+
        }

        impl Field {
            /// All of them.
            pub const ALL: &[Field] = &[$(Field::$field),+];

            /// The `field` label.
            pub fn name(self) -> &'static str {
                match self {
                    $(Field::$field => $name,)+
                }
            }
        }
    };
}

fields! {
    /// The whole message: the protocol cannot express its routing key.
    Topic = "topic",
    /// All properties of a message: the protocol's version has none.
    Properties = "properties",
    /// One header.
    Header = "header",
    /// The content type.
    ContentType = "content_type",
    /// The content encoding.
    ContentEncoding = "content_encoding",
    /// The reply address.
    ReplyTo = "reply_to",
    /// The correlation data.
    Correlation = "correlation",
    /// The sender's id of the message.
    MessageId = "message_id",
    /// The sender's type of the message.
    Type = "type",
    /// The sending application.
    AppId = "app_id",
    /// The sending user.
    UserId = "user_id",
}

const FIELDS: usize = Field::ALL.len();
/// Origins that are counted separately. The last one counts all other codes; today that is only the engine's own.
const ORIGINS: usize = 64;

/// Counts by field and origin, since the process started.
#[derive(Debug)]
pub struct Drops([[AtomicU64; FIELDS]; ORIGINS]);

impl Default for Drops {
    fn default() -> Drops {
        Drops(std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))))
    }
}

impl Drops {
    /// Counts one `field` of a message of that origin.
    pub fn count(&self, from: Origin, field: Field) {
        let place = usize::from(from.0).min(ORIGINS - 1);
        if let Some(count) = self.0.get(place).and_then(|counts| counts.get(field as usize)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted of `field`, over all origins.
    pub fn total(&self, field: Field) -> u64 {
        self.all().filter(|drop| drop.1 == field).map(|drop| drop.2).sum()
    }

    /// Everything that was counted at least once.
    pub fn all(&self) -> impl Iterator<Item = (Origin, Field, u64)> {
        self.0.iter().enumerate().flat_map(|(code, counts)| {
            // The last place counts all codes from there on, and is shown as the engine's own.
            let from = match u8::try_from(code) {
                Ok(code) if usize::from(code) < ORIGINS - 1 => Origin(code),
                _ => Origin::NEUTRAL,
            };
            let counts = Field::ALL.iter().zip(counts);
            counts
                .map(move |(field, count)| (from, *field, count.load(Ordering::Relaxed)))
                .filter(|(_, _, count)| *count > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_by_origin_and_field() {
        let drops = Drops::default();
        drops.count(Origin(1), Field::Header);
        drops.count(Origin(1), Field::Header);
        drops.count(Origin(1), Field::UserId);
        drops.count(Origin::NONE, Field::Topic);
        drops.count(Origin(200), Field::Header);
        drops.count(Origin::NEUTRAL, Field::Header);
        let all: Vec<_> = drops.all().collect();
        let expected = [
            (Origin::NONE, Field::Topic, 1),
            (Origin(1), Field::Header, 2),
            (Origin(1), Field::UserId, 1),
            (Origin::NEUTRAL, Field::Header, 2),
        ];
        assert_eq!(all, expected);
        assert_eq!(drops.total(Field::Header), 4);
    }
}
