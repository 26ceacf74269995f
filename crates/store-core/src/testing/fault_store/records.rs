//! The mutable objects of a [`FaultStore`].

use async_trait::async_trait;
use bytes::Bytes;

use super::{Call, FaultStore};
use crate::{
    ImageName, IndexStore, Result,
    format::{catalog::Catalog, descriptor::Descriptor, image_record::ImageRecord},
    store::{Version, Versioned},
    types::MapId,
};

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl IndexStore for FaultStore {
    fn descriptor(&self) -> &Descriptor {
        self.index.descriptor()
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let begun = self.begin(Call::ReadImage).await?;
        let found = self.index.read_image(name).await?;
        begun.finish().await?;
        Ok(found.filter(|_| !begun.is_missing()))
    }

    async fn recall_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let begun = self.begin(Call::ReadImage).await?;
        let found = self.index.recall_image(name).await?;
        begun.finish().await?;
        Ok(found.filter(|_| !begun.is_missing()))
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let begun = self.begin(Call::WriteImage).await?;
        let version = self.index.write_image(record, expected).await?;
        begun.finish().await.map(|()| version)
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        let begun = self.begin(Call::RemoveImage).await?;
        self.index.remove_image(name, expected).await?;
        begun.finish().await
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        let begun = self.begin(Call::ListImages).await?;
        let names = self.index.list_images().await?;
        begun.finish().await?;
        Ok(if begun.is_missing() { Vec::new() } else { names })
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        let begun = self.begin(Call::ReadCatalog).await?;
        let catalog = self.index.read_catalog().await?;
        begun.finish().await.map(|()| catalog)
    }

    async fn recall_catalog(&self) -> Result<Versioned<Catalog>> {
        let begun = self.begin(Call::ReadCatalog).await?;
        let catalog = self.index.recall_catalog().await?;
        begun.finish().await.map(|()| catalog)
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        let begun = self.begin(Call::WriteCatalog).await?;
        let version = self.index.write_catalog(catalog, expected).await?;
        begun.finish().await.map(|()| version)
    }

    async fn settle(&self) -> Result<()> {
        let begun = self.begin(Call::Settle).await?;
        self.index.settle().await?;
        begun.finish().await
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        let begun = self.begin(Call::PutMap).await?;
        self.index.put_map(id, map).await?;
        begun.finish().await
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        let mut begun = self.begin(Call::GetMap).await?;
        let map = self.index.get_map(id).await?;
        begun.finish().await?;
        let bad = begun.bad();
        begun.spoil(Ok(map), bad)
    }
    /// Counts and fails as [`get_map`](IndexStore::get_map) does.
    async fn map_len(&self, id: MapId) -> Result<u64> {
        let begun = self.begin(Call::GetMap).await?;
        let len = self.index.map_len(id).await?;
        begun.finish().await.map(|()| len)
    }
}
