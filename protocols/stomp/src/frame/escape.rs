//! Header escapes of each version.
//!
//! 1.0 has none, 1.1 has `\n`, `\c` and `\\`, 1.2 has `\r` too; CONNECT and CONNECTED never use them (STOMP 1.2 "Value
//! Encoding"). A character that a version cannot express is sent as a space.

use super::Version;

/// A backslash followed by a character that the version does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UndefinedEscape;

/// Appends `text` with its escapes decoded.
pub(crate) fn unescape(text: &str, version: Version, out: &mut String) -> Result<(), UndefinedEscape> {
    if version == Version::V1_0 || !text.contains('\\') {
        out.push_str(text);
        return Ok(());
    }
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('n') => '\n',
            Some('c') => ':',
            Some('\\') => '\\',
            Some('r') if version == Version::V1_2 => '\r',
            _ => return Err(UndefinedEscape),
        });
    }
    Ok(())
}

/// Appends `text`, escaped as a header name or value for a client of `version`.
pub(crate) fn escape(text: &[u8], version: Version, out: &mut Vec<u8>) {
    if !has_special(text) {
        out.extend_from_slice(text);
        return;
    }
    for &octet in text {
        match (octet, version) {
            // Most clients take any NUL for the end of the frame.
            (0, _) => out.push(b' '),
            (b'\n' | b'\r', Version::V1_0) | (b'\r', Version::V1_1) => out.push(b' '),
            (b'\n', _) => out.extend_from_slice(b"\\n"),
            (b'\r', _) => out.extend_from_slice(b"\\r"),
            (b':' | b'\\', Version::V1_0) => out.push(octet),
            (b':', _) => out.extend_from_slice(b"\\c"),
            (b'\\', _) => out.extend_from_slice(b"\\\\"),
            _ => out.push(octet),
        }
    }
}

/// Whether some version escapes or replaces one of the octets.
pub(crate) fn has_special(text: &[u8]) -> bool {
    text.iter().fold(false, |found, octet| found | is_special(*octet))
}

/// Whether some version escapes or replaces the octet.
fn is_special(octet: u8) -> bool {
    matches!(octet, b'\n' | b'\r' | b':' | b'\\' | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(text: &str, version: Version) -> Result<String, UndefinedEscape> {
        let mut out = String::new();
        unescape(text, version, &mut out).map(|()| out)
    }

    fn escaped(text: &str, version: Version) -> String {
        let mut out = Vec::new();
        escape(text.as_bytes(), version, &mut out);
        String::from_utf8(out).expect("escapes keep UTF-8")
    }

    #[test]
    fn each_version_has_its_own_escapes() {
        assert_eq!(unescaped("C:\\temp", Version::V1_0), Ok("C:\\temp".into()));
        assert_eq!(unescaped("a\\nb\\cc\\\\d", Version::V1_1), Ok("a\nb:c\\d".into()));
        assert_eq!(unescaped("a\\r", Version::V1_1), Err(UndefinedEscape));
        assert_eq!(unescaped("a\\r", Version::V1_2), Ok("a\r".into()));
        assert_eq!(unescaped("a\\t", Version::V1_2), Err(UndefinedEscape));
        assert_eq!(unescaped("a\\", Version::V1_2), Err(UndefinedEscape));
    }

    #[test]
    fn characters_that_a_version_cannot_express_become_spaces() {
        assert_eq!(escaped("a:\\\r\n", Version::V1_2), "a\\c\\\\\\r\\n");
        assert_eq!(escaped("a:\\\r\n", Version::V1_1), "a\\c\\\\ \\n");
        assert_eq!(escaped("a:\\\r\n", Version::V1_0), "a:\\  ");
        assert_eq!(escaped("ü\0", Version::V1_2), "ü ");
    }

    #[test]
    fn escaping_is_undone_by_unescaping() {
        for text in ["", "plain", ":::", "\\n", "\r\n:\\", "snow ☃ man"] {
            assert_eq!(
                unescaped(&escaped(text, Version::V1_2), Version::V1_2).as_deref(),
                Ok(text)
            );
        }
    }
}
