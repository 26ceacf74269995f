//! Beginnings and ends: stores and volumes that are made and removed while the power fails.

use std::{path::Path, sync::Arc};

use gabion_store_core::{ErrorKind, overlay::Overlay as _, testing::FixedClock};
use gabion_store_local::{
    fs::{CrashFs, Fs, MemFs, make_folders},
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
