//! A file system whose reads and writes come in pieces, as a disk's do.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_local::fs::{FileStat, Fs, FsFile, FsLock, OpenMode};

/// Half a block: enough to tear one.
const PIECE: u64 = 2048;
/// What is longer are zeros that reserve space.
const LONGEST: usize = 64 << 10;

/// Reads and writes no more than up to the next 2 KiB at a time, if it is not very much; who wants more asks again.
#[derive(Debug)]
pub(crate) struct Pieces(pub(crate) Arc<dyn Fs>);

#[derive(Debug)]
struct File(Arc<dyn FsFile>);

fn piece(offset: u64, len: usize) -> usize {
    if len > LONGEST { len } else { len.min((PIECE - offset % PIECE) as usize) }
}

impl Fs for Pieces {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        Ok(Arc::new(File(self.0.open(path, mode)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.read_dir(path)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        self.0.stat(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        self.0.lock(path, wait)
    }
}

impl FsFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = piece(offset, buf.len());
        self.0.read_at(&mut buf[..len], offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let len = piece(offset, buf.len());
        self.0.try_read_at(&mut buf[..len], offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(&buf[..piece(offset, buf.len())], offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch_hole(offset, len)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }
}
