//! A host: its stores and volumes, behind one memory cache.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gabion_store_core::{
    CheckpointId, Error, ErrorKind, ImageName, Result,
    clock::{Clock, SystemClock},
    format::image_record::{HistoryEntry, ImageRecord},
    ops::{ImageRef, IngestOptions, Job, open_checkpoint, pin, resolve, unpin},
    overlay::MemoryOverlay,
    replicate::Replicator,
    types::{MapId, VolumeId},
    volume::{Append, Base, CheckpointOptions, Checkpointed, Home, Volume},
};
use gabion_store_local::{
    cache::DiskCache,
    disk_file::{FileIdentity, Format, HostFile, LazyFile, probe},
    fs::StdFs,
    overlay::{
        LocalOverlay, Volumes,
        record::{LazyBase, VolumeInfo, VolumeRecord},
    },
};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

#[cfg(feature = "nbd")]
use crate::warm::Source;
use crate::{
    InStore, Located, Opened, Origin, Places, Setting, Settings, StackOptions, StoreKind, StoreUrl,
    open::{blocking, make_folders, open_with},
    settings::REMOTE_COMPRESSION,
};

/// Name of the default local store.
const LOCAL: &str = "local";
/// In a volume's folder: the blocks of its lazy base, where the file system can share them.
const PRIVATE_COPY: &str = "base.raw";
/// Format of a lazy base in a volume's record: raw is the only one.
const RAW: u8 = 0;

/// Stores and volumes of a host.
#[derive(Debug)]
pub struct Host {
    places: Places,
    settings: Settings,
    clock: Arc<dyn Clock>,
    stack: StackOptions,
    volumes: Volumes,
    stores: Mutex<HashMap<StoreUrl, Opened>>,
    /// Whether remote stores get a disk cache, and the one that they got.
    uses_disk_cache: bool,
    disk_cache: OnceCell<Option<DiskCache>>,
}

/// Whether a new volume keeps its base in its home store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// The base stays there for as long as the volume exists. Takes permission to write.
    #[default]
    Pinned,
    /// The base stays for as long as an image there has it.
    Unpinned,
}

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

/// A volume that this process has open; no other can.
#[derive(Debug)]
pub struct OpenVolume {
    /// Its name.
    pub name: ImageName,
    /// The disk.
    pub volume: Volume,
    /// Its home store.
    pub home: Opened,
    /// Record of the image that its base is of, as it was when the volume was opened, if its home is remote.
    pub origin: Option<ImageRecord>,
    pub(crate) overlay: Arc<LocalOverlay>,
    pub(crate) clock: Arc<dyn Clock>,
    ingest: IngestOptions,
    replication: OnceLock<Arc<Replicator>>,
    /// Held by whoever stages checkpoints or sends them home.
    pub(crate) staging: tokio::sync::Mutex<()>,
    /// Told when something was staged.
    pub(crate) staged: tokio::sync::Notify,
}

impl Host {
    /// A host with these places and settings. Touches nothing.
    pub fn new(places: Places, settings: Settings) -> Self {
        Self {
            volumes: Volumes::new(Arc::new(StdFs), places.volumes()),
            stack: StackOptions::with_memory(settings.memory_cache.value).guest_wait(settings.timeout.value),
            clock: Arc::new(SystemClock),
            stores: Mutex::default(),
            uses_disk_cache: settings.disk_cache.value > 0,
            disk_cache: OnceCell::new(),
            places,
            settings,
        }
    }

    /// Without the disk cache, which one process at a time can have: for what reads little, or nothing twice.
    #[must_use]
    pub fn without_disk_cache(mut self) -> Self {
        self.uses_disk_cache = false;
        self
    }

    /// Where things lie.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// What is in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The volumes, by name.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// How content becomes chunks in a store, by the settings.
    pub fn ingest(&self, store: &Opened) -> IngestOptions {
        let Setting { value, origin } = &self.settings.compression;
        let compression = match origin {
            Origin::Default if store.is_remote() => REMOTE_COMPRESSION,
            _ => *value,
        };
        IngestOptions { chunking: self.settings.chunker.value, compression }
    }

    /// The store that a name or a URL means.
    pub fn store_url(&self, text: &str) -> Result<StoreUrl> {
        self.named_store(text).map_or_else(|| text.parse(), Ok)
    }

    /// Place of a store by its name, or of the store in force.
    pub fn url_of(&self, name: Option<&str>) -> Result<StoreUrl> {
        match (name, &self.settings.store.value) {
            (Some(name), _) => self.named_store(name).ok_or_else(|| self.no_such_store(name)),
            (None, Some(text)) => self.store_url(text),
            (None, None) => Ok(self.local_url()),
        }
    }

    /// A store of the configuration; `local` is the default local one, if the configuration has no other.
    fn named_store(&self, name: &str) -> Option<StoreUrl> {
        let configured = self.settings.stores.get(name).cloned();
        configured.or_else(|| (name == LOCAL).then(|| self.local_url()))
    }

    /// Place of the default local store.
    pub fn local_url(&self) -> StoreUrl {
        StoreUrl::Folder(self.places.store())
    }

    fn no_such_store(&self, name: &str) -> Error {
        let known: Vec<_> =
            [LOCAL].into_iter().chain(self.settings.stores.keys().map(String::as_str)).collect();
        let known = known.join(", ");
        Error::invalid(format!(
            "there is no store '{name}' under [stores] in {} (there: {known})",
            self.places.config.display()
        ))
    }

    /// Opens the store in force. The default local store is made if it is not there.
    pub async fn store(&self) -> Result<Opened> {
        self.store_of(None).await
    }

    /// Opens a store of the configuration by its name, or the store in force.
    pub async fn store_of(&self, name: Option<&str>) -> Result<Opened> {
        self.open_or_default(&self.url_of(name)?).await
    }

    /// Opens a store. The default local one is made if it is not there.
    pub async fn open_or_default(&self, url: &StoreUrl) -> Result<Opened> {
        let open = self.stores.lock().contains_key(url);
        if *url == self.local_url() && !open {
            match self.init_store(url).await {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.open_store(url).await
    }

    /// Opens a store, or takes it from those that are open.
    pub async fn open_store(&self, url: &StoreUrl) -> Result<Opened> {
        let open = self.stores.lock().get(url).cloned();
        if let Some(open) = open {
            return Ok(open);
        }
        let mut stack = self.stack.clone();
        if self.uses_disk_cache && matches!(url, StoreUrl::Remote(_)) {
            stack.disk.clone_from(self.disk_cache.get_or_init(|| self.open_disk_cache()).await);
        }
        let opened = open_with(url, &stack).await?;
        Ok(self.stores.lock().entry(url.clone()).or_insert(opened).clone())
    }

    /// The disk cache, or a warning.
    async fn open_disk_cache(&self) -> Option<DiskCache> {
        let (folder, capacity) = (self.places.disk_cache(), self.settings.disk_cache.value);
        match blocking(move || DiskCache::open(Arc::new(StdFs), &folder, capacity)).await {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!("going on without the disk cache: {}", error.report());
                None
            }
        }
    }

    /// Waits for what stores in buckets still do in the background after a publish. A process that ends without it
    /// loses nothing, but leaves that work to others.
    pub async fn settle(&self) {
        let open: Vec<_> = self.stores.lock().values().cloned().collect();
        for opened in open {
            if let StoreKind::Remote(store) = &opened.kind {
                store.settle().await;
            }
        }
    }

    /// Makes an empty store; `AlreadyExists` if there is one.
    pub async fn init_store(&self, url: &StoreUrl) -> Result<()> {
        crate::init(url, &self.stack).await
    }

    /// Makes a volume of `size` zero bytes, or of a checkpoint, in which case `size` may make it larger. Its
    /// home is the checkpoint's store, or the store in force.
    pub async fn create_volume(
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
                lazy_base: Some(lazy_base(&path, identity)),
                lineage: None,
                created,
            })?;
            // The record names the file already: if this is interrupted, the file itself is read.
            let taken = LazyFile::open(&path, &overlay.folder().join(PRIVATE_COPY)).and_then(|lazy| {
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
                let (lazy, copy) = (lazy.clone(), overlay.folder().join(PRIVATE_COPY));
                let reopen = move || LazyFile::reopen(&lazy.path, identity_of(&lazy), &copy);
                Base::Source(Arc::new(blocking(reopen).await?))
            }
            (None, None) => Base::Empty,
        };
        if info.base.is_some() && info.lazy_base.is_some() {
            drop_private_copy(&overlay);
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

impl OpenVolume {
    /// Where its base comes from, if that is far away.
    #[cfg(feature = "nbd")]
    pub(crate) fn source(&self) -> Option<Source> {
        Source::new(&self.volume, &self.home, &self.clock, self.origin.as_ref())
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.overlay.record().info.id
    }

    /// Leaves a note in the volume's lock file, for whoever finds it held.
    pub fn set_note(&self, note: &str) -> Result<()> {
        self.overlay.set_lock_note(note)
    }

    /// Whether the volume stands on a file that is not wholly in its home store yet.
    pub fn is_lazy(&self) -> bool {
        let info = self.overlay.record().info;
        info.base.is_none() && info.lazy_base.is_some()
    }

    /// Appends the volume's state to an image of its home store: the one of its own name, or `image`. If home is out
    /// of reach the checkpoint is staged on this host, see [`send_staged`](Self::send_staged).
    pub async fn checkpoint(
        &self,
        image: Option<&ImageName>,
        labels: BTreeMap<String, String>,
        job: &Job,
    ) -> Result<Checkpointed> {
        let mut options = self.options(image, labels);
        if let Some(replicator) = self.replication.get()
            && options.image == self.name
        {
            // As the image's owner, or not at all if it has another one by now.
            options.append = replicator.append();
        }
        let (home, _staging) = (self.home(), self.staging.lock().await);
        let away = match self.send_staged_alone(job).await {
            Ok(_) => None,
            Err(e) if e.kind() == ErrorKind::Unavailable => Some(e),
            Err(e) => {
                tracing::warn!("volume '{}': its staged checkpoints stay so: {}", self.name, e.report());
                None
            }
        };
        let frozen = self.volume.freeze(&home, &options, job).await?;
        let away = match away {
            Some(error) => error,
            None => match frozen.publish(&home, &options, job).await {
                Err(e) if e.kind() == ErrorKind::Unavailable => e,
                done => return done,
            },
        };
        tracing::warn!("volume '{}': its home store is out of reach: {}", self.name, away.report());
        self.stage(&frozen, &options, job)
            .await
            .map_err(|e| away.context(format!("the checkpoint can't be staged either ({})", e.report())))
    }

    /// Brings the rest of a lazy base into the home store.
    pub async fn complete_ingest(&self, job: &Job) -> Result<()> {
        let options = self.options(None, BTreeMap::new());
        self.volume.complete_ingest(&self.home(), &options, job).await?;
        drop_private_copy(&self.overlay);
        Ok(())
    }

    /// Its replication to the image of its name, which does nothing before it is asked to. There is one: a second
    /// call gives the first one's.
    pub fn replicate(self: &Arc<Self>, every: Duration) -> Arc<Replicator> {
        let new = || {
            let options = self.options(None, BTreeMap::new());
            let this = Arc::downgrade(self);
            let replicator = Replicator::new(self.volume.clone(), self.home(), options, every);
            // What is staged is older than what is published next, and so comes first.
            Arc::new(replicator.before(Box::new(move || {
                let this = this.upgrade();
                Box::pin(async move {
                    match this {
                        Some(this) => this.send_staged(&Job::default()).await.map(drop),
                        None => Ok(()),
                    }
                })
            })))
        };
        Arc::clone(self.replication.get_or_init(new))
    }

    /// Its replication, if it has one.
    pub fn replication(&self) -> Option<&Arc<Replicator>> {
        self.replication.get()
    }

    fn home(&self) -> Home {
        let Opened { store, nodes, .. } = self.home.clone();
        Home { store, nodes, clock: Arc::clone(&self.clock) }
    }

    fn options(&self, image: Option<&ImageName>, labels: BTreeMap<String, String>) -> CheckpointOptions {
        CheckpointOptions {
            owner: self.id(),
            image: image.unwrap_or(&self.name).clone(),
            lineage: self.overlay.record().info.lineage,
            labels,
            ingest: self.ingest,
            append: Append::Any,
        }
    }
}

fn maps_of(record: Option<&ImageRecord>) -> &[MapId] {
    record.map_or(&[], |record| &record.maps)
}

/// A lazy base for a volume's record.
fn lazy_base(path: &Path, identity: FileIdentity) -> LazyBase {
    LazyBase {
        path: path.to_owned(),
        device: identity.device,
        inode: identity.inode,
        size: identity.size,
        mtime_ns: identity.modified,
        ctime_ns: identity.changed,
        format: RAW,
        private_copy: Some(PRIVATE_COPY.to_owned()),
    }
}

fn identity_of(lazy: &LazyBase) -> FileIdentity {
    FileIdentity {
        device: lazy.device,
        inode: lazy.inode,
        size: lazy.size,
        modified: lazy.mtime_ns,
        changed: lazy.ctime_ns,
    }
}

/// A base that can't be pinned for want of permission, and what to do.
fn unpinnable(error: Error, image: &ImageRef, home: &StoreUrl) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnly => error.context(format!(
            "a volume keeps its base in {home}, and that can't be written: pull '{image}' first, or take the              risk with --unpinned"
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

/// Removes the copy of a lazy base that is ingested. If it stays, so does only its space.
fn drop_private_copy(overlay: &LocalOverlay) {
    let copy = overlay.folder().join(PRIVATE_COPY);
    match std::fs::remove_file(&copy) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{} is no longer needed and can't be removed: {e}", copy.display());
        }
        _ => {}
    }
}
