//! Names of images and volumes.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// A checked name: 1 to 255 bytes of UTF-8 in parts separated by single `/`; no part is `.` or `..`,
/// and there are no control characters and none of `~ @ : % \` (they have meanings beside names).
/// Names never become paths: stores keep them under a hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Longest name, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        match fault(&name) {
            None => Ok(Self(name)),
            Some(why) => Err(Error::invalid(format!("bad name {:?}: {why}", shortened(&name)))),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn shortened(name: &str) -> String {
    if name.len() <= 64 { name.to_owned() } else { name.chars().take(40).chain("…".chars()).collect() }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > ImageName::MAX_LEN {
        Some("it is longer than 255 bytes")
    } else if name.chars().any(char::is_control) {
        Some("it has a control character")
    } else if name.contains(['~', '@', ':', '%', '\\']) {
        Some("'~', '@', ':', '%' and '\\' can't be part of a name")
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("its parts, separated by '/', must not be empty, '.' or '..'")
    } else if name.trim() != name {
        Some("it begins or ends with white space")
    } else {
        None
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["vm1", "team/web-3", "Ünïcode", "a.b_c", &"x".repeat(255)] {
            assert!(ImageName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn bad_names() {
        let long = "x".repeat(256);
        for name in [
            "", ".", "..", "a/../b", "/a", "a/", "a//b", "a\0b", "a\nb", "vm~1", "a@b", "a:b", "%2e", " a",
            &long,
        ] {
            assert!(ImageName::new(name).is_err(), "{name:?}");
        }
    }
}
