//! The mutable objects: image records and the catalog, changed by conditional put; and image maps.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use gabion_store_core::{
    Error, ErrorKind, ImageName, IndexStore, Result,
    format::{
        catalog::Catalog,
        descriptor::Descriptor,
        image_record::ImageRecord,
        layout::{self, CATALOG_KEY, IMAGES},
        tombstone::{ImageObject, Tombstone},
    },
    store::{Version, Versioned},
    types::{MapId, WriteId},
};

use super::RemoteStore;
use crate::{objects::Fetched, requests::Created};

/// Longest record or catalog that is read into memory, in bytes.
const MAX_RECORD: u64 = 64 << 20;
/// Longest image map that is read into memory, in bytes.
const MAX_MAP: u64 = 1 << 30;
/// Records that are read at once to list the images.
const LISTED_AT_ONCE: usize = 16;
/// Before a version whose object this library may read but not replace; behind it stands why.
const UNWRITABLE: &[u8] = b"unwritable\n";

#[async_trait]
impl IndexStore for RemoteStore {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let found = self.image_object(&layout::image_key(name)).await;
        let found = found.map_err(|e| e.context(format!("image '{name}' can't be read")))?;
        let found = found.and_then(|Versioned { value, version }| {
            value.record().map(|value| Versioned { value, version })
        });
        if let Some(found) = &found {
            self.0.maps.observe(name, &found.value.maps);
        }
        self.0.recalled.set_image(name, found.clone());
        Ok(found)
    }

    async fn recall_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        match self.0.recalled.image(name) {
            Some(found) => Ok(Some(found)),
            None => self.read_image(name).await,
        }
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let (key, bytes) = (layout::image_key(&record.name), record.encode()?.into());
        let written = match expected {
            Some(version) => self.replace(&key, bytes, version).await,
            None => self.create_image(&key, bytes).await,
        };
        if written.is_ok() {
            self.0.maps.observe(&record.name, &record.maps);
        }
        let known = written
            .as_ref()
            .ok()
            .map(|version| Versioned { value: record.clone(), version: version.clone() });
        self.0.recalled.set_image(&record.name, known);
        written.map_err(|e| e.context(format!("image '{}' is not written", record.name)))
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        let tombstone = Tombstone { name: name.clone(), write_id: WriteId::random()? };
        let removed = self.replace(&layout::image_key(name), tombstone.encode().into(), expected).await;
        self.0.recalled.set_image(name, None);
        removed.map(drop).map_err(|e| e.context(format!("image '{name}' is not removed")))
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        let is_record = |key: &String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        let keys = self.0.objects.list(IMAGES).await?.into_iter().filter(is_record);
        let mut found = stream::iter(keys)
            .map(|key| async move { self.image_object(&format!("{IMAGES}/{key}")).await })
            .buffer_unordered(LISTED_AT_ONCE);
        let (mut names, mut damage) = (Vec::new(), Vec::new());
        while let Some(object) = found.next().await {
            match object {
                Ok(Some(Versioned { value: ImageObject::Record(record), .. })) => names.push(record.name),
                // Removed, before or while this was read.
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                    damage.push(Err(e));
                }
                Err(e) => return Err(e),
            }
        }
        names.sort_unstable();
        Ok(names.into_iter().map(Ok).chain(damage).collect())
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        let place = self.0.objects.place();
        let found = self.0.objects.get_decoded(CATALOG_KEY, MAX_RECORD, Catalog::decode).await;
        let found = found.map_err(|e| e.context(format!("the catalog of {place} can't be read")))?;
        let Some((value, found)) = found else {
            return Err(Error::corrupt(format!(
                "{place} has no catalog, without which no entry is found: restore it from a copy of the store"
            )));
        };
        self.0.locators.observe(&value);
        let found = Versioned { value, version: version_of(found, Catalog::check_write) };
        self.0.recalled.set_catalog(Some(found.clone()));
        Ok(found)
    }

    async fn recall_catalog(&self) -> Result<Versioned<Catalog>> {
        match self.0.recalled.catalog() {
            Some(found) => Ok(found),
            None => self.read_catalog().await,
        }
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        let written = self.replace(CATALOG_KEY, catalog.encode()?.into(), expected).await;
        let known = written
            .as_ref()
            .ok()
            .map(|version| Versioned { value: catalog.clone(), version: version.clone() });
        if known.is_some() {
            self.0.locators.observe(catalog);
            if catalog.pending.is_empty() {
                self.merge_soon();
            }
        }
        self.0.recalled.set_catalog(known);
        written
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.0.objects.put(&layout::map_key(&id), map.clone().into()).await?;
        self.0.maps.adopt(id, &map);
        Ok(())
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        if let Some(map) = self.0.maps.whole(id) {
            return Ok(map);
        }
        let found = self.0.objects.get(&layout::map_key(&id), MAX_MAP).await?;
        let found = found.ok_or_else(|| {
            Error::not_found(format!("image map {id} is not in {}", self.0.objects.place()))
        })?;
        self.0.maps.adopt(id, &found.bytes);
        Ok(found.bytes)
    }

    async fn map_len(&self, id: MapId) -> Result<u64> {
        self.0.maps.len(id).await
    }
}

impl RemoteStore {
    /// The object in an image's place.
    async fn image_object(&self, key: &str) -> Result<Option<Versioned<ImageObject>>> {
        let decode =
            |bytes: &[u8]| ImageObject::decode_at(key, bytes).map_err(|e| e.context(self.0.objects.place()));
        let Some((value, found)) = self.0.objects.get_decoded(key, MAX_RECORD, decode).await? else {
            return Ok(None);
        };
        Ok(Some(Versioned { value, version: version_of(found, ImageObject::check_write) }))
    }

    /// Creates an image's record, over a tombstone if need be.
    async fn create_image(&self, key: &str, bytes: Bytes) -> Result<Version> {
        let found = match self.0.objects.create(key, bytes.clone()).await? {
            Created::Done(version) => return Ok(version),
            Created::Exists(found) => found,
        };
        match ImageObject::decode_at(key, &found.bytes)? {
            ImageObject::Record(_) => Err(Error::new(
                ErrorKind::Conflict,
                format!("it exists already in {}", self.0.objects.place()),
            )),
            ImageObject::Removed(_) => {
                self.replace(key, bytes, &version_of(found, ImageObject::check_write)).await
            }
        }
    }

    async fn replace(&self, key: &str, bytes: Bytes, expected: &Version) -> Result<Version> {
        match expected.0.strip_prefix(UNWRITABLE) {
            Some(why) => Err(Error::new(ErrorKind::Unsupported, String::from_utf8_lossy(why))),
            None => self.0.objects.replace(key, bytes, expected).await,
        }
    }
}

/// The version by which what was read is replaced. It says so if a newer library's writing must not be: then nobody
/// has to read it again before a replacement.
fn version_of(found: Fetched, check_write: impl FnOnce(&[u8]) -> Result<()>) -> Version {
    match check_write(&found.bytes) {
        Ok(()) => found.version,
        Err(e) => Version([UNWRITABLE, e.to_string().as_bytes()].concat().into()),
    }
}

#[cfg(test)]
mod tests;
