//! `gatepost backup` and `gatepost restore`.
//!
//! The gateway sends an archive, and this process writes it: the file belongs to the user of the command, and is placed
//! where that user may write. It gets its name when all of it is synced, so a file of that name is complete.
//!
//! A restore unpacks into `restore.part` in the data directory, compares every checksum, reads the log as `gatepost check`
//! does, and only then moves it into place. A gateway does not start on a directory in which `restore.part` is left.

use super::client::Client;
use crate::archive::{self, Sums, UNFINISHED};
use crate::exit::Failure;
use crate::{api, check};
use http_body_util::BodyExt as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, IsTerminal as _, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Suffix of an archive that is being written.
const DRAFT: &str = ".part";
/// Bytes copied at once.
const CHUNK: usize = 256 << 10;
/// How often progress is printed.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Writes the archive of a gateway's data directory to a file, or to standard output if that is `-`.
pub(super) async fn backup(file: &Path, client: &mut Client) -> Result<(), Failure> {
    if file == Path::new("-") {
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            return Err(Failure::Usage(
                "an archive is nothing for a terminal: name a file".to_owned(),
            ));
        }
        let unwritable = |error: io::Error| Failure::DataUnwritable(format!("standard output: {error}"));
        receive(client, &mut out, unwritable).await?;
        return out.flush().map_err(unwritable);
    }
    let unwritable = |error: io::Error| Failure::DataUnwritable(format!("{}: {error}", file.display()));
    if file.symlink_metadata().is_ok() {
        return Err(Failure::Usage(format!(
            "{} is there already: name a new file",
            file.display()
        )));
    }
    // Before the draft is created: otherwise a signal could end the process and leave the draft.
    let mut interrupts = Interrupts::new()?;
    let draft = Draft::of(file);
    let mut out = new_file(&draft.path).map_err(unwritable)?;
    let bytes = tokio::select! {
        // Not ended by the signal's default action, so that the draft is removed.
        signal = interrupts.next() => return Err(Failure::Interrupted(signal)),
        bytes = receive(client, &mut out, unwritable) => bytes?,
    };
    out.sync_all().map_err(unwritable)?;
    put_in_place(&draft.path, file, |from, to| std::fs::hard_link(from, to)).map_err(unwritable)?;
    drop(draft);
    sync_parent(file).map_err(unwritable)?;
    eprintln!("{}: {bytes} bytes", file.display());
    Ok(())
}

/// SIGINT, as Ctrl-C sends it, SIGTERM and SIGHUP.
struct Interrupts([(Signal, u8); 3]);

impl Interrupts {
    fn new() -> Result<Interrupts, Failure> {
        let of = |kind: SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
            let failed = |error| Failure::Internal(format!("signals cannot be handled: {error}"));
            signal(kind).map(|signal| (signal, number)).map_err(failed)
        };
        Ok(Interrupts([
            of(SignalKind::interrupt())?,
            of(SignalKind::terminate())?,
            of(SignalKind::hangup())?,
        ]))
    }

    /// Returns the number of the next signal.
    async fn next(&mut self) -> u8 {
        let [(interrupt, a), (terminate, b), (hangup, c)] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => *a,
            _ = terminate.recv() => *b,
            _ = hangup.recv() => *c,
        }
    }
}

/// Receives the archive. Returns its length.
async fn receive(
    client: &mut Client,
    out: &mut impl Write,
    unwritable: impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    let reply = client.stream("/api/gatepost/backup").await?;
    let bytes = reply
        .headers()
        .get(api::BACKUP_BYTES)
        .and_then(|bytes| bytes.to_str().ok()?.parse().ok());
    let mut progress = Progress::new(bytes.unwrap_or(0));
    let mut body = reply.into_body();
    let mut tail = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| Failure::Unavailable("the backup broke off; the gateway's log says why".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        out.write_all(&data).map_err(&unwritable)?;
        progress.add(data.len());
        tail.extend_from_slice(
            data.get(data.len().saturating_sub(archive::END.len())..)
                .unwrap_or_default(),
        );
        tail.drain(..tail.len().saturating_sub(archive::END.len()));
    }
    if tail != archive::END {
        return Err(Failure::Unavailable(
            "the backup broke off: its end is missing".to_owned(),
        ));
    }
    Ok(progress.done)
}

/// Gives a draft its name. Unlike a rename, a link does not replace a file that was created there meanwhile. On a file
/// system without links (FAT, some network file systems) it is renamed, if no such file exists.
fn put_in_place(draft: &Path, file: &Path, link: impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    match link(draft, file) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            if file.symlink_metadata().is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(draft, file)
        }
        linked => linked,
    }
}

/// Makes a data directory of an archive, or of standard input if that is `-`.
///
/// # Errors
/// The directory is in use or not empty, the archive is not a backup or is damaged, or the directory cannot be written.
/// Then nothing is in place.
pub fn restore(file: &Path, data: &Path) -> Result<(), Failure> {
    let unwritable = |error: io::Error| Failure::DataUnwritable(format!("{}: {error}", data.display()));
    let (from, bytes): (Box<dyn Read>, u64) = if file == Path::new("-") {
        (Box::new(io::stdin().lock()), 0)
    } else {
        let open = File::open(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        let bytes = open.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(open), bytes)
    };
    let mut unpacked = Unpacked::begin(data)?;
    unpack(&mut BufReader::new(from), bytes, &unpacked.part).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => Failure::DataDamaged(format!("{}: {error}", file.display())),
        _ => unwritable(error),
    })?;
    let report = check::read(&unpacked.part)?;
    unpacked.put_in_place().map_err(unwritable)?;
    if !report.is_clean() {
        // The checksums are right, so the log was damaged already when it was backed up. Restoring it is better than
        // nothing.
        eprint!("{}", check::text(&report));
        eprintln!(
            "{} is restored as it was, and it was damaged already when it was copied; `gatepost check --repair` makes the best of it",
            data.display()
        );
    }
    Ok(())
}

fn unpack(from: &mut impl Read, bytes: u64, to: &Path) -> io::Result<()> {
    let mut progress = Progress::new(bytes);
    let dirs = ["log", "cold"].map(|dir| to.join(dir));
    dirs.iter().try_for_each(|dir| new_dir(dir))?;
    let mut sums = Sums::default();
    let mut said = None;
    let mut chunk = vec![0; CHUNK];
    while let Some((name, len)) = archive::next(from)? {
        let twice = || io::Error::new(ErrorKind::InvalidData, format!("{name} is in it twice"));
        if name == archive::SUMS {
            if said.replace(archive::read_sums(from, len)?).is_some() {
                return Err(twice());
            }
        } else {
            let mut sum = Sums::begin();
            let mut out = new_file(&to.join(&name)).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => twice(),
                _ => error,
            })?;
            let mut left = len;
            while left > 0 {
                let most = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
                let piece = chunk.get_mut(..most).unwrap_or_default();
                archive::read(from, piece)?;
                sum.update(piece);
                out.write_all(piece)?;
                left -= piece.len() as u64;
                progress.add(piece.len());
            }
            out.sync_all()?;
            sums.add(&name, sum);
        }
        let padding = archive::padding(len);
        archive::read(from, chunk.get_mut(..padding).unwrap_or_default())?;
    }
    let said = said.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "its checksums are missing"))?;
    sums.compare(&said)?;
    dirs.iter().try_for_each(|dir| sync_dir(dir))?;
    sync_dir(to)
}

/// A data directory that is being restored. Dropping this removes the unpacked files, unless they are in place.
struct Unpacked {
    data: PathBuf,
    part: PathBuf,
    /// Whether the directory was created for this.
    made: bool,
    /// Files are being moved. A failure then leaves `part`, so that no gateway takes the incomplete directory for a
    /// whole one.
    moving: bool,
}

impl Unpacked {
    fn begin(data: &Path) -> Result<Unpacked, Failure> {
        let unwritable = |error: io::Error| Failure::DataUnwritable(format!("{}: {error}", data.display()));
        let made = match std::fs::read_dir(data) {
            Ok(entries) => {
                check_empty(data, entries)?;
                false
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                new_dir(data).map_err(unwritable)?;
                true
            }
            Err(error) => return Err(unwritable(error)),
        };
        let unpacked = Unpacked {
            data: data.to_owned(),
            part: data.join(UNFINISHED),
            made,
            moving: false,
        };
        new_dir(&unpacked.part).map_err(unwritable)?;
        Ok(unpacked)
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        self.moving = true;
        for name in ["cold", "log", "checkpoint.old", "checkpoint"] {
            match std::fs::rename(self.part.join(name), self.data.join(name)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        sync_dir(&self.data)?;
        // Only the lock of the check remains.
        std::fs::remove_dir_all(&self.part)?;
        self.made = false;
        sync_dir(&self.data)?;
        sync_parent(&self.data)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if !self.moving {
            let _ = std::fs::remove_dir_all(&self.part);
            if self.made {
                let _ = std::fs::remove_dir(&self.data);
            }
        }
    }
}

/// Refuses a directory with any content, since it may be a gateway's. What `mkfs` creates in the root of a file system
/// does not count.
fn check_empty(data: &Path, entries: std::fs::ReadDir) -> Result<(), Failure> {
    let data = data.display();
    for entry in entries {
        let name = entry.map_err(|error| Failure::DataUnwritable(format!("{data}: {error}")))?;
        let name = name.file_name();
        if name == UNFINISHED {
            return Err(Failure::Usage(format!(
                "a restore into {data} is being made, or was not finished. If none is running, empty the directory and restore again"
            )));
        }
        if name != "lost+found" {
            return Err(Failure::Usage(format!(
                "{data} is not empty: a gateway may use it. Name a directory that is empty or not there yet"
            )));
        }
    }
    Ok(())
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn new_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs the parent, so that the new name is there after a power cut.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// An archive that is being written. Dropping this removes the draft; a complete one has its final name by then.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn of(path: &Path) -> Draft {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}{DRAFT}", std::process::id()));
        Draft {
            path: path.with_file_name(name),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Prints a line every second, and none if the work takes less than a second.
struct Progress {
    done: u64,
    of: u64,
    said: Instant,
}

impl Progress {
    fn new(of: u64) -> Progress {
        Progress {
            done: 0,
            of,
            said: Instant::now(),
        }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.said.elapsed() >= PROGRESS_EVERY {
            self.said = Instant::now();
            match (self.done.min(self.of) * 100).checked_div(self.of) {
                Some(percent) => eprintln!("{} of {} bytes, {percent} %", self.done, self.of),
                None => eprintln!("{} bytes", self.done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAT has no hard links, and backups are often written to USB sticks.
    #[test]
    fn where_links_cannot_be_made_the_draft_is_renamed_and_replaces_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (draft, file) = (dir.path().join("draft"), dir.path().join("file"));
        std::fs::write(&draft, "new").expect("written");
        let no_links = |_: &Path, _: &Path| Err(ErrorKind::PermissionDenied.into());
        put_in_place(&draft, &file, no_links).expect("renamed");
        assert_eq!(std::fs::read(&file).expect("read"), b"new");
        std::fs::write(&draft, "newer").expect("written");
        let links = |from: &Path, to: &Path| std::fs::hard_link(from, to);
        for placed in [
            put_in_place(&draft, &file, no_links),
            put_in_place(&draft, &file, links),
        ] {
            let error = placed.expect_err("somebody was faster");
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(std::fs::read(&file).expect("read"), b"new");
    }
}
