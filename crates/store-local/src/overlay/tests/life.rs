//! Opening, locking, compaction, remnants, damage, and the folder of all volumes.

use gabion_store_core::{CheckpointId, ErrorKind, ImageName};

use super::*;
use crate::{
    fs::{CrashFs, FaultFs, FsFault, FsFileExt as _, FsOp, On, OpenMode, StdFs, exists},
    overlay::{Volumes, record::MAX_LAYERS},
};

const VOL: &str = "/vol";

fn open_error(fs: &Arc<dyn Fs>) -> gabion_store_core::Error {
    LocalOverlay::open(fs.clone(), Path::new(VOL), None).unwrap_err()
}

/// Row 17.
#[test]
fn one_opener() {
    let folder = tempfile::tempdir().unwrap();
    for (fs, root) in [(Arc::new(StdFs) as Arc<dyn Fs>, folder.path()), (memory().1, Path::new("/"))] {
        let volume = root.join("vol");
        assert_eq!(LocalOverlay::read_lock_note(&*fs, &volume).unwrap(), None);
        let first = LocalOverlay::create(fs.clone(), &volume, info(4096)).unwrap();
        assert_eq!(LocalOverlay::read_lock_note(&*fs, &volume).unwrap(), None);
        first.set_lock_note("socket /run/a").unwrap();
        let refused = LocalOverlay::open(fs.clone(), &volume, None).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.to_string().contains("vm/1"), "{refused}");
        // Whether it is in use does not matter to who wants to make it.
        let again = LocalOverlay::create(fs.clone(), &volume, info(4096)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        assert_eq!(LocalOverlay::read_lock_note(&*fs, &volume).unwrap().unwrap(), "socket /run/a");
        drop(first);
        let again = LocalOverlay::create(fs.clone(), &volume, info(4096)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let _second = LocalOverlay::open(fs.clone(), &volume, Some("socket /run/b")).unwrap();
        assert_eq!(LocalOverlay::read_lock_note(&*fs, &volume).unwrap().unwrap(), "socket /run/b");
    }
}

#[tokio::test]
async fn remnants_go_and_their_numbers_are_not_used_again() {
    let (_, fs) = memory();
    let overlay = create(&fs, 10);
    let lost = Path::new(VOL).join("layer-40.data");
    let torn = Path::new(VOL).join("record.tmp");
    let foreign = Path::new(VOL).join("notes.txt");
    for path in [&lost, &torn, &foreign] {
        fs.open(path, OpenMode::CreateNew).unwrap();
    }
    drop(overlay);
    let overlay = open(&fs);
    assert!(!exists(&*fs, &lost).unwrap());
    assert!(!exists(&*fs, &torn).unwrap());
    assert!(exists(&*fs, &foreign).unwrap());
    overlay.push_layer().await.unwrap();
    assert_eq!(overlay.record().layers[0].layer, 41);
    assert_eq!(overlay.record().layers.len(), 2);
}

#[tokio::test]
async fn layers_are_bounded_and_dropped_ones_leave_no_files() {
    let (_, fs) = memory();
    let overlay = create(&fs, 10);
    for _ in 1..MAX_LAYERS {
        overlay.push_layer().await.unwrap();
    }
    assert_eq!(overlay.push_layer().await.unwrap_err().kind(), ErrorKind::Unavailable);
    overlay.rebase(CheckpointId::from_bytes([1; 32]), MAX_LAYERS - 1).await.unwrap();
    let names = fs.read_dir(Path::new(VOL)).unwrap();
    assert_eq!(names.len(), 4, "one layer's two files, record and lock: {names:?}");
    drop(overlay);
    assert_eq!(open(&fs).layers().len(), 1);
}

#[tokio::test]
async fn facts_change_durably_but_not_identity() {
    let (_, fs) = memory();
    let overlay = create(&fs, 10);
    overlay.update_info(|info| info.home = "s3://bucket/prefix".into()).unwrap();
    assert_eq!(overlay.update_info(|info| info.size = 1).unwrap_err().kind(), ErrorKind::Invalid);
    let long = "x".repeat(5000);
    assert_eq!(overlay.update_info(|info| info.home = long).unwrap_err().kind(), ErrorKind::Invalid);
    drop(overlay);
    assert_eq!(open(&fs).record().info.home, "s3://bucket/prefix");
}

#[tokio::test]
async fn a_long_journal_is_compacted() {
    let (_, fs) = memory();
    let overlay = create(&fs, 5000);
    let layer = top(&overlay);
    let first = overlay.record().layers[0];
    fill(&*layer, 100, 50, 7).unwrap();
    let mut rounds = 0;
    while overlay.record().layers[0] == first {
        // Each a batch of one sector.
        fill(&*layer, 3, 1, 3).unwrap();
        overlay.flush().await.unwrap();
        layer.zero(BlockRange::new(3, 4)).unwrap();
        overlay.flush().await.unwrap();
        rounds += 1;
        assert!(rounds < 20_000, "never compacted");
    }
    let files = overlay.record().layers[0];
    assert_eq!(files.layer, first.layer);
    assert!(!exists(&*fs, &Path::new(VOL).join(first.journal_name())).unwrap());
    fill(&*layer, 3, 1, 9).unwrap();
    overlay.flush().await.unwrap();
    let before = contents(&*layer, 5000);
    drop((layer, overlay));
    assert_eq!(contents(&*top(&open(&fs)), 5000), before);
}

#[tokio::test]
async fn missing_or_cut_files_are_damage() {
    let (_, fs) = memory();
    assert_eq!(open_error(&fs).kind(), ErrorKind::NotFound);
    let overlay = create(&fs, 10);
    let files = overlay.record().layers[0];
    fill(&*top(&overlay), 9, 1, 1).unwrap();
    overlay.flush().await.unwrap();
    drop(overlay);
    let data = Path::new(VOL).join(files.data_name());
    let journal = Path::new(VOL).join(files.journal_name());

    let file = fs.open(&data, OpenMode::ReadWrite).unwrap();
    file.set_len(9 * 4096).unwrap();
    assert_eq!(open_error(&fs).kind(), ErrorKind::Corrupt);
    file.set_len(10 * 4096).unwrap();
    open(&fs);
    fs.rename(&journal, Path::new("/aside")).unwrap();
    assert_eq!(open_error(&fs).kind(), ErrorKind::Corrupt);
    fs.rename(Path::new("/aside"), &journal).unwrap();
    fs.rename(&data, Path::new("/aside")).unwrap();
    let error = open_error(&fs);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("layer-1.data"), "{error}");
    fs.rename(Path::new("/aside"), &data).unwrap();

    let overlay = open(&fs);
    file.set_len(9 * 4096).unwrap();
    let mut bytes = [0; 4096];
    assert!(top(&overlay).try_read(9 * 4096, &mut bytes).is_none());
    assert_eq!(top(&overlay).read(9 * 4096, &mut bytes).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A process is killed after it renamed its record and before it synced the folder. The next one sees the new record,
/// and what it flushes rests on that: a power failure must not bring back the old one.
#[tokio::test]
async fn a_record_that_was_never_synced_is_durable_once_the_volume_is_open() {
    let crash = CrashFs::new(memory().1, Path::new("/"), 1).unwrap();
    let dies = FaultFs::new(Arc::new(crash.clone()));
    let (first, fs): (Arc<dyn Fs>, Arc<dyn Fs>) = (Arc::new(dies.clone()), Arc::new(crash.clone()));
    let overlay = create(&first, 10);
    dies.fail(On::op(FsOp::SyncDir).skip(1).always(), FsFault::EIO);
    assert!(overlay.push_layer().await.is_err());
    drop(overlay);
    let overlay = open(&fs);
    assert_eq!(overlay.layers().len(), 2, "the new record is seen");
    fill(&*top(&overlay), 3, 1, 3).unwrap();
    overlay.flush().await.unwrap();
    for image in crash.crash().images(1, usize::MAX) {
        let found = open(&image.clone().into_fs());
        assert_eq!(contents(&*top(&found), 4)[3], Content::Fill(3), "{image}");
    }
}

#[test]
fn every_damaged_byte_of_the_record_is_noticed() {
    let (_, fs) = memory();
    drop(create(&fs, 10));
    let record = fs.open(&Path::new(VOL).join("record"), OpenMode::ReadWrite).unwrap();
    for at in 0..record.len().unwrap() {
        let mut byte = [0];
        record.read_exact_at(&mut byte, at).unwrap();
        record.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let kind = open_error(&fs).kind();
        assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported), "byte {at}: {kind:?}");
        record.write_all_at(&byte, at).unwrap();
    }
    open(&fs);
}

#[test]
fn volumes_by_name() {
    let (_, fs) = memory();
    let volumes = Volumes::new(fs.clone(), "/");
    let name = |text: &str| text.parse::<ImageName>().unwrap();
    let named = |text: &str| VolumeInfo { name: name(text), ..info(8192) };
    let b = volumes.create(named("b")).unwrap();
    volumes.create(named("a/x")).unwrap();
    volumes.create(named("A/x")).unwrap();
    fs.create_dir(Path::new("/stray")).unwrap();
    fs.open(Path::new("/file"), OpenMode::Create).unwrap();
    let names = || -> Vec<String> {
        let found = volumes.list().unwrap().into_iter();
        found
            .map(|found| found.record.map_or("damaged".into(), |record| record.info.name.to_string()))
            .collect()
    };
    assert_eq!(names(), ["A/x", "a/x", "b"]);

    assert_eq!(volumes.remove(&name("b")).unwrap_err().kind(), ErrorKind::Conflict);
    b.set_lock_note("here").unwrap();
    assert_eq!(volumes.read_lock_note(&name("b")).unwrap().unwrap(), "here");
    drop(b);
    volumes.remove(&name("b")).unwrap();
    assert!(!volumes.contains(&name("b")).unwrap());
    for error in [volumes.remove(&name("b")).unwrap_err(), volumes.open(&name("b"), None).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("'b'"), "{error}");
    }
    assert_eq!(fs.read_dir(&volumes.folder(&name("b"))).unwrap(), [Path::new("lock")]);
    drop(volumes.create(named("b")).unwrap());
    assert_eq!(volumes.read_lock_note(&name("b")).unwrap(), None, "the note went with the volume");
    assert_eq!(volumes.open(&name("b"), None).unwrap().record().info.name, name("b"));

    let (from, to) = (volumes.folder(&name("b")).join("record"), volumes.folder(&name("a/x")).join("record"));
    fs.rename(&from, &to).unwrap();
    assert_eq!(volumes.look_up(&name("a/x")).unwrap_err().kind(), ErrorKind::Corrupt);
    fs.open(&to, OpenMode::ReadWrite).unwrap().set_len(3).unwrap();
    assert_eq!(names(), ["A/x", "damaged"]);
}
