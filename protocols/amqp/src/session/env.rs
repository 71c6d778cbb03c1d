//! What a channel may use of its connection while it handles one frame or event.

use super::Client;
use super::deferred::Deferred;
use crate::error::{Code, Error};
use crate::settings::Settings;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatepost_core::command::{ChannelMode, Command};
use gatepost_core::interop::Drops;
use gatepost_core::properties::Name;
use gatepost_core::session::Cx;

/// What a channel borrows from its connection for one frame or event.
pub(super) struct Env<'e, 'c> {
    pub(super) cx: &'e mut Cx<'c>,
    /// The channel's number.
    pub(super) number: u16,
    pub(super) settings: &'e Settings,
    /// Counts what AMQP cannot express.
    pub(super) drops: &'e Drops,
    pub(super) client: &'e mut Client,
    pub(super) frame_max: u32,
    /// Octets of unfinished messages and transactions of the whole connection. Each channel knows its own share.
    pub(super) unfinished_bytes: &'e mut usize,
}

impl Env<'_, '_> {
    /// Counts octets of an unfinished message or an uncommitted transaction.
    pub(super) fn count_unfinished(&mut self, octets: usize, method: (u16, u16)) -> Result<(), Error> {
        *self.unfinished_bytes += octets;
        let max = self.settings.unfinished_bytes_max;
        if *self.unfinished_bytes > max {
            let detail = format!("unfinished messages and transactions of the connection exceed {max} bytes");
            return Err(Error::new(Code::ResourceError, detail, method));
        }
        Ok(())
    }

    /// Sends `answer` after the answers to all earlier commands.
    pub(super) fn defer(&mut self, answer: Deferred) {
        self.cx.commands.push(Command::Echo {
            channel: self.number,
            token: answer as u64,
        });
    }

    /// Tells the engine the channel's mode, which lists of channels show.
    pub(super) fn set_mode(&mut self, mode: ChannelMode) {
        self.cx.commands.push(Command::SetMode {
            channel: self.number,
            mode,
        });
    }

    /// A name made of `prefix` and 128 random bits.
    pub(super) fn made_up(&mut self, prefix: &str) -> Name {
        let bits = u128::from((self.cx.random)()) << 64 | u128::from((self.cx.random)());
        let mut name = String::from(prefix);
        URL_SAFE_NO_PAD.encode_string(bits.to_be_bytes(), &mut name);
        name.into()
    }
}
