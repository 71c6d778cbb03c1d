//! Damage is never deleted and never stops the store: the bytes are copied to `quarantine/`, with a note beside them.
//!
//! Names are derived from the place of the damage, so finding it again at the next start adds nothing.

use super::disk::{Disk, DiskFile};
use super::missing::Missing;
use super::stats::StoreStats;
use std::io;
use std::sync::atomic::Ordering;

/// The directory for damaged bytes.
pub(crate) const DIR: &str = "quarantine";

/// Copies damaged bytes and notes the reason. A failure of that is logged and otherwise harmless.
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
    let name = format!("{segment:08}-{offset:010}");
    tracing::error!(
        file,
        offset,
        bytes = bytes.len(),
        why,
        note = %format_args!("{DIR}/{name}.txt"),
        "damage in the log; the rest goes on"
    );
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

/// Moves a file of which nothing is usable.
pub(crate) fn move_file<D: Disk>(disk: &D, stats: &StoreStats, file: &str, why: &str) {
    stats.quarantined.fetch_add(1, Ordering::Relaxed);
    match moved(disk, file, why) {
        Ok(place) => tracing::error!(file, why, place, "a damaged file was set aside"),
        Err(error) => tracing::error!(file, why, %error, "a damaged file could not be set aside"),
    }
}

/// Moves a file whose removal failed or was undone. It is not needed, and no damage.
pub(crate) fn move_leftover<D: Disk>(disk: &D, file: &str, why: &str) {
    match moved(disk, file, why) {
        Ok(place) => tracing::warn!(file, why, place, "a file that is not needed was set aside"),
        Err(error) => tracing::warn!(file, why, %error, "a file that is not needed could not be set aside"),
    }
}

fn moved<D: Disk>(disk: &D, file: &str, why: &str) -> io::Result<String> {
    let taken = disk.list(DIR)?;
    let plain = file.replace('/', "-");
    let name = (0u32..)
        .map(|n| if n == 0 { plain.clone() } else { format!("{plain}.{n}") })
        .find(|name| !taken.contains(name))
        .unwrap_or(plain);
    write_note(disk, &format!("{name}.txt"), &format!("{file}: {why}\n"))?;
    let place = format!("{DIR}/{name}");
    disk.rename(file, &place)?;
    disk.sync_dir(DIR)?;
    Ok(place)
}

/// Notes that a whole segment is missing.
pub(crate) fn note_missing<D: Disk>(disk: &D, stats: &StoreStats, gone: &Missing) {
    stats.quarantined.fetch_add(1, Ordering::Relaxed);
    let name = format!("{:08}-missing", gone.id);
    tracing::error!(file = gone.path, why = gone.why, note = %format_args!("{DIR}/{name}.txt"), "a file of the log is gone");
    if let Err(error) = copy(disk, &name, &[], &format!("{} {}\n", gone.path, gone.why)) {
        tracing::warn!(file = gone.path, %error, "no note could be left");
    }
}

fn write_note<D: Disk>(disk: &D, name: &str, note: &str) -> io::Result<()> {
    let file = disk.create(&format!("{DIR}/{name}"))?;
    file.write_at(note.as_bytes(), 0)?;
    file.sync_data()?;
    disk.sync_dir(DIR)
}
