//! Bytes that rot: named, never zeros, never a panic, and everything else goes on.

use std::path::Path;

use super::says;
use crate::support::nbd::Client;
use crate::support::{Home, Rng, files, tools};

const MIB: usize = 1 << 20;

/// A home with image `vm1` of 4 MiB without repetition, volume `v` on it, and the disk.
fn home() -> (Home, Vec<u8>) {
    let home = Home::new();
    let mut disk = vec![0; 4 * MIB];
    Rng::new(5).fill(&mut disk);
    home.file("disk.raw", &disk);
    home.run(["import", "disk.raw", "vm1"]);
    home.run(["create", "v", "--from", "vm1"]);
    (home, disk)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("a write");
}

fn cut(path: &Path, len: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file");
    file.set_len(len).expect("a cut");
}

/// `check` must find damage; gives what it printed.
fn damaged(home: &Home, arguments: &[&str]) -> String {
    let output = tools::output(&mut home.gabion(arguments));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    says(&printed, &["DAMAGED", "NOT whole"]);
    printed
}

/// Blocks that an export reads: each right or an error, at least one of either.
fn judge(home: &Home, export: &str, disk: &[u8]) {
    let server = home.serve([export]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    let (mut good, mut bad) = (0, 0);
    for (block, expected) in disk.chunks(4096).enumerate() {
        let mut read = vec![0; 4096];
        match client.read(block as u64 * 4096, &mut read) {
            Ok(()) => {
                assert!(read == expected, "{export}: block {block} is not what was stored");
                good += 1;
            }
            Err(error) => {
                says(&error.to_string(), &["errno 5"]);
                bad += 1;
            }
        }
    }
    let said = server.terminate();
    assert!(good > 0 && bad > 0, "{export}: {good} blocks read, {bad} failed");
    says(&said, &["chunk ", &format!("'{export}'")]);
}

#[test]
fn a_damaged_chunk_is_an_error_and_is_healed_by_an_import() {
    let (home, disk) = home();
    flip(&home.stored("packs"), MIB);
    home.run(["check"]);
    says(&damaged(&home, &["check", "--content"]), &["image 'vm1'", "chunk "]);
    // From now on it is known.
    damaged(&home, &["check"]);
    judge(&home, "vm1", &disk);
    judge(&home, "v", &disk);
    says(&home.refuses(6, ["export", "vm1", "out"]), &["'vm1'", "chunk "]);
    assert!(!files(&home.path("")).iter().any(|path| path.to_string_lossy().contains("out")), "a half file");

    let done = home.json(["import", "disk.raw", "vm1"]);
    let new = done["new"].as_u64().expect("a number");
    assert!((1..=128 << 10).contains(&new), "one chunk is stored anew: {done}");
    home.run(["check", "--content"]);
    assert!(home.run(["export", "vm1~1", "-"]) == disk, "the older checkpoint is whole, too");
    home.serve(["v"]).terminate();
}

#[test]
fn damage_that_went_away_is_forgotten() {
    let (home, disk) = home();
    let pack = home.stored("packs");
    flip(&pack, MIB);
    damaged(&home, &["check", "--content"]);
    flip(&pack, MIB);
    home.run(["check", "--content"]);
    home.run(["check"]);
    assert!(home.run(["export", "vm1", "-"]) == disk);
}

#[test]
fn a_cut_pack_is_found_and_healed() {
    let (home, disk) = home();
    home.file("tail.raw", &vec![3; 5 * MIB]);
    cut(&home.stored("packs"), MIB as u64);
    damaged(&home, &["check"]);
    home.refuses(6, ["export", "vm1", "out"]);
    assert!(!home.path("out").exists());
    let done = home.json(["import", "disk.raw", "again"]);
    let (new, used) = (done["new"].as_u64(), done["used"].as_u64());
    assert!(new > Some(0) && new < used, "what is in front of the cut is shared: {done}");
    assert!(home.run(["export", "again", "-"]) == disk);
}

/// Row 14.
#[test]
fn a_missing_pack_is_an_error_and_is_healed_by_an_import() {
    let (home, disk) = home();
    // A second image in a pack of its own stays whole.
    home.file("other.raw", &[7; MIB]);
    home.run(["import", "other.raw", "vm2"]);
    let packs = files(&home.path("home/store/packs"));
    let large = packs.iter().max_by_key(|path| path.metadata().expect("a file").len()).expect("a pack");
    std::fs::remove_file(large).expect("a pack to lose");
    says(&damaged(&home, &["check"]), &["'vm1'"]);
    damaged(&home, &["check", "--content"]);
    home.refuses(6, ["export", "vm1", "out"]);
    home.refuses(6, ["serve", "v"]);
    assert!(!home.path("out").exists());
    assert!(home.run(["export", "vm2", "-"]) == [7; MIB]);
    home.run(["import", "disk.raw", "again"]);
    assert!(home.run(["export", "again", "-"]) == disk);
}

#[test]
fn damaged_records_are_named_and_hide_nothing_else() {
    let (home, disk) = home();
    home.file("other.raw", &[7; MIB]);
    let record = home.stored("images");
    let name = record.file_name().expect("a name").to_string_lossy().into_owned();
    home.run(["import", "other.raw", "vm2"]);
    let good = std::fs::read(&record).expect("a record");
    for bytes in [&good[..good.len() / 2], b"", &[0xff; 200]] {
        std::fs::write(&record, bytes).expect("a write");
        says(&home.refuses(6, ["show", "vm1"]), &["'vm1'", &name]);
        says(&home.refuses(6, ["import", "disk.raw", "vm1"]), &["'vm1'", &name]);
        says(&damaged(&home, &["check"]), &[&name, "2 images"]);
        let listed = tools::output(&mut home.gabion(["ls"]));
        assert_eq!(listed.status.code(), Some(6));
        says(&String::from_utf8_lossy(&listed.stdout), &["vm2", "volume  v"]);
        says(&String::from_utf8_lossy(&listed.stderr), &[&name]);
        assert!(home.run(["export", "vm2", "-"]) == [7; MIB]);
        // The volume stands on the checkpoint, not on the image's name.
        home.serve(["v"]).terminate();
    }
    // A record that tells of a later version is no damage.
    std::fs::write(&record, newer(&good)).expect("a write");
    says(&home.refuses(12, ["show", "vm1"]), &["version 2", "newer gabion"]);
    std::fs::write(&record, good).expect("a write");
    assert!(home.run(["export", "vm1", "-"]) == disk);
}

#[test]
fn a_damaged_catalog_is_named() {
    let (home, disk) = home();
    let catalog = home.path("home/store/catalog");
    let good = std::fs::read(&catalog).expect("a catalog");
    for bytes in [&good[..good.len() - 1], b"", &[0xff; 99]] {
        std::fs::write(&catalog, bytes).expect("a write");
        for verb in
            [&["ls"][..], &["check"], &["import", "disk.raw"], &["serve", "v"], &["export", "vm1", "-"]]
        {
            says(&home.refuses(6, verb), &["store/catalog", "'repair' makes a new one"]);
        }
    }
    std::fs::write(&catalog, newer(&good)).expect("a write");
    says(&home.refuses(12, ["ls"]), &["version 2", "newer gabion"]);
    std::fs::remove_file(&catalog).expect("a file to lose");
    says(&home.refuses(6, ["ls"]), &["store/catalog", "missing"]);
    std::fs::write(&catalog, good).expect("a write");
    assert!(home.run(["export", "vm1", "-"]) == disk);
}

#[test]
fn a_damaged_locator_is_named_and_new_images_are_whole() {
    // Its version, its number of entries, a row.
    for at in [8, 20, usize::MAX] {
        let (home, disk) = home();
        let locator = home.stored("locators");
        let at = at.min(std::fs::read(&locator).expect("a locator").len() / 2);
        let name = locator.file_name().expect("a name").to_string_lossy().into_owned();
        flip(&locator, at);
        says(&home.refuses(6, ["export", "vm1", "-"]), &[&name]);
        says(&damaged(&home, &["check"]), &[&name]);
        home.run(["import", "disk.raw", "again"]);
        assert!(home.run(["export", "again", "-"]) == disk, "byte {at}");
    }
}

#[test]
fn damaged_volumes_are_named_and_left_alone() {
    let (home, _) = home();
    home.run(["create", "whole", "--size", "1M"]);
    let server = home.serve(["v"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    for block in 0..4 {
        client.write(block << 20, &[9; 8192]).expect("a write");
        client.flush().expect("a flush");
    }
    server.kill();
    // Its record tells the image it came from.
    let from =
        |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes.windows(3).any(|part| part == b"vm1"));
    let record =
        files(&home.path("home/volumes")).into_iter().find(|path| path.ends_with("record") && from(path));
    let record = record.expect("the volume's record");
    let folder = record.parent().expect("its folder");
    let good = std::fs::read(&record).expect("a record");
    for bytes in [&good[..good.len() - 1], b"", &[0xff; 99]] {
        std::fs::write(&record, bytes).expect("a write");
        for verb in [&["serve", "v"][..], &["checkpoint", "v"], &["rm", "v"], &["show", "v"]] {
            says(&home.refuses(6, verb), &[record.to_str().expect("UTF-8")]);
        }
        let listed = tools::output(&mut home.gabion(["ls"]));
        assert_eq!(listed.status.code(), Some(6));
        says(&String::from_utf8_lossy(&listed.stdout), &["vm1", "whole"]);
    }
    std::fs::write(&record, newer(&good)).expect("a write");
    says(&home.refuses(12, ["serve", "v"]), &["version 2", "newer gabion"]);
    std::fs::write(&record, &good).expect("a write");

    // The middle of a journal, with whole batches behind it.
    let journal = files(folder).into_iter().find(|path| path.to_string_lossy().ends_with("journal"));
    let journal = journal.expect("a journal");
    let whole = std::fs::read(&journal).expect("a journal");
    let mut refused = 0;
    for at in (0..400).step_by(7) {
        let mut bytes = whole.clone();
        let Some(byte) = bytes.get_mut(at) else { break };
        *byte ^= 0x40;
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        std::fs::write(&journal, &bytes).expect("a write");
        let output = tools::output(home.gabion(["checkpoint", "v", "after"]).arg("--json"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "byte {at}: {said}");
        match output.status.code() {
            // Some bits of its header tell of features, of which none is known.
            Some(6 | 12) => {
                says(&said, &["journal"]);
                refused += 1;
            }
            Some(0) => break,
            code => panic!("byte {at}: {code:?}: {said}"),
        }
    }
    assert!(refused > 0, "no damage in the journal was noticed");
}

/// A sealed record as a later version would write it: version 2, and the right checksum.
fn newer(record: &[u8]) -> Vec<u8> {
    let (body, _) = record.split_at(record.len() - 4);
    let mut body = body.to_vec();
    body[8] = 2;
    let sum = crc32c(&body).to_le_bytes();
    body.extend(sum);
    body
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}
