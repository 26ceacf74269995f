//! A volume whose journal is foreign bytes.

use std::{path::Path, sync::Arc};

use gabion_store_core::{
    BlockRange,
    clock::Timestamp,
    overlay::{BlockState, Overlay as _},
    types::VolumeId,
};
use gabion_store_local::{
    fs::{Fs, FsFileExt as _, MemFs, OpenMode},
    overlay::{LocalOverlay, record::VolumeInfo},
};

const FOLDER: &str = "/v";
const BLOCKS: u64 = 1 << 20;

/// Opens it. If it is accepted, what it says is the same when it is opened again, and lies within the disk.
pub fn open_with_journal(journal: &[u8]) {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let folder = Path::new(FOLDER);
    drop(LocalOverlay::create(fs.clone(), folder, info()).expect("a volume in memory"));
    let names = fs.read_dir(folder).expect("its folder");
    let name =
        names.iter().find(|name| name.extension().is_some_and(|ext| ext == "journal")).expect("its journal");
    let file = fs.open(&folder.join(name), OpenMode::ReadWrite).expect("its journal");
    let mut own = vec![0; 512];
    file.read_exact_at(&mut own, 0).expect("its header");
    file.set_len(0).expect("an empty journal");
    // Most inputs keep the header, so that batches behind it are reached.
    let bytes = match journal.split_first() {
        Some((0, bytes)) => bytes.to_vec(),
        Some((_, bytes)) => [&own, bytes].concat(),
        None => Vec::new(),
    };
    file.write_all_at(&bytes, 0).expect("write to memory");
    drop(file);
    let Ok(opened) = LocalOverlay::open(fs.clone(), folder, None) else { return };
    let first = runs(&opened);
    drop(opened);
    let again = LocalOverlay::open(fs, folder, None).expect("what was recovered opens again");
    assert_eq!(runs(&again), first);
}

fn runs(overlay: &LocalOverlay) -> Vec<(BlockRange, BlockState)> {
    let layers = overlay.layers();
    let runs = layers[0].runs(0, usize::MAX);
    assert!(runs.is_sorted_by(|(a, _), (b, _)| a.end <= b.start));
    assert!(runs.iter().all(|(range, _)| range.end <= BLOCKS));
    runs
}

fn info() -> VolumeInfo {
    VolumeInfo {
        id: VolumeId::from_bytes([1; 16]),
        name: "v".parse().expect("a name"),
        size: BLOCKS * 4096,
        base: None,
        home: String::new(),
        lazy_base: None,
        lineage: None,
        created: Timestamp(0),
    }
}
