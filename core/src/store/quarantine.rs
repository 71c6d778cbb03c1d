//! Damage is never deleted and never stops the store: the bytes are copied to `quarantine/`, with a note beside them.
//!
//! Names come from the place of the damage, so finding it again at the next start adds nothing.

use super::disk::{Disk, DiskFile};
use super::stats::StoreStats;
use std::io;
use std::sync::atomic::Ordering;

/// Where damage is set aside.
pub(crate) const DIR: &str = "quarantine";

/// Copies damaged bytes and says why. Failing to do so is logged and otherwise harmless.
pub(crate) fn set_aside<D: Disk>(
    disk: &D,
    stats: &StoreStats,
    file: &str,
    segment: u32,
    offset: u32,
    bytes: &[u8],
    why: &str,
) {
    stats.quarantined.fetch_add(1, Ordering::Relaxed);
    tracing::error!(
        file,
        offset,
        bytes = bytes.len(),
        why,
        "damage in the log; the rest goes on"
    );
    let name = format!("{segment:08}-{offset:010}");
    let note = format!("{file} at {offset}, {} bytes: {why}\n", bytes.len());
    if let Err(error) = copy(disk, &name, bytes, &note) {
        tracing::warn!(file, offset, %error, "the damaged bytes could not be set aside");
    }
}

fn copy<D: Disk>(disk: &D, name: &str, bytes: &[u8], note: &str) -> io::Result<()> {
    let note_name = format!("{name}.txt");
    if disk.list(DIR)?.contains(&note_name) {
        return Ok(());
    }
    if !bytes.is_empty() {
        let copy = disk.create(&format!("{DIR}/{name}.bin"))?;
        copy.write_at(bytes, 0)?;
        copy.sync_data()?;
    }
    write_note(disk, &note_name, note)
}

/// Moves a whole file that nothing can be made of.
pub(crate) fn move_file<D: Disk>(disk: &D, stats: &StoreStats, file: &str, why: &str) {
    stats.quarantined.fetch_add(1, Ordering::Relaxed);
    tracing::error!(file, why, "a damaged file was set aside");
    let moved = || -> io::Result<()> {
        let taken = disk.list(DIR)?;
        let plain = file.replace('/', "-");
        let name = (0u32..)
            .map(|n| if n == 0 { plain.clone() } else { format!("{plain}.{n}") })
            .find(|name| !taken.contains(name))
            .unwrap_or(plain);
        write_note(disk, &format!("{name}.txt"), &format!("{file}: {why}\n"))?;
        disk.rename(file, &format!("{DIR}/{name}"))?;
        disk.sync_dir(DIR)
    };
    if let Err(error) = moved() {
        tracing::warn!(file, %error, "a damaged file could not be set aside");
    }
}

fn write_note<D: Disk>(disk: &D, name: &str, note: &str) -> io::Result<()> {
    let file = disk.create(&format!("{DIR}/{name}"))?;
    file.write_at(note.as_bytes(), 0)?;
    file.sync_data()?;
    disk.sync_dir(DIR)
}
