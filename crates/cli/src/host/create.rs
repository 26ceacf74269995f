//! Volumes come and go.

use std::path::Path;

use gabion_store_core::{
    Error, ErrorKind, ImageName, Result,
    ops::{ImageRef, open_checkpoint, pin, resolve, unpin},
    types::VolumeId,
};
use gabion_store_local::{
    disk_file::{Format, HostFile, LazyFile, probe},
    overlay::record::VolumeInfo,
};

use super::{Host, lazy};
use crate::{
    InStore, StoreUrl,
    open::{blocking, make_folders},
};

/// Whether a new volume keeps its base in its home store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// The base stays there for as long as the volume exists. Takes permission to write.
    #[default]
    Pinned,
    /// The base stays for as long as an image there has it.
    Unpinned,
}

impl Host {
    /// Makes a volume of `size` zero bytes, or of a checkpoint, in which case `size` may make it larger. Its
    /// home is the checkpoint's store, or the store in force.
    pub async fn create_volume(
        &self,
        name: &ImageName,
        from: Option<&InStore<ImageRef>>,
        size: Option<u64>,
        pinning: Pinning,
    ) -> Result<()> {
        match (self.make_volume(name, from, size, pinning).await, from) {
            (Err(error), Some(image)) => Err(self.not_home_yet(image, error).await),
            (made, _) => made,
        }
    }

    async fn make_volume(
        &self,
        name: &ImageName,
        from: Option<&InStore<ImageRef>>,
        size: Option<u64>,
        pinning: Pinning,
    ) -> Result<()> {
        let home = self.store_of(from.and_then(|image| image.store.as_deref())).await?;
        let from = from.map(|image| &image.name);
        let id = VolumeId::random()?;
        let mut info = VolumeInfo {
            id,
            name: name.clone(),
            size: size.unwrap_or(0),
            base: None,
            home: home.url.to_string(),
            lazy_base: None,
            lineage: from.map(|image| image.name.clone()),
            created: self.clock.now(),
        };
        let Some(from) = from else {
            return self.add_volume(info).await;
        };
        let entry = resolve(&home.store, from).await?;
        if pinning == Pinning::Pinned {
            // From before the volume exists its base is a root; and then the base is looked for again.
            pin(&home.store, &*self.clock, id, entry.checkpoint)
                .await
                .map_err(|e| unpinnable(e, from, &home.url))?;
        }
        let made = async {
            let (checkpoint, _) = open_checkpoint(&home.nodes, entry.checkpoint).await?;
            info.size = size.unwrap_or(checkpoint.size);
            info.base = Some(entry.checkpoint);
            if info.size < checkpoint.size {
                return Err(Error::invalid(format!(
                    "volume '{name}' can't be smaller than its image '{from}' of {} bytes",
                    checkpoint.size
                )));
            }
            self.add_volume(info).await
        }
        .await;
        if made.is_err()
            && pinning == Pinning::Pinned
            && let Err(error) = unpin(&home.store, id, None).await
        {
            tracing::warn!("the pin of volume '{name}', which was not made, stays: {}", error.report());
        }
        made
    }

    /// Makes a volume of a raw disk file, to be served at once and ingested in the background.
    ///
    /// **Errors**: `Conflict` if a process writes to the file, `Unsupported` if it is a block device or not raw.
    pub async fn create_lazy_volume(&self, name: &ImageName, file: &Path) -> Result<()> {
        let home = self.store().await?;
        let (root, volumes, file) = (self.places.data.clone(), self.volumes.clone(), file.to_owned());
        let (name, created) = (name.clone(), self.clock.now());
        let id = VolumeId::random()?;
        blocking(move || {
            let source = HostFile::open(&file)?;
            match probe(&source)? {
                Format::Raw => {}
                format => {
                    let advice = format.advice(&file).unwrap_or_else(|| {
                        format!("{0} is a qcow2 image, and only raw files are served in place: import it with 'gabion import {0}' and serve the image", file.display())
                    });
                    return Err(Error::new(ErrorKind::Unsupported, advice));
                }
            }
            let (path, identity) = (source.path().to_owned(), source.identity());
            drop(source);
            make_folders(&root)?;
            let overlay = volumes.create(VolumeInfo {
                id,
                name: name.clone(),
                size: identity.size,
                base: None,
                home: home.url.to_string(),
                lazy_base: Some(lazy::base_of(&path, identity)),
                lineage: None,
                created,
            })?;
            // The record names the file already: if this is interrupted, the file itself is read.
            let taken = LazyFile::open(&path, &overlay.folder().join(lazy::PRIVATE_COPY)).and_then(|lazy| {
                if lazy.identity().same_state(&identity) { Ok(()) } else { Err(changed(&path)) }
            });
            drop(overlay);
            taken.inspect_err(|_| {
                if let Err(error) = volumes.remove(&name) {
                    tracing::warn!("volume '{name}' can't be removed again: {}", error.report());
                }
            })
        })
        .await
    }

    async fn add_volume(&self, info: VolumeInfo) -> Result<()> {
        let (root, volumes) = (self.places.data.clone(), self.volumes.clone());
        blocking(move || {
            make_folders(&root)?;
            volumes.create(info).map(drop)
        })
        .await
    }

    /// Removes a volume and what it holds; its image and checkpoints stay. `Conflict` if it is in use. If its
    /// home store can't be told, that keeps the volume's base for longer than needed, and the log says so.
    pub async fn remove_volume(&self, name: &ImageName) -> Result<()> {
        let record = self.volumes.look_up(name)?;
        let (volumes, wanted) = (self.volumes.clone(), name.clone());
        blocking(move || volumes.remove(&wanted)).await?;
        let told = async {
            let home = self.open_store(&record.info.home.parse()?).await?;
            unpin(&home.store, record.info.id, None).await
        };
        if let Err(error) = told.await {
            let home = &record.info.home;
            tracing::warn!("volume '{name}' is gone, its base stays pinned in {home}: {}", error.report());
        }
        Ok(())
    }
}

/// A base that can't be pinned for want of permission, and what to do.
fn unpinnable(error: Error, image: &ImageRef, home: &StoreUrl) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnly => error.context(format!(
            "a volume keeps its base in {home}, and that can't be written: pull '{image}' first, or take the risk with --unpinned"
        )),
        _ => error,
    }
}

fn changed(path: &Path) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("{} is being changed: stop whatever writes to it", path.display()),
    )
}
