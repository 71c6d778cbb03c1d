//! Where a message goes, and on which terms: merges all bindings that lead to one queue.

use crate::binding::{Grant, QueueSlot};
use std::sync::Arc;

/// A queue that a message goes to. It appears once, however many bindings led there.
///
/// Sixteen bytes: a fan-out reads one for each queue. Subscription identifiers and no-local are rare and need an
/// allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The queue's slot.
    pub queue: QueueSlot,
    /// Whether at least one subscription led here; else only plain bindings did.
    granted: bool,
    qos: u8,
    retain_as_published: bool,
    rare: Option<Box<Rare>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rare {
    subscription_ids: Option<Arc<[u32]>>,
    own: Own,
}

/// How the queue takes a message that its own session published.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Own {
    /// As from anyone: no subscription has no-local.
    Same,
    /// Through a plain binding: all subscriptions have no-local.
    Plain,
    /// Not at all: all have no-local, and there is no plain binding.
    Nothing,
    /// Through the subscriptions without no-local.
    Merged {
        qos: u8,
        retain_as_published: bool,
        subscription_ids: Option<Arc<[u32]>>,
    },
}

/// On which terms a queue takes a message. See [`Target::admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// Through a plain binding: its QoS is not limited.
    Plain,
    /// Through subscriptions, whose options are merged.
    Granted(Granted<'a>),
    /// Not at all: only subscriptions with no-local led here, and their own session published the message.
    NoLocal,
}

/// The merged options of all subscriptions of one queue that match a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted<'a> {
    /// The highest QoS that any of them asks for.
    pub qos: u8,
    /// Whether any of them asked for retain-as-published.
    pub retain_as_published: bool,
    /// All their subscription identifiers in a stable order; `None` if none has one.
    pub subscription_ids: Option<&'a Arc<[u32]>>,
}

impl Target {
    /// How the queue takes the message. `own`: the publisher is the session that owns the queue. No-local is an option
    /// of each subscription, so others of the same session may still let the message in.
    #[inline]
    pub fn admission(&self, own: bool) -> Admission<'_> {
        if !self.granted {
            return Admission::Plain;
        }
        let rare = self.rare.as_deref();
        match rare.map(|rare| &rare.own) {
            Some(Own::Plain) if own => Admission::Plain,
            Some(Own::Nothing) if own => Admission::NoLocal,
            Some(Own::Merged {
                qos,
                retain_as_published,
                subscription_ids,
            }) if own => Admission::Granted(Granted {
                qos: *qos,
                retain_as_published: *retain_as_published,
                subscription_ids: subscription_ids.as_ref(),
            }),
            _ => Admission::Granted(Granted {
                qos: self.qos,
                retain_as_published: self.retain_as_published,
                subscription_ids: rare.and_then(|rare| rare.subscription_ids.as_ref()),
            }),
        }
    }

    /// A target reached through plain bindings only.
    pub(super) fn plain(queue: QueueSlot) -> Target {
        Target {
            queue,
            granted: false,
            qos: 0,
            retain_as_published: false,
            rare: None,
        }
    }

    /// Merges what led to `queue`: the grant of each subscription, `None` for each plain binding.
    pub(super) fn merged(queue: QueueSlot, grants: impl Iterator<Item = Option<Grant>>) -> Target {
        let mut merge = Merge::default();
        grants.for_each(|grant| merge.add(grant));
        merge.target(queue)
    }
}

/// Collects what led to one queue.
#[derive(Default)]
pub(super) struct Merge {
    all: Grants,
    /// The grants of subscriptions without no-local.
    own: Grants,
    plain: bool,
}

impl Merge {
    /// Adds the grant of a subscription, or `None` for a plain binding.
    pub(super) fn add(&mut self, grant: Option<Grant>) {
        match grant {
            None => self.plain = true,
            Some(grant) => {
                self.all.add(&grant);
                if !grant.no_local {
                    self.own.add(&grant);
                }
            }
        }
    }

    pub(super) fn target(self, queue: QueueSlot) -> Target {
        let Merge { all, own, plain } = self;
        // Most queues are reached through plain bindings only.
        if all.count == 0 {
            return Target::plain(queue);
        }
        let foreign_only = own.count < all.count;
        let own = match own.count {
            _ if !foreign_only => Own::Same,
            0 if plain => Own::Plain,
            0 => Own::Nothing,
            _ => Own::Merged {
                qos: own.qos,
                retain_as_published: own.retain_as_published,
                subscription_ids: own.ids(),
            },
        };
        let (qos, retain_as_published) = (all.qos, all.retain_as_published);
        let subscription_ids = all.ids();
        let rare = (foreign_only || subscription_ids.is_some()).then(|| Box::new(Rare { subscription_ids, own }));
        Target {
            queue,
            granted: true,
            qos,
            retain_as_published,
            rare,
        }
    }
}

#[derive(Default)]
struct Grants {
    count: usize,
    qos: u8,
    retain_as_published: bool,
    subscription_ids: Vec<u32>,
}

impl Grants {
    // MQTT 5 3.3.4 [MQTT-3.3.4-2], [MQTT-3.3.4-4]: one copy, at the highest QoS, with all identifiers.
    fn add(&mut self, grant: &Grant) {
        self.count += 1;
        self.qos = self.qos.max(grant.qos);
        self.retain_as_published |= grant.retain_as_published;
        self.subscription_ids.extend(grant.subscription_id);
    }

    fn ids(self) -> Option<Arc<[u32]>> {
        (!self.subscription_ids.is_empty()).then(|| self.subscription_ids.into())
    }
}

const _: () = assert!(std::mem::size_of::<Target>() <= 16);
