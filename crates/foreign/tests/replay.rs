//! What fuzzers have kept, given to the same parsers on every compiler; and that nothing of it is left out.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use gabion_foreign::TARGETS;
use gabion_store_core::testing::trust_checksums;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// What is in a folder of `fuzz/`, by name without extension.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| stem(entry.unwrap().path())).collect()
}

#[test]
fn every_parser_has_its_target_and_its_corpus() {
    let known: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
}

#[test]
fn what_was_kept_does_no_harm() {
    trust_checksums();
    for target in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(fuzz().join("corpus").join(target.name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            assert!(catch_unwind(|| (target.run)(&bytes)).is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "the corpus of {} is empty", target.name);
    }
}
