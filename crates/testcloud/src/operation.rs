//! What a request does, and to which kind of object.

use serde::{Deserialize, Serialize};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Reads an object or a range of it.
    Get,
    /// Asks for an object's size and version.
    Head,
    /// Writes an object, whatever is there.
    Put,
    /// Writes an object if there is none.
    Create,
    /// Writes an object if the one there has a certain version.
    Replace,
    /// Removes one object.
    Delete,
    /// Removes many objects.
    DeleteMany,
    /// Lists keys.
    List,
    /// Anything else: multipart uploads, copies, operations on buckets.
    Other,
}

/// The kind of object of a gabion store, told by its key whatever the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "named as the folders of a store")]
pub enum Class {
    Packs,
    Locators,
    Maps,
    Images,
    Catalog,
    Descriptor,
    Other,
}

impl Class {
    /// The kind of the object of that key.
    pub fn of(key: &str) -> Self {
        let mut parts = key.rsplit('/');
        let [last, parent, grandparent] = [(); 3].map(|()| parts.next().unwrap_or_default());
        match (grandparent, parent, last) {
            (_, _, "catalog") => Self::Catalog,
            (_, _, "gabion.json") => Self::Descriptor,
            ("packs", ..) => Self::Packs,
            (_, "locators", _) => Self::Locators,
            (_, "maps", _) => Self::Maps,
            (_, "images", _) => Self::Images,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_their_class_below_any_prefix() {
        for (key, class) in [
            ("packs/ab/abcd", Class::Packs),
            ("images/store/packs/ab/abcd", Class::Packs),
            ("a/locators/01", Class::Locators),
            ("maps/02", Class::Maps),
            ("a/b/images/03", Class::Images),
            ("catalog", Class::Catalog),
            ("packs/catalog", Class::Catalog),
            ("a/gabion.json", Class::Descriptor),
            ("packs", Class::Other),
            ("", Class::Other),
        ] {
            assert_eq!(Class::of(key), class, "{key}");
        }
    }
}
