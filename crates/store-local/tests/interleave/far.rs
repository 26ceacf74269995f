//! Tasks that share handles of a store in a bucket: what was put, asked about, read, synced and published at once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, CheckpointId, ChunkId, ChunkKind, ChunkStore as _, ErrorKind,
    IndexStore as _, Result, Store,
    chunking::{DiskSource, Next},
    format::codec::Encoded,
    index::NodeCache,
    ops::{
        ImageRef, ImportOptions, Job, Revision, Side, TransferOptions, import, open_checkpoint, pin, transfer,
    },
    store::Synced,
    stores::MemoryStore,
    sync::spawn,
    testing::{FixedClock, Rng},
    types::{VolumeId, WriteId, id_of},
    volume::{Base, IndexBase, Volume},
};
use gabion_store_s3::RemoteStore;

use super::{bucket::Bucket, explore::explore, requests::go_away_after};

/// Entries that tasks put: data first, then nodes.
const ENTRIES: u8 = 6;
const DATA: u8 = 4;
/// Entries that are there before, each in a locator of its own: with one more there are enough to be merged.
const OLD: u8 = 16;
/// One that is never put.
const NOWHERE: Key = 100;
const TASKS: usize = 3;
const ASKS: usize = 4;

type Key = u8;

fn kind(key: Key) -> ChunkKind {
    if (DATA..ENTRIES).contains(&key) { ChunkKind::Node } else { ChunkKind::Data }
}

fn entry(key: Key) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(vec![key; 300 + 50 * usize::from(key)]);
    (id_of(kind(key), &bytes), bytes)
}

fn ids(keys: &[Key]) -> Vec<ChunkId> {
    keys.iter().map(|key| entry(*key).0).collect()
}

/// What is asked of a store.
#[derive(Clone, Debug)]
enum Ask {
    Put { keys: Vec<Key>, encoded: bool },
    Contains(Vec<Key>),
    Holds(Vec<Key>),
    Get(Vec<Key>),
    Locate(Vec<Key>),
    Sync,
    Publish,
    Look,
}

/// Keys of one kind.
fn keys(rng: &mut Rng) -> Vec<Key> {
    let of = if rng.below(3) == 0 { DATA..ENTRIES } else { 0..DATA };
    let (first, len) = (rng.below(of.len()) as u8, 1 + rng.below(3) as u8);
    (of.start + first..(of.start + first + len).min(of.end)).collect()
}

fn ask(rng: &mut Rng) -> Ask {
    match rng.below(16) {
        0..5 => Ask::Put { keys: keys(rng), encoded: rng.below(2) == 0 },
        5 | 6 => Ask::Contains(keys(rng)),
        7 | 8 => Ask::Holds(keys(rng)),
        9 | 10 => Ask::Get(keys(rng)),
        11 => Ask::Locate(keys(rng)),
        12 | 13 => Ask::Sync,
        14 => Ask::Publish,
        _ => Ask::Look,
    }
}

/// What happened when.
#[derive(Default)]
struct Account {
    moment: AtomicU64,
    /// What a publish promised to everyone.
    published: Mutex<Vec<(u64, Key)>>,
}

impl Account {
    fn now(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::Relaxed)
    }
}

fn before(list: &Mutex<Vec<(u64, Key)>>, moment: u64) -> Vec<Key> {
    let mut keys: Vec<Key> =
        list.lock().unwrap().iter().filter(|(at, _)| *at < moment).map(|(_, key)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// A handle that tasks share.
struct Host {
    number: u8,
    store: RemoteStore,
    bucket: Arc<Bucket>,
    account: Arc<Account>,
    /// What was put, or said to be there, through this handle, and when that was answered.
    sure: Mutex<Vec<(u64, Key)>>,
    /// Requests may fail.
    fails: bool,
}

impl Host {
    fn assure(&self, keys: &[Key]) {
        let now = self.account.now();
        self.sure.lock().unwrap().extend(keys.iter().map(|key| (now, *key)));
    }

    /// An error, for which there must be a reason.
    fn failed(&self, what: &Ask, error: &gabion_store_core::Error) {
        let excused = self.fails
            && matches!(
                error.kind(),
                ErrorKind::Unavailable | ErrorKind::PermissionDenied | ErrorKind::Corrupt
            );
        assert!(excused, "{what:?} failed: {}", error.report());
    }

    async fn ask(&self, ask: &Ask) {
        let began = self.account.now();
        match ask {
            Ask::Put { keys, encoded } => {
                let entries = keys.iter().map(|key| entry(*key));
                let done = match encoded {
                    false => self.store.put(kind(keys[0]), entries.collect()).await,
                    true => {
                        let entries = entries.map(|(id, bytes)| (id, Encoded::raw(bytes))).collect();
                        self.store.put_encoded(kind(keys[0]), entries).await
                    }
                };
                match done {
                    Ok(()) => self.assure(keys),
                    Err(e) => self.failed(ask, &e),
                }
            }
            Ask::Contains(keys) => match self.store.contains(kind(keys[0]), &ids(keys)).await {
                Ok(found) => self.found(keys, &found).await,
                Err(e) => self.failed(ask, &e),
            },
            Ask::Holds(keys) => {
                // "No" is true, too.
                let (mut must, published) = (before(&self.sure, began), &self.account.published);
                must.extend(before(published, began));
                let mut found = vec![false; keys.len()];
                let held = self.store.holds(kind(keys[0]), &ids(keys)).await;
                for ((key, held), found) in keys.iter().zip(held).zip(&mut found) {
                    match held {
                        Ok(held) => *found = held,
                        Err(e) => self.failed(ask, &e),
                    }
                    assert!(*found || self.fails || !must.contains(key), "{key} is there");
                }
                self.found(keys, &found).await;
            }
            Ask::Get(keys) => self.get(keys, began).await,
            Ask::Locate(keys) => {
                if let Err(e) = self.store.locate(kind(keys[0]), &ids(keys)).await {
                    self.failed(ask, &e);
                }
            }
            Ask::Sync => match self.store.sync().await {
                Ok(synced) => {
                    self.assert_findable(Some(synced), &before(&self.sure, began)).await;
                }
                Err(e) => self.failed(ask, &e),
            },
            Ask::Publish => {
                let store = self.store.clone().into_store();
                let owner = VolumeId::from_bytes([self.number; 16]);
                let root = CheckpointId::from_bytes([began as u8; 32]);
                match pin(&store, &FixedClock::default(), owner, root).await {
                    Ok(()) => {
                        let keys = before(&self.sure, began);
                        self.assert_findable(None, &keys).await;
                        let now = self.account.now();
                        let mut published = self.account.published.lock().unwrap();
                        published.extend(keys.into_iter().map(|key| (now, key)));
                    }
                    Err(e) => self.failed(ask, &e),
                }
            }
            Ask::Look => {
                if let Err(e) = self.store.read_catalog().await {
                    self.failed(ask, &e);
                }
            }
        }
    }

    /// These were said to be there: then they can be read.
    async fn found(&self, keys: &[Key], found: &[bool]) {
        let there: Vec<Key> =
            keys.iter().zip(found).filter(|(_, found)| **found).map(|(key, _)| *key).collect();
        if !there.is_empty() {
            self.assure(&there);
            self.get(&there, self.account.now()).await;
        }
    }

    async fn get(&self, keys: &[Key], began: u64) {
        let mut must = before(&self.sure, began);
        must.extend(before(&self.account.published, began));
        let got = self.store.get(kind(keys[0]), &ids(keys)).await;
        for (key, got) in keys.iter().zip(got) {
            match got {
                Ok(bytes) => assert_eq!(bytes, entry(*key).1),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    assert!(!must.contains(key), "{key} is there, and not found");
                }
                Err(e) => self.failed(&Ask::Get(vec![*key]), &e),
            }
        }
    }

    /// Asserts that who has nothing but the bucket finds these entries, once what was synced is named, and all that was
    /// published before.
    async fn assert_findable(&self, synced: Option<Synced>, keys: &[Key]) {
        let copy = self.bucket.copy();
        let mut keys = keys.to_vec();
        keys.extend(before(&self.account.published, u64::MAX));
        if let Some(synced) = synced {
            let store = copy.open().await;
            let mut catalog = store.read_catalog().await.unwrap();
            catalog.value.add_locators(&synced.locators);
            catalog.value.write_id = WriteId::random().unwrap();
            store.write_catalog(&catalog.value, &catalog.version).await.unwrap();
        }
        let reader = copy.open().await;
        // Each locator that the catalog names can be asked.
        let absent = reader.get(ChunkKind::Data, &ids(&[NOWHERE])).await.remove(0);
        assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
        for of in [ChunkKind::Data, ChunkKind::Node] {
            let keys: Vec<Key> = keys.iter().copied().filter(|key| kind(*key) == of).collect();
            for (key, got) in keys.iter().zip(reader.get(of, &ids(&keys)).await) {
                let got = got.unwrap_or_else(|e| panic!("{key} was promised: {}", e.report()));
                assert_eq!(got, entry(*key).1);
            }
        }
    }
}

/// A store with old entries, if there are to be any.
async fn fill(bucket: &Bucket, rng: &mut Rng) -> Vec<Key> {
    let old: Vec<Key> = (ENTRIES..ENTRIES + OLD).collect();
    let store = bucket.open(rng).await;
    for key in &old {
        store.put(kind(*key), vec![entry(*key)]).await.unwrap();
        let synced = store.sync().await.unwrap();
        let mut catalog = store.recall_catalog().await.unwrap();
        catalog.value.add_locators(&synced.locators);
        catalog.value.write_id = WriteId::random().unwrap();
        store.write_catalog(&catalog.value, &catalog.version).await.unwrap();
    }
    old
}

async fn live(mut rng: Rng, fails: bool, go_away: bool) {
    let bucket = Arc::new(Bucket::new(&mut rng).await);
    let account = Arc::new(Account::default());
    if rng.below(5) == 0 {
        let old = fill(&bucket, &mut rng).await;
        let now = account.now();
        account.published.lock().unwrap().extend(old.into_iter().map(|key| (now, key)));
    }
    let mut hosts = Vec::new();
    for number in 0..1 + rng.below(2) as u8 {
        let store = bucket.open(&mut rng).await;
        let (bucket, account) = (bucket.clone(), account.clone());
        hosts.push(Arc::new(Host { number, store, bucket, account, sure: Mutex::default(), fails }));
    }
    if fails {
        bucket.fail(1 + rng.below(4), rng.below(2) == 0);
        bucket.land();
    }
    let mut tasks = Vec::new();
    for n in 0..TASKS {
        let host = hosts[n % hosts.len()].clone();
        let polls = |rng: &mut Rng| (go_away && rng.below(3) == 0).then(|| 1 + rng.below(12));
        let asks: Vec<_> = (0..ASKS).map(|_| (ask(&mut rng), polls(&mut rng))).collect();
        tasks.push(spawn(async move {
            for (ask, polls) in asks {
                match polls {
                    None => host.ask(&ask).await,
                    Some(polls) => go_away_after(polls, host.ask(&ask)).await,
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    // Whatever failed before, it is all there in the end.
    bucket.fail(0, false);
    for host in &hosts {
        host.ask(&Ask::Publish).await;
        host.store.settle().await;
    }
    let all = before(&account.published, u64::MAX);
    hosts[0].assert_findable(None, &[]).await;
    for host in &hosts {
        for key in before(&host.sure, u64::MAX) {
            assert!(all.contains(&key), "{key} was promised by the last publish");
        }
    }
}

/// What was put, or said to be there, by any task before a sync began is found by a new reader once that is named; what
/// is said to be there can be read; an entry is found at every moment from its put on; and one that was published
/// by anyone is held.
#[test]
fn a_sync_covers_what_was_put_and_what_was_said_to_be_there() {
    explore("a_sync_covers_what_was_put_and_what_was_said_to_be_there", |rng| {
        Box::pin(live(rng, false, false))
    });
}

/// The same while requests fail before or after their effect, come late, or are refused: what failed is kept, and the
/// next sync promises it.
#[test]
fn requests_that_fail_lose_nothing() {
    explore("requests_that_fail_lose_nothing", |rng| Box::pin(live(rng, true, false)));
}

/// Callers that are gone after any poll take nothing with them.
#[test]
fn callers_of_a_bucket_that_go_away_take_nothing_with_them() {
    explore("callers_of_a_bucket_that_go_away_take_nothing_with_them", |mut rng| {
        let fails = rng.below(2) == 0;
        Box::pin(live(rng, fails, true))
    });
}

/// A disk in memory.
struct Disk(Vec<u8>, usize);

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let len = (self.0.len() - self.1).min(buf.len());
        if len == 0 {
            return Ok(Next::End);
        }
        buf[..len].copy_from_slice(&self.0[self.1..][..len]);
        self.1 += len;
        Ok(Next::Data(len))
    }
}

fn disk(tag: u8) -> Vec<u8> {
    // What all have in common, and what none other has.
    [vec![1; 2 * BLOCK_SIZE], vec![tag; BLOCK_SIZE]].concat()
}

/// A process that pushes a disk of its own store, and perhaps stops in the midst of it; what it pushed, if that was
/// reported.
async fn push(to: Store, tag: u8, image: &'static str, polls: Option<usize>) -> Option<CheckpointId> {
    let (clock, job) = (FixedClock::default(), Job::default());
    let from: Store = MemoryStore::new(&clock).unwrap().into();
    let name = image.parse().unwrap();
    let made =
        import(&from, &clock, &name, Disk(disk(tag), 0), ImportOptions::default(), &job).await.unwrap();
    let what = ImageRef { name: name.clone(), revision: Revision::Back(0) };
    let (from, to) = (Side { store: &from, place: "here" }, Side { store: &to, place: "there" });
    // Named again and again while it goes on.
    let options = TransferOptions { named_every: 1, force: true, ..TransferOptions::default() };
    let mut pushed = None;
    let push = async {
        pushed = Some(transfer(from, to, &what, &name, &clock, options, &job).await);
    };
    match polls {
        None => push.await,
        Some(polls) => go_away_after(polls, push).await,
    }
    let pushed = pushed?.unwrap_or_else(|e| panic!("a push of {tag} to '{image}': {}", e.report()));
    assert_eq!(pushed.checkpoint, made.checkpoint);
    Some(made.checkpoint)
}

async fn content(store: &Store, id: CheckpointId) -> Vec<u8> {
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    let (checkpoint, index) = open_checkpoint(&nodes, id).await.unwrap();
    let volume = Volume::read_only("a checkpoint", Base::Index(IndexBase::new(index)), checkpoint.size);
    let mut all = vec![0xEE; checkpoint.size as usize];
    volume.read(0, &mut all).await.unwrap();
    all
}

/// Pushes of the same disk and of others, by handles that are shared or not, to one image or several, while requests
/// fail and processes stop: what is reported is under its name, and whole; and so is whatever has a name.
#[test]
fn pushes_at_once_are_whole_under_their_names() {
    explore("pushes_at_once_are_whole_under_their_names", |mut rng| {
        Box::pin(async move {
            let bucket = Bucket::new(&mut rng).await;
            let shared = bucket.open(&mut rng).await;
            let mut tasks = Vec::new();
            for _ in 0..3 {
                let handle = if rng.below(2) == 0 { shared.clone() } else { bucket.open(&mut rng).await };
                let (tag, image) = (2 + rng.below(2) as u8, ["one", "two"][rng.below(2)]);
                let polls = (rng.below(3) == 0).then(|| 1 + rng.below(30));
                let push = push(handle.into_store(), tag, image, polls);
                tasks.push(spawn(async move { (tag, image, push.await) }));
            }
            if rng.below(2) == 0 {
                bucket.fail(1 + rng.below(3), false);
                bucket.land();
            }
            let mut reported = Vec::new();
            for task in tasks {
                reported.push(task.await.unwrap());
            }
            let there = bucket.copy().open().await.into_store();
            for (tag, image, pushed) in reported {
                let Some(id) = pushed else { continue };
                let found = there.index.read_image(&image.parse().unwrap()).await.unwrap().unwrap();
                assert!(found.value.history.iter().any(|entry| entry.checkpoint == id), "{tag} in '{image}'");
                assert_eq!(content(&there, id).await, disk(tag));
            }
            for image in ["one", "two"] {
                let found = there.index.read_image(&image.parse().unwrap()).await.unwrap();
                for entry in found.iter().flat_map(|found| &found.value.history) {
                    let held = content(&there, entry.checkpoint).await;
                    assert!(held == disk(2) || held == disk(3));
                }
            }
        })
    });
}
