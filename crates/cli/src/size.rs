//! Sizes as people write them.

use gabion_store_core::{Error, Result};

const UNITS: [(&str, u32); 6] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50), ("E", 60)];

/// Bytes of a size such as `512M`, `1.5G`, `4096` or `1T`; units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || Error::invalid(format!("'{text}' is no size: write it like 512M, 1.5G or 1073741824"));
    let upper = text.trim().to_ascii_uppercase();
    let upper = upper.strip_suffix("IB").or(upper.strip_suffix('B')).unwrap_or(&upper);
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| upper.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((upper, 0));
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !digits(whole)
        || !digits(part)
        || part.len() > 9
        || (!part.is_empty() && shift == 0)
    {
        return Err(bad());
    }
    let unit = 1_u128 << shift;
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let part: u128 = if part.is_empty() {
        0
    } else {
        part.parse::<u128>().map_err(|_| bad())? * unit / 10_u128.pow(part.len() as u32)
    };
    whole.checked_mul(unit).and_then(|bytes| u64::try_from(bytes + part).ok()).ok_or_else(bad)
}

/// A size for people: three digits and a binary unit.
pub fn format_bytes(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0);
    let Some((unit, shift)) = unit else { return format!("{bytes} B") };
    let value = bytes as f64 / (1_u64 << shift) as f64;
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}iB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("1k", 1024), ("1.5G", 3 << 29), ("2TiB", 2 << 40), ("10MB", 10 << 20)]
        {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "G", "-1", "1.5", "1..5G", "1Q", "99999999999E", "1e9"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(format_bytes(1023), "1023 B");
        assert_eq!(format_bytes(1 << 30), "1.00 GiB");
        assert_eq!(format_bytes(310 << 20), "310 MiB");
    }
}
