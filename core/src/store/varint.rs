//! Little-endian numbers and LEB128 varints, as used in every record of the log. Decoding never panics: for input that
//! does not fit it returns `None`.

/// Appends `value` in 7-bit groups, lowest first: 1 byte below 128, at most 10.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The input that is not decoded yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (&first, tail) = self.0.split_first()?;
        self.0 = tail;
        Some(first)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u32::from_le_bytes(*head))
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u64::from_le_bytes(*head))
    }
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let group = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && group > 1 {
                return None;
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    /// A varint that must fit into `T`.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.varint()?).ok()
    }
    /// A count of items that take at least `each` bytes. It is at most what the input can hold, so that it is safe to
    /// allocate for it.
    pub(crate) fn count(&mut self, each: usize) -> Option<usize> {
        let count: usize = self.number()?;
        (count <= self.0.len() / each.max(1)).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_survive_the_round_trip() {
        for value in (0..64)
            .flat_map(|s| [1u64 << s, (1u64 << s) - 1, (1u64 << s) + 1])
            .chain([0, u64::MAX])
        {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut input = Input(&out);
            assert_eq!(input.varint(), Some(value));
            assert!(input.0.is_empty());
        }
    }

    #[test]
    fn an_endless_or_oversized_varint_is_refused() {
        assert_eq!(Input(&[0xff; 16]).varint(), None);
        assert_eq!(
            Input(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint(),
            None
        );
        assert_eq!(Input(&[0x80]).varint(), None);
    }
}
