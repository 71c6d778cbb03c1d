//! `gatepost import`: translates another broker's configuration.

mod draft;
mod foreign;
mod listener;
mod mosquitto;
mod rabbitmq;
mod source;

pub(crate) use foreign::Foreign;

use crate::exit::Failure;
use std::fs;
use std::path::Path;

/// Translates a `mosquitto.conf` or `rabbitmq.conf` to our configuration in TOML. Lines without a counterpart are
/// listed in comments at its top.
///
/// # Errors
///
/// [`Failure::Usage`] if the file, or one that it includes, cannot be read or is not such a file.
pub fn import(file: &Path) -> Result<String, Failure> {
    let name = file.display().to_string();
    // An error is reported below.
    let text = fs::read_to_string(file).unwrap_or_default();
    match Foreign::recognise(&text) {
        Some(Foreign::RabbitMq) => return Ok(rabbitmq::translate(&text).print(&name)),
        Some(Foreign::RabbitMqErlang) => {
            return Err(Failure::Usage(format!(
                "{name}: {}",
                Foreign::RabbitMqErlang.advice(&name)
            )));
        }
        Some(Foreign::Mosquitto) | None => {}
    }
    let lines = source::read(file).map_err(Failure::Usage)?;
    mosquitto::translate(&name, &lines).map_err(Failure::Usage)
}
