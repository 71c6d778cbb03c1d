//! Which addresses active traces ask for.
//!
//! Whether a trace asks for a message depends on its exchange and key, and for some traces on its properties. Comparing a key
//! with filters costs a fourth of what a message costs in all, and the answer is the same for all messages of an address.
//! So it is noted, with the remembered route where there is one (`router/cache.rs`), else in a small table here. A note says which
//! generation of traces it is about: once a trace starts, ends or is full, all notes are out of date at once.

use crate::ledger::Charge;
use crate::message::Message;
use crate::tally::Mark;
use std::mem::size_of;

/// Which messages to an address active traces ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Asked {
    /// None of its messages.
    Nothing = 1,
    /// Those with certain properties.
    Properties = 2,
    /// All of them.
    All = 3,
}

/// The most addresses without a remembered route that are noted: queues of the default exchange, and routes of headers
/// exchanges.
const PLACES: usize = 1024;
const PLACES_BYTES: usize = PLACES * size_of::<(u64, Mark)>();
/// The low bits of a mark say what is asked for. The bits above are the generation, which repeats after a thousand
/// million changes.
const ASKED: u32 = 0b11;

/// What traces ask for, by address: see the module.
#[derive(Default)]
pub(crate) struct AskedAddresses {
    generation: u32,
    /// Marks by the hash of the address. Empty while no trace is active.
    places: Vec<(u64, Mark)>,
}

impl AskedAddresses {
    /// The traces that catch messages have changed. `any`: there are some.
    pub(crate) fn change(&mut self, any: bool, charge: &mut Charge) {
        self.generation = self.generation.wrapping_add(ASKED + 1);
        if any && self.places.is_empty() {
            charge.grow(PLACES_BYTES);
            self.places = vec![(0, Mark::default()); PLACES];
        } else if !any && !self.places.is_empty() {
            charge.shrink(PLACES_BYTES);
            self.places = Vec::new();
        }
    }

    /// What a mark says, if it is of the current generation.
    #[inline]
    pub(crate) fn read(&self, Mark(mark): Mark) -> Option<Asked> {
        if mark & !ASKED != self.generation {
            return None;
        }
        match mark & ASKED {
            1 => Some(Asked::Nothing),
            2 => Some(Asked::Properties),
            3 => Some(Asked::All),
            _ => None,
        }
    }

    /// A mark of the current generation.
    pub(crate) fn mark(&self, asked: Asked) -> Mark {
        Mark(self.generation | asked as u32)
    }

    /// The mark noted here for the message's address.
    #[inline]
    pub(crate) fn find(&self, message: &Message) -> Mark {
        let hash = message.route_hash();
        match self.places.get(hash as usize % PLACES) {
            Some((of, mark)) if *of == hash => *mark,
            _ => Mark::default(),
        }
    }

    /// Notes a mark here, in place of that of another address.
    pub(crate) fn note(&mut self, message: &Message, mark: Mark) {
        let hash = message.route_hash();
        if let Some(place) = self.places.get_mut(hash as usize % PLACES) {
            *place = (hash, mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, ObjectKind};
    use crate::message::Envelope;
    use std::sync::Arc;

    #[test]
    fn a_note_holds_until_the_traces_change_and_room_is_there_only_while_some_are_active() {
        let ledger = Arc::new(Ledger::default());
        let mut charge = ledger.charge(ObjectKind::Queues, 0);
        let mut addresses = AskedAddresses::default();
        let message = |key: &str| Message::new(Envelope::default(), "", key, b"", b"");
        assert_eq!(addresses.read(Mark::default()), None);
        // Nobody has room for it yet.
        addresses.note(&message("a"), Mark(1));
        assert_eq!(addresses.find(&message("a")), Mark::default());
        addresses.change(true, &mut charge);
        assert_eq!((addresses.read(Mark::default()), charge.bytes()), (None, PLACES_BYTES));
        for asked in [Asked::Nothing, Asked::Properties, Asked::All] {
            let mark = addresses.mark(asked);
            addresses.note(&message("a"), mark);
            assert_eq!(addresses.read(addresses.find(&message("a"))), Some(asked));
            assert_eq!(addresses.find(&message("b")), Mark::default());
            addresses.change(true, &mut charge);
            assert_eq!(addresses.read(mark), None);
        }
        addresses.change(false, &mut charge);
        assert_eq!((charge.bytes(), addresses.find(&message("a"))), (0, Mark::default()));
    }
}
