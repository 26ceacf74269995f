//! What requests and bytes cost, for the plan of a transfer.

use gabion_store_core::{Error, Result};
use serde::Deserialize;

/// Prices of a provider, in US dollars. The defaults are those of S3 Standard in us-east-1; a table `[prices]` in
/// the configuration replaces any of them. Estimates: taxes, tiers and free quotas are not in them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// A thousand PUT (and LIST) requests.
    pub put_per_1000: f64,
    /// A thousand GET (and HEAD) requests.
    pub get_per_1000: f64,
    /// A GiB that leaves the provider's network.
    pub out_per_gib: f64,
    /// A GiB stored for a month.
    pub gib_month: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self { put_per_1000: 0.005, get_per_1000: 0.0004, out_per_gib: 0.09, gib_month: 0.023 }
    }
}

/// What a transfer costs, in US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Its requests, once.
    pub requests: f64,
    /// What leaves the provider's network, once, if it does.
    pub out: f64,
    /// What it adds to a bucket, each month.
    pub month: f64,
}

const GIB: f64 = (1_u64 << 30) as f64;

impl Prices {
    /// Costs of `puts` and `gets` requests that bring `bytes_in` into a bucket and `bytes_out` out of one.
    pub fn cost(&self, puts: u64, gets: u64, bytes_in: u64, bytes_out: u64) -> Cost {
        Cost {
            requests: (puts as f64 * self.put_per_1000 + gets as f64 * self.get_per_1000) / 1000.0,
            out: bytes_out as f64 / GIB * self.out_per_gib,
            month: bytes_in as f64 / GIB * self.gib_month,
        }
    }

    /// `Invalid` for a price that is none.
    pub(crate) fn check(&self) -> Result<()> {
        let prices = [self.put_per_1000, self.get_per_1000, self.out_per_gib, self.gib_month];
        if prices.iter().all(|price| price.is_finite() && *price >= 0.0) {
            return Ok(());
        }
        Err(Error::invalid("[prices]: a price is a number of US dollars, not below 0"))
    }
}

/// Dollars for people: to the cent, or with four digits if that says more.
pub fn format_dollars(dollars: f64) -> String {
    match dollars {
        d if d == 0.0 || d >= 0.1 => format!("${d:.2}"),
        d if d >= 0.0001 => format!("${d:.4}"),
        _ => "<$0.0001".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_of_20_gib() {
        let cost = Prices::default().cost(1280, 10, 20 << 30, 0);
        assert_eq!(format_dollars(cost.requests), "$0.0064");
        assert_eq!(format_dollars(cost.month), "$0.46");
        assert_eq!(format_dollars(cost.out), "$0.00");
        assert_eq!(format_dollars(0.00004), "<$0.0001");
        assert!(Prices { out_per_gib: -1.0, ..Prices::default() }.check().is_err());
    }
}
