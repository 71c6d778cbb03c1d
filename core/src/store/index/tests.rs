use super::*;
use crate::store::spans::Span;
use std::collections::BTreeMap as Model;

#[test]
fn a_queue_settled_in_order_keeps_one_span_and_no_set() {
    let mut index = Index::default();
    for seq in 0..100_000 {
        index.insert(QueueId(1), seq, 1);
    }
    for seq in 0..99_999 {
        index.settle(QueueId(1), seq, seq);
        let queue = index.queues.get(&QueueId(1)).expect("it has messages");
        assert!(queue.spans.len() == 1 && queue.dead.is_empty());
    }
    assert_eq!(index.live(1).routes, 1);
    index.settle(QueueId(1), 99_999, 99_999);
    assert_eq!(index.live(1), Live::default());
}

/// The fuzzer wrote checkpoints with valid checksums whose settled runs were together longer than a number can hold, or
/// one longer than the spans: when such a checkpoint was written again, it could not be read.
#[test]
fn runs_that_fit_no_spans_are_refused() {
    let span = Span {
        first: 0,
        extent: 9,
        segment: 1,
        live: 1,
    };
    assert!(QueueIndex::from_parts(&[span], &[(0, u64::MAX - 2), (u64::MAX - 1, u64::MAX)]).is_none());
    assert!(QueueIndex::from_parts(&[], &[(0, 0), (1, 1)]).is_none());
    assert!(QueueIndex::from_parts(&[span], &[(2, 3)]).is_some());
}

#[test]
fn a_deep_queue_takes_less_than_nine_bytes_a_segment_and_a_short_one_a_span() {
    let mut queue = QueueIndex::default();
    queue.insert(0, 1);
    assert_eq!(queue.spans.memory(), size_of::<Span>());
    for seq in 0..10_000 {
        queue.insert(seq, 1 + (seq / 31) as u32);
    }
    assert_eq!(queue.span_count(), 323);
    assert!(queue.spans.memory() <= 323 * 9, "{}", queue.spans.memory());
    for seq in 0..9_999 {
        queue.settle(seq, seq, |segment, count| {
            assert_eq!((segment, count), (1 + (seq / 31) as u32, 1))
        });
        assert_eq!(queue.lookup(seq + 1), Some(1 + ((seq + 1) / 31) as u32));
    }
    assert_eq!(queue.span_count(), 1);
    assert!(
        queue.spans.memory() <= 32 * size_of::<Span>(),
        "{}",
        queue.spans.memory()
    );
}

fn record(at: Position, version: u64, deleted: bool) -> KeyRecord {
    KeyRecord {
        at,
        version,
        len: 40,
        deleted,
        value: None,
    }
}

#[test]
fn a_deletion_is_kept_as_long_as_an_older_copy_is_on_disk() {
    let mut index = Index::default();
    index.key(b"k", record(Position { segment: 1, offset: 8 }, 8, false));
    index.key(b"k", record(Position { segment: 2, offset: 8 }, 108, true));
    assert_eq!((index.live(1).keys, index.live(2).keys), (0, 1));
    assert!(index.live(2).has_deletions_only());
    index.key_copy_gone(b"k", 1);
    assert_eq!(index.live(2), Live::default());
    assert!(index.keys.is_empty());
}

/// Deletions kept their own segment: what they deleted was in it, and could not be removed before they were.
#[test]
fn a_deletion_beside_the_only_older_copy_is_not_kept() {
    let mut index = Index::default();
    for round in 0..10 {
        let at = |offset| Position { segment: 1, offset };
        index.key(b"k", record(at(round * 80 + 8), u64::from(round) * 80 + 8, false));
        index.key(b"k", record(at(round * 80 + 48), u64::from(round) * 80 + 48, true));
        assert_eq!(index.live(1), Live::default());
        assert!(index.keys.is_empty());
    }
}

/// A key that was set again after its deletion had been forgotten counted one copy too few: the next deletion was
/// forgotten while a value was still on disk.
#[test]
fn a_key_that_comes_back_is_protected_from_all_its_values() {
    let mut index = Index::default();
    let at = |segment| Position { segment, offset: 8 };
    index.key(b"k", record(at(1), 8, false));
    index.key(b"k", record(at(1), 48, true));
    index.key(b"k", record(at(2), 108, false));
    index.key_copy_gone(b"k", 1);
    index.key(b"k", record(at(3), 208, true));
    assert_eq!(index.live(3).deletions, 1, "segment 2 still has a value");
    index.key_copy_gone(b"k", 2);
    assert_eq!(index.live(3), Live::default());
}

/// The index and a plain map that get the same operations, and a generator of these.
#[derive(Default)]
struct Compared {
    state: u64,
    index: Index,
    model: Model<u64, u32>,
    next: u64,
}

const QUEUE: QueueId = QueueId(9);

impl Compared {
    fn random(&mut self, below: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }

    fn do_something(&mut self, step: u64) {
        let segment = (step / 50) as u32 + 1;
        match self.random(10) {
            0..5 => {
                self.next += if self.random(5) == 0 {
                    self.random(6000)
                } else {
                    self.random(2)
                };
                let segment = if self.random(9) == 0 {
                    self.random(u64::from(segment)) as u32 + 1
                } else {
                    segment
                };
                self.index.insert(QUEUE, self.next, segment);
                self.model.insert(self.next, segment);
                self.next += 1;
            }
            5..8 => {
                let lo = self.random(self.next + 1);
                let hi = lo + self.random(40);
                self.index.settle(QUEUE, lo, hi);
                self.model.retain(|seq, _| !(lo..=hi).contains(seq));
            }
            _ => {
                let target = 1000 + (step / 100) as u32;
                let live: Vec<u64> = self.model.keys().copied().collect();
                let at = self.random(live.len() as u64 + 1);
                if let Some(seq) = live.get(at as usize) {
                    self.index.relocate(QUEUE, *seq, target);
                    self.model.insert(*seq, target);
                }
            }
        }
    }

    fn assert_same_counts(&self, step: &str) {
        let mut live: Model<u32, u64> = Model::new();
        let segments = self.model.values();
        segments.for_each(|segment| *live.entry(*segment).or_default() += 1);
        for segment in (1..20).chain(1000..1010) {
            let expected = live.get(&segment).copied().unwrap_or(0);
            assert_eq!(self.index.live(segment).routes, expected, "{step}");
        }
    }

    fn assert_finds(&self, seq: u64, step: &str) {
        let expected = self.model.get(&seq).copied();
        assert_eq!(self.index.lookup(QUEUE, seq), expected, "{step} seq {seq}");
    }

    /// Returns the number of spans.
    fn assert_same_spans(&mut self, step: &str) -> usize {
        let from = self.random(self.next + 2);
        let Some(known) = self.index.queues.get(&QUEUE) else {
            return 0;
        };
        let spans: Vec<Span> = known.spans().collect();
        assert_eq!(spans.len(), known.span_count());
        for span in &spans {
            for end in [span.first, span.last()] {
                assert_eq!(self.model.get(&end), Some(&span.segment), "{step}");
            }
        }
        let behind = spans.iter().copied().filter(|span| span.last() >= from);
        assert!(known.spans_from(from).eq(behind));
        let runs: Vec<(u64, u64)> = known.dead_runs().collect();
        let again = QueueIndex::from_parts(&spans, &runs).expect("what is known makes sense");
        assert!(again.spans().eq(spans.iter().copied()));
        spans.len()
    }
}

#[test]
fn the_index_agrees_with_a_plain_map_under_random_operations() {
    let mut most = 0;
    for seed in 0..60 {
        let mut compared = Compared {
            state: seed,
            ..Compared::default()
        };
        for step in 0..600 {
            compared.do_something(step);
            let at = format!("seed {seed} step {step}");
            compared.assert_same_counts(&at);
            for _ in 0..40 {
                let seq = compared.random(compared.next + 2);
                compared.assert_finds(seq, &at);
            }
            if step % 20 == 0 {
                compared.model.keys().for_each(|seq| compared.assert_finds(*seq, &at));
            }
            most = most.max(compared.assert_same_spans(&at));
        }
    }
    assert!(most > 100, "many lists were in play: {most}");
}

/// The deletion of a vhost walked through all that there was, of other vhosts too, while nothing was committed.
#[test]
fn a_vhost_with_many_keys_and_queues_is_deleted_in_small_steps() {
    const MANY: u64 = 1_000;
    let (gone, stays) = (VhostId(7), VhostId(8));
    let mut index = Index::default();
    for vhost in [gone, stays] {
        for n in 0..MANY {
            let name = n.to_be_bytes();
            let key = key::key(vhost, key::KeyKind::Subscription, &[&name]);
            let at = Position { segment: 1, offset: 8 };
            index.key(&key, record(at, n, false));
            let queue = QueueId::new(vhost, n).expect("a number");
            index.insert(queue, 1, 2);
            let root = Root::At(at);
            let route = Route {
                queue,
                seq: 2,
                flags: 0,
            };
            index.join(route, root, 2, 0);
        }
    }
    let live = |index: &Index| (index.live(1).keys, index.live(2).routes);
    assert_eq!(live(&index), (2 * MANY, 4 * MANY));
    index.delete_vhost(gone);
    assert!(index.is_deleting() && index.keys.len() as u64 == MANY);
    let queue = QueueId::new(gone, 0).expect("a number");
    assert_eq!(index.lookup(queue, 1), None, "nothing of it is found");
    assert_eq!(live(&index), (2 * MANY, 4 * MANY), "it still counts");
    let mut steps = 0;
    while index.go_on_deleting(50) {
        steps += 1;
        let (keys, routes) = live(&index);
        assert!(2 * MANY - keys + (4 * MANY - routes) / 2 <= steps * 50);
    }
    assert_eq!(steps, 2 * MANY / 50);
    assert_eq!(live(&index), (MANY, 2 * MANY));
    assert_eq!(index.moves.len() as u64, MANY);
    let queue = QueueId::new(stays, 0).expect("a number");
    assert_eq!(index.lookup(queue, 1), Some(2));
}
