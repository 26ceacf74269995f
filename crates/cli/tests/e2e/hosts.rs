//! Hosts that share a bucket: what one pushed, another serves, checkpoints, pulls and boots.

use std::collections::BTreeMap;

use crate::guest::assert_prefix;
use crate::support::bucket::Bucket;
use crate::support::guest::{Guest, kit};
use crate::support::tools::tool;

#[test]
fn pushed_on_one_host_booted_on_another_pulled_on_a_third() {
    let mut bucket = Bucket::new();

    // A imports into its local store, and pushes from there.
    let a = bucket.host("prod");
    let root = kit().join("root.img");
    a.run(["import", root.to_str().expect("UTF-8"), "base", "--store", "local"]);
    let plan = a.json(["push", "base", "--dry-run", "--init"]);
    let pushed = a.json(["push", "base", "--init"]);
    assert_eq!(pushed["published"], 1, "{pushed}");
    for field in ["checkpoint", "chunks", "nodes"] {
        assert_eq!(plan[field], pushed[field], "{field} of the plan and of the push");
    }
    assert_eq!(a.json(["push", "base"])["published"], 0, "what is there does not travel");

    // B has nothing: it reads what its guest touches.
    let b = bucket.host("prod");
    b.run(["create", "vm", "--from", "base"]);
    let server = b.serve(["vm"]);
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
    let made = b.json(["checkpoint", "vm"]);
    let after = write(&mut guest, 5);
    guest.cut();
    server.terminate();
    assert!(b.path("home/store").read_dir().is_err(), "B has no local store");

    // C takes B's checkpoint home. From then on it needs no bucket.
    let c = bucket.host("prod");
    let pulled = c.json(["pull", "vm"]);
    assert_eq!(pulled["checkpoint"], made["checkpoint"]);
    bucket.gone();
    c.run(["create", "vm", "--from", "local:vm"]);
    let server = c.serve(["vm"]);
    let files = Guest::boot(server.uri(), "verify").files();
    assert_prefix(&files, &written, before);
    assert!(files.len() <= after, "the checkpoint is one point in time");
    let copy = c.path("vm.raw");
    let copy = copy.to_str().expect("UTF-8");
    tool("nbdcopy", [server.uri(), copy]);
    tool("/sbin/e2fsck", ["-fn", copy]);
    server.terminate();
}
