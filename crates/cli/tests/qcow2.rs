//! qcow2 images made by `qemu-img`, read by us, beside what `qemu-img convert -O raw` reads out of them; and
//! images that must be refused.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use gabion::disk::{self, Qcow2File};
use gabion_store_core::{
    Error, ErrorKind, Result,
    chunking::{DiskSource, Next},
};
use tempfile::TempDir;

const KIB: u64 = 1024;

fn run(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{tool} is needed by this test (package qemu-utils): {e}"));
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder with images in it.
struct Images(TempDir);

impl Images {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A raw disk with data that packs, data that does not, and holes; its size is no multiple of anything.
    fn raw(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(300 * KIB as usize)
        .collect();
        let text: Vec<u8> = (0..300 * KIB).map(|i| b"all work and no play "[i as usize % 21]).collect();
        file.write_all_at(&noise, 70 * KIB).unwrap();
        file.write_all_at(&text, 900 * KIB + 77).unwrap();
        file.write_all_at(&text[..1000], size - 1000).unwrap();
        path
    }

    /// A qcow2 image of that disk.
    fn qcow2(&self, options: &str, more: &[&str]) -> PathBuf {
        self.raw("disk.raw", 3 * 1024 * KIB + 512);
        let (raw, image) = (self.text("disk.raw"), self.text("disk.qcow2"));
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
        arguments.extend(more);
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend([raw.as_str(), image.as_str()]);
        run("qemu-img", &arguments);
        self.path("disk.qcow2")
    }
}

/// All bytes of a source, and how many of them it called zeros.
fn drain(source: &mut dyn DiskSource, buf_len: usize) -> Result<(Vec<u8>, u64)> {
    let (mut bytes, mut zeros, mut buf) = (Vec::new(), 0, vec![0xee; buf_len]);
    loop {
        match source.next(&mut buf)? {
            Next::Data(n) => bytes.extend_from_slice(&buf[..n]),
            Next::Zero(n) => {
                zeros += n;
                bytes.resize(bytes.len() + usize::try_from(n).unwrap(), 0);
            }
            Next::End => return Ok((bytes, zeros)),
            Next::Skip(n) => panic!("skipped {n}"),
        }
    }
}

fn refused(path: &Path, kind: ErrorKind, says: &[&str]) -> Error {
    let error = disk::open(path).err().unwrap_or_else(|| panic!("{} was opened", path.display()));
    assert_eq!(error.kind(), kind, "{error:?}");
    for part in says {
        assert!(error.report().contains(part), "{error:?} does not say {part:?}");
    }
    error
}

#[test]
fn images_of_every_kind_read_as_qemu_reads_them() {
    for (options, more) in [
        ("", &[][..]),
        ("compat=0.10", &[]),
        ("cluster_size=512", &[]),
        ("cluster_size=2M", &[]),
        ("extended_l2=on", &[]),
        ("preallocation=metadata", &[]),
        ("preallocation=full", &[]),
        ("", &["-c"]),
        ("cluster_size=4k", &["-c"]),
        ("compression_type=zstd", &["-c"]),
        ("compression_type=zstd,cluster_size=2M", &["-c"]),
        ("extended_l2=on", &["-c"]),
    ] {
        let images = Images::new();
        let image = images.qcow2(options, more);
        let expected = std::fs::read(images.path("disk.raw")).unwrap();
        for buf_len in [1000, 100_000, 2 * 1024 * 1024] {
            let mut source = disk::open(&image).unwrap();
            assert_eq!(source.size(), Some(expected.len() as u64));
            let (bytes, _) = drain(&mut source, buf_len).unwrap();
            assert!(bytes == expected, "{options:?} {more:?} differs with reads of {buf_len}");
        }
    }
}

#[test]
fn zeros_and_subclusters_read_as_qemu_reads_them() {
    for options in ["", "cluster_size=4k", "cluster_size=16k,extended_l2=on", "compat=0.10,cluster_size=4k"] {
        let images = Images::new();
        let image = images.text("disk.qcow2");
        let mut create = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            create.extend(["-o", options]);
        }
        create.extend([image.as_str(), "66M"]);
        run("qemu-img", &create);
        let mut commands = vec!["-f", "qcow2"];
        for command in [
            "write -P 1 0 1M",
            "write -P 2 31M 2100k",
            "write -P 3 60001k 3k",
            "discard 64k 128k",
            "write -z 256k 10k",
            "write -z 320k 64k",
            "write -P 4 65M 1M",
        ] {
            commands.extend(["-c", command]);
        }
        commands.push(&image);
        run("qemu-io", &commands);
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &image, &images.text("out.raw")]);
        let mut source = disk::open(Path::new(&image)).unwrap();
        let (bytes, zeros) = drain(&mut source, 100_000).unwrap();
        assert!(bytes == std::fs::read(images.path("out.raw")).unwrap(), "{options} differs");
        assert!(zeros > 60 << 20, "{options}: only {zeros} bytes were passed over");
    }
}

#[test]
fn internal_snapshots_are_passed_over() {
    let images = Images::new();
    let image = images.qcow2("", &[]);
    let text = images.text("disk.qcow2");
    run("qemu-img", &["snapshot", "-c", "before", &text]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 0 300k", &text]);
    let (bytes, _) = drain(&mut Qcow2File::open(&image).unwrap(), 65536).unwrap();
    assert!(bytes[..300 * KIB as usize].iter().all(|byte| *byte == 9));
    assert!(
        bytes[300 * KIB as usize..] == std::fs::read(images.path("disk.raw")).unwrap()[300 * KIB as usize..]
    );
}

#[test]
fn images_that_name_other_files_are_refused() {
    let images = Images::new();
    images.qcow2("", &[]);
    let top = images.text("top.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", &top]);
    refused(Path::new(&top), ErrorKind::Unsupported, &["top.qcow2", "\"disk.qcow2\"", "flatten", "convert"]);

    let split = images.text("split.qcow2");
    let outside = images.text("outside.raw");
    let option = format!("data_file={outside}");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &option, &split, "1M"]);
    refused(Path::new(&split), ErrorKind::Unsupported, &["split.qcow2", &outside, "convert"]);
}

#[test]
fn unclosed_corrupt_encrypted_and_unknown_images_are_refused() {
    for (bit, kind, says) in [
        (0_u32, ErrorKind::Conflict, "qemu-img check -r"),
        (1, ErrorKind::Corrupt, "qemu-img check -r"),
        (5, ErrorKind::Unsupported, "0x20"),
        (63, ErrorKind::Unsupported, "not known"),
    ] {
        let images = Images::new();
        let image = images.qcow2("", &[]);
        patch(&image, 72, &(1_u64 << bit).to_be_bytes());
        refused(&image, kind, &["disk.qcow2", says]);
    }
    let images = Images::new();
    let image = images.qcow2("", &[]);
    patch(&image, 32, &2_u32.to_be_bytes());
    refused(&image, ErrorKind::Unsupported, &["encrypted"]);
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_hostile_size_is_refused_or_skipped() {
    for (size, kind) in
        [(u64::MAX, ErrorKind::Invalid), (1 << 62, ErrorKind::Invalid), (1 << 50, ErrorKind::Corrupt)]
    {
        let images = Images::new();
        let image = images.qcow2("", &[]);
        patch(&image, 24, &size.to_be_bytes());
        refused(&image, kind, &["disk.qcow2"]);
    }
    // As large as QEMU makes them with 2 MiB clusters, and empty.
    let images = Images::new();
    let image = images.text("huge.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", &image, "1P"]);
    let mut source = Qcow2File::open(Path::new(&image)).unwrap();
    let mut zeros = 0;
    loop {
        match source.next(&mut [0; 512]).unwrap() {
            Next::Zero(n) => zeros += n,
            Next::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(zeros, 1 << 50);
}

/// Whatever is cut off or flipped in the tables: an error or the disk, never zeros instead of data, no panic.
#[test]
fn an_image_cut_short_never_reads_as_zeros() {
    for more in [&[][..], &["-c"]] {
        let images = Images::new();
        let image = images.qcow2("cluster_size=4k", more);
        let whole = std::fs::read(&image).unwrap();
        let expected = std::fs::read(images.path("disk.raw")).unwrap();
        let cut = images.path("cut.qcow2");
        for step in 0..=whole.len() / 8192 {
            std::fs::write(&cut, &whole[..step * 8192]).unwrap();
            let read = Qcow2File::open(&cut).and_then(|mut source| drain(&mut source, 65536));
            if let Ok((bytes, _)) = read {
                assert!(bytes == expected, "cut at {}: other bytes", step * 8192);
            }
        }
    }
}

#[test]
fn damaged_tables_are_errors_or_other_disks_but_no_panic() {
    let images = Images::new();
    let image = images.qcow2("cluster_size=4k", &["-c"]);
    let whole = std::fs::read(&image).unwrap();
    let bad = images.path("bad.qcow2");
    std::fs::write(&bad, &whole).unwrap();
    // The header whole, the rest in samples: the step is odd, so every byte of an entry gets its turn.
    let places = (0..112).chain((112..whole.len()).step_by(3001));
    for at in places {
        for byte in [0x00, 0xff, whole[at] ^ 0x40, whole[at] ^ 0x01] {
            patch(&bad, at as u64, &[byte]);
            if let Ok(mut source) = Qcow2File::open(&bad) {
                let mut buf = vec![0; 65536];
                let mut seen = 0_u64;
                while let Ok(next) = source.next(&mut buf) {
                    match next {
                        Next::Data(n) => seen += n as u64,
                        Next::Zero(n) => seen += n,
                        Next::End => {
                            assert_eq!(Some(seen), source.size());
                            break;
                        }
                        Next::Skip(n) => panic!("skipped {n}"),
                    }
                }
            }
        }
        patch(&bad, at as u64, &[whole[at]]);
    }
}

#[test]
fn one_cluster_mapped_again_and_again_is_refused() {
    let images = Images::new();
    let image = images.text("bomb.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &image, "512M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 64k", &image]);
    let bytes = std::fs::read(&image).unwrap();
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let offset = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
    let l2 = offset(number(number(40) as usize));
    let entry = bytes[l2 as usize..l2 as usize + 8].to_vec();
    patch(Path::new(&image), l2, &entry.repeat(8192));
    let error = drain(&mut Qcow2File::open(Path::new(&image)).unwrap(), 65536).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[test]
fn an_image_changed_while_it_is_read_is_a_conflict() {
    let images = Images::new();
    let image = images.qcow2("", &[]);
    let mut source = disk::open(&image).unwrap();
    source.next(&mut [0; 100]).unwrap();
    patch(&image, 400_000, b"changed");
    assert_eq!(drain(&mut source, 65536).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn files_are_opened_by_what_they_are() {
    let images = Images::new();
    let raw = images.raw("disk.raw", 1 << 21);
    let (bytes, zeros) = drain(&mut disk::open(&raw).unwrap(), 65536).unwrap();
    assert!(bytes == std::fs::read(&raw).unwrap() && zeros > 0);
    for (format, name) in [("vmdk", "VMDK"), ("vdi", "VDI"), ("vhdx", "VHDX"), ("vpc", "VHD"), ("qed", "QED")]
    {
        let image = images.text(format);
        run("qemu-img", &["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), &image]);
        refused(Path::new(&image), ErrorKind::Unsupported, &[format, name, "qemu-img convert -O raw"]);
    }
    std::fs::write(images.path("disk.gz"), b"\x1f\x8b\x08\0\0\0\0\0").unwrap();
    refused(&images.path("disk.gz"), ErrorKind::Unsupported, &["disk.gz", "gzip", "unpack"]);
}

#[test]
fn a_stream_is_raw_or_refused() {
    let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 7) as u8).collect();
    let mut source = disk::stream(std::io::Cursor::new(content.clone()), "the pipe").unwrap();
    assert!(drain(&mut source, 4096).unwrap().0 == content);
    let mut empty = disk::stream(std::io::empty(), "the pipe").unwrap();
    assert_eq!(drain(&mut empty, 4096).unwrap(), (vec![], 0));
    for head in [&b"QFI\xfb\0\0\0\x03"[..], b"\x1f\x8b\x08"] {
        let error = disk::stream(std::io::Cursor::new(head.to_vec()), "the pipe").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.report().contains("the pipe"), "{error:?}");
    }
}
