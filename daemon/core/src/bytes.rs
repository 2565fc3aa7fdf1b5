//! Sizes in bytes: how people write them and how they are shown.

use std::fmt;
use std::str::FromStr;

/// 2^10 bytes.
pub const KIB: u64 = 1 << 10;
/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;
/// 2^40 bytes.
pub const TIB: u64 = 1 << 40;

/// Units, largest first, as they are shown; parsing takes the first letter alone as well.
const UNITS: [(&str, u64); 6] =
    [("PiB", 1 << 50), ("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

/// A number of bytes.
///
/// Written as digits with an optional unit: `B`, `K`, `M`, `G`, `T`, `P`, also as `KB` or `KiB`,
/// in either case. All units are powers of 1024, as in Docker's own `--memory`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSize {
    text: String,
    why: &'static str,
}

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a size: {}", shortened(&self.text), self.why)
    }
}

impl std::error::Error for BadSize {}

impl FromStr for Bytes {
    type Err = BadSize;

    /// Reads a size of at least one byte. Fractions, signs and zero are refused.
    fn from_str(text: &str) -> Result<Bytes, BadSize> {
        let bad = |why| BadSize { text: text.to_owned(), why };
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        if digits.is_empty() {
            return Err(bad("write digits and a unit, such as 512M or 10G"));
        }
        let factor = factor(unit).ok_or_else(|| bad("the unit must be one of K, M, G, T, P"))?;
        let too_large = || bad("it is larger than any filesystem");
        let count: u64 = digits.parse().map_err(|_| too_large())?;
        match count.checked_mul(factor) {
            Some(0) => Err(bad("a volume needs room for something")),
            Some(bytes) if bytes <= i64::MAX as u64 => Ok(Bytes(bytes)),
            Some(_) | None => Err(too_large()),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 >= unit.1;
        let (name, factor) = *UNITS.iter().find(fits).unwrap_or(&("B", 1));
        if self.0.is_multiple_of(factor) {
            return f.pad(&format!("{} {name}", self.0 / factor));
        }
        f.pad(&format!("{:.1} {name}", self.0 as f64 / factor as f64))
    }
}

fn factor(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let letter = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')) {
        Some(letter) => letter,
        None => unit.as_str(),
    };
    match letter {
        "" if unit == "ib" => None,
        "" => Some(1),
        "k" => Some(KIB),
        "m" => Some(MIB),
        "g" => Some(GIB),
        "t" => Some(TIB),
        "p" => Some(1 << 50),
        _ => None,
    }
}

/// A user's text as it may be quoted back: no control characters, and not too long.
pub(crate) fn shortened(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    let mut kept: String = text.chars().take(40).map(plain).collect();
    if text.chars().nth(40).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [
            ("1", 1),
            ("512M", 512 * MIB),
            ("10G", 10 * GIB),
            ("10g", 10 * GIB),
            ("10GB", 10 * GIB),
            ("10GiB", 10 * GIB),
            ("2t", 2 * TIB),
            ("7b", 7),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for text in ["", "0", "0G", "-1", "10x", "1.5G", "G", "ib", "10 G", "18446744073709551616"]
        {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        let error = "10x".parse::<Bytes>().map_err(|e| e.to_string());
        assert_eq!(
            error,
            Err("\"10x\" is not a size: the unit must be one of K, M, G, T, P".into())
        );
    }

    #[test]
    fn sizes_beyond_what_a_file_can_be_are_refused() {
        assert!("8191P".parse::<Bytes>().is_ok());
        assert!("8192P".parse::<Bytes>().is_err());
        assert!("18446744073709551615".parse::<Bytes>().is_err());
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(Bytes(10 * GIB).to_string(), "10 GiB");
        assert_eq!(Bytes(1536 * MIB).to_string(), "1.5 GiB");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(1023).to_string(), "1023 B");
    }
}
