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

/// Session expiry where the other broker keeps sessions for ever. The gateway's own default is a day.
const NEVER: &str = "36500d";

/// Translates a `mosquitto.conf` or `rabbitmq.conf` to our configuration in TOML. Lines without a counterpart are
/// listed in comments at its top. Definitions (JSON) become a configuration that imports them at the start.
///
/// # Errors
///
/// [`Failure::Usage`] if the file, or one that it includes, cannot be read or is not such a file.
pub fn import(file: &Path) -> Result<String, Failure> {
    let name = file.display().to_string();
    // An error is reported below.
    let text = fs::read_to_string(file).unwrap_or_default();
    if text.trim_start().starts_with('{') {
        return definitions(file, &text);
    }
    match Foreign::recognise(&text) {
        Some(Foreign::RabbitMq) => return Ok(rabbitmq::translate(&name, &text).print(&name)),
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

/// A configuration that imports the definitions of `file`.
fn definitions(file: &Path, text: &str) -> Result<String, Failure> {
    let name = file.display();
    let wrong = |what: &dyn std::fmt::Display| Failure::Usage(format!("{name}: {what}"));
    let document: serde_json::Value = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    let known = [
        "users",
        "vhosts",
        "permissions",
        "queues",
        "exchanges",
        "bindings",
        "policies",
        "parameters",
    ];
    if known.iter().all(|member| document.get(member).is_none()) {
        return Err(wrong(
            &"these are no definitions: no member is one of theirs, such as users or queues",
        ));
    }
    // The gateway may run in another directory than this command.
    let path = std::path::absolute(file).map_err(|error| wrong(&error))?;
    let path = draft::quoted(&path.to_string_lossy());
    Ok(format!(
        "# Made of {name} by `gatepost import`. The definitions are imported at the start, and again after the file has changed.\n\
         # `gatepost definitions import FILE` imports them into a gateway that runs.\n\n[definitions]\nfile = {path}\n"
    ))
}
