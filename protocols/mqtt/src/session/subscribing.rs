//! SUBSCRIBE and UNSUBSCRIBE, and their answers.

use crate::Shared;
use crate::error::Error;
use crate::frame::{self, Filter, Kind, Property, Version};
use crate::map::filter_reason;
use crate::settings::Settings;
use gatepost_core::command::{Subscribe, Subscription, Unsubscribe};
use gatepost_core::fault::FaultKind;
use gatepost_core::properties::Name;
use gatepost_core::session::Close;

const SHARE: &str = "$share/";

/// The command for the body of a SUBSCRIBE. Filters that are refused here keep their place in the command, so that
/// answers keep the order.
pub(super) fn subscribe(shared: &Shared, version: Version, bridge: bool, body: &[u8]) -> Result<Subscribe, Error> {
    let packet = frame::Subscribe::decode(body, version)?;
    let subscription_id = packet.properties.iter().find_map(|property| match property {
        Property::SubscriptionId(id) => Some(id),
        _ => None,
    });
    let filters = packet
        .filters
        .iter()
        .map(|filter| subscription(shared, bridge, filter))
        .collect::<Result<_, _>>()?;
    Ok(Subscribe {
        packet_id: packet.packet_id,
        filters,
        subscription_id,
    })
}

fn subscription(shared: &Shared, bridge: bool, asked: &Filter<'_>) -> Result<Result<Subscription, FaultKind>, Error> {
    let Some((share, filter)) = split_share(asked.text) else {
        return Ok(Err(FaultKind::PreconditionFailed));
    };
    if share.is_some() && asked.no_local {
        return Err(Error::Protocol("no-local on a shared subscription")); // [MQTT-3.8.3-4]
    }
    if shared.refuses_levels(filter) {
        return Ok(Err(FaultKind::PreconditionFailed));
    }
    Ok(Ok(Subscription {
        filter: filter.into(),
        share: share.map(Name::from),
        qos: asked.qos.min(shared.settings.maximum_qos),
        no_local: asked.no_local || (bridge && share.is_none()),
        retain_as_published: asked.retain_as_published || bridge,
        retain_handling: asked.retain_handling,
    }))
}

/// Splits `$share/name/filter`. `None`: the prefix is there, but the rest is malformed [MQTT-4.8.2-1], [MQTT-4.8.2-2].
fn split_share(text: &str) -> Option<(Option<&str>, &str)> {
    if text == "$share" {
        return None;
    }
    let Some(rest) = text.strip_prefix(SHARE) else {
        return Some((None, text));
    };
    let (name, filter) = rest.split_once('/')?;
    let good = !name.is_empty() && !name.contains(['+', '#']) && !filter.is_empty();
    good.then_some((Some(name), filter))
}

/// The command for the body of an UNSUBSCRIBE.
pub(super) fn unsubscribe(version: Version, body: &[u8]) -> Result<Unsubscribe, Error> {
    let packet = frame::Unsubscribe::decode(body, version)?;
    let filters = packet.filters.iter().map(|text| match split_share(text) {
        Some((share, filter)) => (filter.into(), share.map(Name::from)),
        // Nobody can have subscribed to it, so the whole text is looked up and not found.
        None => ((*text).into(), None),
    });
    Ok(Unsubscribe {
        packet_id: packet.packet_id,
        filters: filters.collect(),
    })
}

/// Appends a SUBACK. Returns whether it fits the client's maximum packet size.
///
/// # Errors
/// SUBACK of MQTT 3.1 cannot report a failure. A subscription that is not authorized is granted and gets no messages,
/// as MQTT 3.1 3.8 demands. If it is refused for another reason, the connection is closed: the client would wait for
/// messages that never come.
pub(super) fn subscribed(
    settings: &Settings,
    version: Version,
    packet_id: u16,
    results: &[Result<u8, FaultKind>],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<bool, Close> {
    let told = |result: &&Result<u8, FaultKind>| !matches!(result, Ok(_) | Err(FaultKind::AccessRefused));
    if version == Version::V31
        && let Some(Err(why)) = results.iter().find(told)
    {
        return Err(Close::abnormal(format!("a subscription was refused ({why:?})")));
    }
    let code = |result: &Result<u8, FaultKind>| match (result, version) {
        (Ok(qos), _) => *qos,
        (Err(why), Version::V5) => settings.disclosed(filter_reason(*why)).0,
        (Err(_), Version::V311) => 0x80,
        (Err(_), Version::V31) => 0,
    };
    let codes = results.iter().map(code);
    Ok(put(Kind::SubAck, version, packet_id, codes, bytes_max, out))
}

/// Appends an UNSUBACK. Returns whether it fits the client's maximum packet size.
pub(super) fn unsubscribed(
    version: Version,
    packet_id: u16,
    existed: &[bool],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> bool {
    let codes = if version == Version::V5 { existed } else { &[] };
    let code = |existed: &bool| if *existed { 0x00 } else { 0x11 };
    put(
        Kind::UnsubAck,
        version,
        packet_id,
        codes.iter().map(code),
        bytes_max,
        out,
    )
}

fn put(
    kind: Kind,
    version: Version,
    packet_id: u16,
    codes: impl Iterator<Item = u8>,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let written = frame::frame(kind.first_byte(), out, |out| {
        out.extend_from_slice(&packet_id.to_be_bytes());
        if version == Version::V5 {
            out.push(0); // [MQTT-2.2.2-1]
        }
        out.extend(codes);
        Ok(())
    });
    let fits = written.is_ok() && out.len() - start <= bytes_max;
    if !fits {
        out.truncate(start); // [MQTT-3.1.2-24]
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_name_ends_at_its_slash_and_the_filter_is_the_rest() {
        assert_eq!(split_share("a/b"), Some((None, "a/b")));
        assert_eq!(split_share("$share/g/a/b"), Some((Some("g"), "a/b")));
        assert_eq!(split_share("$share/g//finance"), Some((Some("g"), "/finance")));
        assert_eq!(split_share("$shared/g/a"), Some((None, "$shared/g/a")));
        for bad in [
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/#/a",
        ] {
            assert_eq!(split_share(bad), None, "{bad}");
        }
    }
}
