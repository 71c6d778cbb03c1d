//! Routing one message: from the cache, or by walking the exchanges it reaches.
//!
//! How much there is to walk is for clients to choose: bindings, filters, headers, exchanges bound to exchanges. So a walk
//! takes a number of steps and stops, and goes on with the next hold of the lock ([`Walk`]). Others change bindings in
//! between. What is bound all the time is found; what comes or goes meanwhile may be. A number that another binding or
//! queue has got by then is told apart by when that was made, so that nobody gets what he did not ask for.

use super::counts::Named;
use super::generations::Cell;
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

/// One routing. Its room is kept from message to message, unless it has to wait for the next hold.
#[derive(Default)]
pub(crate) struct Walk {
    targets: Vec<Target>,
    extra_keys: Vec<Name>,
    headers: Option<MessageHeaders>,
    /// The exchange that the message names, with its birth; `None`: the default one.
    began_at: Option<(u32, u64)>,
    /// Exchanges still to visit: number and birth.
    exchanges: Vec<(u32, u64)>,
    /// The exchange being visited.
    visiting: Option<Visit>,
    /// Exchanges reached. Each is visited once, so that bindings between exchanges may form circles.
    seen: HashSet<u32, RandomState>,
    /// Bindings just found.
    matched: Vec<BindingId>,
    /// Queues reached in this hold, and the binding that led there ([`PLAIN`]: an implied one).
    queues: Vec<(QueueSlot, BindingId)>,
    /// The same of earlier holds, each with the birth of the binding (of the queue for [`PLAIN`]).
    earlier: BTreeSet<(QueueSlot, BindingId, u64)>,
    /// It went on after a hold: `queues` are in `earlier`, and numbers may have got other meanings.
    stopped: bool,
    /// The queue being merged, and its birth.
    merging: Option<(QueueSlot, u64, Merge)>,
    /// Births of the queues of `targets`, where it stopped once.
    births: Vec<u64>,
    /// What the route depends on.
    cells: Vec<Cell>,
    /// It depends on nothing else.
    cacheable: bool,
    /// Version of the generations when it began.
    version: u64,
}

/// A remembered route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownRoute {
    pub(super) index: usize,
    /// Its number, which no other route ever has. Not 0.
    pub(crate) id: u64,
    /// Who was last permitted to publish along it.
    pub(crate) permitted: Permitted,
}

/// The visit of one exchange.
struct Visit {
    exchange: u32,
    born: u64,
    progress: Progress,
    /// Some binding matched.
    matched: bool,
}

/// In place of a binding: the default exchange's.
const PLAIN: BindingId = BindingId::MAX;
/// Cells of a route that may repeat: what reached more exchanges has each cell once.
const CELLS_REPEATED_MAX: usize = 64;

impl Router {
    /// Where a message goes, in one go. See `route_some`.
    ///
    /// # Errors
    /// As `route_some`.
    pub fn route(&mut self, message: &Message, extra_keys: &[Name]) -> Result<&[Target], Fault> {
        let routed = self.route_some(message, extra_keys, &mut None, &mut { usize::MAX })?;
        Ok(routed.unwrap_or(&[]))
    }

    /// Where a message goes: each queue once, in ascending order of slots. `extra_keys` are further routing keys (CC,
    /// BCC) in the dot dialect; the message's own key is always used. An exchange whose bindings do not match hands the
    /// message to its alternate exchange.
    ///
    /// Returns `None` where `steps` are used up before all is known. What is known is in `stopped` then; go on with it.
    ///
    /// # Errors
    /// NotFound for the exchange, AccessRefused if it is internal, PreconditionFailed for more headers than a headers
    /// exchange takes.
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

    /// The route of the message, if it is remembered and still right. Good until the router is used otherwise.
    #[inline]
    pub(crate) fn known_route(&mut self, message: &Message, extra_keys: &[Name]) -> Option<KnownRoute> {
        if !extra_keys.is_empty() || message.exchange_bytes().is_empty() {
            return None;
        }
        let index = self.cache.find(message, &self.generations)?;
        let (id, permitted) = self.cache.id_and_permitted(index);
        Some(KnownRoute { index, id, permitted })
    }

    /// Remembers who may publish along the route that [`Router::known_route`] was just asked about.
    pub(crate) fn permit_route(&mut self, known: KnownRoute, permitted: Permitted) {
        self.cache.permit(known.index, permitted);
    }

    /// Where the message goes that [`Router::known_route`] was just asked about.
    #[inline]
    pub(crate) fn targets_of(&mut self, known: KnownRoute) -> &[Target] {
        self.named = self.cache.exchange(known.index);
        self.cache.targets(known.index)
    }

    /// The default exchange: the key is a queue's name, not levels.
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
            // A walk of several holds may have missed what changed meanwhile: then it is no route to be remembered.
            let current = !walk.stopped || walk.version == self.generations.version();
            if walk.cacheable && current {
                let source = self.source_of(message);
                self.cache.insert(
                    message,
                    &walk.targets,
                    self.named,
                    source,
                    &walk.cells,
                    &self.generations,
                );
            }
        }
        self.scratch = walk;
        done.map(|_| Some(&*self.scratch.targets))
    }

    /// Clears what is left of another walk, and finds the first exchange.
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
        let id = self.require(message.exchange())?;
        if self.exchanges[id as usize].internal {
            let text = format!("cannot publish to internal {}", self.describe(message.exchange()));
            return Err(Fault::new(FaultKind::AccessRefused, text));
        }
        walk.began_at = Some((id, self.exchanges[id as usize].born));
        self.visit_later(id, walk);
        Ok(())
    }

    /// The exchange of the walk's message. It may have gone, and its number may be another's, since the walk began.
    fn named_by(&self, walk: &Walk) -> Named {
        let Some((id, born)) = walk.began_at else {
            return Named::Default;
        };
        let is_same = self.exchanges.get(id as usize).is_some_and(|e| e.born == born);
        if is_same { Named::Known(id) } else { Named::Gone }
    }

    /// Goes on with the visits of exchanges. Returns whether all are done.
    fn visit_all(&self, message: &Message, walk: &mut Walk, steps: &mut usize) -> Result<bool, Fault> {
        if walk.exchanges.is_empty() && walk.visiting.is_none() {
            return Ok(true);
        }
        let extra_keys = std::mem::take(&mut walk.extra_keys);
        let codecs = Arc::clone(&self.codecs);
        let mut subject = Subject::new(message, &extra_keys, &codecs, self.headers_max);
        subject.headers = walk.headers.take();
        // However many they are, there is progress.
        *steps -= extra_keys.len().min(*steps / 2);
        let mut done = Ok(true);
        loop {
            let mut visit = match walk.visiting.take() {
                Some(visit) => visit,
                None => match walk.exchanges.pop() {
                    Some((exchange, born)) => self.start_visit(exchange, born, &mut subject, walk),
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

    fn start_visit(&self, exchange: u32, born: u64, subject: &mut Subject<'_>, walk: &mut Walk) -> Visit {
        let visit = Visit {
            exchange,
            born,
            progress: Progress::default(),
            matched: false,
        };
        let Some(exchange) = self.exchanges.get(exchange as usize).filter(|e| e.born == born) else {
            return visit;
        };
        walk.cells.push(self.generations.cell(&exchange.name, Scope::Whole));
        if let BindingTable::Headers(_) = exchange.table {
            // What else is in the message counts, not only its address.
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

    /// Goes on with the visit of an exchange. Returns whether it is done.
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
        // It may be gone since it was found.
        let exchange = self.exchanges.get(visit.exchange as usize);
        let Some(exchange) = exchange.filter(|exchange| exchange.born == visit.born) else {
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
                End::Exchange(other) => self.visit_later(other, walk),
            }
        }
        if more {
            return Ok(false);
        }
        if !visit.matched
            && let Some(alternate) = &exchange.alternate
        {
            if alternate.is_empty() {
                // By the names of queues, which no cell counts.
                walk.cacheable = false;
                self.match_names(subject, &mut walk.queues);
                return Ok(true);
            }
            // Whether it exists counts as well.
            walk.cells.push(self.generations.cell(alternate, Scope::Whole));
            if let Some(other) = self.find_exchange(alternate) {
                self.visit_later(other, walk);
            }
        }
        Ok(true)
    }

    fn match_names(&self, subject: &mut Subject<'_>, queues: &mut Vec<(QueueSlot, BindingId)>) {
        let slots = subject.keys.iter_mut().filter_map(|key| self.queue(key.dotted()));
        queues.extend(slots.map(|slot| (slot, PLAIN)));
    }

    fn visit_later(&self, id: u32, walk: &mut Walk) {
        if walk.seen.insert(id) {
            walk.exchanges.push((id, self.exchanges[id as usize].born));
        }
    }

    /// Makes one target per queue. Returns whether all are made.
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

    /// The same by steps, of what is still what it was when it was found.
    fn merge_some(&self, walk: &mut Walk, steps: &mut usize) -> bool {
        self.remember(walk);
        while *steps > 0 {
            let Some((slot, binding, born)) = walk.earlier.pop_first() else {
                walk.finish_target();
                // A queue may have gone since its target was made.
                let mut births = walk.births.iter();
                walk.targets
                    .retain(|target| births.next() == self.birth(target.queue).as_ref());
                return true;
            };
            *steps -= 1;
            let grant = match self.bindings.get(binding as usize) {
                _ if binding == PLAIN => None,
                Some(edge) if edge.born == born => edge.binding.grant,
                _ => continue,
            };
            let Some(birth) = self.birth(slot).filter(|birth| binding != PLAIN || *birth == born) else {
                continue;
            };
            if walk.merging.as_ref().is_none_or(|(of, ..)| *of != slot) {
                walk.finish_target();
                walk.merging = Some((slot, birth, Merge::default()));
            }
            if let Some((.., merge)) = &mut walk.merging {
                merge.add(grant);
            }
        }
        false
    }

    /// The walk goes on in another hold: whatever it has found is noted with its birth.
    fn stop(&self, walk: &mut Walk) {
        walk.stopped = true;
        self.remember(walk);
    }

    fn remember(&self, walk: &mut Walk) {
        for (slot, binding) in walk.queues.drain(..) {
            let born = match self.bindings.get(binding as usize) {
                Some(edge) if binding != PLAIN => Some(edge.born),
                _ => self.birth(slot),
            };
            if let Some(born) = born {
                walk.earlier.insert((slot, binding, born));
            }
        }
    }

    /// When a queue was added.
    fn birth(&self, slot: QueueSlot) -> Option<u64> {
        self.queues.get(&slot).map(|queue| queue.born)
    }
}

impl Walk {
    /// What it takes in memory while it waits for its next hold.
    pub(crate) fn memory(&self) -> usize {
        fn list<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        let keys: usize = self.extra_keys.iter().map(|key| text(key.len())).sum();
        let headers = self.headers.as_ref().map_or(0, MessageHeaders::memory);
        let earlier = self.earlier.len() * sorted::<(QueueSlot, BindingId, u64), ()>();
        let lists = list(&self.targets) + list(&self.extra_keys) + list(&self.exchanges) + list(&self.matched);
        let more = list(&self.queues) + list(&self.births) + list(&self.cells);
        let visiting = self.visiting.as_ref().map_or(0, |visit| visit.progress.memory());
        size_of::<Walk>() + visiting + keys + headers + earlier + lists + more + self.seen.capacity() * hashed::<u32>()
    }

    fn clear(&mut self) {
        self.targets.clear();
        self.extra_keys.clear();
        self.headers = None;
        self.began_at = None;
        self.exchanges.clear();
        self.visiting = None;
        self.seen.clear();
        self.queues.clear();
        self.earlier.clear();
        self.stopped = false;
        self.merging = None;
        self.births.clear();
        self.cells.clear();
    }

    fn finish_target(&mut self) {
        if let Some((queue, birth, merge)) = self.merging.take() {
            self.targets.push(merge.target(queue));
            self.births.push(birth);
        }
    }
}
