//! What a disk may show: for each sector the bytes it was last promised to keep, and all it was given since.

use std::sync::Arc;

pub(crate) const SECTOR: usize = 512;

/// One sector's bytes, at each time.
#[derive(Clone, Default)]
struct Sector {
    /// Oldest first; what came before the last promise is dropped.
    versions: Vec<Arc<[u8]>>,
    /// Versions that were dropped.
    dropped: usize,
    /// Writes that were answered, counted from the beginning.
    answered: usize,
}

/// A disk, as whoever writes to it knows it. A clone costs a pointer a sector.
///
/// Requests may be in flight together unless they touch the same sector.
#[derive(Clone)]
pub(crate) struct Disk {
    size: usize,
    sectors: Vec<Arc<Sector>>,
}

/// Which version of each sector was answered at some time: what a flush that begins then promises.
pub(crate) struct Mark(Vec<usize>);

impl Disk {
    /// A disk of zeros.
    pub(crate) fn new(size: usize) -> Self {
        let mut disk = Self { size: 0, sectors: Vec::new() };
        disk.grow(size);
        disk
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// More zeros at the end.
    pub(crate) fn grow(&mut self, size: usize) {
        let zeros = Sector { versions: vec![vec![0; SECTOR].into()], ..Sector::default() };
        self.size = size;
        self.sectors.resize(size.div_ceil(SECTOR), Arc::new(zeros));
    }

    /// A write is on its way.
    pub(crate) fn begin(&mut self, offset: usize, bytes: &[u8]) {
        for (n, from, to) in pieces(offset, bytes.len()) {
            let sector = Arc::make_mut(&mut self.sectors[n]);
            let mut next = sector.versions.last().unwrap().to_vec();
            let at = n * SECTOR + from - offset;
            next[from..to].copy_from_slice(&bytes[at..at + to - from]);
            sector.versions.push(next.into());
        }
    }

    /// The write of that place was answered.
    pub(crate) fn answer(&mut self, offset: usize, len: usize) {
        for (n, ..) in pieces(offset, len) {
            let sector = Arc::make_mut(&mut self.sectors[n]);
            sector.answered = sector.dropped + sector.versions.len() - 1;
        }
    }

    /// What has been answered.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.sectors.iter().map(|sector| sector.answered).collect())
    }

    /// What had been answered then was promised to be kept.
    pub(crate) fn promise(&mut self, mark: &Mark) {
        for (sector, &answered) in self.sectors.iter_mut().zip(&mark.0) {
            if answered > sector.dropped {
                let sector = Arc::make_mut(sector);
                sector.versions.drain(..answered - sector.dropped);
                sector.dropped = answered;
            }
        }
    }

    /// The bytes that everything answered amounts to, as no write is in flight.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.sectors.iter().flat_map(|sector| sector.versions.last().unwrap().to_vec()).collect();
        bytes.truncate(self.size);
        bytes
    }

    /// Whether a byte was given anything since the last promise.
    pub(crate) fn is_new(&self, offset: usize) -> bool {
        self.sectors[offset / SECTOR].versions.len() > 1
    }

    /// A recovered disk shows these bytes: says where that is none of the versions it may show.
    pub(crate) fn check(&self, shown: &[u8]) -> Result<(), String> {
        for (n, (shown, sector)) in shown.chunks(SECTOR).zip(&self.sectors).enumerate() {
            if !sector.versions.iter().rev().any(|version| version[..shown.len()] == *shown) {
                let differs = |version: &Arc<[u8]>| shown.iter().zip(&**version).position(|(a, b)| a != b);
                let first: Vec<_> = sector.versions.iter().map(differs).collect();
                return Err(format!(
                    "sector {n} of block {} is none of its {} versions, from which it differs at {first:?}",
                    n / 8,
                    first.len()
                ));
            }
        }
        Ok(())
    }

    /// A disk that was recovered shows these bytes from now on, but a failure may still bring back others.
    pub(crate) fn recovered(&mut self, shown: &[u8]) {
        self.begin(0, shown);
        self.answer(0, shown.len());
    }
}

/// Sectors that a range touches, and from where to where within each.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = offset + len;
    (offset / SECTOR..end.div_ceil(SECTOR))
        .map(move |n| (n, offset.saturating_sub(n * SECTOR), (end - n * SECTOR).min(SECTOR)))
}

#[test]
fn only_what_was_given_and_not_promised_away_may_be_shown() {
    let mut disk = Disk::new(1000);
    disk.begin(500, &[1; 100]);
    let zeros = vec![0; 1000];
    disk.check(&zeros).unwrap();
    let before = disk.mark();
    disk.answer(500, 100);
    disk.promise(&before);
    disk.check(&zeros).unwrap();
    let mark = disk.mark();
    disk.begin(512, &[2; 2]);
    disk.answer(512, 2);
    disk.promise(&mark);
    assert!(disk.check(&zeros).is_err());
    let mut written = zeros;
    written[500..600].fill(1);
    disk.check(&written).unwrap();
    written[512] = 2;
    assert!(disk.check(&written).is_err(), "half of a write within a sector");
    written[513] = 2;
    disk.check(&written).unwrap();
    assert_eq!(disk.bytes(), written);
}
