//! What a store's objects take: what `du` asks, and the one place beside `check` and `ls` that lists.

use gabion_store_core::{
    IndexStore as _, Result,
    format::layout::{LOCATORS, MAPS, PACKS},
};

use super::RemoteStore;

/// What lies below a store's prefix, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteUsage {
    /// Packs, those that nothing refers to included.
    pub packs: u64,
    /// Number of packs.
    pub pack_count: u64,
    /// Locators, replaced ones included.
    pub locators: u64,
    /// Image maps and boot traces, replaced ones included.
    pub maps: u64,
    /// Image records, catalog, descriptor and whatever else lies there.
    pub records: u64,
    /// Entries of the live locators; one that stands in two counts twice.
    pub entries: u64,
}

impl RemoteStore {
    /// What takes how much space. Lists all objects: a request for every thousand.
    pub async fn usage(&self) -> Result<RemoteUsage> {
        let catalog = self.read_catalog().await?.value;
        let mut usage = RemoteUsage {
            entries: catalog.locators.iter().map(|locator| locator.entries).sum(),
            ..RemoteUsage::default()
        };
        for (key, bytes) in self.0.objects.list_sizes().await? {
            match key.split_once('/').map_or("", |(folder, _)| folder) {
                PACKS => {
                    usage.packs += bytes;
                    usage.pack_count += 1;
                }
                LOCATORS => usage.locators += bytes,
                MAPS => usage.maps += bytes,
                _ => usage.records += bytes,
            }
        }
        Ok(usage)
    }
}
