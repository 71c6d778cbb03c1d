//! Entry points for the fuzz targets: untrusted bytes go into every decoder of the store.

use super::checkpoint;
use super::directory::Entries;
use super::disk::DiskFile;
use super::footer::Footer;
use super::record::{
    self, BatchHead, Encoder, Kind, MessageHead, parse_acks, parse_key, parse_purge, parse_queue, parse_ref,
    parse_state,
};
use super::scan::Scanner;
use super::segment::{RECORDS_AT, SegmentHeader, Trailer, read_directory};
use super::varint::Input;
use std::io;
use std::time::Duration;

/// Decodes `data` as a record, as every kind of head, as a directory and as a checkpoint.
pub fn fuzz_record(data: &[u8]) {
    let lsn = data.get(8..).and_then(|rest| Input(rest).u64()).unwrap_or(0);
    if let Some(raw) = record::open(data, lsn, 0) {
        let _ = MessageHead::parse(raw.head).and_then(|head| head.message(raw.payload));
    }
    let _ = BatchHead::parse(data);
    if let Some(footer) = Footer::parse(data) {
        let mut out = Vec::new();
        footer.put(&mut out);
        assert_eq!(Footer::parse(&out), Some(footer));
    }
    if let Some(head) = MessageHead::parse(data) {
        let _ = head.message(data);
        let mut out = Vec::new();
        MessageHead::put(
            &head.envelope,
            head.user.as_deref(),
            head.lengths,
            &head.routes,
            &mut out,
        );
        assert!(MessageHead::parse(&out).is_some_and(|again| again.routes == head.routes));
    }
    if let Some(acks) = parse_acks(data) {
        for queue in &acks {
            assert!(queue.settled.iter().all(|(lo, hi)| lo <= hi));
        }
    }
    let _ = parse_state(data);
    let _ = parse_key(data);
    let _ = parse_ref(data);
    let _ = parse_purge(data);
    let _ = parse_queue(data);
    let mut entries = Entries::new(data);
    let _ = entries.by_ref().count();
    let _ = entries.is_whole();
    let _ = checkpoint::decode(data);
    checkpoint::fuzz(data);
}

/// Reads `data` as a segment: as it is, behind a valid header, and as the heads of valid records.
pub fn fuzz_segment(data: &[u8]) {
    let header = SegmentHeader::read(&Memory(data.to_vec()));
    let _ = Trailer::read(&Memory(data.to_vec()));
    if let Ok(Ok(header)) = header {
        walk(&Memory(data.to_vec()), header.base, header.seed());
        let _ = read_directory(&Memory(data.to_vec()), &header);
    }
    let mut file = vec![0; RECORDS_AT as usize];
    file.extend_from_slice(data);
    walk(&Memory(file), 0, 0);
    // The same bytes with valid checksums.
    let mut records = Vec::new();
    for chunk in data.chunks(64) {
        let (kind, rest) = chunk.split_first().unwrap_or((&0, &[]));
        let kind = match kind % 4 {
            0 => Kind::Batch,
            1 => Kind::Message,
            2 => Kind::Footer,
            _ => Kind::Acks,
        };
        let lsn = u64::from(RECORDS_AT) + records.len() as u64;
        let mut encoder = Encoder::begin(&mut records, lsn, 0, kind, 0);
        encoder.head().extend_from_slice(rest);
        encoder.finish(rest);
    }
    let mut file = vec![0; RECORDS_AT as usize];
    file.extend_from_slice(&records);
    walk(&Memory(file), 0, 0);
}

fn walk(file: &Memory, base: u64, seed: u32) {
    let mut scanner = Scanner::new(file, base, seed);
    let mut before = scanner.end();
    while scanner.next().is_some() {
        assert!(scanner.end() > before, "a scan goes on");
        before = scanner.end();
    }
    assert!(u64::from(scanner.end()) <= scanner.file_len().max(u64::from(RECORDS_AT)));
}

/// A file in memory.
struct Memory(Vec<u8>);

impl DiskFile for Memory {
    fn wait_to_retry(&self, _: u32, _: &io::Error) -> bool {
        false
    }
    fn read_some_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..))
            .unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync_data(&self) -> io::Result<Duration> {
        Ok(Duration::ZERO)
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::corpus;

    #[test]
    fn the_corpus_is_replayed() {
        for bytes in corpus() {
            fuzz_record(&bytes);
            fuzz_segment(&bytes);
        }
    }
}
