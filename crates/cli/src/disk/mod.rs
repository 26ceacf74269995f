//! Disk images as a user names them: a raw or qcow2 file, a block device, or `-` for standard input.

mod qcow2;

use std::{
    io::{self, BufRead as _, BufReader, Cursor, Read},
    path::Path,
};

use gabion_store_core::{Error, ErrorKind, Result, chunking::DiskSource};
use gabion_store_local::disk_file::{Format, HostFile, PROBE_LEN, RawFile, StreamSource, probe, probe_head};

pub use qcow2::Qcow2File;

/// Opens a disk image to be read from start to end, its format told by its first bytes; `-` is standard
/// input, which must be raw. To take a file as raw whatever it begins with, use [`RawFile::open`].
///
/// **Errors**: `Invalid` for what is empty; those of [`HostFile::open`] and [`Qcow2File::open`]; `Unsupported`, with advice, for other
/// formats and for compressed files.
pub fn open(path: &Path) -> Result<Box<dyn DiskSource>> {
    if path == Path::new("-") {
        let mut input = BufReader::new(io::stdin());
        if input.fill_buf().is_ok_and(<[u8]>::is_empty) {
            return Err(empty("standard input"));
        }
        return Ok(Box::new(stream(input, "standard input")?));
    }
    let file = HostFile::open(path)?;
    if file.size() == 0 {
        return Err(empty(&path.display().to_string()));
    }
    let format = probe(&file)?;
    match (&format, format.advice(path)) {
        (Format::Raw, _) => Ok(Box::new(RawFile::from(file))),
        (Format::Qcow2, _) => Ok(Box::new(Qcow2File::new(file)?)),
        (_, advice) => Err(Error::new(ErrorKind::Unsupported, advice.unwrap_or_default())),
    }
}

/// More likely an accident, such as a command before the pipe that failed, than a disk.
fn empty(name: &str) -> Error {
    Error::invalid(format!("{name} is empty, which is no disk"))
}

/// A raw disk that arrives on a stream. Its first bytes are waited for.
///
/// **Errors**: `Unsupported` if they are those of another format.
pub fn stream<R: Read + Send + 'static>(mut stream: R, name: &str) -> Result<impl DiskSource + use<R>> {
    let mut head = Vec::with_capacity(PROBE_LEN);
    stream
        .by_ref()
        .take(PROBE_LEN as u64)
        .read_to_end(&mut head)
        .map_err(|e| Error::io(format!("{name} can't be read"), e))?;
    let format = probe_head(&head);
    let advice = match format {
        Format::Qcow2 => Some(format!("{name} is a qcow2 image, which must be read from a file")),
        _ => format.advice(Path::new(name)),
    };
    match advice {
        Some(advice) => Err(Error::new(ErrorKind::Unsupported, advice)),
        None => Ok(StreamSource::new(Cursor::new(head).chain(stream), name)),
    }
}
