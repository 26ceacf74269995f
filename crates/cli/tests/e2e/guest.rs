//! A guest boots from an export, writes, is checkpointed while it does; the fork boots and has its files.

use std::collections::BTreeMap;

use crate::support::guest::{Guest, kit};
use crate::support::tools::tool;
use crate::support::{Home, Server};

/// Boots a guest from the server and gives the hashes of its files, from number 1.
fn files_of(server: &Server) -> Vec<String> {
    Guest::boot(server.uri(), "verify").files()
}

/// The files are the first of those that the guest said it had written: at least `least`, each as written.
pub(crate) fn assert_prefix(files: &[String], written: &BTreeMap<usize, String>, least: usize) {
    assert!(files.len() >= least, "{} files, but {least} were durable", files.len());
    for (at, hash) in files.iter().enumerate() {
        match written.get(&(at + 1)) {
            Some(wanted) => assert_eq!(hash, wanted, "file {}", at + 1),
            // Its bytes may be there before the guest had the time to tell of it.
            None => assert_eq!(at, written.len(), "file {} was not written yet", at + 1),
        }
    }
}

#[test]
fn boot_write_checkpoint_fork() {
    let home = Home::new();
    let root = kit().join("root.img");
    home.run(["import", root.to_str().expect("UTF-8"), "base"]);
    home.run(["create", "vm", "--from", "base"]);

    let server = home.serve(["vm"]);
    let mut guest = Guest::boot(server.uri(), "write");
    let mut written = BTreeMap::new();
    let mut write = |guest: &mut Guest, count: usize| {
        for _ in 0..count {
            let (number, hash) = guest.wrote();
            written.insert(number, hash);
        }
        written.len()
    };
    let before = write(&mut guest, 10);
    home.run(["checkpoint", "vm"]);
    let after = write(&mut guest, 20);
    // Power off without a word, and the host's server dies with it.
    guest.cut();
    server.kill();

    // The fork is the guest at one moment between.
    home.run(["create", "fork", "--from", "vm"]);
    let fork = home.serve(["fork"]);
    let files = files_of(&fork);
    assert_prefix(&files, &written, before);

    // The volume itself has everything that its guest was told is durable.
    let server = home.serve(["vm"]);
    let files_now = files_of(&server);
    assert_prefix(&files_now, &written, after);
    assert!(files_now.len() > files.len(), "the volume went on after its checkpoint");

    // Both file systems are clean, as seen from outside; the base is untouched.
    for (name, server) in [("fork.raw", &fork), ("vm.raw", &server)] {
        let copy = home.path(name);
        let copy = copy.to_str().expect("UTF-8");
        tool("nbdcopy", [server.uri(), copy]);
        tool("/sbin/e2fsck", ["-fn", copy]);
    }
    fork.terminate();
    server.terminate();
    let base = home.path("base.raw");
    home.run(["export", "base", base.to_str().expect("UTF-8")]);
    tool("cmp", [&root, &base]);
}

#[test]
fn a_guest_stops_and_starts_again() {
    let home = Home::new();
    let root = kit().join("root.img");
    home.run(["import", root.to_str().expect("UTF-8"), "base"]);
    home.run(["create", "vm", "--from", "base"]);

    let server = home.serve(["vm"]);
    let mut guest = Guest::boot(server.uri(), "write");
    let (last, _) = guest.wrote();
    guest.stop();
    server.terminate();

    let server = home.serve(["vm"]);
    let mut guest = Guest::boot(server.uri(), "write");
    let (next, _) = guest.wrote();
    assert!(next > last, "file {next} after file {last}");
    guest.cut();
    server.terminate();
}
