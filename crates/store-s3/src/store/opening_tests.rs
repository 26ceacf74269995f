//! A store in a bucket, opened and made by URL.

use gabion_store_core::IndexStore as _;

use super::*;

#[tokio::test]
async fn made_once_and_opened_by_url() {
    let url: ObjectUrl = "memory://made-once/prefix".parse().unwrap();
    let e = RemoteStore::open(&url, RemoteOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(e.to_string().contains("gabion init 'memory://made-once/prefix'"), "{e}");
    let made = RemoteStore::init(&url, RemoteOptions::default()).await.unwrap();
    let opened = RemoteStore::open(&url, RemoteOptions::default()).await.unwrap();
    assert_eq!(made.descriptor(), opened.descriptor());
    let e = RemoteStore::init(&url, RemoteOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn what_lies_there_decides_how_it_is_opened() {
    use object_store::memory::InMemory;
    let bucket = Arc::new(InMemory::new());
    let open = async || {
        let bucket = bucket.clone() as Arc<dyn ObjectStore>;
        RemoteStore::open_in(bucket, Path::from("p"), "s3://bucket/p", RemoteOptions::default()).await
    };
    let descriptor = Descriptor::new(gabion_store_core::clock::Timestamp(1)).unwrap();
    let put = async |text: String| {
        let path = Path::from("p").join(DESCRIPTOR_KEY);
        object_store::ObjectStoreExt::put(&*bucket, &path, text.into()).await.unwrap();
    };
    let mut newer = descriptor;
    newer.features.version = 9;
    put(newer.encode()).await;
    assert_eq!(open().await.unwrap_err().kind(), ErrorKind::Unsupported);
    put("<html>not found</html>".into()).await;
    let e = open().await.unwrap_err();
    assert!(e.kind() == ErrorKind::Invalid && e.report().contains("s3://bucket/p"), "{}", e.report());
    // What only a newer library may write is read.
    let mut newer = descriptor;
    newer.features.write = 4;
    put(newer.encode()).await;
    let store = open().await.unwrap();
    let e =
        store.put_map(gabion_store_core::types::MapId::from_bytes([1; 16]), "x".into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("use a newer gabion"), "{e}");
}

#[cfg(feature = "http")]
#[tokio::test]
async fn a_web_server_is_read_only() {
    let url = "http://127.0.0.1:1/store".parse().unwrap();
    let e = RemoteStore::init(&url, RemoteOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ReadOnly);
}
