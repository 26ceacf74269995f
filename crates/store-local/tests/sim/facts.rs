//! What is known of a history: the disk, the images, what was asked for, and what happened last.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    hash::{DefaultHasher, Hasher as _},
    sync::Arc,
};

use gabion_store_core::{CheckpointId, Error};
use parking_lot::Mutex;

use super::model::{Cut, Disk, Time};

/// Lines that a failure shows, unless `GABION_SIM_LINES` says how many.
const LINES: usize = 60;
/// Checkpoints asked for of which it is not known what became of them.
const ASKED: usize = 64;

/// What is known, shared by all who take part.
pub(crate) type Facts = Arc<Known>;

pub(crate) struct Known {
    pub(crate) model: Mutex<Model>,
    pub(crate) trace: Mutex<Trace>,
    pub(crate) counts: Mutex<Counts>,
    /// What checkpoints hold that were looked at, and what those of other hosts are to hold. No crash changes that.
    pub(crate) contents: Mutex<BTreeMap<CheckpointId, Arc<Vec<u8>>>>,
    pub(crate) foreign: Mutex<Vec<Arc<Vec<u8>>>>,
}

/// What holds at one moment; a crash goes back to it.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) disk: Disk,
    pub(crate) images: BTreeMap<String, Image>,
    /// Checkpoints under way.
    cutting: Vec<Time>,
    asked: VecDeque<Arc<Cut>>,
    /// Another writer took the image over, and published this; whoever has one of these epochs was displaced.
    pub(crate) displaced: Option<(CheckpointId, BTreeSet<u64>)>,
}

/// An image, as far as it was reported.
#[derive(Clone, Default)]
pub(crate) struct Image {
    /// Checkpoints that it has.
    pub(crate) must: Vec<CheckpointId>,
    /// How often it was removed, or begun to be.
    pub(crate) removals: usize,
}

/// How many there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) seeds: u64,
    pub(crate) requests: u64,
    pub(crate) flushes: u64,
    pub(crate) dropped: u64,
    pub(crate) kills: u64,
    pub(crate) power_failures: u64,
    pub(crate) images: u64,
    pub(crate) faults: u64,
    pub(crate) refused: u64,
    pub(crate) checkpoints: u64,
    pub(crate) staged: u64,
    pub(crate) compared: u64,
    pub(crate) displaced: u64,
    pub(crate) in_bucket: u64,
    pub(crate) failed_in_bucket: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { seeds, requests, flushes, dropped, kills, power_failures, images, .. } = other;
        let Self { faults, refused, checkpoints, staged, compared, displaced, .. } = other;
        let Self { in_bucket, failed_in_bucket, .. } = other;
        self.seeds += seeds;
        self.requests += requests;
        self.flushes += flushes;
        self.dropped += dropped;
        self.kills += kills;
        self.power_failures += power_failures;
        self.images += images;
        self.faults += faults;
        self.refused += refused;
        self.checkpoints += checkpoints;
        self.staged += staged;
        self.compared += compared;
        self.displaced += displaced;
        self.in_bucket += in_bucket;
        self.failed_in_bucket += failed_in_bucket;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, requests, flushes, dropped, kills, power_failures, images, .. } = self;
        let Self { faults, refused, checkpoints, staged, compared, displaced, .. } = self;
        let Self { in_bucket, failed_in_bucket, .. } = self;
        write!(
            f,
            "{seeds} histories: {requests} requests ({flushes} flushes answered, {dropped} futures dropped, {refused} \
             refused), {faults} faults, {kills} kills, {power_failures} power failures of which {images} images were \
             opened, {checkpoints} checkpoints ({staged} staged beside), {compared} compared, {displaced} takeovers; \
             {in_bucket} requests in buckets, {failed_in_bucket} of which failed"
        )
    }
}

/// The last lines, and a hash of all.
pub(crate) struct Trace {
    lines: VecDeque<String>,
    keep: usize,
    hash: DefaultHasher,
    count: u64,
}

/// Why something did not come about.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It was refused.
    Refused(Error),
    /// What was promised is not so.
    Wrong(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

pub(crate) fn wrong<T>(what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Wrong(what.into()))
}

impl Known {
    pub(crate) fn new(size: usize) -> Facts {
        let model = Model {
            disk: Disk::new(size),
            images: BTreeMap::new(),
            cutting: Vec::new(),
            asked: VecDeque::new(),
            displaced: None,
        };
        let counts = Mutex::new(Counts { seeds: 1, ..Counts::default() });
        Arc::new(Self {
            model: Mutex::new(model),
            trace: Mutex::default(),
            counts,
            contents: Mutex::default(),
            foreign: Mutex::default(),
        })
    }

    /// Whether a checkpoint that nobody reported is one that somebody made: of the volume, frozen after `since`, or of
    /// another host.
    pub(crate) fn is_asked(&self, content: &[u8], since: Time) -> Result<(), String> {
        if self.foreign.lock().iter().any(|foreign| **foreign == content) {
            return Ok(());
        }
        self.model.lock().is_asked(content, since)
    }

    /// Notes what happens.
    pub(crate) fn note(&self, line: impl Into<String>) {
        let trace = &mut *self.trace.lock();
        let line = line.into();
        trace.count += 1;
        trace.hash.write(line.as_bytes());
        trace.lines.push_back(format!("{:6} {line}", trace.count));
        if trace.lines.len() > trace.keep {
            trace.lines.pop_front();
        }
    }

    pub(crate) fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.counts.lock());
    }
}

impl Default for Trace {
    fn default() -> Self {
        let keep = std::env::var("GABION_SIM_LINES").map_or(LINES, |lines| lines.parse().unwrap());
        Self { lines: VecDeque::new(), keep, hash: DefaultHasher::new(), count: 0 }
    }
}

impl Trace {
    /// Stands for everything that was noted.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn last(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Model {
    /// A checkpoint is asked for.
    pub(crate) fn begin_cut(&mut self) -> Time {
        let from = self.disk.look();
        self.cutting.push(from);
        from
    }

    /// It is frozen, or came to nothing.
    pub(crate) fn end_cut(&mut self, from: Time) -> Arc<Cut> {
        let cut = Arc::new(self.disk.cut(from));
        self.disk.seen(from);
        self.cutting.retain(|cutting| *cutting != from);
        self.asked.push_back(cut.clone());
        while self.asked.len() > ASKED {
            self.asked.pop_front();
        }
        cut
    }

    /// Nobody is there any more: requests and checkpoints under way are left as they are.
    pub(crate) fn died(&mut self) {
        for from in std::mem::take(&mut self.cutting) {
            self.end_cut(from);
        }
        for cut in &mut self.asked {
            // Layers that were frozen are found again without what was not flushed.
            Arc::make_mut(cut).torn = true;
        }
        self.disk.abandon();
    }

    /// The machine goes back to what it was then; what was asked for may have come about all the same.
    pub(crate) fn back_to(&mut self, mut then: Self, far: bool) {
        self.died();
        then.died();
        then.asked.extend(std::mem::take(&mut self.asked));
        if far {
            // No crash of the machine changes what is elsewhere.
            then.images = std::mem::take(&mut self.images);
            then.displaced = self.displaced.take();
        }
        *self = then;
    }

    /// An image got a checkpoint, if nobody was about to remove it since there were so many removals.
    pub(crate) fn reported(&mut self, image: &str, id: CheckpointId, removals: usize) {
        let image = self.images.entry(image.to_owned()).or_default();
        if image.removals == removals && !image.must.contains(&id) {
            image.must.push(id);
        }
    }

    pub(crate) fn removals(&self, image: &str) -> usize {
        self.images.get(image).map_or(0, |image| image.removals)
    }

    fn is_asked(&self, content: &[u8], since: Time) -> Result<(), String> {
        let mut why = "none was asked for".to_owned();
        let under_way = self.cutting.iter().map(|from| Arc::new(self.disk.clone().cut(*from)));
        for cut in self.asked.iter().rev().cloned().chain(under_way).filter(|cut| cut.until() > since) {
            match cut.check(content) {
                Ok(()) => return Ok(()),
                Err(e) => why = format!("{why}\n  not {cut}: {e}"),
            }
        }
        Err(why)
    }
}
