//! `gatepost definitions`.

use super::Listed;
use super::client::Client;
use crate::exit::Failure;
use clap::Subcommand;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Definitions {
    /// Write all that is declared to a file
    Export {
        /// -: standard output
        file: PathBuf,
        /// Of one vhost, without users
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Make what a file describes, one that RabbitMQ exported too. Nothing is deleted, and nothing changed if something is wrong
    Import {
        /// -: standard input
        file: PathBuf,
        /// Into one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
}

pub(super) async fn act(verb: &Definitions, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Definitions::Export { file, vhost } => export(file, vhost.as_deref(), client).await?,
        Definitions::Import { file, vhost } => import(file, vhost.as_deref(), client).await?,
    }
    Ok(None)
}

/// What stands for standard input and output.
const STANDARD: &str = "-";

/// Writes all that is declared, hashes of passwords included, to a file that only its owner can read.
async fn export(file: &Path, vhost: Option<&str>, client: &mut Client) -> Result<(), Failure> {
    let document = match vhost {
        Some(vhost) => client.get(&["definitions", vhost]).await?,
        None => client.get(&["definitions"]).await?,
    };
    let text = format!("{document:#}\n");
    let written = if file.as_os_str() == STANDARD {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::fs::write(file, text)
    };
    written.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

/// Makes what a file describes. Nothing is changed if something in it makes no sense.
async fn import(file: &Path, vhost: Option<&str>, client: &mut Client) -> Result<(), Failure> {
    let mut text = Vec::new();
    let read = if file.as_os_str() == STANDARD {
        std::io::stdin().read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text))
    };
    read.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let document = serde_json::from_slice(&text)
        .map_err(|error| Failure::DataDamaged(format!("{}: no JSON: {error}", file.display())))?;
    match vhost {
        Some(vhost) => client.post(&["definitions", vhost], &document).await,
        None => client.post(&["definitions"], &document).await,
    }
}
