//! Which operations fail, and how.

use std::{io, path::Path};

use gabion_store_core::sync::Mutex;

/// What a disk writes whole, in bytes.
const SECTOR: u64 = 512;

/// An operation of a file system or of one of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsOp {
    /// Opening a file that must exist.
    Open,
    /// Opening a file that is made, or may be.
    Create,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Asking for a file's length.
    Len,
    /// Setting a file's length.
    SetLen,
    /// Punching a hole.
    PunchHole,
    /// Syncing a file.
    Sync,
    /// Dropping a file's cache.
    DropCache,
    /// Renaming a file; told with the new name.
    Rename,
    /// Removing a file.
    Remove,
    /// Making a folder.
    CreateDir,
    /// Removing a folder.
    RemoveDir,
    /// Listing a folder.
    ReadDir,
    /// Asking what a path is.
    Stat,
    /// Syncing a folder.
    SyncDir,
    /// Taking a lock.
    Lock,
}

impl FsOp {
    /// Whether it changes or syncs anything.
    pub fn changes(self) -> bool {
        use FsOp::{Create, CreateDir, PunchHole, Remove, RemoveDir, Rename, SetLen, Sync, SyncDir, Write};
        matches!(
            self,
            Create | Write | SetLen | PunchHole | Sync | Rename | Remove | CreateDir | RemoveDir | SyncDir
        )
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsFault {
    /// It fails with this `errno`, without an effect.
    Fails(i32),
    /// Half of what is written gets through, then it fails with this `errno`. Other operations fail without an effect.
    Torn(i32),
    /// It has its effect, and fails with this `errno` all the same.
    FailsAfter(i32),
    /// A read or write of at most so many bytes, at least one.
    Short(usize),
    /// A bit flips in what is read: in the byte of this index among those read, counted round.
    Rot(usize),
    /// A read or write goes so many bytes behind, or before, the place it is meant for.
    Misdirected(i64),
}

impl FsFault {
    /// The disk failed.
    pub const EIO: Self = Self::Fails(5);
    /// The disk is full.
    pub const ENOSPC: Self = Self::Fails(28);
    /// A read or write was interrupted by a signal. Nothing else shows that to who uses an [`Fs`](crate::fs::Fs).
    pub const EINTR: Self = Self::Fails(4);
}

/// Which operations a rule is about: by default the first that fits, once.
#[derive(Clone, Debug)]
pub struct On {
    fits: Fits,
    path: Option<String>,
    skip: u64,
    times: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fits {
    Any,
    Changes,
    One(FsOp),
}

impl On {
    fn new(fits: Fits) -> Self {
        Self { fits, path: None, skip: 0, times: 1 }
    }

    /// Any operation.
    pub fn any() -> Self {
        Self::new(Fits::Any)
    }

    /// Operations that [change](FsOp::changes) or sync anything.
    pub fn change() -> Self {
        Self::new(Fits::Changes)
    }

    /// Operations of one kind.
    pub fn op(op: FsOp) -> Self {
        Self::new(Fits::One(op))
    }

    /// Only on paths that contain `part`.
    #[must_use]
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = Some(part.into());
        self
    }

    /// Not the first `count` that fit.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// So many, one after the other.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// From then on always.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    fn fits(&self, op: FsOp, path: &Path) -> bool {
        let kind = match self.fits {
            Fits::Any => true,
            Fits::Changes => op.changes(),
            Fits::One(one) => op == one,
        };
        kind && self.path.as_ref().is_none_or(|part| path.to_string_lossy().contains(part))
    }
}

type Hook = Box<dyn FnMut(FsOp, &Path) -> io::Result<()> + Send>;

#[derive(Default)]
pub(super) struct Plan {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    space: Option<u64>,
    hook: Option<Hook>,
    /// Somebody is in the hook.
    hooked: bool,
}

struct Rule {
    on: On,
    fault: FsFault,
    seen: u64,
}

impl Rule {
    /// Counts an operation, and says whether it is to fail.
    fn meet(&mut self, op: FsOp, path: &Path) -> bool {
        if !self.on.fits(op, path) {
            return false;
        }
        self.seen += 1;
        self.seen > self.on.skip && self.seen - self.on.skip <= self.on.times
    }

    fn was_met(&self) -> bool {
        let times = if self.on.times == u64::MAX { 1 } else { self.on.times };
        self.seen >= self.on.skip + times
    }
}

impl Plan {
    pub(super) fn add(&self, on: On, fault: FsFault) {
        self.state.lock().rules.push(Rule { on, fault, seen: 0 });
    }

    pub(super) fn set_space(&self, bytes: Option<u64>) {
        self.state.lock().space = bytes;
    }

    pub(super) fn set_hook(&self, hook: Option<Hook>) {
        let state = &mut *self.state.lock();
        state.hook = hook;
        state.hooked = false;
    }

    pub(super) fn heal(&self) -> bool {
        let state = std::mem::take(&mut *self.state.lock());
        state.rules.iter().all(Rule::was_met)
    }

    /// What is to go wrong with an operation that begins now; the error of a hook or of a full disk.
    pub(super) fn meet(&self, op: FsOp, path: &Path) -> io::Result<Option<FsFault>> {
        let hook = self.state.lock().hook.take();
        if let Some(mut hook) = hook {
            self.state.lock().hooked = true;
            let done = hook(op, path);
            let state = &mut *self.state.lock();
            // Unless it was replaced meanwhile.
            if std::mem::take(&mut state.hooked) {
                state.hook = Some(hook);
            }
            done?;
        }
        let state = &mut *self.state.lock();
        let mut fault = None;
        for rule in &mut state.rules {
            // Each counts what it is about, whichever is first.
            if rule.meet(op, path) {
                fault = fault.or(Some(rule.fault));
            }
        }
        let makes = matches!(op, FsOp::Create | FsOp::CreateDir | FsOp::Rename);
        if fault.is_none() && makes && state.space == Some(0) {
            fault = Some(FsFault::ENOSPC);
        }
        Ok(fault)
    }

    /// Whether an operation might go wrong.
    pub(super) fn watches(&self, op: FsOp, path: &Path) -> bool {
        let state = self.state.lock();
        state.hook.is_some() || state.hooked || state.rules.iter().any(|rule| rule.on.fits(op, path))
    }

    /// How many of so many bytes at an offset there is space for. A write is not cut within a sector.
    pub(super) fn take_space(&self, offset: u64, len: usize) -> io::Result<usize> {
        let state = &mut *self.state.lock();
        let Some(space) = &mut state.space else { return Ok(len) };
        let end = offset + len as u64;
        let end = if len as u64 <= *space { end } else { (offset + *space) / SECTOR * SECTOR };
        let taken = end.saturating_sub(offset);
        if taken == 0 && len > 0 {
            *space = 0;
            return Err(io::Error::from_raw_os_error(28));
        }
        *space -= taken;
        Ok(taken as usize)
    }
}
