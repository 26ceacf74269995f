//! Beginnings and ends: stores and volumes that are made and removed while the power fails.

use std::{path::Path, sync::Arc};

use gabion_store_core::{ErrorKind, overlay::Overlay as _, testing::FixedClock};
use gabion_store_local::{
    fs::{CrashFs, Fs, FsFileExt as _, MemFs, OpenMode, make_folders, read_whole},
    overlay::Volumes,
    store::LocalStore,
};

use super::{budget::Budget, rig};

const STORE: &str = "/var/lib/store";
const VOLUMES: &str = "/var/lib/volumes";
const IMAGES: usize = 300;

fn new() -> (CrashFs, Arc<dyn Fs>) {
    let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), 1).unwrap();
    (crash.clone(), Arc::new(crash))
}

fn init(fs: &Arc<dyn Fs>) -> gabion_store_core::Result<()> {
    make_folders(&**fs, Path::new("/var/lib")).unwrap();
    LocalStore::init(fs.clone(), Path::new(STORE), &FixedClock::default()).map(drop)
}

fn volumes(fs: &Arc<dyn Fs>) -> Volumes {
    Volumes::new(fs.clone(), VOLUMES)
}

/// Looks at every image of every point; the last point is the one after all was reported.
fn each_image(crash: &CrashFs, test: &'static str, live: impl FnOnce(), check: impl Fn(Arc<dyn Fs>, bool)) {
    let mut budget = Budget::new(test, 1);
    let points = crash.record();
    live();
    crash.unobserve();
    let points = points.take();
    let last = points.len() - 1;
    assert!(last > 1);
    while let Some(seed) = budget.round() {
        for (at, point) in points.iter().enumerate() {
            let mut count = 0;
            for image in point.images(seed, IMAGES) {
                count += 1;
                let what = image.to_string();
                let fs = image.into_fs();
                let checked =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(fs, at == last)));
                checked.unwrap_or_else(|_| panic!("{what}"));
            }
            budget.point(count);
        }
    }
    budget.end();
}

/// Row 1.
#[test]
fn a_store_is_there_whole_or_can_be_made() {
    let (crash, fs) = new();
    let live = || init(&fs).unwrap();
    each_image(&crash, "a_store_is_there_whole_or_can_be_made", live, |fs, reported| match LocalStore::open(
        fs.clone(),
        Path::new(STORE),
    ) {
        Ok(_) => assert_eq!(init(&fs).unwrap_err().kind(), ErrorKind::AlreadyExists),
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) && !reported, "{e}");
            init(&fs).unwrap();
            LocalStore::open(fs, Path::new(STORE)).unwrap();
        }
    });
}

/// Row 1.
#[test]
fn a_store_that_is_removed_is_less_and_less_and_then_gone() {
    let (crash, fs) = new();
    init(&fs).unwrap();
    let live = || LocalStore::destroy(&*fs, Path::new(STORE)).unwrap();
    each_image(&crash, "a_store_that_is_removed_is_less_and_less_and_then_gone", live, |fs, reported| {
        if let Err(e) = LocalStore::open(fs.clone(), Path::new(STORE)) {
            assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid), "{e}");
        } else {
            assert!(!reported, "the descriptor goes durably");
        }
        LocalStore::destroy(&*fs, Path::new(STORE)).unwrap();
        init(&fs).unwrap();
    });
}

/// Row 1.
#[test]
fn a_volume_is_there_whole_or_can_be_made() {
    let (crash, fs) = new();
    let live = || drop(volumes(&fs).create(rig::info(9000)).unwrap());
    each_image(&crash, "a_volume_is_there_whole_or_can_be_made", live, |fs, reported| {
        match volumes(&fs).open(&rig::image(), None) {
            Ok(overlay) => assert_eq!((overlay.record().info, overlay.layers().len()), (rig::info(9000), 1)),
            Err(e) => {
                assert!(e.kind() == ErrorKind::NotFound && !reported, "{}", e.report());
                assert!(volumes(&fs).list().unwrap().is_empty());
                drop(volumes(&fs).create(rig::info(9000)).unwrap());
                volumes(&fs).open(&rig::image(), None).unwrap();
            }
        }
    });
}

/// Layers that come back without their record are nobody's: a volume of that name that is made anew shows zeros.
/// Row 1.
#[tokio::test]
async fn a_volume_that_is_removed_is_whole_or_gone_and_nothing_of_it_comes_back() {
    let (crash, fs) = new();
    make_folders(&*fs, Path::new(VOLUMES)).unwrap();
    let overlay = volumes(&fs).create(rig::info(8192)).unwrap();
    overlay.layers()[0].write(0, &[7; 8192]).unwrap();
    overlay.flush().await.unwrap();
    drop(overlay);
    let shown = |fs: &Arc<dyn Fs>| {
        let overlay = volumes(fs).open(&rig::image(), None)?;
        let mut bytes = vec![1; 8192];
        let layer = overlay.layers().remove(0);
        Ok::<_, gabion_store_core::Error>((layer.data_blocks() > 0).then(|| {
            layer.read(0, &mut bytes).unwrap();
            bytes
        }))
    };
    let live = || volumes(&fs).remove(&rig::image()).unwrap();
    let test = "a_volume_that_is_removed_is_whole_or_gone_and_nothing_of_it_comes_back";
    each_image(&crash, test, live, |fs, reported| match shown(&fs) {
        Ok(bytes) => assert!(bytes == Some(vec![7; 8192]) && !reported),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::NotFound, "{}", e.report());
            drop(volumes(&fs).create(rig::info(8192)).unwrap());
            assert_eq!(shown(&fs).unwrap(), None);
        }
    });
}

/// A volume with a damaged journal opens once it is salvaged, or is salvaged again; the damaged file is kept.
#[tokio::test]
async fn a_volume_is_salvaged_or_not() {
    let (crash, fs) = new();
    make_folders(&*fs, Path::new(VOLUMES)).unwrap();
    let overlay = volumes(&fs).create(rig::info(3 * 4096)).unwrap();
    for block in 0..3 {
        overlay.layers()[0].write(block, &[7 + block as u8; 4096]).unwrap();
        overlay.flush().await.unwrap();
    }
    drop(overlay);
    let folder = volumes(&fs).folder(&rig::image());
    let damaged = |prefix: &str| {
        let names = fs.read_dir(&folder).unwrap();
        let is_it = |name: &&std::path::PathBuf| {
            let name = name.to_string_lossy();
            name.starts_with(prefix) && name.ends_with(".journal")
        };
        names.iter().find(is_it).map(|name| folder.join(name))
    };
    let journal = damaged("layer-").unwrap();
    let file = fs.open(&journal, OpenMode::ReadWrite).unwrap();
    // The second batch, behind the header and the first.
    file.write_all_at(&[0xff], 1024 + 41).unwrap();
    file.sync_data().unwrap();
    drop(file);
    let bytes = read_whole(&*fs, &journal, 1 << 24).unwrap();
    let live = || assert_eq!(volumes(&fs).repair(&rig::image(), false).unwrap().len(), 1);
    each_image(&crash, "a_volume_is_salvaged_or_not", live, |fs, reported| {
        if let Err(e) = volumes(&fs).open(&rig::image(), None) {
            assert!(e.kind() == ErrorKind::Corrupt && !reported, "{}", e.report());
            volumes(&fs).repair(&rig::image(), false).unwrap();
        }
        assert!(volumes(&fs).repair(&rig::image(), false).unwrap().is_empty());
        let overlay = volumes(&fs).open(&rig::image(), None).unwrap();
        let layer = overlay.layers().remove(0);
        assert_eq!(layer.data_blocks(), 2);
        for (block, value) in [(0, 7), (2, 9)] {
            let mut shown = [0; 4096];
            layer.read(block * 4096, &mut shown).unwrap();
            assert_eq!(shown, [value; 4096]);
        }
        let names = fs.read_dir(&folder).unwrap();
        let kept = names.iter().find(|name| name.to_string_lossy().starts_with("damaged-")).unwrap();
        assert!(read_whole(&*fs, &folder.join(kept), 1 << 24).unwrap() == bytes);
    });
}
