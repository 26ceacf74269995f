//! Kills and a network that goes away, at every kind of step of push and pull: old names stay intact, no name
//! points at what is not there, and a rerun finishes without sending everything again.

use std::process::{Child, Stdio};

use gabion_testcloud::{Fault, Operation, Rule, When};
use serde_json::Value;

use super::{MIB, local, noise};
use crate::support::Home;
use crate::support::cloud::{Net, SECRET};
use crate::support::tools;

/// Size of the disks here: several packs.
const SIZE: usize = 72 * MIB;

/// Starts a verb that a test is going to kill.
fn start<const N: usize>(home: &Home, arguments: [&str; N]) -> Child {
    let mut command = home.plain(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary runs")
}

fn kill(mut child: Child) {
    tools::tool("kill", ["-KILL", &child.id().to_string()]);
    child.wait().expect("the child is ours");
}

fn names(home: &Home, store: &str) -> Vec<String> {
    let images = home.json(["ls", "--store", store])["images"].as_array().cloned().unwrap_or_default();
    images.iter().map(|image| image["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

/// A host with a large image `vm1`, and a small one, `old`, which it has pushed.
fn host_with_disks(net: &Net) -> Home {
    let home = net.host();
    home.file("disk.raw", &noise(1, SIZE));
    home.run(["import", "disk.raw", "vm1", "--store", &local(&home)]);
    home.file("old.raw", &noise(2, MIB));
    home.run(["import", "old.raw", "old", "--store", &local(&home)]);
    home.run(["push", "old", "--init"]);
    home
}

/// Row 29.
#[test]
fn a_killed_push_leaves_no_name_and_a_rerun_finishes() {
    let net = Net::new();
    let home = host_with_disks(&net);
    let steps = [
        (Operation::Put, "packs/", 2),
        (Operation::Put, "packs/", 4),
        (Operation::Put, "locators/", 1),
        (Operation::Replace, "catalog", 1),
        (Operation::Put, "maps/", 1),
        (Operation::Create, "images/", 1),
    ];
    for (operation, key, nth) in steps {
        net.cloud.add_fault(Rule::new(Fault::Stall).on(operation).at(key).when(When::Nth(nth)));
        let push = start(&home, ["push", "vm1"]);
        net.wait_for_stalled();
        kill(push);
        net.cloud.clear_faults();
        assert_eq!(names(&home, &net.url("prod")), ["old"], "killed at {operation:?} {nth} of {key}");
        assert_eq!(home.json(["check"])["ok"], true, "killed at {operation:?} {nth} of {key}");
    }
    let whole = SIZE as u64;
    let pushed = home.json(["push", "vm1"]);
    assert!(number(&pushed, "bytes") < whole / 2, "the rerun finds what arrived: {pushed}");
    assert_eq!(home.json(["check", "--content"])["ok"], true);
}

/// Row 30.
#[test]
fn a_killed_pull_leaves_no_name_and_a_rerun_finishes() {
    let net = Net::new();
    let (a, b) = (net.host(), net.host());
    let disk = noise(3, SIZE);
    a.file("disk.raw", &disk);
    a.run(["init", &net.url("prod")]);
    a.run(["import", "disk.raw", "vm1"]);
    for nth in [1, 2, 4, 8] {
        net.cloud.add_fault(Rule::new(Fault::Stall).on(Operation::Get).at("packs/").when(When::From(nth)));
        let pull = start(&b, ["pull", "vm1"]);
        net.wait_for_stalled();
        kill(pull);
        net.cloud.clear_faults();
        assert_eq!(names(&b, &local(&b)), [""; 0], "killed at the {nth}. read of a pack");
    }
    b.run(["pull", "vm1"]);
    assert!(b.run(["export", "vm1", "-", "--store", &local(&b)]) == disk);
    b.run(["check", "--content", "--store", &local(&b)]);
}

#[test]
fn a_network_that_comes_and_goes() {
    let net = Net::new();
    let (a, b) = (net.host(), net.host());
    let disk = noise(4, SIZE);
    a.file("disk.raw", &disk);
    a.run(["import", "disk.raw", "vm1", "--store", &local(&a)]);
    a.run(["init", &net.url("prod")]);

    // Gone in the middle of a push, for good: an error, and the old state. Large uploads are tried for minutes, in
    // case that the network comes back, so this is a small one.
    a.file("small.raw", &noise(6, 64 << 10));
    a.run(["import", "small.raw", "small", "--store", &local(&a)]);
    for key in ["packs/", "locators/"] {
        net.cloud.add_fault(Rule::new(Fault::Reset).on(Operation::Put).at(key));
        let refused = a.refuses(9, ["push", "small"]);
        assert!(refused.contains("s3://images/prod"), "{refused}");
        net.cloud.clear_faults();
        assert_eq!(names(&a, &net.url("prod")), [""; 0]);
    }

    // Every third request fails in one way or another: it goes on.
    for (seed, fault) in [(1, Fault::slow_down()), (2, Fault::Reset), (3, Fault::internal())] {
        net.cloud.add_fault(Rule::new(fault).when(When::Chance { percent: 10, seed }));
    }
    a.run(["push", "vm1"]);
    b.run(["pull", "vm1"]);
    net.cloud.clear_faults();
    assert!(b.run(["export", "vm1", "-", "--store", &local(&b)]) == disk);

    // Gone in the middle of a pull.
    let c = net.host();
    net.cloud.add_fault(Rule::new(Fault::Reset).on(Operation::Get).at("packs/").when(When::From(2)));
    c.refuses(9, ["pull", "vm1"]);
    net.cloud.clear_faults();
    assert_eq!(names(&c, &local(&c)), [""; 0]);
    c.run(["pull", "vm1"]);
    assert!(c.run(["export", "vm1", "-", "--store", &local(&c)]) == disk);
}

#[test]
fn bytes_that_lie_get_nowhere() {
    let net = Net::new();
    let (a, b) = (net.host(), net.host());
    let disk = noise(5, 4 * MIB);
    a.file("disk.raw", &disk);
    a.run(["init", &net.url("prod")]);
    a.run(["import", "disk.raw", "vm1"]);
    // A body that is wrong once is fetched again.
    for fault in [Fault::Cut, Fault::Short, Fault::Flip] {
        net.cloud.add_fault(Rule::new(fault).on(Operation::Get).at("packs/").when(When::Nth(1)));
    }
    assert!(a.run(["export", "vm1", "-"]) == disk);
    net.cloud.clear_faults();
    // One that stays wrong is an error, and nothing of it enters a store.
    net.cloud.add_fault(Rule::new(Fault::Flip).on(Operation::Get).at("packs/"));
    b.refuses(6, ["pull", "vm1"]);
    let checked = tools::output(&mut a.gabion(["check", "--content", "--json"]));
    assert_eq!(checked.status.code(), Some(1), "a check tells damage");
    net.cloud.clear_faults();
    assert_eq!(names(&b, &local(&b)), [""; 0]);
    b.run(["check", "--content", "--store", &local(&b)]);
}

/// Credentials that end while a push is under way.
#[test]
fn credentials_that_end_in_the_middle_of_a_push() {
    let net = Net::new();
    let home = host_with_disks(&net);
    for (fault, word) in [(Fault::expired(), "AWS_SESSION_TOKEN"), (Fault::denied(), "s3:PutObject")] {
        net.cloud.add_fault(Rule::new(fault).on(Operation::Put).at("packs/").when(When::From(2)));
        let said = home.refuses(10, ["push", "vm1"]);
        assert!(said.contains(word) && said.contains("packs/") && !said.contains(SECRET), "{said}");
        net.cloud.clear_faults();
        assert_eq!(names(&home, &net.url("prod")), ["old"]);
        assert_eq!(home.json(["check"])["ok"], true);
    }
    // The key is withdrawn.
    net.cloud.add_fault(Rule::new(Fault::Stall).on(Operation::Put).at("locators/"));
    let mut command = home.plain(["push", "vm1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let push = command.spawn().expect("the binary runs");
    net.wait_for_stalled();
    net.cloud.set_access_key(Some("AKIAI44QH8DHBEXAMPLE"));
    net.cloud.clear_faults();
    let ended = push.wait_with_output().expect("the child is ours");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(10), "{said}");
    assert!(!said.contains(SECRET) && !said.to_lowercase().contains("signature="), "{said}");
    net.cloud.set_access_key(None);
    assert_eq!(names(&home, &net.url("prod")), ["old"]);
    home.run(["push", "vm1"]);
    assert_eq!(names(&home, &net.url("prod")), ["old", "vm1"]);
    assert_eq!(home.json(["check", "--content"])["ok"], true);
}
