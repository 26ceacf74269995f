//! Exported disks in files and streams, beside a model.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look at the files of others, and fail by panicking"
)]

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use gabion_store_core::{ErrorKind, ops::DiskSink};
use gabion_store_local::disk_file::{FileSink, StreamSink};
use proptest::prelude::*;
use tempfile::TempDir;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[derive(Clone, Debug)]
enum Step {
    Data(Vec<u8>),
    Zeros(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..20_000, any::<u8>()).prop_map(|(length, byte)| Step::Data(vec![byte; length])),
        (0_usize..5, any::<u8>()).prop_map(|(blocks, byte)| {
            // Blocks of data and of zeros, in turns.
            Step::Data((0..blocks * 4096).map(|at| if at / 4096 % 2 == 0 { 0 } else { byte }).collect())
        }),
        (0_u64..200_000).prop_map(Step::Zeros),
    ]
}

fn play(sink: &mut impl DiskSink, steps: &[Step]) -> Vec<u8> {
    let mut model = Vec::new();
    for step in steps {
        match step {
            Step::Data(bytes) => {
                sink.data(bytes).unwrap();
                model.extend_from_slice(bytes);
            }
            Step::Zeros(length) => {
                sink.zeros(*length).unwrap();
                model.resize(model.len() + *length as usize, 0);
            }
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn sinks_hold_what_was_written(steps in prop::collection::vec(step(), 0..12)) {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("disk.raw");
        let mut sink = FileSink::create(&target, 0, false).unwrap();
        let model = play(&mut sink, &steps);
        prop_assert!(!target.exists());
        sink.finish().unwrap();
        prop_assert!(std::fs::read(&target).unwrap() == model);
        prop_assert_eq!(names(folder.path()), ["disk.raw"]);

        let mut sink = StreamSink::new(Vec::new(), "the pipe");
        prop_assert!(play(&mut sink, &steps) == model);
        prop_assert!(sink.finish().unwrap() == model);
    }
}

#[test]
fn zeros_become_holes() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("disk.raw");
    let mut sink = FileSink::create(&target, 1 << 30, false).unwrap();
    sink.zeros(1 << 29).unwrap();
    sink.data(&vec![0; 1 << 20]).unwrap();
    sink.data(&[1; 4096]).unwrap();
    sink.zeros((1 << 29) - (1 << 20) - 4096).unwrap();
    sink.finish().unwrap();
    let metadata = std::fs::metadata(&target).unwrap();
    assert_eq!(metadata.len(), 1 << 30);
    assert!(metadata.blocks() * 512 < 1 << 19, "{} bytes are allocated", metadata.blocks() * 512);
}

#[test]
fn an_existing_file_stays_unless_it_is_to_be_overwritten() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("disk.raw");
    std::fs::write(&target, "old").unwrap();
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = FileSink::create(&target, 4, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.report().contains("disk.raw"));

    // An export that does not come to its end leaves the old file, and nothing else.
    let mut sink = FileSink::create(&target, 4, true).unwrap();
    sink.data(b"part").unwrap();
    assert_eq!(names(folder.path()).len(), 2);
    drop(sink);
    assert_eq!(names(folder.path()), ["disk.raw"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"old");

    let link = folder.path().join("link");
    std::os::unix::fs::symlink("disk.raw", &link).unwrap();
    let mut sink = FileSink::create(&link, 4, true).unwrap();
    sink.data(b"new").unwrap();
    sink.finish().unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"new");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o777, 0o640);
}

#[test]
fn a_name_taken_meanwhile_is_not_overwritten() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("disk.raw");
    let mut sink = FileSink::create(&target, 4, false).unwrap();
    sink.data(b"disk").unwrap();
    std::fs::write(&target, "mine").unwrap();
    assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
    assert_eq!(names(folder.path()), ["disk.raw"]);
}

#[test]
fn what_is_no_place_for_a_disk_is_refused() {
    let folder = TempDir::new().unwrap();
    assert_eq!(FileSink::create(folder.path(), 1, true).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(FileSink::create(Path::new("/dev/null"), 1, true).unwrap_err().kind(), ErrorKind::Invalid);
    let nowhere = folder.path().join("absent/disk.raw");
    assert_eq!(FileSink::create(&nowhere, 1, false).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(FileSink::create(Path::new("/"), 1, false).is_err());
}
