//! Compares what a start found with the model.

use super::*;

impl Script {
    /// What was recovered must be permitted by the model.
    pub(super) fn check(&self, store: &Store<SimDisk>, recovered: &Recovered) {
        let seed = self.seed;
        let mut live = BTreeSet::new();
        for (id, found) in &recovered.queues {
            let Some(book) = self.book.queues.get(&id.0) else {
                panic!("seed {seed}: queue {id:?} from nowhere")
            };
            assert!(
                book.deleted.is_none_or(|commit| commit > self.book.confirmed),
                "seed {seed}: {id:?} was deleted"
            );
            let entries = entries(store, *id);
            self.check_counts(*id, found, &entries);
            self.check_numbers(*id, book, found);
            for entry in &entries {
                live.insert((id.0, entry.seq));
                self.check_entry(*id, book, found, entry);
            }
            self.check_ids(*id, book, found, &entries);
        }
        self.check_nothing_lost(&live);
        self.check_keys(recovered);
        self.check_bodies(store, recovered);
    }
    /// What a start counts without listing it must exist.
    fn check_counts(&self, id: QueueId, found: &RecoveredQueue, entries: &[LogEntry]) {
        let seed = self.seed;
        assert!(
            entries.is_sorted_by(|a, b| a.seq < b.seq),
            "seed {seed}: {id:?} is out of order"
        );
        let counted: u64 = found.messages.values().map(|counted| counted.count).sum();
        assert_eq!(
            counted as usize + found.in_flight.len(),
            entries.len(),
            "seed {seed}: {id:?} is counted"
        );
        let bytes: u64 = found.messages.values().map(|counted| counted.bytes).sum();
        let in_flight: u64 = found.in_flight.iter().map(|entry| u64::from(entry.body_len)).sum();
        let all: u64 = entries.iter().map(|entry| u64::from(entry.body_len)).sum();
        assert_eq!(bytes + in_flight, all, "seed {seed}: bytes of {id:?} are counted");
        for entry in entries {
            let in_flight = found.in_flight.contains(entry);
            let counted = found.messages.get(&entry.flags);
            let counted = counted.is_some_and(|counted| (counted.first..=counted.last).contains(&entry.seq));
            assert!(in_flight || counted, "seed {seed}: {id:?} {entry:?}");
        }
    }
    /// No sequence is used twice, and no hand-out mark is lost.
    fn check_numbers(&self, id: QueueId, book: &Queue, found: &RecoveredQueue) {
        let (seed, sure) = (self.seed, self.book.confirmed);
        let marks = book.handed_out.iter();
        let mark = marks
            .clone()
            .filter(|(commit, _)| *commit <= sure)
            .map(|(_, upto)| *upto)
            .max()
            .unwrap_or(0);
        assert!(
            found.handed_out >= mark,
            "seed {seed}: {id:?} forgot its mark {mark}, has {}",
            found.handed_out
        );
        assert!(
            found.next_seq >= mark,
            "seed {seed}: {id:?} reuses numbers below its mark"
        );
        assert!(
            found.handed_out <= marks.map(|(_, upto)| *upto).max().unwrap_or(0),
            "seed {seed}"
        );
        for (seq, entry) in &book.entries {
            let used = entry.written <= sure || entry.settled.is_some_and(|commit| commit <= sure);
            assert!(
                !used || found.next_seq > *seq,
                "seed {seed}: {id:?} would give {seq} twice"
            );
        }
    }
    fn check_entry(&self, id: QueueId, book: &Queue, found: &RecoveredQueue, entry: &LogEntry) {
        let seed = self.seed;
        let at = (id, entry.seq);
        let Some(known) = book.entries.get(&entry.seq) else {
            panic!("seed {seed}: {at:?} from nowhere")
        };
        assert!(
            known.settled.is_none_or(|commit| commit > self.book.confirmed),
            "seed {seed}: {at:?} was settled: {known:?}"
        );
        assert_eq!(entry.flags, (entry.seq % 7) as u8, "seed {seed}: {at:?}");
        assert_eq!(entry.body_len as usize, known.len, "seed {seed}: {at:?}");
        assert!(found.next_seq > entry.seq, "seed {seed}: {at:?} would be given twice");
    }
    /// `live`: queue and sequence of everything recovered.
    fn check_nothing_lost(&self, live: &BTreeSet<(u64, u64)>) {
        let (seed, sure) = (self.seed, self.book.confirmed);
        let gone = |queue: &u64| self.book.queues[queue].deleted.is_some();
        for (queue, book) in self.book.queues.iter().filter(|(queue, _)| !gone(queue)) {
            for (seq, entry) in &book.entries {
                let must = entry.written <= sure && entry.settled.is_none();
                assert!(
                    !must || live.contains(&(*queue, *seq)),
                    "seed {seed}: lost {queue} {seq} {entry:?}, sure {sure}"
                );
            }
        }
        let excused = |(queue, seq): &(u64, u64)| {
            let book = &self.book.queues[queue];
            book.deleted.is_some() || book.entries.get(seq).is_none_or(|entry| entry.settled.is_some())
        };
        for (commit, group) in &self.book.groups {
            if group.iter().any(|at| live.contains(at)) {
                for at in group {
                    assert!(
                        live.contains(at) || excused(at),
                        "seed {seed}: group of commit {commit} lost {at:?}"
                    );
                }
            }
        }
        for (from, to) in &self.book.moves {
            let was_sure = self.book.queues[&from.0].entries[&from.1].written <= sure;
            let somewhere = live.contains(from) || live.contains(to) || excused(to) || gone(&from.0);
            assert!(
                !was_sure || somewhere,
                "seed {seed}: {from:?} was lost on its way to {to:?}"
            );
        }
    }
    fn check_keys(&self, recovered: &Recovered) {
        let (seed, sure) = (self.seed, self.book.confirmed);
        for (key, versions) in &self.book.keys {
            let found = recovered.keys.get([7, *key].as_slice()).map(|value| value.to_vec());
            let settled = versions.iter().rposition(|(commit, _)| *commit <= sure);
            let allowed = versions[settled.unwrap_or(0)..]
                .iter()
                .any(|(_, value)| *value == found)
                || (settled.is_none() && found.is_none());
            assert!(
                allowed,
                "seed {seed}: key {key} has {found:?}, sure {sure}: {versions:?}"
            );
        }
    }
    fn check_ids(&self, id: QueueId, book: &Queue, found: &RecoveredQueue, entries: &[LogEntry]) {
        let (seed, sure) = (self.seed, self.book.confirmed);
        for (packet_id, changes) in &book.incoming {
            let held = found.incoming_ids.contains(packet_id);
            let settled = changes.iter().rposition(|(commit, _)| *commit <= sure);
            let allowed =
                changes[settled.unwrap_or(0)..].iter().any(|(_, value)| *value == held) || (settled.is_none() && !held);
            assert!(
                allowed,
                "seed {seed}: {id:?} incoming {packet_id} is {held}: {changes:?}, sure {sure}"
            );
        }
        for (seq, changes) in &book.packet_ids {
            let now = found
                .packet_ids
                .iter()
                .find(|(other, ..)| other == seq)
                .map(|(_, id, done)| (*id, *done));
            let entry = book.entries.get(seq);
            let settled = entry.is_none_or(|entry| entry.settled.is_some());
            let surely_settled = entry.is_some_and(|entry| entry.settled.is_some_and(|commit| commit <= sure));
            let is_held = now.is_none_or(|(_, released)| released || entries.iter().any(|e| e.seq == *seq));
            assert!(
                is_held,
                "seed {seed}: {id:?} has a packet id for {seq}, which is not there"
            );
            assert!(
                !surely_settled || now.is_none(),
                "seed {seed}: {id:?} {seq} is settled and has {now:?}"
            );
            let settled_change = changes.iter().rposition(|(commit, ..)| *commit <= sure);
            let allowed = changes[settled_change.unwrap_or(0)..]
                .iter()
                .any(|(_, id, done)| now == Some((*id, *done)))
                || (now.is_none() && (settled || settled_change.is_none()));
            assert!(
                allowed,
                "seed {seed}: {id:?} packet id of {seq} is {now:?}: {changes:?}, sure {sure}"
            );
        }
    }
    /// Every body is unchanged.
    pub(super) fn check_bodies(&self, store: &Store<SimDisk>, recovered: &Recovered) {
        let seed = self.seed;
        let reads: Vec<Read> = recovered
            .queues
            .keys()
            .flat_map(|queue| {
                let read = |e: LogEntry| Read {
                    queue: *queue,
                    seq: e.seq,
                    at: e.at,
                    waited: 0,
                };
                entries(store, *queue).into_iter().map(read)
            })
            .collect();
        for (read, loaded) in reads.iter().zip(bodies(store, &reads)) {
            let Some(got) = loaded.message else {
                panic!("seed {seed}: {read:?} cannot be read")
            };
            let known = &self.book.queues[&read.queue.0].entries[&read.seq];
            let want = message(known.content, known.len);
            assert_eq!(got.payload(), want.payload(), "seed {seed}: {read:?}");
            assert_eq!(got.envelope(), want.envelope(), "seed {seed}: {read:?}");
        }
    }
}
