//! Where a message goes, and as what: the merge of all bindings that lead to one queue.

use crate::binding::{Grant, QueueSlot};
use std::sync::Arc;

/// A queue a message goes to, once, however many bindings led there.
///
/// Sixteen bytes where no subscription has an identifier or wants no-local: a fan-out reads one per queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which queue.
    pub queue: QueueSlot,
    /// Some subscription led here; else plain bindings only.
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

/// How the queue takes what its own session published.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Own {
    /// As from anyone: no subscription wants no-local.
    Same,
    /// By a plain binding; all subscriptions want no-local.
    Plain,
    /// Not at all.
    Nothing,
    /// By the subscriptions that do not want no-local.
    Merged {
        qos: u8,
        retain_as_published: bool,
        subscription_ids: Option<Arc<[u32]>>,
    },
}

/// How a target takes a message. See [`Target::admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// By a plain binding: no cap on its QoS.
    Plain,
    /// By subscriptions, merged.
    Granted(Granted<'a>),
    /// Not at all: only subscriptions with `no_local` led here, and the session published it itself.
    NoLocal,
}

/// The merge of all subscriptions of one queue that match a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted<'a> {
    /// The highest of their QoS.
    pub qos: u8,
    /// Whether any of them keeps the retain flag.
    pub retain_as_published: bool,
    /// All their subscription identifiers, in the same order each time; `None` if none has one.
    pub subscription_ids: Option<&'a Arc<[u32]>>,
}

impl Target {
    /// How the queue takes the message. `own`: the publisher is the session whose queue this is (no-local is judged
    /// per subscription, so some of them may still admit the message).
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

    /// A target that plain bindings led to.
    pub(super) fn plain(queue: QueueSlot) -> Target {
        Target {
            queue,
            granted: false,
            qos: 0,
            retain_as_published: false,
            rare: None,
        }
    }

    /// Merges what led to `queue`: the grants of subscriptions, `None` for plain bindings.
    pub(super) fn merged(queue: QueueSlot, grants: impl Iterator<Item = Option<Grant>>) -> Target {
        let mut merge = Merge::default();
        grants.for_each(|grant| merge.add(grant));
        merge.target(queue)
    }
}

/// What led to a queue, one by one.
#[derive(Default)]
pub(super) struct Merge {
    all: Grants,
    /// Those that take what their own session published.
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
        // Almost always there is just one, of the simplest kind.
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
