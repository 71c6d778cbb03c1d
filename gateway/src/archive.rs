//! The file of a backup: a tar archive (POSIX ustar), so that it can be inspected on every system.
//!
//! ```text
//!   log/<id>.seg, cold/<id>.seg, checkpoint.old, checkpoint    as they lie in the data directory
//!   SHA256SUMS                                                 the last: `sha256sum -c` reads it
//! ```
//!
//! Only what is written is read: regular files with the names that a log has. Anything else is refused, so that an
//! archive from a stranger cannot write elsewhere.

use ring::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read};

/// Name of the directory, in the data directory, into which a restore unpacks. No gateway starts while it exists.
pub(crate) const UNFINISHED: &str = "restore.part";

/// Size of a tar block in bytes; headers and files are padded to it.
pub(crate) const BLOCK: usize = 512;

/// Two empty blocks. An archive without them is cut short.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Positions of numbers and names in a header.
const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const SUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..265;

/// The header of a file. `time` is in seconds since 1970.
///
/// # Errors
/// The name or the length is longer than the format allows.
pub(crate) fn header(name: &str, len: u64, time: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: std::ops::Range<usize>, text: &str| {
        let field = block.get_mut(at).and_then(|field| field.get_mut(..text.len()));
        field.map(|field| field.copy_from_slice(text.as_bytes()))
    };
    let fields = [
        (NAME, name.to_owned()),
        (100..108, format!("{:07o}", 0o600)),
        (108..116, format!("{:07o}", 0)),
        (116..124, format!("{:07o}", 0)),
        (SIZE, format!("{len:011o}")),
        (136..148, format!("{time:011o}")),
        (SUM, " ".repeat(SUM.len())),
        (KIND..KIND + 1, "0".to_owned()),
        (MAGIC, "ustar\x0000".to_owned()),
    ];
    for (at, text) in fields {
        put(at, &text).ok_or_else(|| io::Error::other(format!("{name} is too large for a tar archive")))?;
    }
    let sum = format!("{:06o}\0 ", sum(&block));
    block[SUM].copy_from_slice(sum.as_bytes());
    Ok(block)
}

/// Bytes of padding after a file of this length, up to the next block.
pub(crate) fn padding(len: u64) -> usize {
    (len.next_multiple_of(BLOCK as u64) - len) as usize
}

/// Checksums of an archive's files.
#[derive(Default)]
pub(crate) struct Sums(BTreeMap<String, String>);

/// The file with the checksums. An archive without it was not finished.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// Maximum bytes of it that are read: enough for 100,000 files.
const SUMS_BYTES_MAX: u64 = 10 << 20;

impl Sums {
    /// Begins the checksum of a file.
    pub(crate) fn begin() -> Context {
        Context::new(&SHA256)
    }

    /// Adds the checksum of a file. Returns whether it is the first file of this name.
    pub(crate) fn add(&mut self, name: &str, context: Context) -> bool {
        let mut digits = String::with_capacity(64);
        for byte in context.finish().as_ref() {
            let _ = write!(digits, "{byte:02x}");
        }
        self.0.insert(name.to_owned(), digits).is_none()
    }

    /// The checksums in the format of `sha256sum`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, digits) in &self.0 {
            let _ = writeln!(text, "{digits}  {name}");
        }
        text
    }

    /// Compares the checksums with those in the archive.
    ///
    /// # Errors
    /// A file is damaged, missing, or must not be there; the text names it.
    pub(crate) fn compare(&self, said: &str) -> io::Result<()> {
        let bad = |what: String| Err(io::Error::new(ErrorKind::InvalidData, what));
        let mut left: BTreeMap<&str, &str> = self.0.iter().map(|(name, digits)| (&**name, &**digits)).collect();
        for line in said.lines() {
            let Some((digits, name)) = line.split_once("  ") else {
                return bad(format!("{SUMS} in it is damaged"));
            };
            match left.remove(name) {
                Some(found) if found == digits => {}
                Some(_) => {
                    return bad(format!(
                        "{name} in it is damaged: its checksum is not the one in {SUMS}"
                    ));
                }
                None => return bad(format!("{name} is missing in it")),
            }
        }
        match left.keys().next() {
            Some(name) => bad(format!("{name} in it is not in {SUMS}")),
            None => Ok(()),
        }
    }
}

/// Reads the text of [`SUMS`], `len` bytes.
///
/// # Errors
/// The archive ends early, or the text is not valid.
pub(crate) fn read_sums(from: &mut impl Read, len: u64) -> io::Result<String> {
    if len > SUMS_BYTES_MAX {
        return Err(strange());
    }
    let mut text = vec![0; len as usize];
    read(from, &mut text)?;
    String::from_utf8(text).map_err(|_| strange())
}

/// Reads all of `into`.
///
/// # Errors
/// The archive ends early.
pub(crate) fn read(from: &mut impl Read, into: &mut [u8]) -> io::Result<()> {
    from.read_exact(into).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => {
            io::Error::new(ErrorKind::InvalidData, "it is cut short: the backup was not finished")
        }
        _ => error,
    })
}

fn strange() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is not a file that `gatepost backup` wrote")
}

fn sum(block: &[u8; BLOCK]) -> u64 {
    block.iter().map(|byte| u64::from(*byte)).sum()
}

/// The next file's name and length; `None` at the end.
///
/// # Errors
/// The archive ends early, or is not a backup.
pub(crate) fn next(from: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut block = [0; BLOCK];
    read(from, &mut block)?;
    if block == [0; BLOCK] {
        read(from, &mut block)?;
        return Ok(None);
    }
    let text = |at: std::ops::Range<usize>| {
        let field = block.get(at).unwrap_or_default();
        let field = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(field).map_err(|_| strange())?;
        io::Result::Ok(text.trim().to_owned())
    };
    let octal = |at| u64::from_str_radix(&text(at)?, 8).map_err(|_| strange());
    let (name, len, known) = (text(NAME)?, octal(SIZE)?, octal(SUM)?);
    // The header's checksum counts its own field as blanks.
    let mut plain = block;
    plain[SUM].fill(b' ');
    if known != sum(&plain) || block.get(MAGIC) != Some(b"ustar\x0000") || block[KIND] != b'0' || !is_known(&name) {
        return Err(strange());
    }
    Ok(Some((name, len)))
}

/// Whether a backup can contain a file of this name.
fn is_known(name: &str) -> bool {
    let segment = |dir: &str| {
        let id = name.strip_prefix(dir).and_then(|rest| rest.strip_suffix(".seg"));
        id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    ["checkpoint", "checkpoint.old", SUMS].contains(&name) || segment("log/") || segment("cold/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let block = header("log/00000001.seg", 777, 1_700_000_000).expect("a header");
        let read = next(&mut &block[..]).expect("read");
        assert_eq!(read, Some(("log/00000001.seg".to_owned(), 777)));
        assert_eq!(padding(777), 1024 - 777);
        assert_eq!(padding(1024), 0);
        assert_eq!(next(&mut &END[..]).expect("the end"), None);
    }

    #[test]
    fn what_is_damaged_missing_or_too_much_is_named() {
        let mut sums = Sums::default();
        for name in ["checkpoint", "log/1.seg"] {
            assert!(sums.add(name, Sums::begin()), "the first");
        }
        let text = sums.text();
        assert!(text.starts_with("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  checkpoint\n"));
        sums.compare(&text).expect("as it was");
        for (said, why) in [
            (text.replacen("e3b0", "e3b1", 1), "checkpoint in it is damaged"),
            (format!("{text}00  log/2.seg\n"), "log/2.seg is missing"),
            (
                text.lines().next().expect("a line").to_owned(),
                "log/1.seg in it is not in",
            ),
            ("nonsense".to_owned(), "SHA256SUMS in it is damaged"),
        ] {
            let error = sums.compare(&said).expect_err(why);
            assert!(error.to_string().starts_with(why), "{error}");
        }
        assert!(!sums.add("checkpoint", Sums::begin()), "the second of its name");
        assert!(
            read_sums(&mut &[][..], u64::MAX).is_err(),
            "nothing is allocated for what is not there"
        );
    }

    /// An archive must not write outside the directory that is being restored.
    #[test]
    fn other_names_kinds_and_sums_are_refused() {
        for name in [
            "../evil",
            "/etc/passwd",
            "log/../x.seg",
            "log/a/b.seg",
            "LOCK",
            "log/.seg",
            "control.sock",
        ] {
            let block = header(name, 1, 0).expect("a header");
            assert!(next(&mut &block[..]).is_err(), "{name}");
        }
        let mut link = header("checkpoint", 0, 0).expect("a header");
        link[KIND] = b'2';
        assert!(next(&mut &link[..]).is_err(), "a link");
        assert!(next(&mut &b"short"[..]).is_err(), "cut short");
        assert!(next(&mut &END[..BLOCK]).is_err(), "cut in the end");
    }
}
