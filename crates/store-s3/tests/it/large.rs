//! A store of ten million chunks, as far as anyone reads of it: catalog, image record and the map of its image are as
//! they would be, and the bodies of what must not be read are not there.

use bytes::Bytes;
use gabion_store_core::{
    BlockDevice as _, ChunkId, ChunkKind, Result, Store,
    chunking::{Chunking, DiskSource, Next},
    clock::SystemClock,
    format::{
        catalog::LocatorRef,
        codec::Codec,
        image_map::{self, ImageMap},
        layout,
        rows::{EntryKey, PAGE_LEN},
    },
    ops::{ImportOptions, IngestOptions, Job, import},
    store::Placement,
    testing::Rng,
    types::{LocatorId, MapId, PackId, WriteId},
};
use gabion_store_s3::{ObjectUrl, RemoteStore};
use gabion_testcloud::{Class, Cloud, Operation, Stats};

use super::support::{Place, memory, noise, open, options, push, vm};

/// Chunks of the image, of 32 KiB each: a disk of 328 GB.
const CHUNKS: u64 = 10_000_000;
const CHUNK_BLOCKS: u64 = 8;
const BLOCK: u64 = 4096;
/// Leaves of its index, and what is above them.
const NODES: u64 = CHUNKS * CHUNK_BLOCKS / 512 + 700;
/// Packs of 16 MiB.
const PACKS: u64 = (CHUNKS * CHUNK_BLOCKS * BLOCK) >> 24;
/// Entries of a locator that was merged as far as they are.
const MERGED: u64 = 300_000;
/// Chunks in a page of a map.
const PER_PAGE: u64 = 68;
/// The page of the map whose chunks can be read, and where its disk begins.
const REAL_PAGE: u64 = 73_000;
const REAL: u64 = REAL_PAGE * PER_PAGE * CHUNK_BLOCKS * BLOCK;

/// A disk of that size that is zero but for one place.
struct Sparse {
    size: u64,
    data: Vec<u8>,
    at: u64,
}

impl DiskSource for Sparse {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let next = match self.at.checked_sub(REAL) {
            None => Next::Zero(REAL - self.at),
            Some(within) if within < self.data.len() as u64 => {
                let rest = &self.data[within as usize..];
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Next::Data(len)
            }
            Some(_) if self.at < self.size => Next::Zero(self.size - self.at),
            Some(_) => Next::End,
        };
        match next {
            Next::Data(len) => self.at += len as u64,
            Next::Zero(len) => self.at += len,
            Next::Skip(_) | Next::End => {}
        }
        Ok(next)
    }
}

/// Appends such a disk to image `vm`.
async fn add(store: &Store, data: &[u8]) {
    let disk = Sparse { size: CHUNKS * CHUNK_BLOCKS * BLOCK, data: data.to_vec(), at: 0 };
    let ingest =
        IngestOptions { chunking: Chunking::Fixed(CHUNK_BLOCKS as usize), ..IngestOptions::default() };
    let options = ImportOptions { ingest, ..ImportOptions::default() };
    import(store, &SystemClock, &vm(), disk, options, &Job::default()).await.expect("an import");
}

/// An id, spread as hashes are.
fn spread(n: u64, all: u64) -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(n * (u64::MAX / all)).to_be_bytes());
    bytes
}

/// A map as `small` is, over some chunks of the real page, that goes on as if all other chunks, nodes and packs were
/// there, too. Its pages of other chunks are zeros that take no memory.
fn enlarged(id: MapId, small: &[u8]) -> Bytes {
    let (_, (mut nodes, real)) = image_map::decode_all(small).expect("a map");
    assert_eq!((real.len() as u64, real[0].first_block * BLOCK), (PER_PAGE, REAL), "one whole page");
    nodes.extend((0..NODES).map(|n| {
        let mut pack = [0; 16];
        pack.copy_from_slice(&spread(n % PACKS, PACKS)[..16]);
        let pack = PackId::from_bytes(pack);
        let place = Placement { pack, offset: 1 << 20, stored_len: 2400, raw_len: 2400, codec: Codec::None };
        (EntryKey::new(ChunkKind::Node, ChunkId::from_bytes(spread(n, NODES))), place)
    }));
    nodes.sort_unstable_by_key(|(key, _)| *key);
    let page = image_map::encode(id, &nodes, &real).expect("a map");
    let map = ImageMap::of(&page).expect("a map");
    let chunks_at = map.chunk_page_offset(0) as usize;

    // The header's numbers of nodes and packs stay, and so does the directory up to the first blocks.
    let pages = CHUNKS.div_ceil(PER_PAGE);
    let mut directory = page[70..70 + map.header().directory_len() as usize - 8].to_vec();
    directory.extend((0..pages).flat_map(|page| (page * PER_PAGE * CHUNK_BLOCKS).to_le_bytes()));
    let mut head = page[..58].to_vec();
    head.extend((CHUNKS as u32).to_le_bytes());
    head.extend(crc32c::crc32c(&directory).to_le_bytes());
    head.extend(crc32c::crc32c(&head).to_le_bytes());
    head.extend(directory);
    head.resize(head.len().next_multiple_of(PAGE_LEN), 0);
    let nodes_at = map.node_page_offset(0) as usize;
    head.extend(&page[nodes_at..chunks_at]);

    let real_at = head.len() + REAL_PAGE as usize * PAGE_LEN;
    let mut whole = vec![0; head.len() + pages as usize * PAGE_LEN];
    whole[..head.len()].copy_from_slice(&head);
    whole[real_at..real_at + PAGE_LEN].copy_from_slice(&page[chunks_at..]);
    whole.into()
}

/// The store, and in memory what is in it for real.
async fn store(cloud: &Cloud) -> (ObjectUrl, Store, Vec<u8>) {
    let (url, here) = (Place::s3(cloud).fresh(), memory());
    let store = RemoteStore::init(&url, options()).await.expect("a store");
    let data = noise((PER_PAGE * CHUNK_BLOCKS * BLOCK) as usize, 1);
    add(&here, &data).await;
    push(&here, &store).await.expect("a push");

    let index = store.clone().into_store().index;
    let found = index.read_image(&vm()).await.expect("a record").expect("an image");
    let (mut record, id) = (found.value, MapId::random().expect("randomness"));
    let map = enlarged(id, &index.get_map(record.maps[0]).await.expect("its map"));
    assert!(map.len() > 600_000_000);
    cloud.put_object("bucket", &format!("0/{}", layout::map_key(&id)), map);
    record.maps = vec![id];
    record.write_id = WriteId::random().expect("randomness");
    index.write_image(&record, Some(&found.version)).await.expect("a record of one writer");

    let found = index.read_catalog().await.expect("a catalog");
    let mut catalog = found.value;
    let merged = || LocatorRef { id: LocatorId::random().expect("randomness"), entries: MERGED };
    catalog.locators.splice(0..0, (0..CHUNKS.div_ceil(MERGED)).map(|_| merged()));
    catalog.write_id = WriteId::random().expect("randomness");
    index.write_catalog(&catalog, &found.version).await.expect("a catalog of one writer");
    (url, here, data)
}

/// What was asked, for a failure's message.
fn told(stats: &Stats) -> String {
    let shown = stats.entries.iter().map(|e| format!("\n{:?} {} {:?}", e.operation, e.key, e.range));
    format!("{} requests, {} bytes:{}", stats.requests(), stats.bytes_out(), shown.collect::<String>())
}

/// Opens the image on a host that has nothing, then reads its first block and one of the real ones.
async fn cold_open(cloud: &Cloud, url: &ObjectUrl, data: &[u8]) {
    cloud.reset_stats();
    let cold = RemoteStore::open(url, options()).await.expect("the store");
    let volume = open(&cold).await.expect("the image");
    let opened = cloud.stats();
    assert!(opened.requests() <= 6 && opened.bytes_out() <= 4_000_000, "open: {}", told(&opened));

    let within = Rng::new(5).below((data.len() as u64 / BLOCK) as usize) as u64 * BLOCK;
    let mut block = vec![0; BLOCK as usize];
    volume.read(REAL + within, &mut block).await.expect("a read");
    assert!(block == data[within as usize..][..BLOCK as usize]);
    // Of an inner node and a leaf their rows in the map and their windows; of the chunk its row and its pack; and the
    // maps in front of the large one.
    let read = cloud.stats();
    assert!(read.requests() <= 6 + 9 && read.bytes_out() <= 4_000_000, "read: {}", told(&read));
    assert_eq!(read.on(Class::Locators) + read.on(Class::Catalog), 0, "{}", told(&read));
    assert_eq!(read.requests(), read.of(Operation::Get), "{}", told(&read));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_open_in_a_store_of_ten_million_chunks_takes_six_requests_and_four_megabytes() {
    let cloud = Cloud::new();
    let (url, here, mut data) = store(&cloud).await;
    cold_open(&cloud, &url, &data).await;

    // A checkpoint whose parent is there, from a fresh process, which folds no map of that size.
    data[40 * BLOCK as usize..][..BLOCK as usize].copy_from_slice(&noise(BLOCK as usize, 2));
    add(&here, &data).await;
    cloud.reset_stats();
    let fresh = RemoteStore::open(&url, options()).await.expect("the store");
    push(&here, &fresh).await.expect("a push");
    let pushed = cloud.stats();
    let beside_packs = pushed.requests() - pushed.of_on(Operation::Put, Class::Packs);
    assert!(beside_packs <= 14 && pushed.bytes_out() <= 4_000_000, "push: {}", told(&pushed));
    fresh.settle().await;
    cold_open(&cloud, &url, &data).await;
}
