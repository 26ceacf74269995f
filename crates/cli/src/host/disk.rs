//! Volumes and images as disks.

use std::sync::{Arc, OnceLock};

use gabion_store_core::{
    CheckpointId, ErrorKind, ImageName, Result,
    clock::Clock,
    format::image_record::{HistoryEntry, ImageRecord},
    ops::{ImageRef, open_checkpoint},
    overlay::MemoryOverlay,
    types::MapId,
    volume::{Base, Volume},
};
use gabion_store_local::{disk_file::LazyFile, overlay::record::VolumeRecord};

use super::{Host, lazy};
#[cfg(feature = "nbd")]
use crate::warm::Source;
use crate::{InStore, Located, OpenVolume, Opened, open::blocking};

/// A checkpoint of an image, as a disk.
#[derive(Debug)]
pub struct OpenImage {
    /// The disk.
    pub volume: Volume,
    /// Which checkpoint it is.
    pub checkpoint: CheckpointId,
    /// Its store.
    pub home: Opened,
    /// The image's record as it was then, if the store is remote: its maps, its boot trace.
    pub origin: Option<ImageRecord>,
    /// Tells the times that stand in the store's records.
    pub clock: Arc<dyn Clock>,
}

#[cfg(feature = "nbd")]
impl OpenImage {
    /// Where it comes from, if that is far away.
    pub(crate) fn source(&self) -> Option<Source> {
        Source::new(&self.volume, &self.home, &self.clock, self.origin.as_ref())
    }
}

impl Host {
    /// Opens a volume for this process alone. `note` is left in its lock file, for whoever finds it held.
    pub async fn open_volume(&self, name: &ImageName, note: Option<&str>) -> Result<OpenVolume> {
        let (volumes, wanted, note) = (self.volumes.clone(), name.clone(), note.map(str::to_owned));
        let overlay = Arc::new(blocking(move || volumes.open(&wanted, note.as_deref())).await?);
        let VolumeRecord { info, .. } = overlay.record();
        let home = self.open_store(&info.home.parse()?).await.map_err(|e| match e.kind() {
            ErrorKind::Unavailable => e.context(format!(
                "volume '{name}' can't be opened while its home {} is out of reach; nothing of it is lost: try again",
                info.home
            )),
            _ => e,
        })?;
        let label = format!("volume '{name}'");
        let mut origin = None;
        let base = match (info.base, &info.lazy_base) {
            (Some(id), _) => {
                let images: Vec<_> = info.lineage.iter().chain([name]).collect();
                origin = home.origin(&images, id).await;
                let (_, index) = open_checkpoint(&home.nodes, id)
                    .await
                    .map_err(|e| e.context(format!("the base of {label} in {}", home.url)))?;
                Base::Index(home.base(index, maps_of(origin.as_ref())))
            }
            (None, Some(lazy)) => {
                let (lazy, copy) = (lazy.clone(), overlay.folder().join(lazy::PRIVATE_COPY));
                let reopen = move || LazyFile::reopen(&lazy.path, lazy::identity_of(&lazy), &copy);
                Base::Source(Arc::new(blocking(reopen).await?))
            }
            (None, None) => Base::Empty,
        };
        if info.base.is_some() && info.lazy_base.is_some() {
            lazy::drop_private_copy(&overlay);
        }
        let volume = Volume::writable(label, Arc::clone(&overlay) as _, base, info.base, info.size);
        let (clock, ingest) = (Arc::clone(&self.clock), self.ingest(&home));
        Ok(OpenVolume {
            name: name.clone(),
            volume,
            home,
            origin,
            overlay,
            clock,
            ingest,
            replication: OnceLock::new(),
            staging: tokio::sync::Mutex::default(),
            staged: tokio::sync::Notify::new(),
        })
    }

    /// Opens a checkpoint as a disk that is only read.
    pub async fn open_image(&self, image: &InStore<ImageRef>) -> Result<OpenImage> {
        let disk = |base, _, size| Volume::read_only(format!("image '{image}'"), base, size);
        self.open_image_as(image, disk).await
    }

    /// Opens a checkpoint as a disk whose writes are kept in memory and end with it.
    pub async fn open_image_ephemeral(&self, image: &InStore<ImageRef>) -> Result<OpenImage> {
        let label = format!("ephemeral copy of image '{image}'");
        let disk = |base, checkpoint, size| {
            Volume::writable(label, Arc::new(MemoryOverlay::new(size)), base, Some(checkpoint), size)
        };
        self.open_image_as(image, disk).await
    }

    async fn open_image_as(
        &self,
        image: &InStore<ImageRef>,
        disk: impl FnOnce(Base, CheckpointId, u64) -> Volume,
    ) -> Result<OpenImage> {
        let Located { entry: HistoryEntry { checkpoint, .. }, nodes, staged } = self.locate(image).await?;
        let home = self.store_of(image.store.as_deref()).await?;
        let origin = if staged { None } else { home.origin(&[&image.name.name], checkpoint).await };
        let (record, index) = open_checkpoint(&nodes, checkpoint).await?;
        let base = Base::Index(home.base(index, maps_of(origin.as_ref())));
        let volume = disk(base, checkpoint, record.size);
        Ok(OpenImage { volume, checkpoint, home, origin, clock: Arc::clone(&self.clock) })
    }
}

fn maps_of(record: Option<&ImageRecord>) -> &[MapId] {
    record.map_or(&[], |record| &record.maps)
}
