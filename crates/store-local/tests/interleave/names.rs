//! Publishers and a remover of one image, who know of each other by compare-and-swap alone: in memory, in a folder, or in
//! a bucket, where answers get lost.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    CheckpointId, ErrorKind, ImageName, IndexStore, Result, Store,
    clock::Timestamp,
    format::{
        catalog::Catalog, checkpoint::Checkpoint, descriptor::Descriptor, image_record::HistoryEntry,
        image_record::ImageRecord,
    },
    ops::{Depth, Job, NewBase, Publish, check, claim, publish, remove, store_checkpoint},
    store::{Version, Versioned},
    stores::MemoryStore,
    sync::spawn,
    testing::{FixedClock, Rng},
    types::{MapId, VolumeId},
};
use gabion_store_local::{fs::Fs, store::LocalStore};

use super::{bucket::Bucket, disk::memory, explore::explore, pieces::Pieces, requests::go_away_after};

const SIZE: u64 = 8192;

fn image() -> ImageName {
    "vm".parse().unwrap()
}

/// A checkpoint that no other has the number of.
fn checkpoint(number: u64) -> Checkpoint {
    Checkpoint::new(SIZE, None, Timestamp(number)).unwrap()
}

fn id(number: u64) -> CheckpointId {
    checkpoint(number).encode().unwrap().0
}

/// What is asked of the image. Checkpoints go by their numbers.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Append(u64),
    /// Only as the first.
    Create(u64),
    /// Only on top of another.
    After(u64, u64),
    /// Only as its owner, whoever claimed it with that epoch.
    Owned(u64, u64),
    Claim,
    Remove,
    Look,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum End {
    Done,
    Failed(ErrorKind),
    Epoch(u64),
    /// The numbers of its checkpoints, newest first.
    Found(Option<Vec<u64>>),
}

#[derive(Clone, Debug)]
struct Event {
    ask: Ask,
    began: u64,
    /// `None` if whoever asked went away.
    ended: Option<(u64, End)>,
}

/// The image, as it should be: history and epoch. An epoch that nobody was told of is none that anybody asks with.
type State = Option<(Vec<u64>, Option<u64>)>;

/// What should come of it when nobody else is there, if a claim draws this epoch.
fn apply(state: &mut State, ask: Ask, drawn: Option<u64>) -> End {
    let append = |state: &mut State, number, epoch: Option<u64>| {
        let (history, owner) = state.get_or_insert_with(|| (Vec::new(), epoch));
        if epoch.is_some() && epoch != *owner {
            return End::Failed(ErrorKind::Conflict);
        }
        if history.first() != Some(&number) {
            history.insert(0, number);
        }
        End::Done
    };
    match ask {
        Ask::Append(number) => append(state, number, None),
        Ask::Create(_) if state.is_some() => End::Failed(ErrorKind::AlreadyExists),
        Ask::Create(number) => append(state, number, None),
        Ask::After(below, number) => match state.as_ref().and_then(|(history, _)| history.first()) {
            Some(newest) if *newest == below || *newest == number => append(state, number, None),
            _ => End::Failed(ErrorKind::Conflict),
        },
        // Who does not find the image makes it anew.
        Ask::Owned(epoch, number) => append(state, number, Some(epoch)),
        Ask::Claim => match state {
            None => End::Failed(ErrorKind::NotFound),
            Some((_, epoch)) => {
                *epoch = drawn;
                drawn.map_or(End::Done, End::Epoch)
            }
        },
        Ask::Remove if state.is_none() => End::Failed(ErrorKind::NotFound),
        Ask::Remove => {
            *state = None;
            End::Done
        }
        Ask::Look => End::Found(state.as_ref().map(|(history, _)| history.clone())),
    }
}

/// Whether there is an order of the events that explains how each ended. After Wing and Gong.
fn is_explained(events: &[Event]) -> bool {
    let owed = events.iter().enumerate().filter(|(_, event)| event.ended.is_some());
    let owed = owed.fold(0_u32, |all, (n, _)| all | 1 << n);
    let (mut seen, mut open) = (HashSet::new(), vec![(0_u32, State::None)]);
    while let Some((done, state)) = open.pop() {
        if done & owed == owed {
            return true;
        }
        if !seen.insert((done, state.clone())) {
            continue;
        }
        let left = || events.iter().enumerate().filter(|(n, _)| done >> n & 1 == 0);
        let first_end = left().filter_map(|(_, event)| event.ended.as_ref().map(|(at, _)| *at)).min();
        for (n, event) in left().filter(|(_, event)| first_end.is_none_or(|end| event.began < end)) {
            let mut next = state.clone();
            let drawn = match event.ended {
                Some((_, End::Epoch(epoch))) => Some(epoch),
                _ => None,
            };
            let end = apply(&mut next, event.ask, drawn);
            if event.ended.as_ref().is_none_or(|(_, found)| *found == end) {
                open.push((done | 1 << n, next));
            }
        }
    }
    false
}

/// Held shared while a catalog is written, and alone while an image is written and the catalog is looked at: then
/// each checkpoint that gets its first name must be a root already. That orders what could else happen at once, so
/// it is not looked at in every run. Holds what has had a name.
type Roots = Option<Arc<tokio::sync::RwLock<HashSet<CheckpointId>>>>;

/// A handle that remembers what it last read or wrote, as one of a store far away does.
#[derive(Debug)]
struct Remembering {
    inner: Arc<dyn IndexStore>,
    roots: Roots,
    catalog: Mutex<Option<Versioned<Catalog>>>,
    image: Mutex<Option<Versioned<ImageRecord>>>,
}

#[async_trait]
impl IndexStore for Remembering {
    fn descriptor(&self) -> &Descriptor {
        self.inner.descriptor()
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let found = self.inner.read_image(name).await?;
        self.image.lock().unwrap().clone_from(&found);
        Ok(found)
    }

    async fn recall_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let known = self.image.lock().unwrap().clone();
        match known {
            Some(_) => Ok(known),
            None => self.read_image(name).await,
        }
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let version = match &self.roots {
            None => self.inner.write_image(record, expected).await?,
            Some(roots) => {
                let mut named = roots.write().await;
                let roots = self.inner.read_catalog().await?.value.pending;
                let version = self.inner.write_image(record, expected).await?;
                let newest = record.history[0].checkpoint;
                let is_root = roots.iter().any(|root| root.checkpoint == newest);
                assert!(named.contains(&newest) || is_root, "a name leads to a checkpoint that was no root");
                named.insert(newest);
                version
            }
        };
        *self.image.lock().unwrap() = Some(Versioned { value: record.clone(), version: version.clone() });
        Ok(version)
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        self.inner.remove_image(name, expected).await
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        self.inner.list_images().await
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        let found = self.inner.read_catalog().await?;
        *self.catalog.lock().unwrap() = Some(found.clone());
        Ok(found)
    }

    async fn recall_catalog(&self) -> Result<Versioned<Catalog>> {
        let known = self.catalog.lock().unwrap().clone();
        match known {
            Some(known) => Ok(known),
            None => self.read_catalog().await,
        }
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        let _stay = match &self.roots {
            Some(roots) => Some(roots.read().await),
            None => None,
        };
        let version = self.inner.write_catalog(catalog, expected).await?;
        *self.catalog.lock().unwrap() = Some(Versioned { value: catalog.clone(), version: version.clone() });
        Ok(version)
    }

    async fn settle(&self) -> Result<()> {
        self.inner.settle().await
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.inner.put_map(id, map).await
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        self.inner.get_map(id).await
    }
}

/// A store, and how a process opens it: in memory, in a folder, or in a bucket.
struct Place {
    files: Files,
    roots: Roots,
}

enum Files {
    Memory(Store),
    Folder(Arc<dyn Fs>),
    Bucket(Bucket),
}

impl Place {
    async fn new(rng: &mut Rng) -> Self {
        let clock = FixedClock::default();
        let files = match rng.below(3) {
            0 => Files::Memory(MemoryStore::new(&clock).unwrap().into()),
            1 => {
                let fs: Arc<dyn Fs> = Arc::new(Pieces(memory()));
                LocalStore::init(fs.clone(), Path::new("/store"), &clock).unwrap();
                Files::Folder(fs)
            }
            _ => Files::Bucket(Bucket::new(rng).await),
        };
        Self { files, roots: (rng.below(2) == 0).then(Arc::default) }
    }

    /// A process's own handle.
    async fn open(&self) -> Store {
        let Store { chunks, index: inner } = match &self.files {
            Files::Memory(store) => store.clone(),
            Files::Folder(fs) => LocalStore::open(fs.clone(), Path::new("/store")).unwrap().into_store(),
            Files::Bucket(bucket) => {
                let store = bucket.open(&mut Rng::new(0)).await.into_store();
                if self.roots.is_none() {
                    // It has a memory of its own.
                    return store;
                }
                store
            }
        };
        let roots = self.roots.clone();
        let index = Remembering { inner, roots, catalog: Mutex::default(), image: Mutex::default() };
        Store { chunks, index: Arc::new(index) }
    }
}

/// What processes share beside the store: the account of what they did.
#[derive(Clone, Default)]
struct Account {
    /// Answers may get lost: then what was asked may happen, be undone by others, and happen again.
    twice: bool,
    moment: Arc<AtomicU64>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Account {
    fn now(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::Relaxed)
    }

    async fn ask(&self, store: &Store, process: u8, ask: Ask) -> End {
        let event = {
            let began = self.now();
            let mut events = self.events.lock().unwrap();
            events.push(Event { ask, began, ended: None });
            if self.twice && !matches!(ask, Ask::Look) {
                events.push(Event { ask, began, ended: None });
            }
            events.len() - 1
        };
        let end = answer(store, process, ask).await;
        let ended = self.now();
        self.events.lock().unwrap()[event].ended = Some((ended, end.clone()));
        end
    }
}

async fn answer(store: &Store, process: u8, ask: Ask) -> End {
    let clock = FixedClock::default();
    let (image, owner) = (image(), VolumeId::from_bytes([process; 16]));
    let done = match ask {
        Ask::Append(number) | Ask::Create(number) | Ask::After(_, number) | Ask::Owned(_, number) => {
            let checkpoint = store_checkpoint(store, &checkpoint(number)).await.unwrap();
            let entry = HistoryEntry { checkpoint, size: SIZE, created: Timestamp(number) };
            let what = Publish {
                create: matches!(ask, Ask::Create(_)),
                after: if let Ask::After(below, _) = ask { Some(id(below)) } else { None },
                epoch: if let Ask::Owned(epoch, _) = ask { Some(epoch) } else { None },
                pin: Some(NewBase { volume: owner, base: None }),
                ..Publish::append(&image, entry)
            };
            publish(store, &clock, what).await.map(drop)
        }
        Ask::Claim => match claim(store, &image).await {
            Ok(epoch) => return End::Epoch(epoch),
            Err(e) => Err(e),
        },
        Ask::Remove => remove(store, &image).await,
        Ask::Look => {
            let found = store.index.read_image(&image).await.unwrap();
            return End::Found(
                found.map(|found| found.value.history.iter().map(|entry| entry.created.0).collect()),
            );
        }
    };
    done.map_or_else(|error| End::Failed(error.kind()), |()| End::Done)
}

/// A process with a handle of its own.
async fn process(place: Arc<Place>, account: Account, number: u8, asks: Vec<(Ask, Option<usize>)>) {
    let store = place.open().await;
    let mut claimed = None;
    for (ask, polls) in asks {
        // Who has claimed the image publishes as its owner.
        let ask = match (ask, claimed) {
            (Ask::Append(n), Some(epoch)) => Ask::Owned(epoch, n),
            _ => ask,
        };
        let asked = async {
            if let End::Epoch(epoch) = account.ask(&store, number, ask).await {
                claimed = Some(epoch);
            }
        };
        match polls {
            None => asked.await,
            Some(polls) => go_away_after(polls, asked).await,
        }
    }
}

async fn live(mut rng: Rng, go_away: bool) {
    let place = Arc::new(Place::new(&mut rng).await);
    let mut account = Account::default();
    if let Files::Bucket(bucket) = &place.files
        && rng.below(2) == 0
    {
        bucket.fail(1 + rng.below(3), false);
        bucket.land();
        account.twice = true;
    }
    let mut tasks = Vec::new();
    for number in 1..=3_u8 {
        let mut asks = Vec::new();
        for turn in 0..3 {
            // One of its own, or one that others publish, too.
            let new = if rng.below(3) == 0 { 5 } else { u64::from(number) * 10 + turn };
            let ask = match rng.below(10) {
                0..4 => Ask::Append(new),
                4 => Ask::Create(new),
                5 => Ask::After(u64::from(number) * 10 + turn.saturating_sub(1), new),
                6 => Ask::Claim,
                7..9 => Ask::Remove,
                _ => Ask::Look,
            };
            // A process that is killed, as a store sees it: it does nothing more.
            let polls = (go_away && turn == 2 && rng.below(2) == 0).then(|| 1 + rng.below(12));
            asks.push((ask, polls));
        }
        tasks.push(spawn(process(place.clone(), account.clone(), number, asks)));
    }
    for task in tasks {
        task.await.unwrap();
    }
    if let Files::Bucket(bucket) = &place.files {
        bucket.fail(0, false);
    }
    let store = place.open().await;
    account.ask(&store, 0, Ask::Look).await;
    let events = account.events.lock().unwrap().clone();
    let mut epochs = HashSet::new();
    for event in &events {
        if let Some((_, End::Epoch(epoch))) = event.ended {
            assert!(epochs.insert(epoch), "epoch {epoch} has two owners: {events:#?}");
        }
    }
    assert!(is_explained(&events), "no order explains how these ended: {events:#?}");
    let catalog = store.index.read_catalog().await.unwrap().value;
    if !go_away && !account.twice {
        assert!(catalog.pending.is_empty(), "a root that nobody waits for stays: {:?}", catalog.pending);
    }
    for process in 1..=3_u8 {
        let published = |event: &&Event| match event {
            Event {
                ask: Ask::Append(n) | Ask::Create(n) | Ask::After(_, n) | Ask::Owned(_, n),
                ended,
                ..
            } => n / 10 == u64::from(process) && matches!(ended, Some((_, End::Done))),
            _ => false,
        };
        let last = events.iter().filter(published).max_by_key(|event| event.began);
        if let Some(Event {
            ask: Ask::Append(n) | Ask::Create(n) | Ask::After(_, n) | Ask::Owned(_, n),
            ..
        }) = last
        {
            // A later attempt that failed has pinned its own, and what the volume stands on is told with it.
            let failed_later =
                events.iter().any(|event| event.began > last.unwrap().began && !published(&event));
            let pinned = catalog
                .pins
                .iter()
                .any(|pin| pin.owner == VolumeId::from_bytes([process; 16]) && pin.checkpoint == id(*n));
            assert!(pinned || failed_later, "the pin of {n} is lost");
        }
    }
    let report = check(&store, Depth::Hashes, &Job::default()).await.unwrap();
    assert!(report.damage.is_empty(), "{:?}", report.damage);
}

/// Appends, creations, claims and removals of several processes each end as in some order of them, and no name leads
/// to a checkpoint that is not a root, nor loses its volume's pin.
#[test]
fn publishes_and_removals_of_one_image_have_an_order() {
    explore("publishes_and_removals_of_one_image_have_an_order", |rng| Box::pin(live(rng, false)));
}

/// The same with processes that stop in the midst of a publish.
#[test]
fn a_publish_that_is_dropped_happened_or_did_not() {
    explore("a_publish_that_is_dropped_happened_or_did_not", |rng| Box::pin(live(rng, true)));
}
