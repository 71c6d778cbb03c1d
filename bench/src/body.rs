//! The body of every message of the generator: its sender, its number, when it was scheduled to leave, and a checksum,
//! so that the receiver can tell a lost, repeated, reordered or damaged message from a good one.
//!
//! ```text
//! 0        4      6           8              16             24
//! | crc32c | run  | publisher | sequence     | sent_ns      | filler ...
//! ```
//!
//! Numbers are big-endian. The checksum covers everything after it. `sent_ns` is on the clock of the sending process.

/// The fields of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    /// Tells this run's messages from an earlier run's.
    pub(crate) run: u16,
    pub(crate) publisher: u16,
    /// Counts from 0 per publisher.
    pub(crate) sequence: u64,
    /// When the message was scheduled to leave, in nanoseconds since the run's clock began.
    pub(crate) sent_ns: u64,
}

/// The smallest body that holds a stamp.
pub(crate) const BODY_BYTES_MIN: usize = 24;

/// A body of `size` bytes. Its filler cannot be compressed or folded into a constant.
pub(crate) fn blank(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    (0..size.max(BODY_BYTES_MIN))
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Printable, so that STOMP clients that search for a NUL find none.
            b'a' + ((state >> 24) % 26) as u8
        })
        .collect()
}

impl Stamp {
    /// Writes the stamp and the checksum over the first bytes of `body`, which is at least [`BODY_BYTES_MIN`] long.
    pub(crate) fn write(&self, body: &mut [u8]) {
        body[4..6].copy_from_slice(&self.run.to_be_bytes());
        body[6..8].copy_from_slice(&self.publisher.to_be_bytes());
        body[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        body[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
        let checksum = crc32c::crc32c(&body[4..]);
        body[..4].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Reads a stamp; `None` for a body that is too short or whose checksum is wrong.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (checksum, rest) = body.split_first_chunk::<4>()?;
        let (run, fields) = rest.split_first_chunk::<2>()?;
        let (publisher, fields) = fields.split_first_chunk::<2>()?;
        let (sequence, fields) = fields.split_first_chunk::<8>()?;
        let (sent_ns, _) = fields.split_first_chunk::<8>()?;
        (crc32c::crc32c(rest) == u32::from_be_bytes(*checksum)).then(|| Self {
            run: u16::from_be_bytes(*run),
            publisher: u16::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            sent_ns: u64::from_be_bytes(*sent_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        run: 7,
        publisher: 2,
        sequence: 1_234_567,
        sent_ns: 987_654_321,
    };

    #[test]
    fn a_stamp_reads_back_as_written() {
        for size in [0, 24, 25, 64, 1024] {
            let mut body = blank(size);
            STAMP.write(&mut body);
            assert_eq!(Stamp::read(&body), Some(STAMP), "size {size}");
        }
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let mut body = blank(64);
        STAMP.write(&mut body);
        for bit in 0..64 * 8 {
            body[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&body), None, "bit {bit}");
            body[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_body_cut_short_or_grown_is_noticed() {
        let mut body = blank(64);
        STAMP.write(&mut body);
        for len in 0..64 {
            assert_eq!(Stamp::read(&body[..len]), None, "length {len}");
        }
        body.push(0);
        assert_eq!(Stamp::read(&body), None);
    }
}
