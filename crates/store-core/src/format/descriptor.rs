//! `gabion.json`, the store's descriptor: the one object in JSON, for people who look into a bucket.

use serde::{Deserialize, Serialize};

use super::features::Features;
use crate::{
    Error, Result,
    clock::Timestamp,
    types::{IdDomain, StoreId},
};

/// Key of the descriptor in a store.
pub const DESCRIPTOR_KEY: &str = "gabion.json";
/// Newest layout version this library knows.
pub const STORE_VERSION: u16 = 1;

/// What a store is: read first, written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Version and features of the store's layout.
    pub features: Features,
    /// Random identity, for people and messages; caches go by URL.
    pub store: StoreId,
    /// How its ids are made.
    pub domain: IdDomain,
    /// When it was made.
    pub created: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    gabion: String,
    version: u16,
    features_open: u64,
    features_write: u64,
    features_ignore: u64,
    store_id: String,
    hash: String,
    key_id: u64,
    created_ms: u64,
    /// Of the text without this member; stores made by early versions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    crc32c: Option<String>,
}

impl Json {
    fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain fields always serialise");
        text.push('\n');
        text
    }

    /// With its checksum.
    fn sealed(self) -> Self {
        let plain = Self { crc32c: None, ..self };
        Self { crc32c: Some(checksum(&plain.text())), ..plain }
    }
}

fn checksum(plain: &str) -> String {
    format!("{:08x}", crc32c::crc32c(plain.as_bytes()))
}

/// Whether a text says of itself that it is damaged: it ends with a checksum, which is not that of the rest.
fn is_damaged(text: &[u8]) -> bool {
    let sealed = str::from_utf8(text).ok().and_then(|text| {
        let (members, rest) = text.rsplit_once(",\n  \"crc32c\": \"")?;
        Some((members, rest.strip_suffix("\"\n}\n")?))
    });
    sealed.is_some_and(|(members, crc)| checksum(&format!("{members}\n}}\n")) != crc)
}

impl Descriptor {
    /// A new store's descriptor.
    pub fn new(created: Timestamp) -> Result<Self> {
        Ok(Self {
            features: Features::version(STORE_VERSION),
            store: StoreId::random()?,
            domain: IdDomain::BLAKE3,
            created,
        })
    }

    /// The file's text.
    pub fn encode(&self) -> String {
        let json = Json {
            gabion: "store".into(),
            version: self.features.version,
            features_open: self.features.open,
            features_write: self.features.write,
            features_ignore: self.features.ignore,
            store_id: self.store.to_string(),
            hash: "blake3-256".into(),
            key_id: self.domain.key_id,
            created_ms: self.created.0,
            crc32c: None,
        };
        json.sealed().text()
    }

    /// Reads the file's text. What is no descriptor is `Invalid`, a newer version `Unsupported`, a damaged one
    /// `Corrupt`, as far as that can be told.
    pub fn decode(text: &[u8]) -> Result<Self> {
        /// Read before anything else, so that a newer version is named even if its fields are new.
        #[derive(Deserialize)]
        struct Head {
            gabion: String,
            version: u16,
        }
        let damaged = || Error::corrupt("gabion.json is damaged: its checksum does not match its text");
        // Before anything is believed: what looks like a newer store may be a damaged one.
        if is_damaged(text) {
            return Err(damaged());
        }
        let not_a_store =
            |e| Error::with_source(crate::ErrorKind::Invalid, "gabion.json is no store descriptor", e);
        let head: Head = serde_json::from_slice(text).map_err(not_a_store)?;
        if head.gabion != "store" {
            return Err(Error::invalid("gabion.json does not describe a store"));
        }
        Features::version(head.version).check_open("the store", STORE_VERSION)?;
        let json: Json = serde_json::from_slice(text).map_err(not_a_store)?;
        let features = Features {
            version: json.version,
            open: json.features_open,
            write: json.features_write,
            ignore: json.features_ignore,
        };
        features.check_open("the store", STORE_VERSION)?;
        if json.hash != "blake3-256" || json.key_id != 0 {
            return Err(Error::new(
                crate::ErrorKind::Unsupported,
                format!(
                    "the store names its chunks by {} with key {}: use a newer gabion",
                    json.hash, json.key_id
                ),
            ));
        }
        let descriptor = Self {
            features,
            store: json.store_id.parse()?,
            domain: IdDomain::BLAKE3,
            created: Timestamp(json.created_ms),
        };
        if json.crc32c.is_some() && json.sealed().text().as_bytes() != text {
            return Err(damaged());
        }
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const TEXT: &str = r#"{
  "gabion": "store",
  "version": 1,
  "features_open": 0,
  "features_write": 0,
  "features_ignore": 0,
  "store_id": "07070707070707070707070707070707",
  "hash": "blake3-256",
  "key_id": 0,
  "created_ms": 1700000000000,
  "crc32c": "CRC"
}
"#;

    fn descriptor() -> Descriptor {
        Descriptor {
            features: Features::version(1),
            store: StoreId::from_bytes([7; 16]),
            domain: IdDomain::BLAKE3,
            created: Timestamp(1_700_000_000_000),
        }
    }

    #[test]
    fn golden_text() {
        let plain = TEXT.replace(",\n  \"crc32c\": \"CRC\"", "");
        let crc = format!("{:08x}", crc32c::crc32c(plain.as_bytes()));
        assert_eq!(descriptor().encode(), TEXT.replace("CRC", &crc));
        assert_eq!(Descriptor::decode(plain.as_bytes()).unwrap(), descriptor(), "of an early version");
    }

    #[test]
    fn every_change_is_noticed() {
        let text = descriptor().encode().into_bytes();
        assert_eq!(Descriptor::decode(&text).unwrap(), descriptor());
        let member = text.windows(8).position(|part| part == b"\"crc32c\"").unwrap();
        let checked = |at| at < member - 4 || (member + 11..text.len() - 4).contains(&at);
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                let error = Descriptor::decode(&changed).unwrap_err();
                // Without its checksum it may be anything's.
                let kind =
                    if changed.is_ascii() && checked(at) { ErrorKind::Corrupt } else { ErrorKind::Invalid };
                assert_eq!(error.kind(), kind, "byte {at}, bit {bit}: {error:?}");
            }
            assert!(Descriptor::decode(&text[..at]).is_err(), "cut at {at}");
        }
    }
}
