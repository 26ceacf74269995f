//! What a disk may show, with any number of requests in flight: for each sector all that it was given, and when.
//!
//! Times are counted: every event of a history has its own. A version of a sector came about at some moment between
//! its request's begin and its end. It is *over* once a request that began later was answered, and it is *gone* once
//! a flush that succeeded began after that. What is not over may be read; what is not gone may be found after a crash.

use std::{collections::BTreeMap, sync::Arc};

use gabion_store_core::testing::Rng;

pub(crate) const SECTOR: usize = 512;

pub(crate) type Time = u64;

/// What a request put, or may have put, into a sector.
#[derive(Clone, Debug)]
struct Version {
    bytes: Arc<[u8]>,
    begin: Time,
    /// When its outcome was known; never, while it is in flight.
    end: Time,
    /// It took effect, for certain.
    certain: bool,
    /// It was made from what the sector showed, because the request has only a part of it.
    partial: bool,
    /// No crash brings it back.
    gone: bool,
}

impl Version {
    /// Whether it replaces all of `before`.
    fn follows(&self, before: &Self) -> bool {
        self.certain && self.begin > before.end
    }
}

#[derive(Clone, Debug)]
struct Sector(Vec<Version>);

/// A disk, as those who write to it know it. A clone costs a pointer a sector.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    size: usize,
    sectors: Vec<Arc<Sector>>,
    now: Time,
    /// Since when somebody is looking.
    looking: BTreeMap<Time, ()>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// It may have had its effect, on some sectors.
    Unknown,
}

/// A checkpoint that was asked for: the disk at one moment of a time.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    disk: Disk,
    from: Time,
    /// Whoever asked for it died: it may be of what was found then, which is of no one moment.
    pub(crate) torn: bool,
}

impl Disk {
    /// A disk of zeros.
    pub(crate) fn new(size: usize) -> Self {
        let zeros = |len| {
            let (bytes, certain) = (vec![0; len].into(), true);
            Arc::new(Sector(vec![Version { bytes, begin: 0, end: 0, certain, partial: false, gone: false }]))
        };
        let sectors = (0..size.div_ceil(SECTOR)).map(|n| zeros(SECTOR.min(size - n * SECTOR))).collect();
        Self { size, sectors, now: 0, looking: BTreeMap::new() }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The next moment.
    pub(crate) fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    /// Somebody begins to look at the disk, and is told since when.
    pub(crate) fn look(&mut self) -> Time {
        let since = self.tick();
        self.looking.insert(since, ());
        since
    }

    /// He has seen it.
    pub(crate) fn seen(&mut self, since: Time) {
        self.looking.remove(&since);
    }

    /// A range that may be written to now, near the one that is wished for: where part of a sector is written, what
    /// is in the rest of it must be known.
    pub(crate) fn writable(&self, offset: usize, len: usize) -> Option<(usize, usize)> {
        let end = offset + len;
        let (first, last) = (offset / SECTOR, (end - 1) / SECTOR);
        let settled = |n: usize| {
            let visible = self.visible(n, self.now);
            visible.len() == 1 && visible[0].end != Time::MAX
        };
        let from = if offset.is_multiple_of(SECTOR) || settled(first) { offset } else { first * SECTOR };
        let whole = end.is_multiple_of(SECTOR) || end == self.size || settled(last);
        let to = if whole { end } else { ((last + 1) * SECTOR).min(self.size) };
        let busy = |n: usize| self.sectors[n].0.iter().any(|v| v.partial && v.end == Time::MAX);
        (!(first..=last).any(busy)).then_some((from, to - from))
    }

    /// A request is on its way that puts `bytes` there. Its name is the time.
    pub(crate) fn begin(&mut self, offset: usize, bytes: &[u8]) -> Time {
        let begin = self.tick();
        for (n, from, to) in pieces(offset, bytes.len()) {
            let len = self.sectors[n].0[0].bytes.len();
            let partial = to - from < len;
            let mut next = if partial { self.visible(n, self.now)[0].bytes.to_vec() } else { vec![0; len] };
            let at = n * SECTOR + from - offset;
            next[from..to].copy_from_slice(&bytes[at..at + to - from]);
            let version =
                Version { bytes: next.into(), begin, end: Time::MAX, certain: false, partial, gone: false };
            Arc::make_mut(&mut self.sectors[n]).0.push(version);
        }
        begin
    }

    /// The request that began then has ended.
    pub(crate) fn end(&mut self, begin: Time, offset: usize, len: usize, how: End) {
        let now = self.tick();
        let oldest = self.oldest();
        for (n, ..) in pieces(offset, len) {
            let sector = Arc::make_mut(&mut self.sectors[n]);
            for version in sector.0.iter_mut().filter(|version| version.begin == begin) {
                (version.end, version.certain) = (now, how == End::Done);
            }
            sector.prune(oldest);
        }
    }

    /// A flush that began then has succeeded.
    pub(crate) fn flushed(&mut self, begin: Time) {
        let oldest = self.oldest();
        for sector in &mut self.sectors {
            if sector.0.len() == 1 {
                continue;
            }
            let sector = Arc::make_mut(sector);
            let kept: Vec<Version> =
                sector.0.iter().filter(|u| u.certain && u.end < begin).cloned().collect();
            for version in &mut sector.0 {
                version.gone |= kept.iter().any(|next| next.follows(version));
            }
            sector.prune(oldest);
        }
    }

    /// A read that began then shows these bytes at `offset`.
    pub(crate) fn check_read(&self, since: Time, offset: usize, shown: &[u8]) -> Result<(), String> {
        for (n, from, to) in pieces(offset, shown.len()) {
            let at = n * SECTOR + from - offset;
            let shown = &shown[at..at + to - from];
            let visible = self.visible(n, since);
            if !visible.iter().any(|version| version.bytes[from..to] == *shown) {
                return Err(self.none_of(n, &visible, from, shown));
            }
        }
        Ok(())
    }

    /// The disk was found like this after a crash, and shows it from now on. What was in flight is over. `all` of it
    /// is what the disk has; otherwise some of it may be in memory, and something else come back.
    pub(crate) fn recovered(&mut self, shown: &[u8], all: bool) -> Result<(), String> {
        if shown.len() != self.size {
            return Err(format!("the disk has {} bytes", shown.len()));
        }
        let now = self.tick();
        self.looking.clear();
        for (n, bytes) in shown.chunks(SECTOR).enumerate() {
            let kept: Vec<&Version> = self.sectors[n].0.iter().filter(|version| !version.gone).collect();
            if !kept.iter().any(|version| *version.bytes == *bytes) {
                return Err(self.none_of(n, &kept, 0, bytes));
            }
            let sector = Arc::make_mut(&mut self.sectors[n]);
            for version in &mut sector.0 {
                version.end = version.end.min(now - 1);
                version.gone |= all;
            }
            let (bytes, certain) = (bytes.into(), true);
            sector.0.push(Version { bytes, begin: now, end: now, certain, partial: false, gone: false });
            sector.prune(Time::MAX);
        }
        self.now += 1;
        Ok(())
    }

    /// What is in flight is over, one way or the other.
    pub(crate) fn abandon(&mut self) {
        let now = self.tick();
        for sector in &mut self.sectors {
            if sector.0.iter().any(|version| version.end == Time::MAX) {
                for version in &mut Arc::make_mut(sector).0 {
                    version.end = version.end.min(now);
                }
            }
        }
    }

    /// A checkpoint that was asked for then, and was frozen by now at the latest.
    pub(crate) fn cut(&mut self, from: Time) -> Cut {
        self.tick();
        Cut { disk: self.clone(), from, torn: false }
    }

    /// A range anywhere on the disk.
    pub(crate) fn range(&self, rng: &mut Rng, longest: usize) -> (usize, usize) {
        let offset = rng.below(self.size);
        (offset, 1 + rng.below((self.size - offset).min(longest)))
    }

    /// Since when anybody looks.
    fn oldest(&self) -> Time {
        self.looking.first_key_value().map_or(Time::MAX, |(since, ())| *since)
    }

    /// What a sector may have shown since then.
    fn visible(&self, n: usize, since: Time) -> Vec<&Version> {
        let all = &self.sectors[n].0;
        let over = |v: &Version| all.iter().any(|next| next.follows(v) && next.end < since);
        all.iter().filter(|version| !over(version)).collect()
    }

    fn none_of(&self, n: usize, versions: &[&Version], from: usize, shown: &[u8]) -> String {
        let differs = |v: &&Version| {
            let first = shown.iter().zip(&v.bytes[from..]).position(|(a, b)| a != b);
            (v.begin, v.end, first)
        };
        let other = self.sectors[n].0.iter().find(|v| v.bytes[from..from + shown.len()] == *shown);
        format!(
            "sector {n} of block {} is none of its versions (begin, end, first difference) {:?}, at {}; it is {}",
            n * SECTOR / 4096,
            versions.iter().map(differs).collect::<Vec<_>>(),
            self.now,
            other.map_or_else(
                || if shown.iter().all(|byte| *byte == 0) {
                    "zeros".to_owned()
                } else {
                    "foreign".to_owned()
                },
                |v| format!("the one of {} to {}", v.begin, v.end)
            )
        )
    }
}

impl Sector {
    /// Drops what neither a crash nor anybody who looks can show.
    fn prune(&mut self, oldest: Time) {
        let all = self.0.clone();
        let over = |v: &Version| all.iter().any(|next| next.follows(v) && next.end < oldest);
        self.0.retain(|version| !(version.gone && over(version)));
    }
}

impl Cut {
    /// The last moment that it may be of.
    pub(crate) fn until(&self) -> Time {
        self.disk.now
    }

    /// Whether there is a moment at which the disk may have shown this.
    pub(crate) fn check(&self, shown: &[u8]) -> Result<(), String> {
        let (disk, from) = (&self.disk, self.from);
        if shown.len() != disk.size {
            return Err(format!("it has {} bytes", shown.len()));
        }
        if self.torn {
            return self.check_torn(shown);
        }
        let mut possible = vec![true; (disk.now - from + 1) as usize];
        for (n, bytes) in shown.chunks(SECTOR).enumerate() {
            let all = &disk.sectors[n].0;
            let mut here = vec![false; possible.len()];
            for version in all.iter().filter(|version| *version.bytes == *bytes) {
                let over = all.iter().filter(|next| next.follows(version)).map(|next| next.end).min();
                let first = version.begin.max(from);
                let until = over.unwrap_or(Time::MAX).min(disk.now + 1);
                for moment in first..until.max(first) {
                    here[(moment - from) as usize] = true;
                }
            }
            if !here.contains(&true) {
                return Err(disk.none_of(n, &disk.visible(n, from), 0, bytes));
            }
            for (possible, here) in possible.iter_mut().zip(here) {
                *possible &= here;
            }
            if !possible.contains(&true) {
                return Err(format!("sector {n} is of another moment than those before it: {self}"));
            }
        }
        Ok(())
    }
}

impl Cut {
    /// Whether each sector is of a moment, or what a crash then may leave of it.
    fn check_torn(&self, shown: &[u8]) -> Result<(), String> {
        for (n, bytes) in shown.chunks(SECTOR).enumerate() {
            let visible = self.disk.visible(n, self.from);
            let kept = self.disk.sectors[n].0.iter().filter(|version| !version.gone);
            if !kept.chain(visible.iter().copied()).any(|version| *version.bytes == *bytes) {
                return Err(self.disk.none_of(n, &visible, 0, bytes));
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the disk between {} and {}", self.from, self.disk.now)
    }
}

/// Sectors that a range touches, and from where to where within each.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = offset + len;
    (offset / SECTOR..end.div_ceil(SECTOR))
        .map(move |n| (n, offset.saturating_sub(n * SECTOR), (end - n * SECTOR).min(SECTOR)))
}

#[test]
fn what_was_flushed_stays_and_what_is_in_flight_may_be_there() {
    let mut disk = Disk::new(1100);
    let one = disk.begin(0, &[1; 512]);
    disk.end(one, 0, 512, End::Done);
    let flush = disk.tick();
    let two = disk.begin(0, &[2; 512]);
    disk.flushed(flush);
    let show = |byte: u8| [vec![byte; 512], vec![0; 588]].concat();
    for (byte, may) in [(0, false), (1, true), (2, true), (3, false)] {
        assert_eq!(disk.clone().recovered(&show(byte), true).is_ok(), may, "{byte}");
    }
    // Answered, and never flushed: read as such, and taken back by a crash.
    disk.end(two, 0, 512, End::Done);
    let since = disk.look();
    disk.check_read(since, 0, &[2; 512]).unwrap();
    disk.check_read(since, 0, &[1; 512]).unwrap_err();
    disk.clone().recovered(&show(1), true).unwrap();
    // One that failed may have had its effect, and what was there before is as good.
    let three = disk.begin(0, &[3; 512]);
    disk.end(three, 0, 512, End::Unknown);
    let since = disk.look();
    disk.check_read(since, 0, &[2; 512]).unwrap();
    disk.check_read(since, 0, &[3; 512]).unwrap();
    assert_eq!(disk.writable(10, 20), Some((0, 502 + 10)));
    disk.recovered(&show(2), true).unwrap();
    assert_eq!(disk.writable(10, 20), Some((10, 20)));
}

#[test]
fn a_cut_is_one_moment() {
    let mut disk = Disk::new(1024);
    let from = disk.look();
    for byte in [1, 2] {
        for sector in [0, 512] {
            let begin = disk.begin(sector, &[byte; 512]);
            disk.end(begin, sector, 512, End::Done);
        }
    }
    let cut = disk.cut(from);
    let show = |a: u8, b: u8| [[a; 512], [b; 512]].concat();
    for (a, b, may) in
        [(0, 0, true), (1, 0, true), (1, 1, true), (2, 1, true), (2, 2, true), (0, 1, false), (2, 0, false)]
    {
        assert_eq!(cut.check(&show(a, b)).is_ok(), may, "{a} {b}");
    }
}
