//! A range of addresses, such as `10.0.0.0/8`.

use std::net::IpAddr;
use std::str::FromStr;

/// A range of addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    first: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = ();

    /// Parses an address, or an address with a prefix length. The bits after the prefix must be zero, because `10.1.2.3/8` is
    /// probably a typing mistake.
    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| ())?)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| ())?;
        let all = if first.is_ipv4() { 32 } else { 128 };
        let network = Network {
            first,
            bits: bits.unwrap_or(all),
        };
        if network.bits <= all && masked(first, network.bits) == bits_of(first) {
            Ok(network)
        } else {
            Err(())
        }
    }
}

impl Network {
    /// Whether `address` is in the range. An IPv4-mapped IPv6 address counts as IPv4.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.bits) == bits_of(self.first)
    }
}

/// The address's bits, left-aligned.
fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `bits` of the address's bits; the others are zero.
fn masked(address: IpAddr, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    bits_of(address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "a00::"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::"),
            ("::/0", "::1", "127.0.0.1"),
            ("::1", "::1", "::2"),
        ] {
            let network: Network = network.parse().expect("a network");
            assert!(network.contains(inside.parse().expect("an address")), "{inside}");
            assert!(!network.contains(outside.parse().expect("an address")), "{outside}");
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "10.0.0.0/",
            "10/8",
            "localhost",
            "10.0.0.0/8 ",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
