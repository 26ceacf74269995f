//! What a guest's boot from a bucket fetches, with nothing cached, against what it touches.
//!
//! A block is *touched* when the guest reads it from the image; the boot trace lists them. The *encoded bytes of the
//! blocks it touched* are those of the chunks that hold them, each counted once, as they are stored: nothing smaller
//! can be fetched and checked. What is *fetched* is all that the bucket sends from the start of the server on: its
//! descriptor, the image's record, maps, index nodes, the neighbours and the read-ahead.

use std::collections::BTreeSet;

use gabion::core::{
    BlockRange, ChunkKind,
    index::NodeCache,
    ops::{load_boot_trace, open_checkpoint},
};

use crate::support::cloud::Net;
use crate::support::guest::{Guest, kit};
use crate::support::nbd::Client;
use crate::support::oracle::BLOCK;
use crate::support::{Home, Rng};

/// Files of 64 KiB that are on the guest's disk.
const FILES: usize = 60;

/// Encoded bytes of the blocks in the boot trace of an image.
async fn encoded(url: &str, image: &str) -> gabion::core::Result<u64> {
    let opened = gabion::open(url).await?;
    let record = opened.direct.index.read_image(&image.parse()?).await?.expect("the image is there").value;
    let trace = load_boot_trace(&opened.direct, &record).await?.expect("the boot was recorded");
    let nodes = NodeCache::new(opened.direct.chunks.clone(), 1 << 20);
    let (_, index) = open_checkpoint(&nodes.into(), record.history[0].checkpoint).await?;
    let mut chunks = BTreeSet::new();
    for run in trace.runs() {
        let mut at = run.start;
        while at < run.end {
            let mapping = index.find(BlockRange::new(at, run.end)).await?;
            chunks.extend(mapping.target.map(|target| target.chunk));
            at = mapping.range.end;
        }
    }
    let chunks: Vec<_> = chunks.into_iter().collect();
    let stored = opened.direct.chunks.get_encoded(ChunkKind::Data, &chunks).await;
    Ok(stored.into_iter().map(|entry| entry.expect("it is there").bytes.len() as u64).sum())
}

#[test]
fn a_cold_boot_fetches_at_most_half_more_than_it_touches() {
    let net = Net::new();
    let a = net.host();
    let here = a.path("home/store");
    let here = here.to_str().expect("UTF-8");
    let root = kit().join("root.img");
    a.run(["import", root.to_str().expect("UTF-8"), "vm", "--store", here]);
    a.run(["create", "vm", "--from", "vm", "--store", here]);
    let server = a.serve(["vm"]);
    let mut guest = Guest::boot(server.uri(), "write");
    while guest.wrote().0 < FILES {}
    guest.stop();
    server.terminate();
    a.run(["checkpoint", "vm"]);
    a.run(["push", "vm", "--init"]);
    // Images of their own, so that each boot is the first of its kind.
    a.run(["tag", "vm", "verify"]);
    a.run(["tag", "vm", "idle"]);

    for image in ["idle", "verify"] {
        let mut fetched = Vec::new();
        for boot in ["first", "with the trace of the first"] {
            let host: Home = net.host();
            net.cloud.reset_stats();
            let server = host.serve([image, "--ephemeral"]);
            let guest = Guest::boot(server.uri(), image);
            match image {
                "idle" => guest.stop(),
                _ => assert!(guest.files().len() >= FILES),
            }
            let stats = net.cloud.stats();
            server.terminate();
            fetched.push((boot, stats.bytes_out(), stats.requests()));
        }
        judge(&net, image, &fetched);
    }
}

/// Each way of reading an image has fetched at most one and a half times what was touched.
fn judge(net: &Net, image: &str, fetched: &[(&str, u64, u64)]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let touched = runtime.block_on(encoded(&format!("{}&anonymous=true", net.url("prod")), image));
    let touched = touched.expect("the bucket is there");
    for (how, bytes, requests) in fetched {
        let told = format!("{image}, {how}: {bytes} bytes in {requests} requests, {touched} touched");
        assert!(bytes * 2 <= touched * 3, "{told}");
    }
}

/// As a boot reads from a large disk: short runs of a file here and there, most of them a few blocks long.
#[test]
fn scattered_reads_fetch_at_most_half_more_than_they_touch() {
    const BLOCKS: usize = 128 << 8;
    let net = Net::new();
    let a = net.host();
    let mut disk = vec![0; BLOCKS * BLOCK];
    Rng::new(1).fill(&mut disk);
    a.file("disk.raw", &disk);
    a.run(["init", &net.url("prod")]);
    a.run(["import", "disk.raw", "vm"]);
    let mut fetched = Vec::new();
    for how in ["first", "with the trace of the first"] {
        let host = net.host();
        net.cloud.reset_stats();
        let server = host.serve(["vm"]);
        let mut client = Client::connect(server.uri()).expect("a connection");
        let mut rng = Rng::new(2);
        for _ in 0..60 {
            let mut at = rng.below(BLOCKS as u64 - 64) as usize;
            for _ in 0..=rng.below(4) {
                let blocks = 1 + rng.below(8) as usize;
                let mut read = vec![0; blocks * BLOCK];
                client.read((at * BLOCK) as u64, &mut read).expect("a read");
                assert!(read == disk[at * BLOCK..][..read.len()]);
                at += blocks;
            }
        }
        let stats = net.cloud.stats();
        server.terminate();
        fetched.push((how, stats.bytes_out(), stats.requests()));
    }
    judge(&net, "vm", &fetched);
}
