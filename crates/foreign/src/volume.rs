//! A volume's record, and its journal.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{
    BLOCK_SIZE, BlockRange, Error, ErrorKind,
    clock::Timestamp,
    format::{features::Features, wire::Writer},
    overlay::{BlockState, Overlay as _},
    types::VolumeId,
};
use gabion_store_local::{
    fs::{Fs, FsFileExt as _, MemFs, OpenMode, read_whole},
    overlay::{
        LocalOverlay,
        record::{VolumeInfo, VolumeRecord},
    },
};

use crate::nbd::block_on;

const FOLDER: &str = "/v";
/// A disk of 1 TiB.
const BLOCKS: u64 = 1 << 28;
const SECTOR: usize = 512;
/// Names the journal and its batches; random in a real one, which no fuzzer would guess.
const NONCE: [u8; 16] = *b"the journal's id";
/// Runs of a recovered volume up to which it is written to.
const FEW: usize = 1000;

/// The record of a volume.
pub(crate) fn record(bytes: &[u8]) {
    if let Ok(record) = VolumeRecord::decode(bytes) {
        let again = record.encode().expect("what was read can be written");
        assert_eq!(VolumeRecord::decode(&again).expect("what was written can be read"), record);
    }
}

/// The journal of a volume, as the first byte says: all of it, or what follows a header, or its batches. Its highest bit
/// says whether the volume is written to if it opens.
///
/// It is refused as damaged or too new, and then nothing was changed, and a repair makes it one that opens, if anything
/// can be salvaged. Or it is recovered to a volume within its disk, which opens again as the same and can be written to.
pub(crate) fn journal(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let journal = match choice & 0x7f {
        0 => rest.to_vec(),
        1 => [&header(), rest].concat(),
        _ => [header(), batches(rest)].concat(),
    };
    let write = choice & 0x80 != 0;
    VOLUME.with_borrow_mut(|volume| {
        if volume.open_with(&journal, write) == After::Repair {
            *volume = Rig::new();
        }
    });
}

/// A journal's first sector.
fn header() -> Vec<u8> {
    let mut to = Writer::new();
    to.bytes(b"GABNJRN\0");
    Features::version(1).encode(&mut to);
    to.bytes(&NONCE).u64(1);
    let mut sector = to.seal();
    sector.resize(SECTOR, 0);
    sector
}

/// Batches, each told by what its sequence number differs from the right one, its kind, the length of its payload and
/// the payload.
fn batches(mut told: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut sequence = 1_u64;
    while let Some(([off, kind, len], behind)) = told.split_first_chunk() {
        let (payload, rest) = behind.split_at(behind.len().min(usize::from(*len)));
        let mut head = Writer::new();
        head.bytes(&NONCE).u64(sequence.wrapping_add_signed(i64::from(off.cast_signed())));
        head.u8(kind.wrapping_add(1)).zeros(3).u32(u32::from(*len)).u32(0);
        all.extend(head.seal());
        all.extend_from_slice(payload);
        all.resize(all.len().next_multiple_of(SECTOR), 0);
        (told, sequence) = (rest, sequence + 1);
    }
    all
}

thread_local! {
    static VOLUME: RefCell<Rig> = RefCell::new(Rig::new());
}

/// What was done to a volume.
#[derive(PartialEq, Eq)]
enum After {
    /// Nothing that another journal does not undo.
    Recovery,
    /// It has other files now.
    Repair,
}

/// A volume in memory, whose journal is replaced for every input.
struct Rig {
    fs: MemFs,
    journal: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let fs = MemFs::new();
        let folder = Path::new(FOLDER);
        let info = VolumeInfo {
            id: VolumeId::from_bytes([1; 16]),
            name: "v".parse().expect("a name"),
            size: BLOCKS * BLOCK_SIZE as u64,
            base: None,
            home: String::new(),
            lazy_base: None,
            lineage: None,
            created: Timestamp(0),
        };
        drop(LocalOverlay::create(Arc::new(fs.clone()), folder, info).expect("a volume in memory"));
        let names = fs.read_dir(folder).expect("its folder");
        let journal = names.iter().find(|name| name.extension().is_some_and(|ext| ext == "journal"));
        let journal = folder.join(journal.expect("its journal"));
        Self { fs, journal }
    }

    fn open(&self) -> gabion_store_core::Result<LocalOverlay> {
        LocalOverlay::open(Arc::new(self.fs.clone()), Path::new(FOLDER), None)
    }

    fn open_with(&self, journal: &[u8], write: bool) -> After {
        let file = self.fs.open(&self.journal, OpenMode::ReadWrite).expect("its journal");
        file.set_len(0).expect("an empty file");
        file.write_all_at(journal, 0).expect("write to memory");
        match self.open() {
            Ok(opened) => {
                self.use_recovered(opened, write);
                After::Recovery
            }
            Err(error) => {
                assert!(is_refusal(&error), "{}", error.report());
                self.repair_refused(journal, write)
            }
        }
    }

    fn repair_refused(&self, journal: &[u8], write: bool) -> After {
        let folder = Path::new(FOLDER);
        let plan = LocalOverlay::repair(&self.fs, folder, true);
        let left = read_whole(&self.fs, &self.journal, u64::MAX).expect("its journal");
        assert!(left == journal, "a journal that is refused stays as it is");
        let done = LocalOverlay::repair(&self.fs, folder, false);
        match (plan, done) {
            (Ok(plan), Ok(done)) => {
                assert_eq!(plan, done);
                assert!(!done.is_empty(), "a journal is refused, and a repair finds nothing");
                let repaired = self.open().expect("what was repaired opens");
                assert_eq!(repaired.layers()[0].data_blocks(), done[0].blocks);
                self.use_recovered(repaired, write);
                After::Repair
            }
            (Err(plan), Err(done)) => {
                assert!(is_refusal(&plan) && is_refusal(&done), "{}", done.report());
                After::Recovery
            }
            (plan, done) => panic!("{plan:?} was the plan, and then {done:?}"),
        }
    }

    fn use_recovered(&self, opened: LocalOverlay, write: bool) {
        let mut runs = runs(&opened);
        drop(opened);
        let again = self.open().expect("what was recovered opens again");
        assert_eq!(self::runs(&again), runs);
        if !write || runs.len() > FEW {
            return;
        }
        // What is flushed now is found behind what was recovered, and not behind remains of something else.
        let layer = again.layers().remove(0);
        layer.zero(BlockRange::new(BLOCKS - 1, BLOCKS)).expect("write to memory");
        block_on(again.flush()).expect("write to memory");
        runs = self::runs(&again);
        drop((layer, again));
        assert_eq!(self::runs(&self.open().expect("what was written opens again")), runs);
    }
}

/// Whether an error says that what is there is damaged, or too new.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
}

fn runs(overlay: &LocalOverlay) -> Vec<(BlockRange, BlockState)> {
    let runs = overlay.layers()[0].runs(0, usize::MAX);
    assert!(runs.iter().all(|(range, _)| !range.is_empty() && range.end <= BLOCKS));
    assert!(runs.is_sorted_by(|(a, a_is), (b, b_is)| a.end < b.start || (a.end == b.start && a_is != b_is)));
    runs
}
