//! Images as people name them: `vm1`, or `prod:vm1` for one in a store of the configuration.

use std::{fmt, str::FromStr};

use gabion_store_core::{Error, Result};

/// A name, and the store that is meant if it is not the one in force.
///
/// `T` is an [`ImageName`](gabion_store_core::ImageName) or an
/// [`ImageRef`](gabion_store_core::ops::ImageRef); neither has a colon in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InStore<T> {
    /// Name of a store in the configuration; `None` is the store in force.
    pub store: Option<String>,
    /// What is named there.
    pub name: T,
}

impl<T> From<T> for InStore<T> {
    fn from(name: T) -> Self {
        Self { store: None, name }
    }
}

impl<T: FromStr<Err = Error>> FromStr for InStore<T> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None => Ok(text.parse::<T>()?.into()),
            Some((_, rest)) if rest.starts_with("//") => Err(Error::invalid(format!(
                "'{text}': a store's URL goes with --store, or give it a name in the configuration: NAME:IMAGE"
            ))),
            Some((store, name)) => {
                check_store_name(store)?;
                Ok(Self { store: Some(store.to_owned()), name: name.parse()? })
            }
        }
    }
}

impl<T: fmt::Display> fmt::Display for InStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store {
            None => self.name.fmt(f),
            Some(store) => write!(f, "{store}:{}", self.name),
        }
    }
}

/// Whether a store may have this name in the configuration: one that no path, URL or image looks like.
pub(crate) fn check_store_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(good) {
        return Err(Error::invalid(format!(
            "'{name}' is no name of a store: use letters, digits, '-' and '_'"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gabion_store_core::{ImageName, ops::ImageRef};

    use super::*;

    #[test]
    fn with_and_without_a_store() {
        let found: InStore<ImageRef> = "prod:vm1~2".parse().unwrap();
        assert_eq!((found.store.as_deref(), found.name.to_string().as_str()), (Some("prod"), "vm1~2"));
        assert_eq!(found.to_string(), "prod:vm1~2");
        let found: InStore<ImageName> = "vm1".parse().unwrap();
        assert_eq!((found.store.as_deref(), found.to_string().as_str()), (None, "vm1"));
        for bad in ["", ":", ":vm1", "prod:", "prod:a:b", "pr od:vm1", "s3://bucket/vm1", "../x:vm1"] {
            assert!(bad.parse::<InStore<ImageRef>>().is_err(), "{bad}");
        }
    }
}
