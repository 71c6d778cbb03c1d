//! Remembers whole routes by address: an address seen before costs one look-up and allocates nothing.

use super::Target;
use super::counts::Named;
use super::generations::{Cell, Generations};
use super::path::{Hop, Path};
use crate::access::Permitted;
use crate::ledger::{allocation, hashed};
use crate::message::{Dialect, Message};
use crate::properties::Name;
use crate::tally::{Mark, Source, Tally};
use hashbrown::HashTable;
use std::mem::size_of;

/// The most routes that are remembered.
const ROUTES_MAX: usize = 16_384;
/// The most targets in all remembered routes together. Without it, wide fan-outs over many topics would fill the
/// memory.
const TARGETS_MAX: usize = 1 << 20;
/// The longest address (exchange and key, in bytes) that is remembered.
const ADDRESS_BYTES_MAX: usize = 512;

/// The remembered routes.
pub(super) struct RouteCache {
    /// Indices into `entries`. Never iterated.
    table: HashTable<u32>,
    entries: Vec<Entry>,
    /// Sum of `entries[..].targets.len()`.
    targets: usize,
    /// Bytes of memory that the entries occupy.
    bytes: usize,
    /// The most bytes of memory that the entries may occupy.
    bytes_max: usize,
    random: u64,
    /// The number of the route that was remembered last.
    last_id: u64,
}

struct Entry {
    hash: u64,
    /// A number from 1 on that no other route ever gets: what a link remembers about a route cannot be mistaken for
    /// knowledge of another.
    id: u64,
    /// See [`super::route::KnownRoute::permitted`]. A route that is computed again has a new number and starts with
    /// nobody here.
    permitted: Permitted,
    /// The version of the generations at which the route was last seen to be valid.
    valid_at: u64,
    exchange_len: u8,
    dialect: Dialect,
    /// The exchange that messages on the route name. It exists as long as the route is valid.
    exchange: Named,
    /// Exchange and key, as they lie in the message's payload.
    address: Box<[u8]>,
    targets: Box<[Target]>,
    /// The cells that the route depends on, and the sum of their counts when it was computed.
    cells: Box<[Cell]>,
    sum: u64,
    /// The source that the flow map shows for its messages.
    source: Source,
    /// Messages and bytes since the flow map last took them.
    tally: Tally,
    /// See [`RouteCache::mark`].
    mark: Mark,
    /// The exchanges that its messages pass, if there is more than one.
    path: Option<Path>,
}

/// A remembered route with messages that the flow map has not taken yet: see [`RouteCache::take_tally`].
pub(super) struct Tallied<'a> {
    pub(super) source: Source,
    pub(super) exchange: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) dialect: Dialect,
    pub(super) tally: Tally,
    pub(super) targets: &'a [Target],
    pub(super) path: Option<&'a Path>,
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

    /// The index of the valid route for the message's address, to be used with [`RouteCache::targets`].
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

    /// The number of the route at `index`, and who was last permitted to use it.
    #[inline]
    pub(super) fn id_and_permitted(&self, index: usize) -> (u64, Permitted) {
        let entry = &self.entries[index];
        (entry.id, entry.permitted)
    }

    pub(super) fn permit(&mut self, index: usize, permitted: Permitted) {
        self.entries[index].permitted = permitted;
    }

    /// Counts a message on the route at `index`, for the flow map.
    #[inline]
    pub(super) fn note(&mut self, index: usize, bytes: usize) -> Source {
        let entry = &mut self.entries[index];
        entry.tally.count(bytes);
        entry.source
    }

    /// What traces noted about the address of the route at `index`. Nothing yet, if the route was just remembered.
    #[inline]
    pub(super) fn mark(&self, index: usize) -> Mark {
        self.entries[index].mark
    }

    pub(super) fn set_mark(&mut self, index: usize, mark: Mark) {
        self.entries[index].mark = mark;
    }

    /// The way of messages on the route at `index`, if they pass more than one exchange.
    pub(super) fn path(&self, index: usize) -> Option<&Path> {
        self.entries[index].path.as_ref()
    }

    /// The number of remembered routes.
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    /// What the route at `index` has counted since the last call, if anything. Removals move routes to other indices,
    /// so a walk over all of them may miss one; the next walk finds it.
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
                path: entry.path.as_ref(),
            }
        })
    }

    /// Exchange, key and dialect of a remembered route with that source. Topics share a source if their hashes are equal.
    pub(super) fn address_of(&self, source: Source) -> Option<(&[u8], &[u8], Dialect)> {
        let same = |&index: &u32| Source::topic(self.entries[index as usize].hash) == source;
        let index = *self.table.find(source.0.get(), same)?;
        let entry = &self.entries[index as usize];
        let (exchange, key) = entry.address.split_at(usize::from(entry.exchange_len));
        Some((exchange, key, entry.dialect))
    }

    /// Limits the memory of remembered routes. If they occupy more already, that many are forgotten as routes are
    /// added.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The exchange that messages on the route at `index` name.
    #[inline]
    pub(super) fn exchange(&self, index: usize) -> Named {
        self.entries[index].exchange
    }

    #[inline]
    pub(super) fn targets(&self, index: usize) -> &[Target] {
        &self.entries[index].targets
    }

    /// Remembers a route just computed. It replaces a stale route to the same address; if the cache is full, random
    /// ones go.
    pub(super) fn insert(
        &mut self,
        message: &Message,
        targets: &[Target],
        exchange: Named,
        (source, path): (Source, Option<Path>),
        cells: &[Cell],
        generations: &Generations,
    ) {
        let (exchange_len, address) = address(message);
        let stale = self.position(message).map(|stale| self.remove(stale));
        let hops = path.as_ref().map_or(0, |path| path.len());
        let bytes = entry_bytes(address.len(), targets.len(), cells.len(), hops);
        if address.len() > ADDRESS_BYTES_MAX || targets.len() > TARGETS_MAX / 4 || bytes > self.bytes_max / 4 {
            return;
        }
        // Evict at random. Where clients publish to many topics in turn, the oldest and the least recently used route
        // are the ones that are needed next, and a cache that is slightly too small would never hit.
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
            path,
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

    /// Removes the route at `index`. Returns what it has counted.
    fn remove(&mut self, index: usize) -> Tally {
        let entry = self.entries.swap_remove(index);
        self.targets -= entry.targets.len();
        let hops = entry.path.as_ref().map_or(0, |path| path.len());
        self.bytes -= entry_bytes(entry.address.len(), entry.targets.len(), entry.cells.len(), hops);
        if let Ok(found) = self.table.find_entry(entry.hash, |&i| i as usize == index) {
            found.remove();
        }
        // The last entry has moved into its place.
        let last = self.entries.len();
        if let Some(moved) = self.entries.get(index)
            && let Some(found) = self.table.find_mut(moved.hash, |&i| i as usize == last)
        {
            *found = index as u32;
        }
        entry.tally
    }
}

/// Bytes of memory that a remembered route occupies.
fn entry_bytes(address: usize, targets: usize, cells: usize, hops: usize) -> usize {
    let own = size_of::<Entry>() * 3 / 2 + hashed::<u32>() + allocation(address);
    let own = own + allocation(hops * size_of::<(Name, Hop)>());
    own + allocation(targets * size_of::<Target>()) + allocation(cells * size_of::<Cell>())
}

/// The length of the exchange's name; exchange and key, which lie side by side in the payload.
#[inline]
fn address(message: &Message) -> (u8, &[u8]) {
    let lengths = message.lengths();
    let len = usize::from(lengths.exchange) + usize::from(lengths.key);
    (lengths.exchange, &message.payload()[..len])
}
