//! The mutable objects: image records and the catalog, changed by conditional put; and image maps.

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    Error, ErrorKind, ImageName, IndexStore, Result,
    format::{
        catalog::Catalog,
        descriptor::Descriptor,
        image_record::ImageRecord,
        layout::{self, CATALOG_KEY, IMAGES},
    },
    store::{Version, Versioned},
    types::MapId,
};

use super::RemoteStore;

/// Longest record or catalog that is read into memory, in bytes.
const MAX_RECORD: u64 = 64 << 20;
/// Longest image map that is read into memory, in bytes.
const MAX_MAP: u64 = 1 << 30;

#[async_trait]
impl IndexStore for RemoteStore {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let key = layout::image_key(name);
        let Some(found) = self.0.objects.get(&key, MAX_RECORD).await? else { return Ok(None) };
        let value = ImageRecord::decode(&found.bytes)
            .map_err(|e| e.context(format!("image '{name}' in {}", self.0.objects.place())))?;
        Ok(Some(Versioned { value, version: found.version }))
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let (key, bytes) = (layout::image_key(&record.name), record.encode()?.into());
        match expected {
            Some(version) => self.0.objects.replace(&key, bytes, version).await,
            None => self.0.objects.create(&key, bytes).await,
        }
    }

    async fn remove_image(&self, name: &ImageName, _expected: &Version) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, format!("image '{name}' can't be removed from a bucket yet")))
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        let mut names = Vec::new();
        for key in self.0.objects.list(IMAGES).await? {
            let key = format!("{IMAGES}/{key}");
            if let Some(found) = self.0.objects.get(&key, MAX_RECORD).await? {
                names.push(ImageRecord::decode(&found.bytes).map(|record| record.name));
            }
        }
        Ok(names)
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        let found = self.0.objects.get(CATALOG_KEY, MAX_RECORD).await?;
        let found =
            found.ok_or_else(|| Error::corrupt(format!("{} has no catalog", self.0.objects.place())))?;
        let value = Catalog::decode(&found.bytes)?;
        self.0.writer.seen(&value);
        Ok(Versioned { value, version: found.version })
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        let version = self.0.objects.replace(CATALOG_KEY, catalog.encode()?.into(), expected).await?;
        self.0.writer.seen(catalog);
        Ok(version)
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.0.objects.put(&layout::map_key(&id), map.into()).await
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        let found = self.0.objects.get(&layout::map_key(&id), MAX_MAP).await?;
        found.map(|found| found.bytes).ok_or_else(|| Error::not_found(format!("image map {id} is not there")))
    }
}
