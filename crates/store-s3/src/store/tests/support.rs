//! A bucket in memory, and stores in it.

use std::sync::Arc;

use object_store::{ObjectStore, memory::InMemory, path::Path};

use crate::store::{RemoteOptions, RemoteStore};

/// A fresh store in a bucket.
pub(super) async fn init(bucket: &Arc<dyn ObjectStore>, options: RemoteOptions) -> RemoteStore {
    let made = RemoteStore::init_in(bucket.clone(), Path::from("a/prefix"), "memory://test", options).await;
    made.expect("an empty bucket takes a store")
}

/// A bucket in memory.
pub(super) fn bucket() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}
