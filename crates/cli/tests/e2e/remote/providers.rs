//! The same on Google's and Azure's kind of bucket: made, written, pushed to, served from, pulled from.

use gabion_testcloud::servers::Azurite;

use super::{MIB, local};
use crate::support::cloud::Net;
use crate::support::nbd::Client;
use crate::support::{Home, sample_disk};

/// A disk from one host to another by way of the store at `url`.
fn there_and_back(url: &str, host: impl Fn() -> Home) {
    let (a, b) = (host(), host());
    let disk = sample_disk(1, 5 * MIB);
    a.file("disk.raw", &disk);
    a.run(["init", url]);
    a.run(["import", "disk.raw", "direct"]);
    a.run(["import", "disk.raw", "vm1", "--store", &local(&a)]);
    a.run(["push", "vm1"]);

    let server = b.serve(["vm1"]);
    let mut block = vec![0; 4096];
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.read(MIB as u64, &mut block).expect("a read");
    assert!(block == disk[MIB..MIB + 4096]);
    drop(client);
    server.terminate();
    b.run(["create", "v", "--from", "vm1"]);
    let server = b.serve(["v"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(0, &[7; 4096]).expect("a write");
    b.run(["checkpoint", "v"]);
    drop(client);
    server.terminate();

    a.run(["pull", "v"]);
    let mut written = disk.clone();
    written[..4096].fill(7);
    assert!(a.run(["export", "v", "-", "--store", &local(&a)]) == written);
    assert!(b.run(["export", "direct", "-"]) == disk);
    assert_eq!(b.json(["check", "--content"])["ok"], true);
    let missing = b.refuses(3, ["show", "nothing"]);
    assert!(missing.contains("nothing"), "{missing}");
}

#[test]
fn google() {
    let net = Net::new();
    let url = format!("gs://images/prod?endpoint={}&anonymous=true", net.cloud.gcs_endpoint());
    there_and_back(&url, || Home::new().with("GABION_STORE", &url));
}

#[test]
fn azure() {
    let azurite = Azurite::start();
    let url = format!("az://{}/prod?endpoint={}", azurite.new_container(), azurite.endpoint());
    there_and_back(&url, || {
        Home::new()
            .with("AZURE_STORAGE_ACCOUNT_NAME", Azurite::ACCOUNT)
            .with("AZURE_STORAGE_ACCOUNT_KEY", Azurite::KEY)
            .with("GABION_STORE", &url)
    });
}
