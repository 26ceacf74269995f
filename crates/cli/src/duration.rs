//! Durations as people write them.

use std::time::Duration;

use gabion_store_core::{Error, Result};

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];

/// A duration such as `30s`, `500ms`, `5m` or `1h`: a whole number and a unit.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || Error::invalid(format!("'{text}' is no time span: write it like 500ms, 30s, 5m or 1h"));
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(*scale).map(Duration::from_millis).ok_or_else(bad)
}

/// A duration as [`parse_duration`] reads it, to the millisecond, in the largest unit that says it whole.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let largest = UNITS.iter().rev().find(|(_, scale)| millis >= *scale && millis.is_multiple_of(*scale));
    let (unit, scale) = largest.unwrap_or(&UNITS[1]);
    format!("{}{unit}", millis / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(format_duration(duration), text);
        }
        assert_eq!(format_duration(parse_duration("60s").unwrap()), "1m");
        for bad in
            ["", "s", "30", "1.5s", "-1s", "1 s", "1w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
