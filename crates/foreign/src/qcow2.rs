//! A disk image of someone else's.

use std::{
    cell::RefCell,
    fs::File,
    io::{Seek as _, Write as _},
};

use gabion::disk;
use gabion_store_core::chunking::{DiskSource as _, Next};
use tempfile::NamedTempFile;

/// Bytes read at a time.
const STEP: usize = 4096;
/// Steps after which a disk is read no further: an image may hold much more than it takes.
const STEPS: usize = 256;

thread_local! {
    /// In memory where that is possible: it is written for every input.
    static FILE: RefCell<NamedTempFile> = RefCell::new(
        NamedTempFile::new_in("/dev/shm").or_else(|_| NamedTempFile::new()).expect("a temporary file"),
    );
}

/// Reads the disk of an image: its format is told by its first bytes, and what it gives adds up to its size.
pub(crate) fn qcow2(bytes: &[u8]) {
    FILE.with_borrow_mut(|file| {
        overwrite(file.as_file_mut(), bytes).expect("write to a temporary file");
        let Ok(mut disk) = disk::open(file.path()) else { return };
        let size = disk.size().expect("a file has a size");
        let mut buf = [0; STEP];
        let mut at = 0;
        for _ in 0..STEPS {
            match disk.next(&mut buf) {
                Ok(Next::End) => {
                    assert_eq!(at, size);
                    return;
                }
                Ok(Next::Data(length)) => {
                    assert!((1..=STEP).contains(&length));
                    at += length as u64;
                }
                Ok(Next::Zero(length) | Next::Skip(length)) => {
                    assert!(length > 0);
                    at += length;
                }
                Err(_) => return,
            }
            assert!(at <= size);
        }
    });
}

fn overwrite(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(bytes)
}
