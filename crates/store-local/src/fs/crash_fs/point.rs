//! [`CrashPoint`] and its images: which pending changes a failure let through.

use std::{fmt, path::PathBuf, sync::Arc};

use gabion_store_core::{sync::Mutex, testing::Rng};

use super::changes::{Disk, Pending};
use crate::fs::{Fs, MemFs};

/// Up to so many pending changes every subset of them is an image.
const EXHAUSTIVE: usize = 12;
/// Subsets drawn by chance where there are more.
const DRAWN: u64 = 32;

/// A moment at which the power may fail. Cheap to keep: it shares all bytes with others.
#[derive(Clone)]
pub struct CrashPoint {
    root: PathBuf,
    disk: Disk,
    pending: Vec<Pending>,
    after: Arc<str>,
}

/// What a machine may find after a power failure: a file system in memory.
#[derive(Clone, Debug)]
pub struct CrashImage {
    fs: MemFs,
    what: String,
}

/// Points in the order in which they were recorded. A clone is the same list.
#[derive(Clone, Debug, Default)]
pub struct CrashPoints(Arc<Mutex<Vec<CrashPoint>>>);

/// Which of the pending changes arrived.
#[derive(Clone, Copy, Debug)]
enum Arrived {
    None,
    All,
    /// Bit by bit.
    These(u32),
    Only(usize),
    AllBut(usize),
    /// Drawn by this seed.
    Drawn(u64),
}

impl CrashPoint {
    pub(super) fn new(root: PathBuf, disk: Disk, pending: Vec<Pending>, after: String) -> Self {
        Self { root, disk, pending, after: after.into() }
    }

    /// Number of changes that are pending: each arrives or does not.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The operation after which the power fails.
    pub fn after(&self) -> &str {
        &self.after
    }

    /// What may be found: with up to 12 pending changes every subset of them; with more none, all, each alone,
    /// each missing, and 32 drawn by `seed`. Of these at most `max`, none and all first, the others chosen by
    /// `seed`. The same point, seed and `max` give the same images.
    pub fn images(&self, seed: u64, max: usize) -> impl Iterator<Item = CrashImage> {
        let cases = self.cases(seed, max);
        cases.into_iter().map(|case| self.image(case))
    }

    fn cases(&self, seed: u64, max: usize) -> Vec<Arrived> {
        let count = self.pending.len();
        let mut rng = Rng::new(seed);
        let mut others: Vec<Arrived> = if count <= EXHAUSTIVE {
            (1..(1_u32 << count).saturating_sub(1)).map(Arrived::These).collect()
        } else {
            let each = (0..count).flat_map(|n| [Arrived::Only(n), Arrived::AllBut(n)]);
            each.chain((0..DRAWN).map(|_| Arrived::Drawn(rng.next()))).collect()
        };
        let mut cases = vec![Arrived::None];
        if count > 0 {
            cases.push(Arrived::All);
        }
        cases.truncate(max);
        let more = others.len().min(max - cases.len());
        if more < others.len() {
            for at in 0..more {
                let with = at + rng.below(others.len() - at);
                others.swap(at, with);
            }
        }
        cases.extend(others.into_iter().take(more));
        cases
    }

    fn image(&self, case: Arrived) -> CrashImage {
        let mut disk = self.disk.clone();
        disk.apply_chosen(&self.pending, &self.chosen(case));
        let (folders, files) = disk.walk(&self.root);
        // The folders above the root are nobody's, but have to be there.
        let above = self.root.ancestors().skip(1).map(PathBuf::from);
        CrashImage {
            fs: MemFs::assemble(above.chain(folders), files),
            what: format!("after {}, of {} changes {case:?}", self.after, self.pending.len()),
        }
    }

    fn chosen(&self, case: Arrived) -> Vec<bool> {
        let count = self.pending.len();
        let each = 0..count;
        match case {
            Arrived::None => vec![false; count],
            Arrived::All => vec![true; count],
            Arrived::These(bits) => each.map(|n| bits >> n & 1 == 1).collect(),
            Arrived::Only(one) => each.map(|n| n == one).collect(),
            Arrived::AllBut(one) => each.map(|n| n != one).collect(),
            Arrived::Drawn(seed) => self.drawn(seed),
        }
    }

    /// Chance alone would hardly ever let all of one file arrive and nothing of another, which is what a wrong
    /// order of syncs is found by; so some draws are by file, and some are of the changes up to one.
    fn drawn(&self, seed: u64) -> Vec<bool> {
        let mut rng = Rng::new(seed);
        let count = self.pending.len();
        match rng.below(4) {
            0 => (0..count).map(|_| rng.below(2) == 0).collect(),
            1 => {
                let many = rng.below(2) == 0;
                (0..count).map(|_| (rng.below(8) == 0) != many).collect()
            }
            2 => {
                let up_to = rng.below(count);
                (0..count).map(|n| n <= up_to).collect()
            }
            _ => {
                let of_node = |node: u64| Rng::new(seed ^ node.wrapping_mul(0x9e37)).next() & 1 == 0;
                self.pending.iter().map(|pending| of_node(pending.change.synced_with())).collect()
            }
        }
    }
}

impl fmt::Debug for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, pending, .. } = self;
        f.debug_struct("CrashPoint")
            .field("after", after)
            .field("pending", &pending.len())
            .finish_non_exhaustive()
    }
}

impl CrashImage {
    /// The file system.
    pub fn fs(&self) -> &MemFs {
        &self.fs
    }

    /// The file system, to be used by what takes any.
    pub fn into_fs(self) -> Arc<dyn Fs> {
        Arc::new(self.fs)
    }
}

/// How it came about.
impl fmt::Display for CrashImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl CrashPoints {
    pub(super) fn push(&self, point: CrashPoint) {
        self.0.lock().push(point);
    }

    /// What was recorded since the last call.
    pub fn take(&self) -> Vec<CrashPoint> {
        std::mem::take(&mut self.0.lock())
    }
}
