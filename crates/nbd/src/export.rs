//! Exports: names, and the devices behind them.

use std::sync::Arc;

use gabion_store_core::{BlockDevice, Error, Result};

use crate::proto::MAX_STRING;

/// A device under a name.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) device: Arc<dyn BlockDevice>,
}

/// The exports of a server, at least one; the first is the default.
#[derive(Debug)]
pub(crate) struct Exports(Vec<Arc<Export>>);

impl Exports {
    /// Checks a table: at least one export, no name twice, names that the protocol can carry.
    pub(crate) fn new(exports: Vec<Export>) -> Result<Self> {
        if exports.is_empty() {
            return Err(Error::invalid("an NBD server needs at least one export"));
        }
        for (at, export) in exports.iter().enumerate() {
            let Export { name, description, .. } = export;
            for (what, text) in [("name", name), ("description", description)] {
                if text.len() > MAX_STRING || text.contains('\0') {
                    return Err(Error::invalid(format!(
                        "the {what} of export {} must be at most {MAX_STRING} bytes without NUL",
                        at + 1
                    )));
                }
            }
            if exports[..at].iter().any(|other| other.name == *name) {
                return Err(Error::invalid(format!("there are two exports of the name {name:?}")));
            }
        }
        Ok(Self(exports.into_iter().map(Arc::new).collect()))
    }

    /// The export of a name; an empty one is the default.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Export>> {
        let named = self.0.iter().find(|export| export.name == name);
        named.or_else(|| self.0.first().filter(|_| name.is_empty()))
    }

    /// All of them, the default first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Export>> {
        self.0.iter()
    }
}
