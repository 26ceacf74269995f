//! The end of a store.

use std::{io, path::Path};

use gabion_store_core::{
    Error, Result,
    format::{descriptor::DESCRIPTOR_KEY, layout},
};

use super::LocalStore;
use crate::fs::{Fs, remove_tree};

impl LocalStore {
    /// Removes the store in `dir`, or what is left of one, with all it holds. Blocks. Nobody may use it.
    ///
    /// **Killed in between**: names go first, the descriptor next, so that what is left is a store with fewer
    /// images or none at all; another call removes the rest.
    pub fn destroy(fs: &dyn Fs, dir: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("removing {} failed", dir.display()), e);
        for key in [layout::IMAGES, DESCRIPTOR_KEY] {
            remove_tree(fs, &dir.join(key)).map_err(failed)?;
            // Durably, before anything goes that it leads to.
            match fs.sync_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
        remove_tree(fs, dir).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gabion_store_core::{ErrorKind, clock::SystemClock};

    use super::*;
    use crate::fs::{MemFs, exists};

    #[test]
    fn nothing_stays_and_nothing_is_needed() {
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let dir = Path::new("/store");
        for _ in 0..2 {
            drop(LocalStore::init(fs.clone(), dir, &SystemClock).unwrap());
            // As after a kill in the middle.
            fs.remove_file(&dir.join(DESCRIPTOR_KEY)).unwrap();
            LocalStore::destroy(&*fs, dir).unwrap();
            assert!(!exists(&*fs, dir).unwrap());
            LocalStore::destroy(&*fs, dir).unwrap();
            assert_eq!(LocalStore::open(fs.clone(), dir).unwrap_err().kind(), ErrorKind::NotFound);
        }
    }
}
