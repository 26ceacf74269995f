//! What transfers take of memory, as the kernel counts it.

use std::io::Write as _;
use std::process::Stdio;

use super::{MIB, local, noise};
use crate::support::Home;
use crate::support::cloud::Net;
use crate::support::tools;

/// The cache's budget, and what a process may take beside it.
const CACHE: u64 = 64;
const BESIDE: u64 = 128;

/// Runs `gabion`, which must succeed; gives the most memory that it had, in MiB.
fn peak<const N: usize>(home: &Home, arguments: [&str; N]) -> u64 {
    const RUN: &str = "import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)";
    let printed = tools::run(&mut home.under(["/usr/bin/python3", "-c", RUN], arguments));
    String::from_utf8_lossy(&printed).trim().parse().expect("a number")
}

/// Many times what either has in memory. bench/run shows the same of several GiB.
#[test]
fn push_and_pull_stay_within_the_budget() {
    let net = Net::new();
    let [a, b] = [(); 2].map(|()| net.host().with("GABION_MEMORY_CACHE", &format!("{CACHE}M")));
    let mut import = a.plain(["import", "-", "vm", "--store", &local(&a)]);
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary runs");
    let mut disk = import.stdin.take().expect("a pipe was asked for");
    for seed in 0..512 {
        disk.write_all(&noise(seed, MIB)).expect("it is read");
    }
    drop(disk);
    assert!(import.wait().expect("the child is ours").success());

    let (pushed, pulled) = (peak(&a, ["push", "vm", "--init"]), peak(&b, ["pull", "vm"]));
    assert!(net.cloud.stats().bytes_in() > 512 << 20 && net.cloud.stats().bytes_out() > 512 << 20);
    assert!(pushed <= CACHE + BESIDE, "push took {pushed} MiB");
    assert!(pulled <= CACHE + BESIDE, "pull took {pulled} MiB");
}
