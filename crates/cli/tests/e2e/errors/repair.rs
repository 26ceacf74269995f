//! `check` in its depths, and `repair`: what is lost is named, what can be had is there again.

use std::path::PathBuf;

use super::says;
use crate::support::nbd::Client;
use crate::support::{Home, Rng, files, tools};

const MIB: usize = 1 << 20;

/// A home with images `vm1` and `vm2`, a volume `v` on the first, and the disks.
fn home() -> (Home, [Vec<u8>; 2]) {
    let home = Home::new();
    let disks = [1, 2].map(|seed| {
        let mut disk = vec![0; 2 * MIB];
        Rng::new(seed).fill(&mut disk);
        disk
    });
    for (disk, name) in disks.iter().zip(["vm1", "vm2"]) {
        home.file("disk.raw", disk);
        home.run(["import", "disk.raw", name]);
    }
    home.run(["create", "v", "--from", "vm1"]);
    (home, disks)
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("a write");
}

/// Exit code 1, and what was printed.
fn not_whole(home: &Home, arguments: &[&str]) -> String {
    let output = tools::output(&mut home.gabion(arguments));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

fn assert_whole(home: &Home, disks: &[Vec<u8>; 2]) {
    home.run(["check", "--depth", "hashes"]);
    for (disk, name) in disks.iter().zip(["vm1", "vm2"]) {
        assert!(home.run(["export", name, "-"]) == *disk, "{name}");
    }
    home.serve(["v"]).terminate();
}

#[test]
fn check_looks_as_closely_as_it_is_told() {
    let (home, _) = home();
    let pack = files(&home.path("home/store/packs")).remove(0);
    flip(&pack, MIB);
    home.run(["check"]);
    let found = not_whole(&home, &["check", "--depth", "checksums"]);
    says(&found, &["DAMAGED image 'vm", "checkpoint ", "bytes ", "chunk ", "can't be read", "NOT whole"]);
    flip(&pack, MIB);
    home.run(["check", "--content"]);

    let part = home.json(["check", "--sample", "30%"]);
    let (looked_at, skipped) = (part["chunks"].as_u64().expect("a number"), part["skipped"].as_u64());
    assert!(looked_at > 0 && skipped > Some(0) && part["complete"] == false, "{part}");
    let all = home.json(["check", "--depth", "checksums"]);
    assert!(all["complete"] == true && all["chunks"].as_u64() == skipped.map(|s| s + looked_at), "{all}");
    // Longer than it takes.
    let timed = home.json(["check", "--content", "--for", "10m"]);
    assert!(timed["complete"] == true, "{timed}");
    for bad in
        [&["--sample", "0%"][..], &["--sample", "5"], &["--for", "soon"], &["--content", "--depth", "hashes"]]
    {
        home.refuses(2, [&["check"][..], bad].concat());
    }

    // The trailer of a pack, which no read needs.
    let len = std::fs::read(&pack).expect("a pack").len();
    flip(&pack, len - 20);
    says(&not_whole(&home, &["check"]), &["DAMAGED store", "pack "]);
    flip(&pack, len - 20);
    let journal = files(&home.path("home/volumes"))
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with("journal"));
    flip(&journal.expect("a journal"), 100);
    says(&not_whole(&home, &["check"]), &["volume 'v'", ".journal"]);
}

#[test]
fn locators_and_catalog_are_made_anew() {
    let (home, disks) = home();
    says(&String::from_utf8_lossy(&home.run(["repair"])), &["nothing to repair"]);
    let store = home.path("home/store");
    let pins = |home: &Home| std::fs::read(home.path("home/store/catalog")).expect("a catalog").len();
    let with_pin = pins(&home);
    for locator in files(&store.join("locators")) {
        flip(&locator, 5000);
    }
    flip(&store.join("catalog"), 70);
    home.refuses(6, ["check"]);
    let before = files(&store);
    says(&String::from_utf8_lossy(&home.run(["repair", "--dry-run"])), &["would write a locator", "catalog"]);
    assert_eq!(files(&store), before, "a dry run changes nothing");
    says(&String::from_utf8_lossy(&home.run(["repair"])), &["done: write a locator", "whole"]);
    // One locator of two, and the volume's pin.
    assert!(pins(&home) + 24 >= with_pin, "the volume's base is pinned no more");
    assert_whole(&home, &disks);
    says(&String::from_utf8_lossy(&home.run(["repair"])), &["nothing to repair"]);
    assert!(store.join("quarantine").is_dir());
}

#[test]
fn what_is_lost_is_named_or_fetched() {
    let (home, disks) = home();
    home.run(["init", "backup"]);
    home.run(["push", "vm1", "--store", &home.path("backup").to_string_lossy()]);
    let packs = files(&home.path("home/store/packs"));
    let largest: Vec<_> =
        packs.iter().filter(|pack| pack.metadata().expect("a file").len() > MIB as u64).collect();
    flip(largest[0], MIB);
    flip(largest[1], MIB);
    let said = not_whole(&home, &["repair"]);
    says(&said, &["done: store again", "LOST image 'vm1'", "LOST image 'vm2'", "bytes ", "--from"]);
    let backup = home.path("backup").to_string_lossy().into_owned();
    let said = not_whole(&home, &["repair", "--from", &backup]);
    says(&said, &["fetch 1 entries", "LOST image 'vm2'", "NOT whole"]);
    assert!(!said.contains("LOST image 'vm1'"), "{said}");
    home.file("disk.raw", &disks[1]);
    home.run(["import", "disk.raw", "again"]);
    assert_whole(&home, &disks);
}

#[test]
fn reads_that_meet_damage_are_answered_from_elsewhere_and_heal_it() {
    let (home, disks) = home();
    let backup = home.path("backup").to_string_lossy().into_owned();
    home.run(["init", &backup]);
    for image in ["vm1", "vm2"] {
        home.run(["push", image, "--store", &backup]);
    }
    let packs = files(&home.path("home/store/packs"));
    let damage = || {
        for pack in packs.iter().filter(|pack| pack.metadata().expect("a file").len() > MIB as u64) {
            flip(pack, MIB);
        }
    };
    let healing = |arguments: &[&str]| tools::run(home.gabion(arguments).env("GABION_HEAL_FROM", &backup));
    // What reads once heals, and so does what serves.
    damage();
    home.refuses(6, ["export", "vm1", "-"]);
    assert!(healing(&["export", "vm1", "-"]) == disks[0]);
    assert!(home.run(["export", "vm1", "-"]) == disks[0], "it is whole by itself now");
    home.refuses(6, ["export", "vm2", "-"]);
    let server = home.serve_under([&*format!("GABION_HEAL_FROM={backup}")], ["vm2"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    let mut read = vec![0; 2 * MIB];
    client.read(0, &mut read).expect("a read");
    assert!(read == disks[1]);
    drop(client);
    server.terminate();
    assert_whole(&home, &disks);
    // `repair` asks there, too; and a store that is away is no harm to what is whole.
    for pack in files(&home.path("home/store/packs")) {
        if pack.metadata().expect("a file").len() > MIB as u64 {
            flip(&pack, MIB / 2);
        }
    }
    says(&String::from_utf8_lossy(&healing(&["repair"])), &["fetch 2 entries", "whole"]);
    std::fs::rename(&backup, home.path("away")).expect("a move");
    assert!(healing(&["export", "vm1", "-"]) == disks[0]);
    says(&String::from_utf8_lossy(&healing(&["repair"])), &["nothing to repair"]);
    assert_whole(&home, &disks);
}

/// The one journal of the one volume.
fn journal_of(home: &Home) -> PathBuf {
    let is_journal = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with("layer-") && name.ends_with(".journal")
    };
    files(&home.path("home/volumes")).into_iter().find(is_journal).expect("a journal")
}

#[test]
fn a_volume_is_salvaged() {
    let (home, _) = home();
    let server = home.serve(["v"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    for at in [0, MIB, 2 * MIB - 4096] {
        client.write(at as u64, &[at as u8 + 1; 4096]).expect("a write");
        client.flush().expect("a flush");
    }
    let mut all = vec![0; 2 * MIB];
    client.read(0, &mut all).expect("a read");
    drop(client);
    server.kill();
    let journal = journal_of(&home);
    // The second of three batches.
    flip(&journal, 1024 + 41);
    let refused = home.refuses(6, ["serve", "v"]);
    says(&refused, &["volume 'v'", "batch 2", "keep 1 batches before it and 1 behind", "repair --volume"]);
    let repair = |more: &[&str]| {
        String::from_utf8_lossy(&home.run([&["repair", "--volume", "v"][..], more].concat())).into_owned()
    };
    says(&repair(&["--dry-run"]), &["would salvage", "batch 2", "nothing was changed"]);
    home.refuses(6, ["serve", "v"]);
    says(&repair(&[]), &["salvaged", "LOST batch 2", "damaged-layer-", "check its file system"]);
    says(&repair(&[]), &["nothing to salvage"]);
    let server = home.serve(["v"]);
    home.refuses(5, ["repair", "--volume", "v"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    let mut now = vec![0; 2 * MIB];
    client.read(0, &mut now).expect("a read");
    assert!(now[..MIB] == all[..MIB] && now[MIB + 4096..] == all[MIB + 4096..]);
    assert!(now[MIB..MIB + 4096] != all[MIB..MIB + 4096], "the flush that is lost");
    client.write(400 << 10, &[77; 4096]).expect("a write");
    drop(client);
    server.terminate();
    // A server that ended in order has the record know of the last batch, too.
    let journal = journal_of(&home);
    let used = std::fs::read(&journal).expect("a journal").iter().rposition(|byte| *byte != 0);
    flip(&journal, used.expect("batches"));
    says(
        &home.refuses(6, ["serve", "v"]),
        &["volume 'v'", "batch 2", "knows of 2 batches", "repair --volume"],
    );
    says(&repair(&[]), &["salvaged", "LOST batch 2"]);
    home.run(["rm", "v", "--volume"]);
    home.refuses(3, ["repair", "--volume", "v"]);
}
