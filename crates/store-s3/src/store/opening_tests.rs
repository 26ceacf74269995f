//! A store in a bucket, opened and made by URL.

use gabion_store_core::IndexStore as _;

use super::*;

#[tokio::test]
async fn made_once_and_opened_by_url() {
    let url: ObjectUrl = "memory://made-once/prefix".parse().unwrap();
    let e = RemoteStore::open(&url, RemoteOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(e.to_string().contains("gabion init memory://made-once/prefix"), "{e}");
    let made = RemoteStore::init(&url, RemoteOptions::default()).await.unwrap();
    let opened = RemoteStore::open(&url, RemoteOptions::default()).await.unwrap();
    assert_eq!(made.descriptor(), opened.descriptor());
    let e = RemoteStore::init(&url, RemoteOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
}
