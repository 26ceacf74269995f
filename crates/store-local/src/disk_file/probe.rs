//! Telling image formats apart by their first bytes.
//!
//! A guest decides what a raw disk begins with, so a probe is a guess: it picks a reader, and no reader may
//! follow what a guessed format says about other files.

use std::path::Path;

use gabion_store_core::Result;

use super::HostFile;

/// Bytes of the start that [`probe_head`] wants to see, if there are as many.
pub const PROBE_LEN: usize = 512;

/// What a disk image seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// No known format: the bytes are the disk's.
    Raw,
    /// qcow2, version 2 or later.
    Qcow2,
    /// A format of virtual disks that must be converted to raw or qcow2.
    Foreign(&'static str),
    /// A compressed file or an archive, which must be unpacked.
    Packed(&'static str),
}

impl Format {
    /// What a person does with a format that can't be read directly; `None` for one that can.
    pub fn advice(&self, path: &Path) -> Option<String> {
        let path = path.display();
        match self {
            Self::Raw | Self::Qcow2 => None,
            Self::Foreign(name) => Some(format!(
                "{path} is a {name} image, which can't be read directly: convert it first \
                 (qemu-img convert -O raw {path} disk.raw)"
            )),
            Self::Packed(name) => Some(format!("{path} is a {name} file: unpack it first")),
        }
    }
}

const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
];

const PACKED: &[(usize, &[u8], &str)] = &[
    (0, &[0x1f, 0x8b, 0x08], "gzip"),
    (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (0, b"BZh", "bzip2"),
    (0, &[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (0, &[b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c], "7z"),
    (0, b"PK\x03\x04", "zip"),
    (257, b"ustar", "tar (or OVA)"),
];

/// The format of a disk of which these are the first bytes, [`PROBE_LEN`] of them or all.
pub fn probe_head(head: &[u8]) -> Format {
    let find = |known: &[(usize, &[u8], &'static str)]| {
        known
            .iter()
            .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
            .map(|(.., name)| *name)
    };
    if let Some(name) = find(FOREIGN) {
        Format::Foreign(name)
    } else if let Some(name) = find(PACKED) {
        Format::Packed(name)
    } else if head.starts_with(b"QFI\xfb") {
        Format::Qcow2
    } else {
        Format::Raw
    }
}

/// The format of an open file.
pub fn probe(file: &HostFile) -> Result<Format> {
    let mut head = [0; PROBE_LEN];
    let head = &mut head[..file.size().min(PROBE_LEN as u64) as usize];
    file.read_exact_at(head, 0)?;
    Ok(probe_head(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        assert_eq!(probe_head(b""), Format::Raw);
        assert_eq!(probe_head(b"QFI"), Format::Raw);
        assert_eq!(probe_head(b"LUKS\xba\xbe"), Format::Raw);
        assert_eq!(probe_head(b"QFI\xfb\0\0\0\x03"), Format::Qcow2);
        for (at, magic, name) in FOREIGN.iter().chain(PACKED) {
            let mut head = vec![0; PROBE_LEN];
            head[*at..*at + magic.len()].copy_from_slice(magic);
            let found = probe_head(&head);
            assert!(matches!(found, Format::Foreign(n) | Format::Packed(n) if n == *name), "{name}");
            let advice = found.advice(Path::new("some.img")).unwrap();
            assert!(advice.contains("some.img") && advice.contains(name));
        }
    }
}
