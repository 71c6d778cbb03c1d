//! Writes a checkpoint piece by piece, so that no part of it that grows with what exists is in memory as a whole.

use super::{Covered, DRAFT, FILE, HEADER_BYTES, Header, MAGIC, Marks, OLD, PIECE_BYTES, VERSION};
use crate::message::Position;
use crate::store::QueueId;
use crate::store::disk::{Disk, DiskFile};
use crate::store::index::{Index, KeyEntry, Move, QueueIndex, Root, Segments};
use crate::store::key;
use crate::store::record;
use crate::store::varint::put_varint;
use std::io;

/// A checkpoint that is written and not yet synced.
pub(crate) struct Draft<F> {
    file: F,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Of these, bytes that list deletions.
    pub(crate) deletions: u64,
}

impl<F: DiskFile> Draft<F> {
    /// Replaces the newest checkpoint. It is durable when this returns.
    pub(crate) fn publish<D: Disk<File = F>>(self, disk: &D) -> io::Result<()> {
        self.file.sync_data()?;
        match disk.rename(FILE, OLD) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk.rename(DRAFT, FILE)?;
        disk.sync_dir("")
    }
}

/// The body that is being written.
struct Body<'f, F> {
    file: &'f F,
    /// What follows `written`.
    piece: Vec<u8>,
    written: u64,
    /// The checksum of what was written.
    crc: u32,
    /// The error after which no more is written.
    failed: Option<io::Error>,
}

impl<F: DiskFile> Body<'_, F> {
    /// The buffer for the next bytes.
    fn out(&mut self) -> &mut Vec<u8> {
        if self.piece.len() >= PIECE_BYTES {
            self.write();
        }
        &mut self.piece
    }
    fn write(&mut self) {
        if self.failed.is_none() {
            self.failed = self
                .file
                .write_at(&self.piece, HEADER_BYTES as u64 + self.written)
                .err();
        }
        self.crc = crc32c::crc32c_append(self.crc, &self.piece);
        self.written += self.piece.len() as u64;
        self.piece.clear();
    }
    fn len(&self) -> u64 {
        self.written + self.piece.len() as u64
    }
    fn number(&mut self, value: u64) {
        put_varint(self.out(), value);
    }
    fn numbers<const N: usize>(&mut self, values: [u64; N]) {
        let out = self.out();
        values.iter().for_each(|value| put_varint(out, *value));
    }
    /// Writes the rest, and the header. Returns the bytes in all.
    fn finish(mut self) -> io::Result<u64> {
        self.write();
        if let Some(error) = self.failed {
            return Err(error);
        }
        let len = self.written;
        let header = Header {
            crc: 0,
            version: VERSION,
            len,
        };
        let body = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let crc = crc32c::crc32c_combine(header.crc_of_itself(), self.crc, body);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        self.file.write_at(&bytes, 0)?;
        Ok(HEADER_BYTES as u64 + len)
    }
}

/// Writes a checkpoint beside the newest one.
pub(crate) fn draft<D: Disk>(
    disk: &D,
    marks: &Marks,
    segments: &[Covered],
    index: &Index,
) -> io::Result<Draft<D::File>> {
    let file = disk.create(DRAFT)?;
    let mut body = Body {
        file: &file,
        piece: Vec::new(),
        written: 0,
        crc: 0,
        failed: None,
    };
    let b = &mut body;
    put_marks(b, marks);
    b.number(index.vhosts.len() as u64);
    for (id, vhost) in &index.vhosts {
        b.numbers([u64::from(id.0), vhost.queue_max, u64::from(vhost.first_segment)]);
        put_segments(b, &vhost.copies);
    }
    b.number(segments.len() as u64);
    segments.iter().for_each(|segment| put_segment(b, segment));
    b.number(index.queues.len() as u64);
    index.queues.iter().for_each(|(id, queue)| put_queue(b, *id, queue));
    b.number(index.moves.len() as u64);
    index.moves.iter().for_each(|(to, moved)| put_move(b, *to, moved));
    let listed = || {
        let keys = index.keys.iter();
        keys.filter(|(key, entry)| entry.deleted || !key::is_bulk(key))
    };
    b.number(listed().count() as u64);
    let mut deletions = 0;
    for (key, entry) in listed() {
        let before = b.len();
        put_key(b, key, entry);
        deletions += if entry.deleted { b.len() - before } else { 0 };
    }
    let len = body.finish()?;
    Ok(Draft { file, len, deletions })
}

fn put_segments<F: DiskFile>(b: &mut Body<'_, F>, segments: &Segments) {
    b.number(segments.iter().len() as u64);
    let mut before = 0;
    for segment in segments.iter() {
        b.number(u64::from(segment - before));
        before = segment;
    }
}

fn put_marks<F: DiskFile>(b: &mut Body<'_, F>, marks: &Marks) {
    let vhost_max = u64::from(marks.vhost_max.0);
    let (epoch, next_id) = (u64::from(marks.epoch), u64::from(marks.next_id));
    b.numbers([epoch, next_id, marks.next_base, marks.wall.0, vhost_max]);
}

fn put_segment<F: DiskFile>(b: &mut Body<'_, F>, segment: &Covered) {
    let h = &segment.header;
    b.numbers([u64::from(h.id), h.kind as u64, u64::from(h.epoch), h.salt, h.base]);
    let sealed = u64::from(segment.sealed);
    let (size, end) = (u64::from(h.size), u64::from(segment.end));
    b.numbers([size, end, sealed, segment.routes, segment.keys]);
}

fn put_move<F: DiskFile>(b: &mut Body<'_, F>, (queue, seq): (QueueId, u64), moved: &Move) {
    let out = b.out();
    record::put_queue(queue, out);
    put_varint(out, seq);
    out.push(moved.flags);
    match moved.root {
        Root::Route(queue, seq) => {
            out.push(0);
            record::put_queue(queue, out);
            put_varint(out, seq);
        }
        Root::At(at) => {
            out.push(1);
            put_position(b, at);
        }
    }
}

fn put_position<F: DiskFile>(b: &mut Body<'_, F>, at: Position) {
    b.numbers([u64::from(at.segment), u64::from(at.offset)]);
}

fn put_key<F: DiskFile>(b: &mut Body<'_, F>, key: &[u8], entry: &KeyEntry) {
    b.number(key.len() as u64);
    b.out().extend_from_slice(key);
    put_position(b, entry.at);
    b.numbers([entry.version, u64::from(entry.len), u64::from(entry.deleted)]);
    put_segments(b, &entry.older);
    b.out().push(u8::from(entry.value.is_some()));
    if let Some(value) = &entry.value {
        b.number(value.len() as u64);
        b.out().extend_from_slice(value);
    }
}

fn put_queue<F: DiskFile>(b: &mut Body<'_, F>, id: QueueId, queue: &QueueIndex) {
    record::put_queue(id, b.out());
    b.numbers([queue.next_seq, queue.handed_out, u64::from(queue.first_segment)]);
    put_segments(b, &queue.copies);
    b.number(queue.span_count() as u64);
    let mut next = 0;
    for span in queue.spans() {
        let (extent, segment) = (u64::from(span.extent), u64::from(span.segment));
        b.numbers([span.first - next, extent, segment, u64::from(span.live)]);
        next = span.last();
    }
    b.number(queue.dead_runs().count() as u64);
    let mut next = 0;
    for run in queue.dead_runs() {
        next = record::put_run(next, run, b.out());
    }
    b.number(queue.incoming_ids.len() as u64);
    queue.incoming_ids.iter().for_each(|id| b.number(u64::from(*id)));
    b.number(queue.packet_ids.len() as u64);
    for (seq, id, released) in &queue.packet_ids {
        b.numbers([*seq, u64::from(*id)]);
        b.out().push(u8::from(*released));
    }
    b.number(queue.returned.len() as u64);
    for (seq, times) in &queue.returned {
        b.numbers([*seq, u64::from(*times)]);
    }
}
