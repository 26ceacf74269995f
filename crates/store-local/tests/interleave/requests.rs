//! Requests of several clients to the same blocks, beside flushes, checkpoints and callers that go away.

use std::{
    ops::Range,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, CheckpointId,
    device::ZeroMode,
    ops::Job,
    sync::spawn,
    testing::Rng,
    volume::{Home, Volume},
};
use gabion_store_local::fs::{CrashFs, FaultFs, Fs, FsFault, FsOp, On};

use super::{
    disk::{SIZE, content, home, make, memory, open, options, whole},
    explore::explore,
    history::{History, UNIT},
    pieces::Pieces,
};

const CLIENTS: usize = 3;
const REQUESTS: usize = 3;
/// Images of the disk looked at for each flush.
const IMAGES: usize = 4;

/// What a client asks for.
#[derive(Clone, Debug)]
enum Request {
    Write {
        bytes: Range<usize>,
        tag: u8,
        at_once: bool,
    },
    Trim(Range<usize>),
    Zero {
        bytes: Range<usize>,
        no_hole: bool,
    },
    Read {
        bytes: Range<usize>,
        at_once: bool,
    },
    Flush,
    Checkpoint,
    /// Looks at what the power failing would leave now, whatever is under way.
    PowerFailure,
}

/// A request, and after how many polls its caller goes away, if he does.
type Asked = (Request, Option<usize>);

/// What goes on beside the writes and reads.
#[derive(Clone, Copy, Default)]
struct Mix {
    flush: bool,
    checkpoint: bool,
    go_away: bool,
}

/// Units of one block, of both, or a whole block.
fn range(rng: &mut Rng) -> Range<usize> {
    let units = SIZE / UNIT;
    let (start, end) = match rng.below(4) {
        0 => {
            let block = rng.below(SIZE / BLOCK_SIZE) * (BLOCK_SIZE / UNIT);
            (block, block + BLOCK_SIZE / UNIT)
        }
        _ => {
            let start = rng.below(units);
            (start, (start + 1 + rng.below(units / 2)).min(units))
        }
    };
    start * UNIT..end * UNIT
}

/// Lists of requests, one for each client.
fn workload(rng: &mut Rng, mix: Mix) -> Vec<Vec<Asked>> {
    let mut tag = 0;
    let mut request = |rng: &mut Rng| match rng.below(10) {
        0..5 => {
            tag += 1;
            Request::Write { bytes: range(rng), tag, at_once: rng.below(2) == 0 }
        }
        5 => Request::Trim(range(rng)),
        6 => Request::Zero { bytes: range(rng), no_hole: rng.below(2) == 0 },
        7 if mix.flush => Request::Flush,
        _ => Request::Read { bytes: range(rng), at_once: rng.below(2) == 0 },
    };
    let polls = |rng: &mut Rng| (mix.go_away && rng.below(3) == 0).then(|| 1 + rng.below(6));
    let mut lists: Vec<Vec<_>> = Vec::new();
    for _ in 0..CLIENTS {
        lists.push((0..REQUESTS).map(|_| (request(rng), polls(rng))).collect());
    }
    if mix.flush {
        lists.push((0..2).map(|_| (Request::Flush, polls(rng))).collect());
        lists.push((0..2).map(|_| (Request::PowerFailure, None)).collect());
    }
    if mix.checkpoint {
        lists.push((0..2).map(|_| (Request::Checkpoint, polls(rng))).collect());
    }
    lists
}

/// A client's view of what is tested.
#[derive(Clone)]
struct Client {
    volume: Volume,
    home: Arc<Home>,
    history: History,
    /// What the volume lies on, if power failures are looked at.
    power: Option<CrashFs>,
    /// When the last flush began of those that were answered.
    flushed: Arc<AtomicU64>,
    seed: u64,
}

impl Client {
    async fn run(self, requests: Vec<Asked>) {
        for (request, polls) in requests {
            match polls {
                None => self.request(request).await,
                Some(polls) => go_away_after(polls, self.request(request)).await,
            }
        }
    }

    async fn request(&self, request: Request) {
        match request {
            Request::Write { bytes, tag, at_once } => {
                let began = self.history.begin(&[(bytes.clone(), tag)]);
                let data = vec![tag; bytes.len()];
                match at_once.then(|| self.volume.try_write(bytes.start as u64, &data)).flatten() {
                    Some(written) => written.unwrap(),
                    None => self.volume.write(bytes.start as u64, Bytes::from(data)).await.unwrap(),
                }
                self.history.end(began);
            }
            Request::Trim(bytes) => {
                let [_, whole, _] = edges(&bytes);
                let began = self.history.begin(&[(whole, 0)]);
                self.volume.trim(bytes.start as u64, bytes.len() as u64).await.unwrap();
                self.history.end(began);
            }
            Request::Zero { bytes, no_hole } => {
                // Edges and middle each take effect by themselves.
                let began = self.history.begin(&edges(&bytes).map(|part| (part, 0)));
                let mode = ZeroMode { no_hole, fast: false };
                self.volume.write_zeroes(bytes.start as u64, bytes.len() as u64, mode).await.unwrap();
                self.history.end(began);
            }
            Request::Read { bytes, at_once } => {
                let began = self.history.now();
                let mut found = vec![0xEE; bytes.len()];
                match at_once.then(|| self.volume.try_read(bytes.start as u64, &mut found)).flatten() {
                    Some(read) => read.unwrap(),
                    None => self.volume.read(bytes.start as u64, &mut found).await.unwrap(),
                }
                self.history.read(began, bytes.start, &found);
            }
            Request::Flush => {
                let began = self.history.now();
                self.volume.flush().await.unwrap();
                self.flushed.fetch_max(began, Ordering::Relaxed);
                self.assert_durable().await;
            }
            Request::PowerFailure => self.assert_durable().await,
            Request::Checkpoint => drop(self.checkpoint().await),
        }
    }

    /// If the power fails now, every write is there that was answered before the last flush began that was answered,
    /// and so is the disk: each unit is what it was at some moment since.
    async fn assert_durable(&self) {
        let Some(power) = &self.power else { return };
        let began = self.flushed.load(Ordering::Relaxed);
        let point = power.crash();
        let ended = self.history.now();
        for image in point.images(self.seed, IMAGES) {
            let what = image.to_string();
            let volume = open(&image.into_fs(), &self.home).await;
            self.history.assert_was(began, ended, &whole(&volume).await, &what);
        }
    }

    /// A checkpoint is the disk at one moment in which it was frozen.
    async fn checkpoint(&self) -> CheckpointId {
        let (options, job) = (options(), Job::default());
        let began = self.history.now();
        let frozen = self.volume.freeze(&self.home, &options, &job).await.unwrap();
        let ended = self.history.now();
        let made = frozen.publish(&self.home, &options, &job).await.unwrap();
        self.history.assert_cut(began, ended, &content(&self.home, made.checkpoint).await);
        made.checkpoint
    }
}

/// A range's part of a block, its whole blocks, and another part of a block.
fn edges(bytes: &Range<usize>) -> [Range<usize>; 3] {
    let start = bytes.start.next_multiple_of(BLOCK_SIZE).min(bytes.end);
    let end = (bytes.end / BLOCK_SIZE * BLOCK_SIZE).max(start);
    [bytes.start..start, start..end, end..bytes.end]
}

/// Polls a future so many times, and drops it if that was not enough.
pub(crate) async fn go_away_after(polls: usize, future: impl Future<Output = ()>) {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        future.as_mut().poll(cx)
    })
    .await;
}

/// Clients at work, until all are done and nothing is left to explain.
async fn live(mut rng: Rng, mix: Mix, power_fails: bool) {
    let mut power = None;
    let mut fs = memory();
    if power_fails {
        let crash = CrashFs::new(fs, Path::new("/"), rng.next()).unwrap();
        fs = Arc::new(crash.clone());
        power = Some(crash);
    }
    let fs: Arc<dyn Fs> = Arc::new(Pieces(fs));
    make(&fs);
    let home = Arc::new(home());
    let history = History::default();
    let volume = open(&fs, &home).await;
    let client = Client { volume, home, history, power, flushed: Arc::default(), seed: rng.next() };
    // A disk that is written all over, so that what is filled up comes from the layer or, later, from the base.
    if rng.below(3) > 0 {
        client.request(Request::Write { bytes: 0..SIZE, tag: 100, at_once: true }).await;
        if rng.below(2) == 0 {
            client.checkpoint().await;
        }
    }
    let tasks: Vec<_> =
        workload(&mut rng, mix).into_iter().map(|list| spawn(client.clone().run(list))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    client.request(Request::Read { bytes: 0..SIZE, at_once: false }).await;
    client.request(Request::Flush).await;
    if mix.checkpoint {
        client.checkpoint().await;
    }
    client.request(Request::Read { bytes: 0..SIZE, at_once: false }).await;
    client.history.assert_explained();
}

/// Parts of blocks, whole blocks, trims, zeros and reads of several clients have an order that explains all answers,
/// also while flushes and checkpoints change what lies below; each checkpoint is one moment. Rows 41 and 44.
#[test]
fn requests_have_an_order_and_checkpoints_are_cuts_of_it() {
    let mix = Mix { checkpoint: true, ..Mix::default() };
    explore("requests_have_an_order_and_checkpoints_are_cuts_of_it", move |rng| {
        Box::pin(live(rng, mix, false))
    });
}

/// Flushes that share one another's work cover what was answered before each of them.
#[test]
fn a_flush_covers_what_was_answered_before_it() {
    let mix = Mix { flush: true, ..Mix::default() };
    explore("a_flush_covers_what_was_answered_before_it", move |rng| Box::pin(live(rng, mix, true)));
}

/// The same while checkpoints put layers on top and take them away.
#[test]
fn a_flush_covers_all_layers_whatever_becomes_of_them() {
    let mix = Mix { flush: true, checkpoint: true, ..Mix::default() };
    explore("a_flush_covers_all_layers_whatever_becomes_of_them", move |rng| Box::pin(live(rng, mix, true)));
}

/// A disk fails a sync that a growth asked for, and tells nobody else, as the kernel does. The bytes that a flush is
/// about may be lost with it, so no flush beside it succeeds. Row 7.
#[test]
fn a_growth_hides_no_failed_sync_from_a_flush() {
    explore("a_growth_hides_no_failed_sync_from_a_flush", move |mut rng| {
        Box::pin(async move {
            let disk = FaultFs::new(memory());
            let crash = CrashFs::new(Arc::new(disk.clone()), Path::new("/"), rng.next()).unwrap();
            let fs: Arc<dyn Fs> = Arc::new(crash);
            make(&fs);
            let volume = open(&fs, &home()).await;
            volume.write(0, Bytes::from(vec![7; BLOCK_SIZE])).await.unwrap();
            disk.fail(On::op(FsOp::Sync).path(".data"), FsFault::EIO);
            let growing = volume.clone();
            let growth = spawn(async move { growing.grow(2 * SIZE as u64).await });
            let flushed = volume.flush().await;
            let _grown_or_not = growth.await.unwrap();
            assert!(flushed.is_err(), "what it says is durable may be lost");
        })
    });
}

/// Callers that are gone after any poll leave a request undone, done, or done later; never half, and nobody stuck.
#[test]
fn callers_that_go_away_disturb_nobody() {
    let mix = Mix { flush: true, checkpoint: true, go_away: true };
    explore("callers_that_go_away_disturb_nobody", move |rng| Box::pin(live(rng, mix, true)));
}
