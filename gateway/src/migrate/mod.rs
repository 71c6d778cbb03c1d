//! `gatepost import`: what another broker's files say, in the gateway's own words.

mod listener;
mod mosquitto;
mod source;

use crate::exit::Failure;
use std::path::Path;

/// The configuration that does what a `mosquitto.conf` asks for, as TOML. What has no counterpart is named in comments at
/// its top.
///
/// # Errors
///
/// [`Failure::Usage`] where the file, or one that it includes, cannot be read or is no such file.
pub fn import(file: &Path) -> Result<String, Failure> {
    let lines = source::read(file).map_err(Failure::Usage)?;
    mosquitto::translate(&file.display().to_string(), &lines).map_err(Failure::Usage)
}
