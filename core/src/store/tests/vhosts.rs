//! Vhosts that are created and deleted under the same names again and again: nothing of a deleted one comes back and
//! nothing of the others is lost, wherever the machine stops and whichever bit flips.

use super::behaviour::{ack, at, publish};
use super::damage::damage;
use super::script::{batch, message, runs, settings};
use super::{bodies, entries};
use crate::catalog::directory::{self, PermissionRecord, PolicyRecord, UserRecord};
use crate::catalog::{VhostRecord, vhost_deletion, vhost_record, vhosts};
use crate::store::disk::Disk;
use crate::store::{
    KeyKind, QueueId, Read, Record, Recovered, Store, StoreError, VhostId, check, key, queue_key, repair, vhost_of,
};
use crate::testing::disk::{Crash, Rng, SimDisk};
use crate::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NAMES: [&str; 3] = ["plant", "office", "yard"];

/// The content of a vhost, and the commits that created and deleted it.
#[derive(Clone, Debug, Default)]
struct Vhost {
    name: &'static str,
    deleted: Option<u64>,
    /// Keys, by the commit that wrote them.
    keys: BTreeMap<Box<[u8]>, u64>,
    /// Messages of its queue: the commits that wrote and settled them.
    messages: BTreeMap<u64, (u64, Option<u64>)>,
}

struct Life {
    disk: SimDisk,
    vhosts: BTreeMap<u32, Vhost>,
    commit: u64,
    confirmed: u64,
    rng: Rng,
}

impl Life {
    fn new(seed: u64) -> Life {
        Life {
            disk: SimDisk::new(seed),
            vhosts: BTreeMap::new(),
            commit: 0,
            confirmed: 0,
            rng: Rng::new(seed),
        }
    }

    fn open(&self, disk: &SimDisk) -> (Store<SimDisk>, Recovered) {
        Store::open(Arc::new(disk.clone()), settings(), Wall(0)).unwrap()
    }

    /// Creates, fills and deletes vhosts. About half of the records are commits of their own.
    fn work(&mut self, steps: u64) -> Result<(), StoreError> {
        let (mut store, _) = Store::open(Arc::new(self.disk.clone()), settings(), Wall(0))?;
        for _ in 0..steps {
            self.commit += 1;
            let mut records = Vec::new();
            for _ in 0..1 + self.rng.below(4) {
                self.step(&mut records);
            }
            store.commit(&mut [batch(records, true)], at(self.commit * 700))?;
            self.confirmed = self.commit;
            for _ in 0..self.rng.below(4) {
                store.tick(at(self.commit * 700 + 300))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, records: &mut Vec<Record>) {
        let (commit, name) = (self.commit, NAMES[self.rng.below(3) as usize]);
        let there = self
            .vhosts
            .iter_mut()
            .find(|(_, vhost)| vhost.name == name && vhost.deleted.is_none());
        let Some((&number, vhost)) = there else {
            self.create(name, records);
            return;
        };
        let id = VhostId(number);
        let queue = QueueId::new(id, 1).expect("a number that fits");
        let mut set = |key: Box<[u8]>, value: Vec<u8>| {
            vhost.keys.entry(key.clone()).or_insert(commit);
            records.push(Record::Key {
                key,
                value: Some(value.into()),
            });
        };
        match self.rng.below(12) {
            0 => {
                vhost.deleted = Some(commit);
                records.push(vhost_deletion(id));
            }
            1 => {
                let client = format!("client-{}", self.rng.below(9));
                set(key(id, KeyKind::Session, &[client.as_bytes()]), vec![1; 20]);
                let filter = [client.as_bytes(), b"\0plant/+\0"].concat();
                set(key(id, KeyKind::Subscription, &[&filter]), vec![2; 12]);
            }
            2 => {
                let topic = format!("state/{}", self.rng.below(9));
                set(key(id, KeyKind::Retained, &[topic.as_bytes()]), vec![3; 90]);
            }
            3..5 => {
                let exchange = format!("exchange-{}", self.rng.below(9));
                set(key(id, KeyKind::Exchange, &[exchange.as_bytes()]), vec![4; 30]);
            }
            5 => {
                let user = NAMES[self.rng.below(3) as usize];
                let permission = PermissionRecord {
                    configure: format!("^{name}"),
                    ..PermissionRecord::default()
                };
                records.push(directory::record(&(id, user.into()), &permission));
                records.push(directory::record(&user.into(), &UserRecord::default()));
            }
            6..10 => {
                let seq = vhost.messages.len() as u64;
                vhost.messages.insert(seq, (commit, None));
                records.push(publish(&message(seq, 400), queue.0, seq));
            }
            _ => {
                let live = vhost.messages.iter_mut().find(|(_, (_, settled))| settled.is_none());
                if let Some((&seq, (_, settled))) = live {
                    *settled = Some(commit);
                    records.push(ack(queue.0, seq, seq));
                }
            }
        }
    }

    fn create(&mut self, name: &'static str, records: &mut Vec<Record>) {
        let number = 1 + self.vhosts.len() as u32;
        let id = VhostId(number);
        let record = VhostRecord {
            name: name.into(),
            ..VhostRecord::default()
        };
        records.push(vhost_record(id, &record));
        let queue = queue_key(QueueId::new(id, 1).expect("a number that fits"));
        let policy = directory::record(&(id, "limit".into()), &PolicyRecord::default());
        let value = Some([5; 40].into());
        records.extend([Record::Key { key: queue, value }, policy]);
        let keys = records.iter().rev().take(2).filter_map(|record| match record {
            Record::Key { key, .. } => Some((key.clone(), self.commit)),
            _ => None,
        });
        let vhost = Vhost {
            name,
            keys: keys.collect(),
            ..Vhost::default()
        };
        self.vhosts.insert(number, vhost);
    }

    /// What must exist and does not, as keys and (vhost, sequence). Fails if something exists that must not.
    fn lost(&self, store: &Store<SimDisk>, recovered: &Recovered, what: &str) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        let sure = self.confirmed;
        let known = vhosts(recovered);
        for (&number, vhost) in &self.vhosts {
            let id = VhostId(number);
            let is_gone = vhost.deleted.is_some_and(|commit| commit <= sure);
            let keys: BTreeSet<_> = recovered.keys.keys().filter(|key| vhost_of(key) == Some(id)).collect();
            let queue = QueueId::new(id, 1).expect("a number that fits");
            if is_gone {
                assert!(keys.is_empty(), "{what}: {vhost:?} is deleted and has {keys:?}");
                assert!(
                    !recovered.queues.contains_key(&queue),
                    "{what}: {number} is deleted, its queue is there"
                );
                assert!(!known.contains_key(&id), "{what}: {number} is deleted");
                continue;
            }
            let there: BTreeSet<u64> = match recovered.queues.contains_key(&queue) {
                true => entries(store, queue).iter().map(|entry| entry.seq).collect(),
                false => BTreeSet::new(),
            };
            for (seq, (written, settled)) in &vhost.messages {
                let is_settled = settled.is_some_and(|commit| commit <= sure);
                // Without any checkpoint, messages whose settling was in a segment recycled since may come once more.
                let may_return = what.ends_with("without checkpoints");
                assert!(
                    !is_settled || may_return || !there.contains(seq),
                    "{what}: {seq} of {number} was settled"
                );
                if *written <= sure && settled.is_none() && vhost.deleted.is_none() && !there.contains(seq) {
                    lost.insert(format!("message {seq} of {number}"));
                }
            }
            for (key, written) in &vhost.keys {
                if *written <= sure && vhost.deleted.is_none() && !keys.contains(key) {
                    lost.insert(crate::store::describe(key));
                }
            }
            if vhost.keys.values().any(|commit| *commit <= sure) && vhost.deleted.is_none() {
                let named = known.get(&id).is_some_and(|record| *record.name == *vhost.name);
                if !named {
                    lost.insert(format!("vhost {number}"));
                }
                assert!(
                    recovered.vhost_max >= id,
                    "{what}: number {number} would be given again"
                );
            }
        }
        let names: Vec<_> = known.values().map(|record| &record.name).collect();
        let different: BTreeSet<_> = names.iter().collect();
        // An earlier one with that name may have been deleted in a commit that did not count.
        let in_doubt = self
            .vhosts
            .values()
            .any(|vhost| vhost.deleted.is_some_and(|commit| commit > sure));
        assert!(names.len() == different.len() || in_doubt, "{what}: {names:?}");
        lost
    }
}

fn without_checkpoints(disk: &SimDisk) -> SimDisk {
    let disk = disk.restart(Crash::Process);
    for file in ["checkpoint", "checkpoint.old"] {
        let _ = disk.remove(file);
    }
    disk.sync_dir("").unwrap();
    disk
}

#[test]
fn vhosts_created_and_deleted_survive_a_stop_at_any_point() {
    for seed in 0..runs(400).div_ceil(200) {
        let life = |crash_at: Option<u64>| {
            let mut life = Life::new(20_000 + seed);
            if let Some(at) = crash_at {
                life.disk.crash_after(at);
            }
            let _ = life.work(120);
            life
        };
        let whole = life(None);
        let deleted = whole.vhosts.values().filter(|vhost| vhost.deleted.is_some()).count();
        assert!(deleted > 10 && whole.disk.changes() > 200, "{deleted} were deleted");
        for at in (0..whole.disk.changes()).step_by(if seed == 0 { 3 } else { 13 }) {
            let life = life(Some(at));
            for crash in [Crash::Power, Crash::Process] {
                let disk = life.disk.restart(crash);
                let bare = without_checkpoints(&life.disk.restart(crash));
                for (disk, how) in [(disk, "with checkpoints"), (bare, "without checkpoints")] {
                    let what = format!("seed {seed} at {at}, {crash:?}, {how}");
                    let (store, recovered) = life.open(&disk);
                    let lost = life.lost(&store, &recovered, &what);
                    assert!(lost.is_empty(), "{what}: {lost:?}");
                }
            }
        }
    }
}

/// One flipped bit damages the record that it is in. It costs no definition, because those come back from the
/// checkpoint.
#[test]
fn a_flipped_bit_damages_one_record_of_one_vhost() {
    let (mut messages, mut rescued) = (0, 0);
    for seed in 0..runs(400) {
        let mut life = Life::new(30_000 + seed);
        life.work(40 + seed % 50).unwrap();
        // A clean stop leaves a checkpoint that knows everything.
        let (store, _) = life.open(&life.disk);
        store.close(at(1_000_000)).unwrap();
        let (store, recovered) = life.open(&life.disk.restart(Crash::Process));
        let lost = life.lost(&store, &recovered, &format!("seed {seed}"));
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        let disk = life.disk.restart(Crash::Process);
        let segments: Vec<String> = disk.paths().into_iter().filter(|path| path.ends_with(".seg")).collect();
        let path = &segments[life.rng.below(segments.len() as u64) as usize];
        // Where the records are.
        let at_byte = 4608 + life.rng.below(8_000);
        disk.damage(path, |bytes| {
            if let Some(byte) = bytes.get_mut(at_byte as usize) {
                *byte ^= 1 << life.rng.below(8);
            }
        });
        let report = check(&disk, &mut |_| {}).unwrap();
        let what = format!("seed {seed}, {path} at {at_byte}");
        let (store, recovered) = life.open(&disk);
        let lost = life.lost(&store, &recovered, &what);
        // Damage to a listed message is found when it is read.
        assert!(lost.len() <= 1, "{what}: {lost:?}");
        for lost in &lost {
            let is_precious = ["vhost", "queue", "exchange", "policy", "user", "permission"];
            assert!(!is_precious.iter().any(|kind| lost.starts_with(kind)), "{what}: {lost}");
        }
        assert!(
            report.damaged_keys.len() <= 1,
            "{what}: {report}, {:?}",
            report.damaged_keys
        );
        rescued += report.damaged_keys.len();
        messages += usize::from(!report.is_clean());
    }
    assert!(
        messages > rescued && rescued > 0,
        "{messages} were damaged, {rescued} keys among them"
    );
}

/// What a start finds: the keys with their values, and the messages that can be read.
type Content = (BTreeMap<Box<[u8]>, Box<[u8]>>, BTreeMap<(QueueId, u64), Box<[u8]>>);

impl Life {
    /// A clean stop, whose checkpoint knows everything.
    fn close(&self) {
        let (store, _) = self.open(&self.disk);
        store.close(at(self.commit * 700 + 10_000)).unwrap();
    }

    /// What a start finds in the directory, and what is lost. See [`Life::lost`].
    fn start(&self, disk: &SimDisk, what: &str, is_judged: bool) -> (Content, BTreeSet<String>) {
        let (store, recovered) = self.open(disk);
        let lost = if is_judged {
            self.lost(&store, &recovered, what)
        } else {
            BTreeSet::new()
        };
        let mut messages = BTreeMap::new();
        for &queue in recovered.queues.keys() {
            let read = |entry: &crate::store::LogEntry| Read {
                queue,
                seq: entry.seq,
                at: entry.at,
                waited: 0,
            };
            let reads: Vec<Read> = entries(&store, queue).iter().map(read).collect();
            for loaded in bodies(&store, &reads) {
                if let Some(found) = loaded.message {
                    let expected = message(loaded.seq, 400);
                    assert_eq!(found.payload(), expected.payload(), "{what}: {queue:?} {}", loaded.seq);
                    messages.insert((queue, loaded.seq), found.payload().into());
                }
            }
        }
        ((recovered.keys, messages), lost)
    }
}

/// After the repair of one or many damaged files, the directory serves what a start of the damaged directory serves:
/// nothing of a deleted vhost comes back, and nothing more of the others is lost. The store continues to work.
#[test]
fn a_repair_keeps_created_and_deleted_vhosts_as_a_start_finds_them() {
    let (mut repaired_ones, mut costly) = (0, 0);
    for seed in 0..runs(400) / 2 {
        let mut life = Life::new(40_000 + seed);
        life.work(40 + seed % 50).unwrap();
        life.close();
        let harmed = life.disk.restart(Crash::Process);
        // With many damaged files, a deletion may be lost together with its second copy, and what it deleted comes
        // back.
        let is_one = seed % 3 > 0;
        let files = harmed.paths();
        let one = life.rng.below(files.len() as u64) as usize;
        for (n, path) in files.iter().enumerate() {
            if n == one || (!is_one && life.rng.chance(1, 2)) {
                damage(&harmed, path, &mut life.rng);
            }
        }
        let what = format!("seed {seed}, {}", files[one]);
        let (served, _) = life.start(&harmed.restart(Crash::Process), &what, is_one);
        let disk = harmed.restart(Crash::Process);
        let before = check(&disk, &mut |_| {}).unwrap();
        let now = at(2_000_000);
        let repaired = repair(Arc::new(disk.clone()), settings(), now, &mut |_| {})
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(repaired.is_clean(), "{what}: {repaired}");
        assert_eq!(repaired.before, before, "{what}");
        repaired_ones += usize::from(!before.is_clean());
        let report = check(&disk, &mut |_| {}).unwrap();
        assert!(report.is_clean() && report.stale.is_empty(), "{what}: {report}");
        let again = repair(Arc::new(disk.clone()), settings(), now, &mut |_| {}).unwrap();
        assert!(again.after.is_none(), "{what}: repaired twice");
        let (again, lost) = life.start(&disk, &format!("{what}, repaired"), is_one);
        costly += usize::from(!lost.is_empty());
        assert_eq!(served.0, again.0, "{what}: keys");
        assert!(served.1 == again.1, "{what}: messages");
        // It continues with new vhosts under the old names.
        if is_one && lost.is_empty() {
            life.disk = disk;
            life.work(20).unwrap_or_else(|error| panic!("{what}: {error}"));
            let disk = life.disk.restart(Crash::Power);
            let (_, lost) = life.start(&disk, &format!("{what}, and on"), true);
            assert!(lost.is_empty(), "{what}: {lost:?}");
        }
    }
    assert!(
        repaired_ones > 50 && costly > 5,
        "{repaired_ones} repaired, {costly} lost something"
    );
}
