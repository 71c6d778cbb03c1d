//! The PROXY protocol, versions 1 and 2, without I/O: a proxy in front of us names the client whose connection it
//! forwards.
//!
//! A listener either requires a header or accepts none; it never guesses. A header can claim any address, so only the
//! networks of `listeners.NAME.proxy_from` may send one. A client behind a proxy is never trusted as local, whatever
//! its address; nor is a `LOCAL` or `UNKNOWN` connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Maximum length of a header in bytes: version 1 has 107; the TLVs of version 2 (certificates' names, cloud ids) need
/// some hundred.
pub(crate) const HEADER_MAX: usize = 2 << 10;
/// Maximum length of version 1, with the line's end.
const LINE_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED: usize = 16;

/// The result of reading a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The header is incomplete by at least this many bytes. Read no more than these: what follows belongs to the session.
    More(usize),
    /// It is complete.
    Done(Claim),
    /// Not a valid header; the text says why.
    Bad(&'static str),
}

/// The addresses that a header claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A client at `from` that connected to `to`.
    Client {
        /// Its address.
        from: SocketAddr,
        /// The address it asked for.
        to: SocketAddr,
    },
    /// The connection is the proxy's own (a health check), or the client's address is not stated: the socket's addresses count.
    Unknown,
}

/// Reads a header. `bytes` is all that has come so far.
pub(crate) fn read(bytes: &[u8]) -> Verdict {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes.get(..known) == SIGNATURE.get(..known) && known < SIGNATURE.len() {
        // A line of version 1 is longer than the signature, so 12 bytes are never too many to ask for.
        return Verdict::More(SIGNATURE.len() - known);
    }
    if bytes.starts_with(SIGNATURE) {
        return version_2(bytes);
    }
    let prefix = bytes.len().min(6);
    if bytes.get(..prefix) != b"PROXY ".get(..prefix) {
        return Verdict::Bad("no PROXY header, which this listener demands");
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if end < LINE_MAX => match bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
            Some(line) => version_1(line).map_or_else(Verdict::Bad, Verdict::Done),
            None => Verdict::Bad("a PROXY line that does not end in CR LF"),
        },
        None if bytes.len() < LINE_MAX => Verdict::More(SIGNATURE.len().saturating_sub(bytes.len()).max(1)),
        _ => Verdict::Bad("a PROXY line over 107 bytes"),
    }
}

/// Section 2.1 of the specification.
fn version_1(line: &[u8]) -> Result<Claim, &'static str> {
    const MALFORMED: &str = "a malformed PROXY line";
    let line = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever follows is to be ignored.
        return Ok(Claim::Unknown);
    }
    let fields: Vec<&str> = words.take(5).collect();
    let [from, to, from_port, to_port] = fields[..] else {
        return Err(MALFORMED);
    };
    let ip = |text: &str| -> Result<IpAddr, &'static str> {
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| MALFORMED),
            Some("TCP6") => text.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| MALFORMED),
            _ => Err(MALFORMED),
        }
    };
    let port = |text: &str| -> Result<u16, &'static str> {
        let is_plain = text == "0" || (!text.starts_with(['0', '+']));
        text.parse().ok().filter(|_| is_plain).ok_or(MALFORMED)
    };
    Ok(Claim::Client {
        from: SocketAddr::new(ip(from)?, port(from_port)?),
        to: SocketAddr::new(ip(to)?, port(to_port)?),
    })
}

/// Section 2.2.
fn version_2(bytes: &[u8]) -> Verdict {
    let Some((&[command, family, high, low], rest)) = bytes
        .get(SIGNATURE.len()..)
        .and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return Verdict::More(FIXED.saturating_sub(bytes.len()).max(1));
    };
    let size = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + size > HEADER_MAX {
        return Verdict::Bad("a PROXY header over 2 KiB");
    }
    let Some(rest) = rest.get(..size) else {
        return Verdict::More(size - rest.len());
    };
    claim(command, family, rest)
        .and_then(|(claim, tlvs)| check_tlvs(bytes.get(..FIXED + size).unwrap_or_default(), tlvs).map(|()| claim))
        .map_or_else(Verdict::Bad, Verdict::Done)
}

/// The claim, and the TLVs behind the addresses.
fn claim(command: u8, family: u8, rest: &[u8]) -> Result<(Claim, &[u8]), &'static str> {
    const SHORT: &str = "a PROXY header without room for its addresses";
    let claim_of = |from: IpAddr, to: IpAddr, from_port: [u8; 2], to_port: [u8; 2]| Claim::Client {
        from: SocketAddr::new(from, u16::from_be_bytes(from_port)),
        to: SocketAddr::new(to, u16::from_be_bytes(to_port)),
    };
    let (claim, tlvs) = match family {
        // TCP over IPv4.
        0x11 => {
            let (&[a, b, c, d, e, f, g, h, i, j, k, l], tlvs) = rest.split_first_chunk::<12>().ok_or(SHORT)?;
            let (from, to) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            (claim_of(from.into(), to.into(), [i, j], [k, l]), tlvs)
        }
        // TCP over IPv6.
        0x21 => {
            let (from, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
            let (to, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
            let (&[i, j, k, l], tlvs) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            let (from, to) = (Ipv6Addr::from(*from), Ipv6Addr::from(*to));
            (claim_of(from.into(), to.into(), [i, j], [k, l]), tlvs)
        }
        // Datagrams, which cannot have come here. Their addresses are as long.
        0x12 => (Claim::Unknown, rest.get(12..).ok_or(SHORT)?),
        0x22 => (Claim::Unknown, rest.get(36..).ok_or(SHORT)?),
        // Unix sockets: two paths.
        0x31 | 0x32 => (Claim::Unknown, rest.get(216..).ok_or(SHORT)?),
        // Unspecified: what follows is skipped by its length.
        0x00 => (Claim::Unknown, &[][..]),
        _ => return Err("a PROXY header of an unknown family"),
    };
    match command {
        // LOCAL: the proxy's own connection. Its addresses are to be ignored.
        0x20 => Ok((Claim::Unknown, &[])),
        0x21 => Ok((claim, tlvs)),
        _ => Err("a PROXY header of an unknown version or command"),
    }
}

/// Section 2.2.3: the checksum over the whole header, its own four bytes as zero.
const TYPE_CRC32C: u8 = 0x03;

/// Skips all TLVs but the checksum, which must hold.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), &'static str> {
    while let Some((&[kind, high, low], rest)) = tlvs.split_first_chunk::<3>() {
        let size = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, next)) = rest.split_at_checked(size) else {
            return Err("a PROXY header with a TLV over its end");
        };
        if kind == TYPE_CRC32C {
            let expected: [u8; 4] = value
                .try_into()
                .map_err(|_| "a PROXY header with a checksum that is none")?;
            let at = header.len() - rest.len();
            let (before, after) = header.split_at(at);
            let sum = crc32c::crc32c_append(
                crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]),
                after.get(4..).unwrap_or_default(),
            );
            if sum != u32::from_be_bytes(expected) {
                return Err("a PROXY header whose checksum is wrong");
            }
        }
        tlvs = next;
    }
    if tlvs.is_empty() {
        Ok(())
    } else {
        Err("a PROXY header with half a TLV")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(from: &str, to: &str) -> Verdict {
        Verdict::Done(Claim::Client {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
        })
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let size = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &size, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x07, 0x5B];

    /// Headers as proxies send them, byte for byte, and what they say.
    fn golden() -> Vec<(Vec<u8>, Verdict)> {
        let v6: [u8; 36] = {
            let mut bytes = [0; 36];
            bytes[..2].copy_from_slice(&[0x20, 0x01]);
            bytes[15] = 1;
            bytes[31] = 1;
            bytes[32..].copy_from_slice(&[0xC3, 0x50, 0x07, 0x5B]);
            bytes
        };
        let four = client("192.0.2.7:50000", "198.51.100.1:1883");
        let six = client("[2001::1]:50000", "[::1]:1883");
        let unknown = Verdict::Done(Claim::Unknown);
        // HAProxy's TLVs: an authority and a unique id.
        let tlvs = [&V4[..], &[0x02, 0, 3, b'a', b'.', b'b', 0x05, 0, 1, b'7', 0x04, 0, 0]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883\r\n".to_vec(), four),
            (b"PROXY TCP6 2001::1 ::1 50000 1883\r\n".to_vec(), six),
            (b"PROXY UNKNOWN\r\n".to_vec(), unknown),
            (b"PROXY UNKNOWN ffff:f...f:ffff 1 2 and more\r\n".to_vec(), unknown),
            (v2(0x21, 0x11, &V4), four),
            (v2(0x21, 0x21, &v6), six),
            (v2(0x21, 0x11, &tlvs), four),
            (v2(0x20, 0x00, b""), unknown),
            (v2(0x20, 0x11, &V4), unknown),
            (v2(0x21, 0x00, b"whatever"), unknown),
            (v2(0x21, 0x31, &[b'/'; 216]), unknown),
            (v2(0x21, 0x12, &V4), unknown),
        ]
    }

    #[test]
    fn headers_are_read_and_never_a_byte_more() {
        for (header, expected) in golden() {
            assert_eq!(read(&header), expected, "{header:?}");
            // As it is read: what is asked for, and no more.
            let mut at = 0;
            while let Verdict::More(more) = read(&header[..at]) {
                assert!(more > 0 && at + more <= header.len(), "{at}, {more} more: {header:?}");
                at += more;
            }
            assert_eq!(at, header.len(), "{header:?}");
            for cut in 0..header.len() {
                assert!(
                    matches!(read(&header[..cut]), Verdict::More(_)),
                    "{cut} bytes of {header:?}"
                );
            }
        }
    }

    #[test]
    fn a_checksum_must_hold() {
        // Twelve bytes of addresses, then the checksum between two other TLVs.
        let rest = [&V4[..], &[0x04, 0, 1, 0, 0x03, 0, 4, 0, 0, 0, 0, 0x04, 0, 0]].concat();
        let mut header = v2(0x21, 0x11, &rest);
        let sum = crc32c::crc32c(&header);
        let at = FIXED + 12 + 4 + 3;
        header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(read(&header), client("192.0.2.7:50000", "198.51.100.1:1883"));
        for flipped in FIXED..header.len() {
            let mut wrong = header.clone();
            wrong[flipped] ^= 1;
            let is_tlv_head = (FIXED + 12..at).contains(&flipped) || flipped >= at + 4;
            if !is_tlv_head {
                assert_eq!(
                    read(&wrong),
                    Verdict::Bad("a PROXY header whose checksum is wrong"),
                    "{flipped}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat();
        for bad in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x10\x0d\x00\x04MQTT",
            b"PROXYTCP4",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 1883 9\r\n",
            b"PROXY TCP4 192.0.2.7  198.51.100.1 50000 1883\r\n",
            b"PROXY TCP4 ::1 ::1 50000 1883\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 050000 1883\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +50000 1883\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 1883\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 50000 1883\r\n",
            b"PROXY TCP4 \xff 198.51.100.1 50000 1883\r\n",
            &long,
            &v2(0x11, 0x11, &V4),
            &v2(0x22, 0x11, &V4),
            &v2(0x21, 0x41, &V4),
            &v2(0x21, 0x11, &V4[..11]),
            &v2(0x21, 0x21, &V4),
            &v2(0x21, 0x11, &[&V4[..], &[0x04, 0]].concat()),
            &v2(0x21, 0x11, &[&V4[..], &[0x04, 0, 9, 0]].concat()),
            &v2(0x21, 0x11, &[&V4[..], &[0x03, 0, 1, 0]].concat()),
            &v2(0x21, 0x11, &[0; HEADER_MAX]),
        ] {
            assert!(matches!(read(bad), Verdict::Bad(_)), "{bad:?}");
        }
        // An announced length is refused before anything of it is read.
        assert!(matches!(
            read(&[&SIGNATURE[..], &[0x21, 0x11, 0xFF, 0xFF]].concat()),
            Verdict::Bad(_)
        ));
    }
}
