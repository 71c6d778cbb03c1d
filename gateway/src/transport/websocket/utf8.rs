//! Checks whether text that arrives in pieces is UTF-8.

/// The state after the pieces so far.
#[derive(Default)]
pub(super) struct Utf8 {
    /// The first bytes of a character that the last piece cut off.
    open: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// Reads the next piece. `false`: the text is not UTF-8.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> bool {
        while self.len > 0
            && let Some((byte, rest)) = piece.split_first()
        {
            let Some(slot) = self.open.get_mut(self.len) else {
                return false;
            };
            *slot = *byte;
            self.len += 1;
            piece = rest;
            match std::str::from_utf8(self.open.get(..self.len).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                for byte in piece.get(error.valid_up_to()..).unwrap_or_default() {
                    if let Some(slot) = self.open.get_mut(self.len) {
                        *slot = *byte;
                        self.len += 1;
                    }
                }
                true
            }
        }
    }

    /// Whether the text may end here: no character is incomplete.
    pub(super) fn is_whole(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_say_what_the_whole_says() {
        let texts: [&[u8]; 7] = [
            "grün – ✓ 🦀".as_bytes(),
            b"\xFF\x00\xFE",
            b"\xC3",
            b"\xED\xA0\x80",
            b"\xF4\x90\x80\x80",
            b"ab\xE2\x82c",
            b"",
        ];
        for text in texts {
            for cut in 0..=text.len() {
                for again in cut..=text.len() {
                    let mut utf8 = Utf8::default();
                    let fine = utf8.push(&text[..cut]) && utf8.push(&text[cut..again]) && utf8.push(&text[again..]);
                    assert_eq!(
                        fine && utf8.is_whole(),
                        std::str::from_utf8(text).is_ok(),
                        "{text:?} at {cut}, {again}"
                    );
                }
            }
        }
    }
}
