//! Variable byte integers (MQTT 5 1.5.5): seven bits a byte, lowest first, at most four bytes, in the shortest form.

use crate::error::Error;
use crate::frame::Parsed;

/// The largest value.
pub const MAX: u32 = 268_435_455;

/// Reads a value. Returns it with its length in bytes. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// It has more than four bytes, or is not in its shortest form [MQTT-1.5.5-1].
pub fn read(input: &[u8]) -> Result<Option<(u32, usize)>, Error> {
    // Fast path: most packets are short.
    if let [byte @ 0..=0x7F, ..] = input {
        return Ok(Some((u32::from(*byte), 1)));
    }
    let mut value = 0u32;
    for (at, &byte) in input.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return Err(Error::Malformed("a variable byte integer is padded"));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if input.len() < 4 {
        Ok(None)
    } else {
        Err(Error::Malformed("a variable byte integer has more than four bytes"))
    }
}

/// A parser over a bounded slice.
pub(crate) fn parse(input: &[u8]) -> Parsed<'_, u32> {
    match read(input)? {
        Some((value, len)) => Ok((input.get(len..).unwrap_or_default(), value)),
        None => Err(Error::Malformed("a variable byte integer is cut off").into()),
    }
}

/// Length of `value` in bytes.
pub fn len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value`, at most [`MAX`].
pub fn write(mut value: u32, out: &mut impl Extend<u8>) {
    debug_assert!(value <= MAX, "checked by whoever sums up lengths");
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.extend([byte]);
            return;
        }
        out.extend([byte | 0x80]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_reads_back_in_its_shortest_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX] {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out.len(), len(value as usize));
            assert_eq!(read(&out), Ok(Some((value, out.len()))));
            out.pop();
            assert_eq!(read(&out), Ok(None));
        }
    }

    #[test]
    fn padding_and_a_fifth_byte_are_malformed() {
        assert!(read(&[0x80, 0x00]).is_err());
        assert!(read(&[0xFF, 0x80, 0x00]).is_err());
        assert!(read(&[0x80, 0x80, 0x80, 0x80]).is_err());
        assert!(read(&[0xFF, 0xFF, 0xFF, 0xFF, 0x7F]).is_err());
    }
}
