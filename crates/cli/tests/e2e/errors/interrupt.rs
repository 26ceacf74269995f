//! Signals at any moment: an import leaves nothing that is seen, a server ends whole and in time.

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use super::{says, text};
use crate::support::nbd::Client;
use crate::support::{Home, Rng, binary, files, tools};

const MIB: usize = 1 << 20;

/// Bytes of packs so far.
fn stored(home: &Home) -> u64 {
    let packs = files(&home.path("home/store/packs"));
    packs.iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum()
}

/// An import of standard input, fed by the test: it is where the test wants it to be.
fn import(home: &Home) -> Child {
    // A process that was started with SIGINT ignored, as by `&` in a script, would hand that down.
    let mut command = std::process::Command::new("env");
    command.arg("--default-signal=INT").arg(binary());
    command.args(["import", "-", "vm"]).env("GABION_HOME", home.path("home")).current_dir(home.path(""));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

fn signal(child: &Child, signal: &str) {
    tools::tool("kill", [signal, &child.id().to_string()]);
}

#[test]
fn an_interrupted_import_is_not_seen_and_its_chunks_are_reused() {
    let home = Home::new();
    home.run(["ls"]);
    let mut disk = vec![0; 200 * MIB];
    Rng::new(8).fill(&mut disk);
    let path = home.file("disk.raw", &disk);
    // How much is fed before the signal, and whether the rest follows: a reader that waits is interrupted, too.
    for (fed, name, code) in [
        (0, "-INT", None),
        (MIB, "-INT", Some(130)),
        (150 * MIB, "-TERM", Some(130)),
        (170 * MIB, "-KILL", None),
    ] {
        let mut child = import(&home);
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        stdin.write_all(&disk[..fed]).expect("the import reads");
        signal(&child, name);
        let status = wait(&mut child);
        if let Some(code) = code {
            assert_eq!(status.0, Some(code), "{name} after {fed} bytes: {}", status.1);
            says(&status.1, &["gabion: ", "cancelled"]);
        }
        assert_eq!(home.json(["ls"])["images"].as_array().map(Vec::len), Some(0), "{name} after {fed} bytes");
        home.run(["check", "--content"]);
        drop(stdin);
    }
    assert!(stored(&home) > 64 << 20, "several packs were stored");
    let done = home.json(["import", text(&path), "vm"]);
    let (new, used) = (done["new"].as_u64().expect("a number"), done["used"].as_u64().expect("a number"));
    assert!(new < used - (32 << 20), "the rerun reuses what was stored: {done}");
    home.run(["check", "--content"]);
    home.run(["export", "vm", "out.raw"]);
    tools::assert_same_files(&path, &home.path("out.raw"));
}

/// Waits for the end of a child; gives its exit code and what it said.
fn wait(child: &mut Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().expect("a pipe was asked for").read_to_string(&mut said).expect("text");
    (child.wait().expect("the child is ours").code(), said)
}

#[test]
fn a_server_ends_with_idle_and_busy_clients() {
    let home = Home::new();
    let server = home.serve(["vm", "--size", "64M"]);
    let idle = Client::connect(server.uri()).expect("a connection");
    let mut busy = Client::connect(server.uri()).expect("a connection");
    let (progress, writes) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let mut last = None;
        for number in 1.. {
            let data = vec![number as u8; 64 << 10];
            if busy.write((number % 1024) << 16, &data).is_err() {
                break;
            }
            last = Some(number);
            // Nobody listens any more once enough was done.
            let _told = progress.send(());
        }
        last.expect("a write was answered")
    });
    for _ in 0..200 {
        writes.recv().expect("the writer runs");
    }
    // `terminate` waits for its end with the limit of a hang.
    server.terminate();
    drop(idle);
    let last: u64 = writer.join().expect("the writer ends with the server");

    // What was answered is there: the end of a server is a flush.
    let server = home.serve(["vm"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    let mut read = vec![0; 64 << 10];
    for number in last.saturating_sub(100).max(1)..=last {
        client.read((number % 1024) << 16, &mut read).expect("a read");
        // One more write may have come in without its answer.
        assert!(read.iter().all(|byte| *byte == number as u8), "write {number} of {last}");
    }
    server.terminate();
}
