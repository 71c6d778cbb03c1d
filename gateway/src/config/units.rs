//! Durations, sizes and shares as people write them: `"30s"`, `"16MiB"`, `0.4`.

use std::fmt;
use std::time::Duration;

/// A duration in the configuration: `"250ms"`, `"30s"`, `"5m"`, `"24h"`, `"7d"`, or a bare number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// A period of whole seconds.
    pub const fn secs(secs: u64) -> Period {
        Period(Duration::from_secs(secs))
    }

    /// Parses a number and a unit; `None` if it is neither, or too large to count in milliseconds.
    pub fn parse(text: &str) -> Option<Period> {
        let (number, unit) = split(text)?;
        let ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(ms).map(|ms| Period(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

/// A number of bytes: `"64KiB"`, `"16MiB"`, `"1GiB"`, `"50MB"`, or a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Parses a number and a unit; `None` if it is neither, or too large.
    pub fn parse(text: &str) -> Option<Size> {
        let (number, unit) = split(text)?;
        let bytes: u64 = match unit {
            "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(bytes).map(Size)
    }

    /// The number of bytes in memory, at most `usize::MAX` on systems with addresses of less than 64 bits.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1u64 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        match units
            .into_iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// How much memory the gateway may fill with messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// A share of the smaller of the machine's memory and the control group's limit, over 0 and up to 1.
    Share(f64),
    /// A fixed number of bytes.
    Fixed(Size),
}

/// Splits text into a number and a unit, which may be separated by spaces.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_print() {
        for text in ["250ms", "1s", "90s", "5m", "24h", "7d"] {
            let period = Period::parse(text).expect(text);
            assert_eq!(Period::parse(&period.to_string()), Some(period), "{text}");
        }
        assert_eq!(Period::parse("90s").expect("a duration").to_string(), "90s");
        assert_eq!(Period::parse("24h").expect("a duration").to_string(), "1d");
    }

    #[test]
    fn a_duration_without_a_unit_or_number_is_none() {
        for text in ["", "s", "-1s", "1.5s", "1y", "18446744073709551615d"] {
            assert_eq!(Period::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        assert_eq!(Size::parse("16MiB"), Some(Size(16 << 20)));
        assert_eq!(Size::parse("50MB"), Some(Size(50_000_000)));
        assert_eq!(Size::parse("16 MiB"), Some(Size(16 << 20)));
        assert_eq!(Size::parse("16mib"), None);
        assert_eq!(Size(16 << 20).to_string(), "16MiB");
        assert_eq!(Size(1000).to_string(), "1000B");
    }
}
