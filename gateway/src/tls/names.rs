//! The names in a certificate: its subject's common name, and its alternative names.
//!
//! Reads only the few DER elements that contain names. rustls has verified the certificate before anybody logs in with
//! it, but does not return its names. Crates that read all of X.509 have some fifteen dependencies.
//!
//! ```text
//!   Certificate > TBSCertificate > [0] version?  serial  signature  issuer  validity  subject  key  [1]? [2]? [3] extensions?
//!   subject     > SET of attributes > SEQUENCE > OID 2.5.4.3, text
//!   extension   > OID 2.5.29.17, critical?, OCTET STRING > SEQUENCE > [1] e-mail | [2] DNS name | [6] URI
//! ```

use gatepost_core::command::{AlternativeName, Certificate};
use gatepost_core::properties::Name;

/// The names of a certificate in DER; `None`: it is not a certificate. Names that are not text, or that contain control
/// characters, are left out.
pub(crate) fn read(der: &[u8]) -> Option<Certificate> {
    let (mut certificate, []) = enter(der, SEQUENCE)? else {
        return None;
    };
    let mut fields = Der(certificate.element(SEQUENCE)?);
    if fields.peek() == Some(VERSION) {
        fields.next()?;
    }
    fields.element(INTEGER)?;
    fields.element(SEQUENCE)?; // signature
    fields.element(SEQUENCE)?; // issuer
    fields.element(SEQUENCE)?; // validity
    let common_name = common_name(Der(fields.element(SEQUENCE)?))?;
    fields.element(SEQUENCE)?; // public key
    let mut alternative_names = Vec::new();
    while let Some((tag, value)) = fields.optional()? {
        if tag == EXTENSIONS {
            let mut extensions = Der(Der(value).element(SEQUENCE)?);
            while let Some((_, extension)) = extensions.optional()? {
                collect(Der(extension), &mut alternative_names)?;
            }
        }
    }
    Some(Certificate {
        common_name,
        alternative_names: alternative_names.into(),
    })
}

/// When a certificate expires, in Unix seconds.
pub(super) fn expiry(der: &[u8]) -> Option<u64> {
    let (mut certificate, _) = enter(der, SEQUENCE)?;
    let mut fields = Der(certificate.element(SEQUENCE)?);
    if fields.peek() == Some(VERSION) {
        fields.next()?;
    }
    fields.element(INTEGER)?;
    fields.element(SEQUENCE)?; // signature
    fields.element(SEQUENCE)?; // issuer
    let mut validity = Der(fields.element(SEQUENCE)?);
    validity.next()?;
    let (tag, text) = validity.next()?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    // RFC 5280 4.1.2.5: two digits of the year until 2049, four from then on.
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: u64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let seconds = part(4)? * 3_600 + part(6)? * 60 + part(8).unwrap_or_default();
    (year >= 1970 && (1..=12).contains(&month)).then(|| days_until(year, month, day) * 86_400 + seconds)
}

/// Days from 1970 until a day of the Gregorian calendar. Years are counted from March, so that the leap day is the last
/// one.
fn days_until(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    // Minus 1 January 1970, counted the same way.
    days.saturating_sub(719_469)
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// RFC 5280 4.1.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// RFC 5280 4.2.1.6: primitive, tagged by kind.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The common name, if there is exactly one. With several it is unclear which one the CA means, so none counts.
fn common_name(mut subject: Der<'_>) -> Option<Option<Name>> {
    let (mut name, mut count) = (None, 0);
    while let Some((tag, set)) = subject.optional()? {
        let mut set = Der((tag == SET).then_some(set)?);
        while let Some((_, attribute)) = set.optional()? {
            let mut attribute = Der(attribute);
            if attribute.element(OID)? == COMMON_NAME {
                let (kind, value) = attribute.next()?;
                count += 1;
                name = matches!(kind, UTF8_STRING | PRINTABLE_STRING | T61_STRING | IA5_STRING)
                    .then(|| text(value))
                    .flatten();
            }
        }
    }
    Some(name.filter(|_| count == 1))
}

fn collect(mut extension: Der<'_>, names: &mut Vec<AlternativeName>) -> Option<()> {
    if extension.element(OID)? != SUBJECT_ALTERNATIVE_NAME {
        return Some(());
    }
    let (mut tag, mut value) = extension.next()?;
    if tag != OCTET_STRING {
        // The optional "critical" flag.
        (tag, value) = extension.next()?;
    }
    let (mut list, _) = enter((tag == OCTET_STRING).then_some(value)?, SEQUENCE)?;
    while let Some((tag, value)) = list.optional()? {
        names.extend(text(value).and_then(|name| match tag {
            DNS => Some(AlternativeName::Dns(name)),
            URI => Some(AlternativeName::Uri(name)),
            EMAIL => Some(AlternativeName::Email(name)),
            _ => None,
        }));
    }
    Some(())
}

fn text(value: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| Name::from(text))
}

/// A sequence of elements.
struct Der<'a>(&'a [u8]);

/// The content of the element with this tag at the beginning of `bytes`, and the bytes after it.
fn enter(bytes: &[u8], tag: u8) -> Option<(Der<'_>, &[u8])> {
    let mut outer = Der(bytes);
    let inside = outer.element(tag)?;
    Some((Der(inside), outer.0))
}

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element, which must have this tag.
    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// The next element; `Some(None)` if there is none.
    fn optional(&mut self) -> Option<Option<(u8, &'a [u8])>> {
        if self.0.is_empty() {
            Some(None)
        } else {
            self.next().map(Some)
        }
    }

    /// Tag and value of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, length, rest @ ..] = self.0 else {
            return None;
        };
        // X.690 8.1.3: up to 127 in one octet, otherwise the number of octets that follow.
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            0x81..=0x83 => {
                let (octets, rest) = rest.split_at_checked(usize::from(*length - 0x80))?;
                (
                    octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)),
                    rest,
                )
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    fn certificate(names: &[&str], others: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            let value = DnValue::Utf8String((*name).to_owned());
            // A set of names keeps one of each kind, so the second common name is added by its number.
            let kind = match params.distinguished_name.get(&DnType::CommonName) {
                None => DnType::CommonName,
                Some(_) => DnType::CustomDnType(vec![2, 5, 4, 3]),
            };
            params.distinguished_name.push(kind, value);
        }
        params.distinguished_name.push(DnType::OrganizationName, "Plant");
        params.subject_alt_names = others.to_vec();
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    fn sans() -> Vec<SanType> {
        let text = |text: &str| text.to_owned().try_into().expect("ASCII");
        vec![
            SanType::URI(text("urn:dev:7")),
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::DnsName(text("edge.example")),
            SanType::Rfc822Name(text("edge@example.org")),
            SanType::DnsName(text("*.plant.example")),
        ]
    }

    #[test]
    fn names_are_read_in_their_order() {
        let read = read(&certificate(&["edge 7"], &sans())).expect("a certificate");
        assert_eq!(read.common_name.as_deref(), Some("edge 7"));
        let expected = [
            AlternativeName::Uri("urn:dev:7".into()),
            AlternativeName::Dns("edge.example".into()),
            AlternativeName::Email("edge@example.org".into()),
            AlternativeName::Dns("*.plant.example".into()),
        ];
        assert_eq!(&*read.alternative_names, &expected);
    }

    #[test]
    fn two_common_names_and_names_that_hide_something_are_none() {
        for names in [&["a", "b"][..], &["guest\0.example"], &["guest\n"], &[""]] {
            let read = read(&certificate(names, &[])).expect("a certificate");
            assert_eq!(read.common_name, None, "{names:?}");
        }
    }

    /// Any bytes are either read or refused, and nothing is read beyond their end.
    #[test]
    fn a_certificate_cut_or_bent_at_any_byte_does_not_confuse() {
        let whole = certificate(&["edge 7"], &sans());
        for at in 0..whole.len() {
            assert_eq!(read(&whole[..at]), None, "{at} bytes");
            for bit in 0..8 {
                let mut bent = whole.clone();
                bent[at] ^= 1 << bit;
                let _ = read(&bent);
            }
            for value in [0x00, 0x80, 0x81, 0x83, 0x84, 0xff] {
                let mut bent = whole.clone();
                bent[at] = value;
                let _ = read(&bent);
            }
        }
        assert_eq!(read(&[&whole[..], b"\0"].concat()), None);
    }
}
