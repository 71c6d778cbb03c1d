//! Reads one segment record by record: which groups are complete, and where the holes are.

use super::replay::{Op, list};
use super::{Hole, Incomplete, Recovery, Unsealed};
use crate::message::Position;
use crate::store::checkpoint::Covered;
use crate::store::directory::{Directory, Entries, Listed};
use crate::store::disk::{Disk, Patient};
use crate::store::footer::{Ending, Footer};
use crate::store::index::KeyRecord;
use crate::store::record::{BatchHead, FIRST, GROUP, Kind, LAST, Raw};
use crate::store::scan::{Scanned, Scanner};
use crate::store::segment::{RECORDS_AT, SegmentHeader, SegmentKind, Trailer, read_directory};
use std::io;

/// One segment, as far as it has been read.
struct Reading {
    header: SegmentHeader,
    covered: Option<Covered>,
    trailer: Option<Trailer>,
    footer: Option<Footer>,
    /// What its footer will list, if it gets a new one.
    directory: Directory,
    /// Records of a group that has not ended, with their offsets.
    group: Vec<(u32, Op)>,
    /// The group's first record was found.
    begun: bool,
    /// Holes: from, to.
    holes: Vec<(u32, u32)>,
    /// A hole may be what a power cut tore. What follows it may then have been written although the hole's content was
    /// not.
    is_torn: bool,
    /// The end of the last record.
    end: u32,
}

impl Reading {
    fn new(header: SegmentHeader, covered: Option<Covered>, trailer: Option<Trailer>) -> Reading {
        Reading {
            header,
            covered,
            trailer,
            footer: None,
            directory: Directory::default(),
            group: Vec::new(),
            begun: false,
            holes: Vec::new(),
            is_torn: false,
            end: RECORDS_AT,
        }
    }
    /// The checkpoint covers all records before it.
    fn covered_end(&self) -> u32 {
        self.covered.map_or(0, |covered| covered.end)
    }
    /// Where and how it was sealed, if it was.
    fn ended(&self) -> Option<(u32, Ending)> {
        let footer = self.footer.as_ref().map(|footer| (footer.end, footer.ending));
        self.trailer.map(|trailer| (trailer.end, trailer.ending)).or(footer)
    }
    /// The end of its records, read or not.
    fn full_end(&self) -> u32 {
        let sealed_end = self.ended().map_or(0, |(end, _)| end);
        self.end.max(sealed_end).max(self.covered_end())
    }
    /// Whether an earlier start has judged a hole. Whoever sealed a torn segment has judged its holes. Without the list
    /// of them, these are all that the checkpoint does not cover.
    fn has_judged(&self, from: u32, to: u32) -> bool {
        match &self.footer {
            Some(footer) => footer.has_judged(from, to),
            None => to > self.covered_end() && self.ended().is_some_and(|(_, ending)| ending == Ending::Cut),
        }
    }
}

impl<D: Disk> Recovery<D> {
    /// Reads every record of a segment.
    pub(super) fn scan(
        &mut self,
        file: &Patient<D::File>,
        header: SegmentHeader,
        covered: Option<Covered>,
    ) -> io::Result<()> {
        let trailer = Trailer::read(file)?.filter(|trailer| trailer.header == header);
        let mut scanner = Scanner::new(file, header.base, header.seed());
        let mut reading = Reading::new(header, covered, trailer);
        while let Some(scanned) = scanner.next() {
            match scanned {
                Scanned::Hole { from, to } => self.found_hole(&mut reading, from, to),
                Scanned::Record { raw, .. } if raw.kind == Kind::Footer => {
                    reading.footer = Footer::parse(raw.head);
                    let log_upto = reading.footer.as_ref().map_or(0, |footer| footer.log_upto);
                    self.log_upto = self.log_upto.max(log_upto);
                    break;
                }
                Scanned::Record { offset, len, raw } => self.found_record(&mut reading, offset, len, &raw),
            }
        }
        let inside = self.incomplete.len();
        self.interrupt(header, &mut reading.group);
        scanner.finish()?;
        self.note_holes(&mut reading, inside);
        let directory = match trailer {
            Some(_) => read_directory(file, &header)?,
            None => None,
        };
        if let Some((_, directory)) = &directory {
            self.find_damaged_keys(&reading, directory);
        }
        self.note_read(reading, directory.is_some());
        Ok(())
    }

    /// Notes keys whose records are damaged, according to the directory: otherwise an older record of the key would
    /// count as the newest.
    fn find_damaged_keys(&mut self, reading: &Reading, directory: &[u8]) {
        if reading.holes.is_empty() {
            return;
        }
        for listed in Entries::new(directory) {
            let Listed::Key {
                offset,
                len,
                version,
                deleted,
                key,
            } = listed
            else {
                continue;
            };
            let is_lost = reading.holes.iter().any(|(from, to)| (*from..*to).contains(&offset));
            if !is_lost || (offset < reading.covered_end() && !self.is_covered_bulk(key)) {
                continue;
            }
            let at = Position {
                segment: reading.header.id,
                offset,
            };
            let record = KeyRecord {
                at,
                version,
                len,
                deleted,
                value: None,
            };
            self.index.found_key(key, record);
        }
    }

    fn found_hole(&mut self, reading: &mut Reading, from: u32, to: u32) {
        reading.holes.push((from, to));
        // Every start must judge the same, whatever stopped the machine since.
        let trailer = &reading.trailer;
        reading.is_torn = trailer.map_or(!self.has_run_on, |trailer| trailer.ending == Ending::Cut);
        // Its content may have belonged to the group.
        self.interrupt(reading.header, &mut reading.group);
        reading.begun = false;
    }

    fn found_record(&mut self, reading: &mut Reading, offset: u32, len: u32, raw: &Raw<'_>) {
        let header = reading.header;
        reading.end = offset + len;
        if raw.kind == Kind::Batch {
            self.batch(&header, raw);
            return self.interrupt(header, &mut reading.group);
        }
        let Some(op) = Op::parse(raw, offset, len, header.base + u64::from(offset)) else {
            return reading.holes.push((offset, reading.end));
        };
        if offset < reading.covered_end() {
            return self.found_covered(reading, op);
        }
        let may_be_torn = !self.has_run_on && reading.trailer.is_none_or(|trailer| trailer.ending == Ending::Cut);
        self.note(&header, may_be_torn, &op);
        self.replayed = true;
        if raw.flags & GROUP == 0 || raw.flags & FIRST != 0 {
            self.interrupt(header, &mut reading.group);
            reading.begun = raw.flags & FIRST != 0;
        }
        let whole = raw.flags & GROUP == 0 || (raw.flags & LAST != 0 && reading.begun);
        reading.group.push((offset, op));
        if whole {
            self.apply_group(reading);
        } else if raw.flags & LAST != 0 {
            self.interrupt(header, &mut reading.group);
        }
    }

    /// A record that the checkpoint covers. Its group was complete when the checkpoint was written, which knows
    /// everything that it changed.
    fn found_covered(&mut self, reading: &mut Reading, op: Op) {
        list(&mut reading.directory, &op);
        if let Op::Message {
            offset,
            body_len,
            routes,
            ..
        } = &op
        {
            let at = Position {
                segment: reading.header.id,
                offset: *offset,
            };
            self.covered_message(at, *body_len, routes);
        }
        if matches!(&op, Op::Key { key, .. } if self.is_covered_bulk(key)) {
            self.apply(&reading.header, op);
        }
    }

    /// The group is complete.
    fn apply_group(&mut self, reading: &mut Reading) {
        for (at, op) in reading.group.drain(..) {
            list(&mut reading.directory, &op);
            if reading.is_torn && matches!(op, Op::Purge(..) | Op::Delete(_)) {
                self.doubtful.push((reading.header, at, op));
            } else {
                self.apply(&reading.header, op);
            }
        }
    }

    /// The whole segment has been read. `inside`: the number of incomplete groups before its last one.
    fn note_holes(&mut self, reading: &mut Reading, inside: usize) {
        let (header, end, covered_end) = (reading.header, reading.end, reading.covered_end());
        let ended = reading.ended();
        let certain = ended.is_some_and(|(_, ending)| ending != Ending::Cut);
        // Everything before a later write was written.
        let is_untorn = self.has_run_on && ended.is_none();
        for (n, group) in self.incomplete.iter_mut().enumerate() {
            if group.header.id == header.id {
                group.certain = certain || (is_untorn && n < inside);
            }
        }
        let behind = reading.holes.len();
        if let Some((sealed_end, _)) = ended.filter(|(sealed_end, _)| *sealed_end > end) {
            reading.holes.push((end, sealed_end));
        } else if covered_end > end {
            reading.holes.push((end, covered_end));
        }
        // Everything that a checkpoint covers was synced, except copies that compaction abandoned, and what an earlier
        // epoch left torn and no start could seal.
        let epoch = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.marks.epoch);
        let is_synced = (reading.covered).is_some_and(|covered| covered.sealed || header.epoch == epoch);
        let is_synced = is_synced && header.kind == SegmentKind::Log;
        let has_footer = reading.footer.is_some();
        for (n, &(from, to)) in reading.holes.iter().enumerate() {
            let certain = certain || (is_untorn && n < behind) || has_footer || (to <= covered_end && is_synced);
            if !reading.has_judged(from, to) {
                self.holes.push(Hole {
                    header,
                    from,
                    to,
                    certain,
                });
            }
        }
    }

    fn note_read(&mut self, reading: Reading, is_sealed: bool) {
        let (header, end) = (reading.header, reading.full_end());
        if let Some(segment) = self.segments.get_mut(&header.id) {
            segment.end = end;
            (segment.routes, segment.keys) = (reading.directory.routes, reading.directory.keys);
            segment.sealed = is_sealed;
        }
        if !is_sealed {
            self.unsealed.push(Unsealed {
                header,
                end,
                holes: reading.holes,
                directory: reading.directory,
            });
        }
    }

    /// A group ends here, complete or not.
    fn interrupt(&mut self, header: SegmentHeader, group: &mut Vec<(u32, Op)>) {
        if let Some(&(at, _)) = group.first() {
            let ops = group.drain(..).map(|(_, op)| op).collect();
            self.incomplete.push(Incomplete {
                header,
                at,
                ops,
                certain: false,
            });
        }
    }

    fn batch(&mut self, header: &SegmentHeader, raw: &Raw<'_>) {
        if let Some(head) = BatchHead::parse(raw.head) {
            self.marks.wall = self.marks.wall.max(head.wall);
            if header.kind == SegmentKind::Log {
                let durable = self.durable.entry(header.epoch).or_default();
                *durable = head.durable.max(*durable);
            }
        }
    }
}
