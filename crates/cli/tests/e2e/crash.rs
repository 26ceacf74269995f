//! A server that is killed under load keeps its promises, and a checkpoint under load is one point in time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::support::nbd::Client;
use crate::support::oracle::{BLOCK, Content, Oracle, Prefix, stamp};
use crate::support::{Home, Rng, tools};

/// 16 MiB: small, so that blocks are overwritten often.
const BLOCKS: usize = 4096;
const WRITERS: usize = 4;
const ROUNDS: u64 = 6;

/// A writer's panic is reported by its own join; the model stays readable for the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn whole(client: &mut Client) -> Vec<u8> {
    let mut disk = vec![0; client.size() as usize];
    for (at, part) in disk.chunks_mut(1 << 20).enumerate() {
        client.read((at as u64) << 20, part).expect("a disk reads whole after a crash");
    }
    disk
}

/// Writes random blocks of its own range until the server dies; tells `progress` of every flush.
pub(crate) fn load(
    mut client: Client,
    oracle: &Mutex<Oracle>,
    own: Range<usize>,
    mut rng: Rng,
    progress: &Sender<()>,
) {
    loop {
        let block = own.start + rng.below(own.len() as u64) as usize;
        let offset = (block * BLOCK) as u64;
        let sent = match rng.below(32) {
            0..=1 => {
                let moment = lock(oracle).moment();
                let sent = client.flush();
                if sent.is_ok() {
                    lock(oracle).flushed(&moment);
                    // Nobody listens any more once enough was done.
                    let _told = progress.send(());
                }
                sent
            }
            kind @ 2..=5 => {
                let generation = lock(oracle).issue(block, Content::Zeros);
                let sent =
                    if kind < 4 { client.trim(offset, BLOCK) } else { client.write_zeroes(offset, BLOCK) };
                if sent.is_ok() {
                    lock(oracle).acknowledge(block, generation);
                }
                sent
            }
            6 => {
                let generation = lock(oracle).issue(block, Content::Data);
                let sent = client.write_fua(offset, &stamp(block, generation as u64));
                if sent.is_ok() {
                    lock(oracle).durable(block, generation);
                }
                sent
            }
            _ => {
                // A run, so that requests of several blocks are cut short too.
                let run = block..(block + 1 + rng.below(8) as usize).min(own.end);
                let generations: Vec<usize> =
                    run.clone().map(|block| lock(oracle).issue(block, Content::Data)).collect();
                let data: Vec<u8> =
                    run.clone().zip(&generations).flat_map(|(block, at)| stamp(block, *at as u64)).collect();
                let sent = client.write(offset, &data);
                if sent.is_ok() {
                    for (block, generation) in run.zip(generations) {
                        lock(oracle).acknowledge(block, generation);
                    }
                }
                sent
            }
        };
        // The kill shows as a closed socket. A reply that is an error would be a lie about a healthy disk.
        if let Err(error) = sent {
            assert!(!error.to_string().contains("errno"), "{error}");
            return;
        }
    }
}

/// Row 16.
#[test]
fn a_killed_server_keeps_what_was_flushed() {
    let seed = 0x6761_6269_6f6e;
    let home = Home::new();
    home.run(["create", "vm", "--size", &(BLOCKS * BLOCK).to_string()]);
    let oracle = Mutex::new(Oracle::new(BLOCKS));
    for round in 0..ROUNDS {
        let server = home.serve(["vm"]);
        let (progress, flushes) = mpsc::channel();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let client = Client::connect(server.uri()).expect("a connection");
                let (oracle, progress) = (&oracle, progress.clone());
                let share = BLOCKS / WRITERS;
                let rng = Rng::new(seed ^ (round << 8 | writer as u64));
                scope.spawn(move || {
                    load(client, oracle, writer * share..(writer + 1) * share, rng, &progress);
                });
            }
            drop(progress);
            let wait = |count: u64| {
                for _ in 0..count {
                    flushes.recv().expect("writers run until the server is killed");
                }
            };
            wait(60 + 20 * round);
            if round % 2 == 1 {
                // Killed at some moment of a checkpoint, which may come about or not.
                let mut checkpoint = home.gabion(["checkpoint", "vm"]).spawn().expect("the binary is there");
                wait(5 * round);
                server.kill();
                checkpoint.wait().expect("the child is ours");
            } else {
                server.kill();
            }
        });

        let server = home.serve(["vm"]);
        let mut client = Client::connect(server.uri()).expect("a killed server's volume opens again");
        let judged = lock(&oracle).judge(&whole(&mut client));
        judged.unwrap_or_else(|why| panic!("seed {seed:#x}, round {round}: {why}"));
        client.flush().expect("a flush");
        server.kill();
    }

    // After all that it can be checkpointed, and the checkpoint is what the volume reads.
    let server = home.serve(["vm"]);
    home.run(["checkpoint", "vm", "after"]);
    let exported = home.run(["export", "after", "-"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    assert!(exported == whole(&mut client), "the checkpoint differs from the volume");
    lock(&oracle).judge(&exported).unwrap_or_else(|why| panic!("seed {seed:#x}, checkpoint: {why}"));
    server.terminate();
    home.run(["check"]);
}

/// Row 41.
#[test]
fn a_live_checkpoint_is_one_point_in_time() {
    let home = Home::new();
    home.run(["create", "vm", "--size", &(BLOCKS * BLOCK).to_string()]);
    let server = home.serve(["vm"]);
    let prefix = Mutex::new(Prefix::default());
    let enough = AtomicBool::new(false);
    let mut taken = Vec::new();
    let stopped = thread::scope(|scope| {
        let (progress, writes) = mpsc::channel();
        let (uri, prefix, enough) = (server.uri(), &prefix, &enough);
        let writer = scope.spawn(move || {
            let mut client = Client::connect(uri).expect("a connection");
            let mut rng = Rng::new(41);
            while !enough.load(Ordering::Relaxed) {
                let block = rng.below(BLOCKS as u64) as usize;
                let generation = lock(prefix).issue(block);
                client.write((block * BLOCK) as u64, &stamp(block, generation)).expect("a write");
                // Nobody listens any more once enough was done.
                let _told = progress.send(generation);
            }
        });
        for number in 0..4 {
            // The last write that was replied to before this checkpoint began.
            let least = writes.iter().nth(500).expect("the writer runs");
            let name = format!("at{number}");
            home.run(["checkpoint", "vm", &name]);
            taken.push((name, least, lock(prefix).sent()));
        }
        enough.store(true, Ordering::Relaxed);
        writer.join()
    });
    stopped.expect("writes succeed beside checkpoints");
    server.kill();

    let mut last = 0;
    for (name, least, most) in taken {
        let disk = home.run(["export", &name, "-"]);
        let at = lock(&prefix).judge(&disk, least).unwrap_or_else(|why| panic!("checkpoint {name}: {why}"));
        assert!(at <= most, "{name} holds write {at}, sent after it had returned at {most}");
        assert!(at > last, "{name} is newer than the one before");
        last = at;
    }
}

#[test]
fn a_checkpoint_outlives_its_volume() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "4M"]);
    let server = home.serve(["vm"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(4096, &stamp(1, 7)).expect("a write");
    home.run(["checkpoint", "vm", "kept"]);
    server.kill();
    home.run(["rm", "vm"]);
    let said = tools::fails(&mut home.gabion(["serve", "vm"]));
    assert!(said.contains("vm"), "the refusal names what is not there: {said}");
    let disk = home.run(["export", "kept", "-"]);
    assert!(disk[4096..8192] == stamp(1, 7), "the checkpoint lost its block");
    home.run(["check"]);
}

/// Row 52: the image that a volume was made of is removed, while the volume is stopped.
#[test]
fn a_volume_outlives_its_image() {
    let home = Home::new();
    let mut disk: Vec<u8> = (0..4_u8).flat_map(|n| stamp(usize::from(n), 3)).collect();
    home.file("disk.raw", &disk);
    home.run(["import", "disk.raw", "vm"]);
    home.run(["create", "mine", "--from", "vm"]);
    home.run(["rm", "vm", "--image"]);
    assert_eq!(home.json(["check", "--depth", "hashes"])["damage"].as_array().map(Vec::len), Some(0));
    let server = home.serve(["mine"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    assert!(whole(&mut client) == disk, "the volume lost its base");
    client.write(4096, &stamp(9, 9)).expect("a write");
    disk[4096..8192].copy_from_slice(&stamp(9, 9));
    home.run(["checkpoint", "mine"]);
    server.terminate();
    assert!(home.run(["export", "mine", "-"]) == disk, "the checkpoint is another disk");
}
