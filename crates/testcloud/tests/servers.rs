//! The servers of others start, keep an object, and end.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::{SocketAddr, TcpStream};

use gabion_testcloud::servers::{Azurite, Moto, S3s};
use object_store::{
    ObjectStore, ObjectStoreExt as _, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder, path::Path,
};

async fn keeps_an_object(store: &dyn ObjectStore) {
    store.put(&Path::from("a/b"), "text".into()).await.unwrap();
    assert_eq!(store.get(&Path::from("a/b")).await.unwrap().bytes().await.unwrap(), "text");
}

fn s3(endpoint: &str, bucket: &str) -> impl ObjectStore + use<> {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .with_access_key_id(S3s::ACCESS_KEY)
        .with_secret_access_key(S3s::SECRET_KEY)
        .build()
        .unwrap()
}

/// The port in `http://ADDRESS/…` is free again.
fn has_ended(endpoint: &str) -> bool {
    let address = endpoint.trim_start_matches("http://").split('/').next().unwrap();
    TcpStream::connect(address.parse::<SocketAddr>().unwrap()).is_err()
}

#[tokio::test]
async fn moto() {
    let server = Moto::start();
    let endpoint = server.endpoint();
    assert_ne!(server.new_bucket(), server.new_bucket());
    keeps_an_object(&s3(&endpoint, &server.new_bucket())).await;
    drop(server);
    assert!(has_ended(&endpoint));
}

#[tokio::test]
async fn s3s() {
    let server = S3s::start();
    let endpoint = server.endpoint();
    keeps_an_object(&s3(&endpoint, "bucket")).await;
    assert!(server.folder().join("a/b").exists());
    drop(server);
    assert!(has_ended(&endpoint));
}

#[tokio::test]
async fn azurite() {
    let server = Azurite::start();
    let endpoint = server.endpoint();
    let container = server.new_container();
    let store = MicrosoftAzureBuilder::new()
        .with_endpoint(endpoint.clone())
        .with_allow_http(true)
        .with_account(Azurite::ACCOUNT)
        .with_access_key(Azurite::KEY)
        .with_container_name(container)
        .build()
        .unwrap();
    keeps_an_object(&store).await;
    drop(server);
    assert!(has_ended(&endpoint));
}
