//! Routes one message: from the cache, or by walking the exchanges it reaches.
//!
//! Clients decide how much there is to walk: bindings, filters, headers, bindings between exchanges. So a walk
//! ([`Walk`]) takes a limited number of steps, stops, and continues in a later hold of the engine's lock. Bindings may
//! change in between. A queue that is bound throughout is found; one that is bound or unbound meanwhile may be found or
//! not. Numbers of bindings, queues and exchanges are reused, so a stopped walk also notes serial numbers: it never
//! delivers to a queue that only got the number of another.

use super::counts::Named;
use super::generations::Cell;
use super::path::{Hop, Path};
use super::target::Merge;
use super::{End, Router, Target};
use crate::access::Permitted;
use crate::binding::QueueSlot;
use crate::exchange::{BindingId, BindingTable, MessageHeaders, Progress, Scope, Subject};
use crate::fault::{Fault, FaultKind};
use crate::ledger::{hashed, sorted, text};
use crate::message::{Dialect, Message};
use crate::properties::Name;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One routing in progress. The buffers are reused from message to message; a walk that stops takes them with it.
#[derive(Default)]
pub(crate) struct Walk {
    targets: Vec<Target>,
    extra_keys: Vec<Name>,
    headers: Option<MessageHeaders>,
    /// Number and serial number of the exchange that the message names. `None`: the default exchange.
    began_at: Option<(u32, u64)>,
    /// Exchanges still to be visited: number and serial number.
    exchanges: Vec<(u32, u64)>,
    /// The exchange being visited.
    visiting: Option<Visit>,
    /// Which exchange passed the message on to which ([`DEFAULT`] for the default exchange). Bounded by [`HOPS_MAX`].
    hops: Vec<(u32, u32)>,
    /// Exchanges reached. Each is visited once, so bindings between exchanges may form circles.
    seen: HashSet<u32, RandomState>,
    /// Bindings that the current step found.
    matched: Vec<BindingId>,
    /// Queues reached in this hold, each with the binding that led there ([`IMPLIED`] for the default exchange).
    queues: Vec<(QueueSlot, BindingId)>,
    /// Queues reached in earlier holds, each with its binding and that binding's serial number (the queue's for
    /// [`IMPLIED`]).
    earlier: BTreeSet<(QueueSlot, BindingId, u64)>,
    /// Whether the walk has stopped at least once. Then finds are moved to `earlier`, because numbers may have been
    /// reused.
    stopped: bool,
    /// The queue whose bindings are being merged, its serial number, and the merge so far.
    merging: Option<(QueueSlot, u64, Merge)>,
    /// The serial numbers of the queues of `targets`. Filled only in a walk that has stopped.
    serials: Vec<u64>,
    /// The generation cells that the route depends on.
    cells: Vec<Cell>,
    /// Whether the route depends on nothing but those cells, so that it may be remembered.
    cacheable: bool,
    /// The version of the generations when the walk began.
    version: u64,
}

/// A remembered route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownRoute {
    pub(super) index: usize,
    /// The route's number, which no other route ever gets. Never 0.
    pub(crate) id: u64,
    /// Who was last permitted to publish to this address.
    pub(crate) permitted: Permitted,
}

/// The visit of one exchange.
struct Visit {
    exchange: u32,
    serial: u64,
    progress: Progress,
    /// Whether any binding matched so far. If none does, the alternate exchange gets the message.
    matched: bool,
}

/// Stands for the default exchange's implied binding of a queue by its name.
const IMPLIED: BindingId = BindingId::MAX;
/// Stands for the number of the default exchange, which has none.
const DEFAULT: u32 = u32::MAX;
/// The most hops, and the most queues, that are kept of a message's way over several exchanges.
const HOPS_MAX: usize = 64;
/// Longer lists of cells are sorted and freed of duplicates.
const CELLS_REPEATED_MAX: usize = 64;

impl Router {
    /// Routes a message in one go. See `route_some`.
    ///
    /// # Errors
    /// As `route_some`.
    pub fn route(&mut self, message: &Message, extra_keys: &[Name]) -> Result<&[Target], Fault> {
        let routed = self.route_some(message, extra_keys, &mut None, &mut { usize::MAX })?;
        Ok(routed.unwrap_or(&[]))
    }

    /// Where a message goes: each queue once, in ascending order of slots. `extra_keys` are further routing keys (CC,
    /// BCC) in the dot dialect; the message's own key is always used. An exchange without a matching binding passes the
    /// message to its alternate exchange.
    ///
    /// Returns `None` if the `steps` are used up first. `stopped` then holds the walk: call again with it to continue.
    ///
    /// # Errors
    /// NotFound for the exchange, AccessRefused if it is internal, PreconditionFailed if the message has more headers
    /// than a headers exchange accepts.
    pub(crate) fn route_some(
        &mut self,
        message: &Message,
        extra_keys: &[Name],
        stopped: &mut Option<Box<Walk>>,
        steps: &mut usize,
    ) -> Result<Option<&[Target]>, Fault> {
        if stopped.is_none() && extra_keys.is_empty() {
            if message.exchange_bytes().is_empty() {
                return Ok(Some(self.route_by_name(message)));
            }
            if let Some(known) = self.known_route(message, extra_keys) {
                return Ok(Some(self.targets_of(known)));
            }
        }
        self.route_by_walk(message, extra_keys, stopped, steps)
    }

    /// The message's route, if it is remembered and still valid. The answer holds until the router is next changed or
    /// asked.
    #[inline]
    pub(crate) fn known_route(&mut self, message: &Message, extra_keys: &[Name]) -> Option<KnownRoute> {
        if !extra_keys.is_empty() || message.exchange_bytes().is_empty() {
            return None;
        }
        let index = self.cache.find(message, &self.generations)?;
        let (id, permitted) = self.cache.id_and_permitted(index);
        Some(KnownRoute { index, id, permitted })
    }

    /// Remembers who may publish along the route that [`Router::known_route`] has just returned.
    pub(crate) fn permit_route(&mut self, known: KnownRoute, permitted: Permitted) {
        self.cache.permit(known.index, permitted);
    }

    /// The targets of the route that [`Router::known_route`] has just returned.
    #[inline]
    pub(crate) fn targets_of(&mut self, known: KnownRoute) -> &[Target] {
        self.named = self.cache.exchange(known.index);
        self.cache.targets(known.index)
    }

    /// Routes through the default exchange: the key is the name of a queue.
    fn route_by_name(&mut self, message: &Message) -> &[Target] {
        self.named = Named::Default;
        let targets = &mut self.scratch.targets;
        targets.clear();
        if message.envelope().dialect == Dialect::Dot {
            let key = message.key_bytes();
            let found = self
                .queue_names
                .find(message.route_hash(), |(name, _)| name.as_bytes() == key);
            targets.extend(found.map(|(_, slot)| Target::plain(*slot)));
        } else {
            let mut subject = Subject::new(message, &[], &self.codecs, self.headers_max);
            let found = subject.keys.iter_mut().find_map(|key| self.queue(key.dotted()));
            self.scratch.targets.extend(found.map(Target::plain));
        }
        &self.scratch.targets
    }

    pub(super) fn route_by_walk(
        &mut self,
        message: &Message,
        extra_keys: &[Name],
        stopped: &mut Option<Box<Walk>>,
        steps: &mut usize,
    ) -> Result<Option<&[Target]>, Fault> {
        let mut walk = match stopped.take() {
            Some(walk) => *walk,
            None => {
                let mut walk = std::mem::take(&mut self.scratch);
                if let Err(fault) = self.begin(message, extra_keys, &mut walk) {
                    self.scratch = walk;
                    return Err(fault);
                }
                walk
            }
        };
        let done = self.visit_all(message, &mut walk, steps);
        let done = done.map(|done| done && self.merge(&mut walk, steps));
        if let Ok(false) = done {
            self.stop(&mut walk);
            *stopped = Some(Box::new(walk));
            return Ok(None);
        }
        if let Ok(true) = done {
            self.named = self.named_by(&walk);
            // A walk that stopped may have missed changes made meanwhile, so its route is remembered only if there were
            // none.
            let current = !walk.stopped || walk.version == self.generations.version();
            if walk.cacheable && current {
                let source = self.source_of(message);
                let path = self.path_of(&walk);
                self.cache.insert(
                    message,
                    &walk.targets,
                    self.named,
                    (source, path),
                    &walk.cells,
                    &self.generations,
                );
            }
        }
        self.scratch = walk;
        done.map(|_| Some(&*self.scratch.targets))
    }

    /// Refuses a message that names no exchange to which clients may publish.
    pub(crate) fn check_publish(&self, message: &Message) -> Result<(), Fault> {
        match message.exchange() {
            "" => Ok(()),
            exchange => self.publishable(exchange).map(|_| ()),
        }
    }

    fn publishable(&self, exchange: &str) -> Result<u32, Fault> {
        let id = self.require(exchange)?;
        if self.exchanges[id as usize].internal {
            let text = format!("cannot publish to internal {}", self.describe(exchange));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        Ok(id)
    }

    /// Clears the buffers of the former walk, and finds the first exchange.
    fn begin(&mut self, message: &Message, extra_keys: &[Name], walk: &mut Walk) -> Result<(), Fault> {
        walk.clear();
        walk.extra_keys.extend_from_slice(extra_keys);
        walk.cacheable = extra_keys.is_empty();
        walk.version = self.generations.version();
        if message.exchange().is_empty() {
            let mut subject = Subject::new(message, extra_keys, &self.codecs, self.headers_max);
            self.match_names(&mut subject, &mut walk.queues);
            return Ok(());
        }
        let id = self.publishable(message.exchange())?;
        walk.began_at = Some((id, self.exchanges[id as usize].serial));
        self.visit_later(id, walk);
        Ok(())
    }

    /// The exchange that the message names. It may have been deleted since the walk began, and its number reused.
    fn named_by(&self, walk: &Walk) -> Named {
        let Some((id, serial)) = walk.began_at else {
            return Named::Default;
        };
        let is_same = self.exchanges.get(id as usize).is_some_and(|e| e.serial == serial);
        if is_same { Named::Known(id) } else { Named::Gone }
    }

    /// Continues to visit exchanges. Returns whether all have been visited.
    fn visit_all(&self, message: &Message, walk: &mut Walk, steps: &mut usize) -> Result<bool, Fault> {
        if walk.exchanges.is_empty() && walk.visiting.is_none() {
            return Ok(true);
        }
        let extra_keys = std::mem::take(&mut walk.extra_keys);
        let codecs = Arc::clone(&self.codecs);
        let mut subject = Subject::new(message, &extra_keys, &codecs, self.headers_max);
        subject.headers = walk.headers.take();
        // Each key costs a step. At most half of the steps go for keys, so that the walk always makes progress.
        *steps -= extra_keys.len().min(*steps / 2);
        let mut done = Ok(true);
        loop {
            let mut visit = match walk.visiting.take() {
                Some(visit) => visit,
                None => match walk.exchanges.pop() {
                    Some((exchange, serial)) => self.start_visit(exchange, serial, &mut subject, walk),
                    None => break,
                },
            };
            match self.visit(&mut visit, &mut subject, walk, steps) {
                Ok(true) => {}
                Ok(false) => {
                    walk.visiting = Some(visit);
                    done = Ok(false);
                    break;
                }
                Err(fault) => {
                    done = Err(fault);
                    break;
                }
            }
        }
        walk.headers = subject.headers.take();
        drop(subject);
        walk.extra_keys = extra_keys;
        done
    }

    fn start_visit(&self, exchange: u32, serial: u64, subject: &mut Subject<'_>, walk: &mut Walk) -> Visit {
        let visit = Visit {
            exchange,
            serial,
            progress: Progress::default(),
            matched: false,
        };
        let Some(exchange) = self.exchanges.get(exchange as usize).filter(|e| e.serial == serial) else {
            return visit;
        };
        walk.cells.push(self.generations.cell(&exchange.name, Scope::Whole));
        if let BindingTable::Headers(_) = exchange.table {
            // A headers exchange matches more of the message than its address.
            walk.cacheable = false;
        } else if walk.cacheable {
            for key in &mut subject.keys {
                let scope = exchange.table.scope_of_key(key);
                if scope != Scope::Whole {
                    walk.cells.push(self.generations.cell(&exchange.name, scope));
                }
            }
        }
        visit
    }

    /// Continues the visit of one exchange. Returns whether it is done.
    fn visit(
        &self,
        visit: &mut Visit,
        subject: &mut Subject<'_>,
        walk: &mut Walk,
        steps: &mut usize,
    ) -> Result<bool, Fault> {
        if *steps == 0 {
            return Ok(false);
        }
        // The exchange may have been deleted since it was found.
        let exchange = self.exchanges.get(visit.exchange as usize);
        let Some(exchange) = exchange.filter(|exchange| exchange.serial == visit.serial) else {
            return Ok(true);
        };
        walk.matched.clear();
        let more = exchange
            .table
            .matches(subject, &mut visit.progress, steps, &mut walk.matched)?;
        *steps = steps.saturating_sub(1);
        visit.matched |= !walk.matched.is_empty();
        for index in 0..walk.matched.len() {
            let binding = walk.matched[index];
            match self.bindings[binding as usize].end {
                End::Queue(slot) => walk.queues.push((slot, binding)),
                End::Exchange(other) => {
                    walk.note_hop(visit.exchange, other);
                    self.visit_later(other, walk);
                }
            }
        }
        if more {
            return Ok(false);
        }
        if !visit.matched
            && let Some(alternate) = &exchange.alternate
        {
            if alternate.is_empty() {
                // The default exchange finds queues by name, and no cell counts changes to those names.
                walk.cacheable = false;
                walk.note_hop(visit.exchange, DEFAULT);
                self.match_names(subject, &mut walk.queues);
                return Ok(true);
            }
            // The route also depends on whether the alternate exchange exists.
            walk.cells.push(self.generations.cell(alternate, Scope::Whole));
            if let Some(other) = self.find_exchange(alternate) {
                walk.note_hop(visit.exchange, other);
                self.visit_later(other, walk);
            }
        }
        Ok(true)
    }

    /// The way of the message that was walked last, if it passed more than one exchange.
    pub(crate) fn last_path(&self) -> Option<Path> {
        self.path_of(&self.scratch)
    }

    /// The way of a message, if it passed more than one exchange and its way is known. `known`: its route, if the route
    /// was remembered when the message was published.
    pub(crate) fn path_taken(&mut self, message: &Message, known: Option<KnownRoute>) -> Option<Path> {
        if message.exchange_bytes().is_empty() {
            return None;
        }
        // It may be remembered since then.
        let is_alone = !message.envelope().extra_keys;
        match known.or_else(|| self.known_route(message, &[]).filter(|_| is_alone)) {
            Some(known) => self.cache.path(known.index).cloned(),
            None => self.last_path(),
        }
    }

    /// Makes [`Router::last_path`] return nothing, because the next message is not walked.
    pub(super) fn forget_path(&mut self) {
        self.scratch.hops.clear();
    }

    /// `None` for a walk of several holds, because what it passed first may be gone.
    fn path_of(&self, walk: &Walk) -> Option<Path> {
        if walk.hops.is_empty() || walk.stopped {
            return None;
        }
        let name = |id: u32| {
            let exchange = self.exchanges.get(id as usize);
            exchange.map_or_else(Name::default, |exchange| exchange.name.clone())
        };
        let hops = walk.hops.iter();
        let hops = hops.map(|&(from, to)| (name(from), Hop::Exchange(name(to))));
        let queues = walk.queues.iter().take(HOPS_MAX).map(|&(slot, binding)| {
            let from = self.bindings.get(binding as usize).map_or(DEFAULT, |edge| edge.source);
            (name(from), Hop::Queue(slot))
        });
        let mut path: Vec<(Name, Hop)> = hops.chain(queues).collect();
        path.sort_unstable();
        path.dedup();
        Some(path.into())
    }

    fn match_names(&self, subject: &mut Subject<'_>, queues: &mut Vec<(QueueSlot, BindingId)>) {
        let slots = subject.keys.iter_mut().filter_map(|key| self.queue(key.dotted()));
        queues.extend(slots.map(|slot| (slot, IMPLIED)));
    }

    fn visit_later(&self, id: u32, walk: &mut Walk) {
        if walk.seen.insert(id) {
            walk.exchanges.push((id, self.exchanges[id as usize].serial));
        }
    }

    /// Merges all that was found into one target per queue. Returns whether that is done.
    fn merge(&self, walk: &mut Walk, steps: &mut usize) -> bool {
        if walk.cells.len() > CELLS_REPEATED_MAX {
            walk.cells.sort_unstable();
            walk.cells.dedup();
        }
        if walk.stopped {
            return self.merge_some(walk, steps);
        }
        walk.queues.sort_unstable();
        walk.queues.dedup();
        let grant = |binding: BindingId| self.bindings.get(binding as usize).and_then(|edge| edge.binding.grant);
        let groups = walk.queues.chunk_by(|a, b| a.0 == b.0);
        walk.targets.extend(groups.filter_map(|group| {
            let (queue, _) = *group.first()?;
            Some(Target::merged(queue, group.iter().map(|&(_, binding)| grant(binding))))
        }));
        true
    }

    /// The same, one step for each find. Finds are dropped whose queue or binding has been deleted since.
    fn merge_some(&self, walk: &mut Walk, steps: &mut usize) -> bool {
        self.remember(walk);
        while *steps > 0 {
            let Some((slot, binding, serial)) = walk.earlier.pop_first() else {
                walk.finish_target();
                // A queue may have been deleted since its target was made.
                let mut serials = walk.serials.iter();
                walk.targets
                    .retain(|target| serials.next() == self.serial(target.queue).as_ref());
                return true;
            };
            *steps -= 1;
            let grant = match self.bindings.get(binding as usize) {
                _ if binding == IMPLIED => None,
                Some(edge) if edge.serial == serial => edge.binding.grant,
                _ => continue,
            };
            let Some(queue_serial) = self.serial(slot).filter(|queue| binding != IMPLIED || *queue == serial) else {
                continue;
            };
            if walk.merging.as_ref().is_none_or(|(of, ..)| *of != slot) {
                walk.finish_target();
                walk.merging = Some((slot, queue_serial, Merge::default()));
            }
            if let Some((.., merge)) = &mut walk.merging {
                merge.add(grant);
            }
        }
        false
    }

    /// Prepares the walk for a later hold: serial numbers are noted for everything found so far.
    fn stop(&self, walk: &mut Walk) {
        walk.stopped = true;
        self.remember(walk);
    }

    fn remember(&self, walk: &mut Walk) {
        for (slot, binding) in walk.queues.drain(..) {
            let serial = match self.bindings.get(binding as usize) {
                Some(edge) if binding != IMPLIED => Some(edge.serial),
                _ => self.serial(slot),
            };
            if let Some(serial) = serial {
                walk.earlier.insert((slot, binding, serial));
            }
        }
    }

    /// The serial number of the queue in this slot.
    fn serial(&self, slot: QueueSlot) -> Option<u64> {
        self.queues.get(&slot).map(|queue| queue.serial)
    }
}

impl Walk {
    /// Bytes that the walk occupies while it waits for its next hold.
    pub(crate) fn memory(&self) -> usize {
        fn list<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        let keys: usize = self.extra_keys.iter().map(|key| text(key.len())).sum();
        let headers = self.headers.as_ref().map_or(0, MessageHeaders::memory);
        let earlier = self.earlier.len() * sorted::<(QueueSlot, BindingId, u64), ()>();
        let lists = list(&self.targets) + list(&self.extra_keys) + list(&self.exchanges) + list(&self.matched);
        let lists = lists + list(&self.hops);
        let more = list(&self.queues) + list(&self.serials) + list(&self.cells);
        let visiting = self.visiting.as_ref().map_or(0, |visit| visit.progress.memory());
        size_of::<Walk>() + visiting + keys + headers + earlier + lists + more + self.seen.capacity() * hashed::<u32>()
    }

    fn clear(&mut self) {
        self.targets.clear();
        self.extra_keys.clear();
        self.headers = None;
        self.began_at = None;
        self.exchanges.clear();
        self.hops.clear();
        self.visiting = None;
        self.seen.clear();
        self.queues.clear();
        self.earlier.clear();
        self.stopped = false;
        self.merging = None;
        self.serials.clear();
        self.cells.clear();
    }

    fn note_hop(&mut self, from: u32, to: u32) {
        if self.hops.len() < HOPS_MAX {
            self.hops.push((from, to));
        }
    }

    fn finish_target(&mut self) {
        if let Some((queue, serial, merge)) = self.merging.take() {
            self.targets.push(merge.target(queue));
            self.serials.push(serial);
        }
    }
}
