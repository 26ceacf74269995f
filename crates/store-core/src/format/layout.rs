//! Keys of a store's objects, the same in a folder and in a bucket. The descriptor's is
//! [`DESCRIPTOR_KEY`](super::descriptor::DESCRIPTOR_KEY).

use crate::{
    ImageName,
    types::{LocatorId, MapId, PackId, WriteId},
};

/// Prefix of packs.
pub const PACKS: &str = "packs";
/// Prefix of locators.
pub const LOCATORS: &str = "locators";
/// Prefix of image maps.
pub const MAPS: &str = "maps";
/// Prefix of image records.
pub const IMAGES: &str = "images";
/// Prefix of what probes of a bucket leave behind; nothing else reads or counts it.
pub const PROBES: &str = "probes";
/// Key of the catalog.
pub const CATALOG_KEY: &str = "catalog";

/// Key of a pack: under the first byte of its id, so that no folder grows large.
pub fn pack_key(id: &PackId) -> String {
    format!("{PACKS}/{:02x}/{id}", id.as_bytes()[0])
}

/// Key of a locator.
pub fn locator_key(id: &LocatorId) -> String {
    format!("{LOCATORS}/{id}")
}

/// Key of an image map.
pub fn map_key(id: &MapId) -> String {
    format!("{MAPS}/{id}")
}

/// Key of an image's record: BLAKE3 of its name, since names nest and file systems fold case.
pub fn image_key(name: &ImageName) -> String {
    format!("{IMAGES}/{}", blake3::hash(name.as_str().as_bytes()).to_hex())
}

/// Key of the mark that a bucket's conditional writes hold, by the hash of its place.
pub fn probe_mark_key(place: &[u8; 32]) -> String {
    format!("{PROBES}/{}", hex::encode(place))
}

/// Key of an object that exists during a probe only.
pub fn probe_key(id: &WriteId) -> String {
    format!("{PROBES}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stable() {
        assert_eq!(pack_key(&PackId::from_bytes([0xab; 16])), "packs/ab/abababababababababababababababab");
        assert_eq!(locator_key(&LocatorId::from_bytes([1; 16])), "locators/01010101010101010101010101010101");
        assert_eq!(map_key(&MapId::from_bytes([2; 16])), "maps/02020202020202020202020202020202");
        assert_eq!(probe_key(&WriteId::from_bytes([3; 16])), "probes/03030303030303030303030303030303");
        assert_eq!(probe_mark_key(&[4; 32]), format!("probes/{}", "04".repeat(32)));
        assert_eq!(
            image_key(&ImageName::new("vm1").unwrap()),
            "images/595d5da5bed5948f7a3c1ae225c9d70d6dd7838f0e42bcd72a44667dcc6d9950"
        );
    }
}
