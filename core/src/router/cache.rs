//! Whole routes, remembered by address: a repeated one costs a look-up and allocates nothing.

use super::Target;
use super::counts::Named;
use super::generations::{Cell, Generations};
use crate::access::Permitted;
use crate::ledger::{allocation, hashed};
use crate::message::{Dialect, Message};
use crate::tally::{Mark, Source, Tally};
use hashbrown::HashTable;
use std::mem::size_of;

/// Routes remembered at most.
const ROUTES_MAX: usize = 16_384;
/// Targets at most, over all routes: wide fan-outs over many topics must not fill the memory.
const TARGETS_MAX: usize = 1 << 20;
/// Longest address (exchange and key) that is remembered.
const ADDRESS_BYTES_MAX: usize = 512;

/// The remembered routes.
pub(super) struct RouteCache {
    /// Indices into `entries`. Never iterated.
    table: HashTable<u32>,
    entries: Vec<Entry>,
    /// Sum of `entries[..].targets.len()`.
    targets: usize,
    /// What the entries cost in memory.
    bytes: usize,
    /// Bytes of memory at most.
    bytes_max: usize,
    random: u64,
    /// Number of the last route remembered.
    last_id: u64,
}

struct Entry {
    hash: u64,
    /// Grows from route to route and is never used again, so that what others remember of a route cannot be taken for
    /// something about another one. From 1.
    id: u64,
    /// See [`super::route::KnownRoute::permitted`]. A route that is computed anew has a new number, and nobody here.
    permitted: Permitted,
    /// Version of the generations at which it was last known to be right.
    valid_at: u64,
    exchange_len: u8,
    dialect: Dialect,
    /// The exchange it begins at. While the route is valid, it is there.
    exchange: Named,
    /// Exchange and key, as in the message's payload.
    address: Box<[u8]>,
    targets: Box<[Target]>,
    /// What it depends on, and the sum of their counts when it was computed.
    cells: Box<[Cell]>,
    sum: u64,
    /// Where the flow map says that its messages come from.
    source: Source,
    /// Its messages since the flow map was last brought up to date.
    tally: Tally,
    /// See [`RouteCache::mark`].
    mark: Mark,
}

/// A remembered route that had messages: see [`RouteCache::take_tally`].
pub(super) struct Tallied<'a> {
    pub(super) source: Source,
    pub(super) exchange: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) dialect: Dialect,
    pub(super) tally: Tally,
    pub(super) targets: &'a [Target],
}

impl RouteCache {
    pub(super) fn new() -> RouteCache {
        RouteCache {
            table: HashTable::new(),
            entries: Vec::new(),
            targets: 0,
            bytes: 0,
            bytes_max: usize::MAX,
            random: 0x9E37_79B9_7F4A_7C15,
            last_id: 0,
        }
    }

    /// The index of the valid route for the message's address, for [`RouteCache::targets`].
    #[inline]
    pub(super) fn find(&mut self, message: &Message, generations: &Generations) -> Option<usize> {
        let index = self.position(message)?;
        let entry = &mut self.entries[index];
        let version = generations.version();
        if entry.valid_at != version {
            if generations.sum(&entry.cells) != entry.sum {
                return None;
            }
            entry.valid_at = version;
        }
        Some(index)
    }

    /// Number of the route at `index`, and who was permitted to use it.
    #[inline]
    pub(super) fn id_and_permitted(&self, index: usize) -> (u64, Permitted) {
        let entry = &self.entries[index];
        (entry.id, entry.permitted)
    }

    pub(super) fn permit(&mut self, index: usize, permitted: Permitted) {
        self.entries[index].permitted = permitted;
    }

    /// Counts a message along the route at `index`.
    #[inline]
    pub(super) fn note(&mut self, index: usize, bytes: usize) -> Source {
        let entry = &mut self.entries[index];
        entry.tally.count(bytes);
        entry.source
    }

    /// What traces have noted of the address of the route at `index`. Nothing, of a route that was just remembered.
    #[inline]
    pub(super) fn mark(&self, index: usize) -> Mark {
        self.entries[index].mark
    }

    pub(super) fn set_mark(&mut self, index: usize, mark: Mark) {
        self.entries[index].mark = mark;
    }

    /// Routes remembered.
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    /// What the route at `index` has counted since it was last asked, if that is anything. Routes change their places: one that
    /// is passed over this time is found the next.
    pub(super) fn take_tally(&mut self, index: usize) -> Option<Tallied<'_>> {
        let entry = self.entries.get_mut(index)?;
        let tally = std::mem::take(&mut entry.tally);
        (!tally.is_empty()).then(|| {
            let (exchange, key) = entry.address.split_at(usize::from(entry.exchange_len));
            Tallied {
                source: entry.source,
                exchange,
                key,
                dialect: entry.dialect,
                tally,
                targets: &entry.targets,
            }
        })
    }

    /// Exchange, key and dialect of the remembered route that has that source and no other route shares it with.
    pub(super) fn address_of(&self, source: Source) -> Option<(&[u8], &[u8], Dialect)> {
        let same = |&index: &u32| Source::topic(self.entries[index as usize].hash) == source;
        let index = *self.table.find(source.0, same)?;
        let entry = &self.entries[index as usize];
        let (exchange, key) = entry.address.split_at(usize::from(entry.exchange_len));
        Some((exchange, key, entry.dialect))
    }

    /// Has it forget routes when it would grow over so many bytes. It shrinks as routes are added.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The exchange that the route at `index` begins at.
    #[inline]
    pub(super) fn exchange(&self, index: usize) -> Named {
        self.entries[index].exchange
    }

    #[inline]
    pub(super) fn targets(&self, index: usize) -> &[Target] {
        &self.entries[index].targets
    }

    /// Remembers a route just computed, in place of a stale one or, when full, of any other.
    pub(super) fn insert(
        &mut self,
        message: &Message,
        targets: &[Target],
        exchange: Named,
        source: Source,
        cells: &[Cell],
        generations: &Generations,
    ) {
        let (exchange_len, address) = address(message);
        let stale = self.position(message).map(|stale| self.remove(stale));
        let bytes = entry_bytes(address.len(), targets.len(), cells.len());
        if address.len() > ADDRESS_BYTES_MAX || targets.len() > TARGETS_MAX / 4 || bytes > self.bytes_max / 4 {
            return;
        }
        // A random victim degrades evenly where topics are published to in turn, when the eldest (or the least
        // recently used) would always be the next one wanted.
        let room = self.bytes_max - bytes;
        while self.entries.len() >= ROUTES_MAX || self.targets + targets.len() > TARGETS_MAX || self.bytes > room {
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.remove((self.random >> 33) as usize % self.entries.len());
        }
        let hash = message.route_hash();
        self.targets += targets.len();
        self.bytes += bytes;
        self.last_id += 1;
        self.entries.push(Entry {
            hash,
            id: self.last_id,
            permitted: Permitted::NOBODY,
            valid_at: generations.version(),
            exchange_len,
            dialect: message.envelope().dialect,
            exchange,
            address: address.into(),
            targets: targets.into(),
            cells: cells.into(),
            sum: generations.sum(cells),
            source,
            tally: stale.unwrap_or_default(),
            mark: Mark::default(),
        });
        let RouteCache { table, entries, .. } = self;
        table.insert_unique(hash, entries.len() as u32 - 1, |&index| entries[index as usize].hash);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.table.len());
        assert_eq!(
            self.entries.iter().map(|entry| entry.targets.len()).sum::<usize>(),
            self.targets
        );
        self.entries.len()
    }

    #[inline]
    fn position(&self, message: &Message) -> Option<usize> {
        let (exchange_len, address) = address(message);
        let dialect = message.envelope().dialect;
        let hash = message.route_hash();
        let same = |&index: &u32| {
            let entry = &self.entries[index as usize];
            entry.hash == hash
                && entry.exchange_len == exchange_len
                && entry.dialect == dialect
                && *entry.address == *address
        };
        self.table.find(hash, same).map(|&index| index as usize)
    }

    /// Returns what it has counted.
    fn remove(&mut self, index: usize) -> Tally {
        let entry = self.entries.swap_remove(index);
        self.targets -= entry.targets.len();
        self.bytes -= entry_bytes(entry.address.len(), entry.targets.len(), entry.cells.len());
        if let Ok(found) = self.table.find_entry(entry.hash, |&i| i as usize == index) {
            found.remove();
        }
        // What was the last entry has taken its place.
        let last = self.entries.len();
        if let Some(moved) = self.entries.get(index)
            && let Some(found) = self.table.find_mut(moved.hash, |&i| i as usize == last)
        {
            *found = index as u32;
        }
        entry.tally
    }
}

/// What a remembered route costs in memory.
fn entry_bytes(address: usize, targets: usize, cells: usize) -> usize {
    let own = size_of::<Entry>() * 3 / 2 + hashed::<u32>() + allocation(address);
    own + allocation(targets * size_of::<Target>()) + allocation(cells * size_of::<Cell>())
}

/// Length of the exchange's name, and exchange and key, which lie side by side in the payload.
#[inline]
fn address(message: &Message) -> (u8, &[u8]) {
    let lengths = message.lengths();
    let len = usize::from(lengths.exchange) + usize::from(lengths.key);
    (lengths.exchange, &message.payload()[..len])
}
