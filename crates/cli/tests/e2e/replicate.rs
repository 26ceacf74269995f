//! A volume that is served here and published elsewhere: hosts are homes of their own with one store between.

use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gabion_testcloud::{Fault, Rule};
use serde_json::Value;

use crate::support::cloud::Net;
use crate::support::nbd::Client;
use crate::support::oracle::{BLOCK, Content, Oracle, Prefix, stamp};
use crate::support::{Home, Rng, Server, tools};

/// Longest wait for something that replication does by itself: a limit against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store that several homes use.
struct Shared {
    url: String,
    cloud: Option<Net>,
    _folder: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("gab").tempdir().expect("a temporary folder");
        let url = format!("file://{}/store", folder.path().display());
        Self { url, cloud: None, _folder: folder }.init()
    }

    fn in_bucket() -> Self {
        let (net, store) = (Net::new(), Self::new());
        Self { url: net.url("prod"), cloud: Some(net), ..store }.init()
    }

    fn init(self) -> Self {
        self.home().run(["init", &self.url]);
        self
    }

    /// A host.
    fn home(&self) -> Home {
        self.cloud.as_ref().map_or_else(Home::new, Net::stranger).with("GABION_STORE", &self.url)
    }

    /// A host with a volume `vm` whose home this store is, from the image of that name if it is there.
    fn host(&self, size: Option<usize>) -> Home {
        let home = self.home();
        match size {
            Some(size) => home.run(["create", "vm", "--size", &size.to_string()]),
            None => home.run(["create", "vm", "--from", "vm"]),
        };
        home
    }

    fn export(&self, image: &str) -> Vec<u8> {
        self.home().run(["export", image, "-"])
    }

    fn history(&self, image: &str) -> usize {
        let log = self.home().json(["log", image]);
        log["history"].as_array().expect("a list").len()
    }
}

/// How the replication of `vm` stands.
fn replication(home: &Home) -> Value {
    home.json(["show", "vm"])["volume"]["replication"].clone()
}

/// Waits until the replication of `vm` is in a state; gives it.
fn until(home: &Home, state: &str) -> Value {
    let start = Instant::now();
    loop {
        let now = replication(home);
        if now["state"] == state {
            return now;
        }
        assert!(start.elapsed() < PATIENCE, "not {state}: {now}");
        thread::yield_now();
    }
}

fn write(server: &Server, block: usize, generation: u64) -> Client {
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write((block * BLOCK) as u64, &stamp(block, generation)).expect("a write");
    client
}

#[test]
fn a_served_volume_is_published_as_it_changes() {
    let store = Shared::new();
    let home = store.host(Some(1 << 20));
    let server = home.serve(["vm", "--replicate", "--every", "20ms"]);
    until(&home, "current");
    write(&server, 3, 7);
    let now = until(&home, "current");
    assert_eq!((&now["image"], &now["failures"]), (&"vm".into(), &0.into()));
    assert!(now["epoch"].as_u64().is_some_and(|epoch| epoch > 0), "{now}");
    assert!(store.export("vm")[3 * BLOCK..4 * BLOCK] == stamp(3, 7));
    // Nothing is written, so nothing is published; and a stop has nothing left to do.
    let history = store.history("vm");
    server.terminate();
    assert_eq!(store.history("vm"), history);
}

#[test]
fn a_clean_stop_publishes_the_rest() {
    let store = Shared::new();
    let home = store.host(Some(1 << 20));
    let server = home.serve(["vm", "--replicate", "--every", "1h"]);
    until(&home, "current");
    write(&server, 3, 7);
    assert_eq!(replication(&home)["state"], "behind");
    server.terminate();
    assert!(store.export("vm")[3 * BLOCK..4 * BLOCK] == stamp(3, 7));
}

#[test]
fn two_servers_fight_over_a_name() {
    let store = Shared::new();
    let a = store.host(Some(1 << 20));
    let old = a.serve(["vm", "--flush", "remote", "--every", "1h"]);
    let mut client = write(&old, 0, 1);
    client.flush().expect("a remote flush");
    assert!(store.export("vm")[..BLOCK] == stamp(0, 1));

    let (before, epoch) = (store.history("vm"), replication(&a)["epoch"].clone());
    let b = store.host(None);
    let new = b.serve(["vm", "--replicate", "--every", "20ms"]);
    let theirs = until(&b, "current")["epoch"].clone();
    assert!(epoch.is_u64() && theirs.is_u64() && epoch != theirs, "{epoch} {theirs}");
    // The new one has published nothing yet, and the old one can't any more.
    assert_eq!(store.history("vm"), before);
    client.write(0, &stamp(0, 2)).expect("a write");
    let refused = client.flush().expect_err("a displaced writer's flush");
    assert!(refused.to_string().ends_with("errno 5"), "{refused}");
    let told = replication(&a);
    assert_eq!(told["state"], "displaced");
    assert!(told["error"].as_str().is_some_and(|why| why.contains("taken over")), "{told}");
    let shown = String::from_utf8(a.run(["show", "vm"])).expect("text");
    assert!(shown.contains("gabion checkpoint vm OTHER"), "{shown}");
    a.refuses(5, ["checkpoint", "vm"]);

    write(&new, 1, 3);
    let start = Instant::now();
    while store.export("vm")[BLOCK..2 * BLOCK] != stamp(1, 3) {
        assert!(start.elapsed() < PATIENCE, "the new owner does not publish");
    }
    assert!(store.export("vm")[..BLOCK] == stamp(0, 1), "the old one published");
    // It goes on, keeps what it has, and publishes that under another name.
    let mut block = vec![0; BLOCK];
    client.read(0, &mut block).expect("a read");
    assert!(block == stamp(0, 2));
    a.run(["checkpoint", "vm", "saved"]);
    assert!(store.export("saved")[..BLOCK] == stamp(0, 2));
    new.terminate();
    let said = old.terminate();
    assert!(said.contains("taken over"), "{said}");

    // Nor does a restart take the name back, unless it is told to.
    let again = a.serve(["vm", "--replicate", "--every", "20ms"]);
    let told = until(&a, "displaced");
    let why = told["error"].as_str().expect("a reason");
    assert!(why.contains("gabion checkpoint VOLUME OTHER") && why.contains("--take-over"), "{why}");
    a.refuses(5, ["checkpoint", "vm"]);
    assert!(store.export("vm")[..BLOCK] == stamp(0, 1), "what the other one published was covered");
    again.terminate();
    let taking = a.serve(["vm", "--replicate", "--every", "20ms", "--take-over"]);
    until(&a, "current");
    assert!(store.export("vm")[..BLOCK] == stamp(0, 2));
    taking.terminate();
}

#[test]
fn what_was_flushed_remotely_survives_the_host() {
    survives(&Shared::new());
}

#[test]
fn what_was_flushed_to_a_bucket_survives_the_host() {
    survives(&Shared::in_bucket());
}

/// Host A dies in the middle of everything; host B goes on from what A had published.
fn survives(store: &Shared) {
    const BLOCKS: usize = 1024;
    let lock = |oracle: &Mutex<Oracle>, then: &mut dyn FnMut(&mut Oracle)| {
        then(&mut oracle.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let oracle = Mutex::new(Oracle::new(BLOCKS));
    let mut home = store.host(Some(BLOCKS * BLOCK));
    for round in 0..3_u64 {
        let server = home.serve(["vm", "--flush", "remote", "--every", "20ms"]);
        let (done, flushes) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            for writer in 0..2_usize {
                let mut client = Client::connect(server.uri()).expect("a connection");
                let (oracle, done) = (&oracle, done.clone());
                let mut rng = Rng::new(round << 8 | writer as u64);
                scope.spawn(move || {
                    loop {
                        let block = writer * BLOCKS / 2 + rng.below(BLOCKS as u64 / 2) as usize;
                        let mut generation = 0;
                        lock(oracle, &mut |oracle| generation = oracle.issue(block, Content::Data));
                        if client.write((block * BLOCK) as u64, &stamp(block, generation as u64)).is_err() {
                            return;
                        }
                        lock(oracle, &mut |oracle| oracle.acknowledge(block, generation));
                        if rng.below(16) == 0 {
                            let mut moment = None;
                            lock(oracle, &mut |oracle| moment = Some(oracle.moment()));
                            if client.flush().is_err() {
                                return;
                            }
                            let moment = moment.expect("it was taken");
                            lock(oracle, &mut |oracle| oracle.flushed(&moment));
                            // Nobody listens any more once enough was done.
                            let _told = done.send(());
                        }
                    }
                });
            }
            drop(done);
            for _ in 0..12 + 5 * round {
                flushes.recv().expect("writers run until the server is killed");
            }
            server.kill();
        });
        let disk = store.export("vm");
        lock(&oracle, &mut |oracle| {
            oracle.judge(&disk).unwrap_or_else(|why| panic!("round {round}: {why}"));
        });
        store.home().run(["check", "--content"]);
        // The next host starts from the image, and takes it over.
        home = store.host(None);
    }
}

/// Each published state is one point in time.
#[test]
fn what_is_replicated_is_a_prefix_of_the_writes() {
    let store = Shared::new();
    let home = store.host(Some(1 << 20));
    let server = home.serve(["vm", "--replicate", "--every", "10ms"]);
    let mut prefix = Prefix::default();
    let mut client = Client::connect(server.uri()).expect("a connection");
    let mut rng = Rng::new(5);
    for _ in 0..3000 {
        let block = rng.below(256) as usize;
        let generation = prefix.issue(block);
        client.write((block * BLOCK) as u64, &stamp(block, generation)).expect("a write");
    }
    until(&home, "current");
    server.kill();
    let count = store.history("vm");
    for back in 0..count {
        let disk = store.export(&format!("vm~{back}"));
        prefix
            .judge(&disk, if back == 0 { 3000 } else { 0 })
            .unwrap_or_else(|why| panic!("vm~{back}: {why}"));
    }
}

/// fio writes to one half of the disk as fast as it can, one writer after the other to the rest; the server is killed
/// among them. What another host finds then is one point in time, of whole writes.
#[test]
fn what_a_host_under_load_had_published_when_it_was_killed_is_one_point_in_time() {
    const HALF: usize = 2048;
    let store = Shared::in_bucket();
    let mut base = 0;
    for round in 0..2_u64 {
        let home = store.home();
        home.run(["create", "vm", "--size", "16M"]);
        // The second round's empty volume has nothing to do with what the first one left.
        let server = home.serve(["vm", "--replicate", "--every", "20ms", "--take-over"]);
        let mut load = tools::limited("fio");
        load.arg("--ioengine=nbd").arg(format!("--uri={}", server.uri())).arg(format!("--randseed={round}"));
        load.args(["--name=load", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--offset=8M", "--size=8M"]);
        load.args([
            "--time_based",
            "--runtime=1h",
            "--verify=crc32c",
            "--do_verify=0",
            "--verify_state_save=0",
        ]);
        let load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut load = load.expect("fio runs: else run scripts/install-test-tools");
        let mut prefix = Prefix::default();
        let mut client = Client::connect(server.uri()).expect("a connection");
        let mut rng = Rng::new(round);
        let start = Instant::now();
        let mut theirs = vec![0; HALF * BLOCK];
        while theirs.iter().all(|byte| *byte == 0) {
            assert!(start.elapsed() < PATIENCE, "fio does not write");
            client.read(theirs.len() as u64, &mut theirs).expect("a read");
        }
        // Some published states with writes of both, then at any moment.
        let (mut published, mut first) = (0, 0);
        while published < 4 {
            assert!(start.elapsed() < PATIENCE, "nothing is published under load");
            for _ in 0..200 + 77 * round {
                let block = rng.below(HALF as u64) as usize;
                let generation = prefix.issue(block);
                client.write((block * BLOCK) as u64, &stamp(block, generation)).expect("a write");
            }
            let now = store.history("vm") - base;
            published += u64::from(now > first);
            first = now;
        }
        server.kill();
        // It has nobody to write to any more.
        assert!(!load.wait().expect("the child is ours").success());

        store.home().run(["check", "--content"]);
        let count = store.history("vm") - base;
        let mut seen = (0, 0);
        for back in (0..count).rev() {
            let disk = store.export(&format!("vm~{back}"));
            let (ours, fios) = disk.split_at(HALF * BLOCK);
            let last = prefix.judge(ours, 0).unwrap_or_else(|why| panic!("round {round}, vm~{back}: {why}"));
            assert!(last >= seen.0, "round {round}, vm~{back} is older than the one before it");
            let whole =
                whole_writes_of_fio(fios).unwrap_or_else(|why| panic!("round {round}, vm~{back}: {why}"));
            seen = (last, whole);
        }
        assert!(seen.0 > 0 && seen.1 > 0, "round {round}: {seen:?} of both is there");
        base += count;
    }
}

/// Blocks that fio has written, each whole and in its place; its header has the place, and a checksum of the rest.
pub(crate) fn whole_writes_of_fio(half: &[u8]) -> Result<usize, String> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let mut written = 0;
    for (at, block) in half.chunks(BLOCK).enumerate() {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let place = (half.len() + at * BLOCK) as u64;
        if block[..2] != [0xca, 0xac] || number(&block[16..24]) != place {
            return Err(format!("block {at} holds {:?}", &block[..32]));
        }
        written += 1;
    }
    Ok(written)
}

/// The folder of the store goes away and comes back, as a bucket would.
#[test]
fn home_away_and_back() {
    let store = Shared::new();
    let folder = store.url.strip_prefix("file://").expect("a folder").to_owned();
    let away = format!("{folder}.away");
    let home = store.host(Some(1 << 20));
    let server = home.serve(["vm", "--flush", "remote", "--every", "50ms"]);
    until(&home, "current");
    std::fs::rename(&folder, &away).expect("a rename");
    let mut client = write(&server, 1, 1);
    assert!(client.flush().is_err(), "nothing was published");
    let mut block = vec![0; BLOCK];
    client.read(BLOCK as u64, &mut block).expect("a read");
    assert!(block == stamp(1, 1));
    client.write(0, &stamp(0, 2)).expect("writes go on");
    std::fs::rename(&away, &folder).expect("a rename");
    client.flush().expect("what is owed is published");
    let disk = store.export("vm");
    assert!(disk[..BLOCK] == stamp(0, 2) && disk[BLOCK..2 * BLOCK] == stamp(1, 1));
    std::fs::rename(&folder, &away).expect("a rename");
    client.write(0, &stamp(0, 3)).expect("writes go on");
    assert!(client.flush().is_err());
    // A stop without home is a clean one, on time, that says what is here only.
    let start = Instant::now();
    let said = server.terminate();
    assert!(start.elapsed() < PATIENCE && said.contains("on this host only"), "{said}");
    std::fs::rename(&away, &folder).expect("a rename");
    home.run(["checkpoint", "vm"]);
    assert!(store.export("vm")[..BLOCK] == stamp(0, 3));
}

#[test]
fn what_can_not_be_replicated_is_refused() {
    let home = Home::new();
    home.file("disk", &[1; 8192]);
    home.run(["import", "./disk"]);
    for (arguments, why) in [
        (&["serve", "disk", "--replicate"][..], "volume"),
        (&["serve", "disk", "--every", "5s"], "--replicate"),
        (&["serve", "vm", "--size", "1M", "--replicate", "--every", "soon"], "time span"),
        (&["serve", "vm", "--size", "1M", "--replicate", "--every", "0s"], "at least"),
        (&["serve", "vm", "--size", "1M", "--flush", "far"], "remote"),
    ] {
        let said = home.refuses(2, arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}

/// What a bucket that is gone takes away, and what it does not.
#[test]
fn a_bucket_that_is_gone_takes_only_what_is_there() {
    let store = Shared::in_bucket();
    let net = store.cloud.as_ref().expect("it is in a bucket");
    let home = store.home();
    let disk: Vec<u8> = (0..64).flat_map(|block| stamp(block, 1)).collect();
    home.file("disk", &disk.repeat(64));
    home.run(["import", "./disk", "base", "--chunker", "fixed:64K"]);
    home.run(["create", "vm", "--from", "base"]);
    let server = home.serve(["vm", "--flush", "remote", "--every", "1h"]);
    until(&home, "current");
    let mut client = Client::connect(server.uri()).expect("a connection");
    let mut block = vec![0; BLOCK];
    client.read(0, &mut block).expect("a read");
    net.cloud.unplug();

    client.read(0, &mut block).expect("what was read is in the cache");
    assert!(block == stamp(0, 1));
    client.write(0, &stamp(0, 2)).expect("a write needs no home");
    client.write(512, &[9; 512]).expect("nor does part of a block that is here");
    let refused = client.flush().expect_err("a remote flush without a remote");
    assert!(refused.to_string().ends_with("errno 5"), "{refused}");
    assert_eq!(replication_of_failing(&home)["state"], "failing");

    // A checkpoint by hand is kept on this host, by name.
    let staged = tools::output(&mut home.gabion(["checkpoint", "vm", "by-hand", "--json"]));
    assert_eq!(staged.status.code(), Some(9), "{staged:?}");
    let made: Value = serde_json::from_slice(&staged.stdout).expect("an object");
    assert_eq!(made["staged"], true);
    assert!(String::from_utf8_lossy(&staged.stderr).contains("is staged on this host"));
    let listed = tools::output(&mut home.gabion(["ls", "--json"]));
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("what can be shown is shown");
    let early = home.refuses(9, ["create", "fork", "--from", "by-hand"]);
    assert!(early.contains("staged") && early.contains("'gabion checkpoint vm'"), "{early}");
    assert_eq!(
        (&listed["staged"][0]["name"], &listed["staged"][0]["checkpoint"]),
        (&made["image"], &made["checkpoint"])
    );
    client.write(BLOCK as u64, &stamp(1, 3)).expect("a write");

    net.cloud.plug();
    client.flush().expect("what is owed is published");
    home.run(["checkpoint", "vm"]);
    let sent = home.json(["show", "by-hand"]);
    assert_eq!(
        (&sent["image"]["checkpoint"], &sent["image"]["staged"]),
        (&made["checkpoint"], &false.into())
    );
    assert_eq!(home.json(["ls"])["staged"].as_array().map(Vec::len), Some(0));
    home.run(["create", "fork", "--from", "by-hand"]);
    let (then, now) = (store.export("by-hand"), store.export("vm"));
    assert!(then[1024..BLOCK] == stamp(0, 2)[1024..] && then[512..1024] == [9; 512]);
    assert!(then[BLOCK..] == disk.repeat(64)[BLOCK..] && now[BLOCK..2 * BLOCK] == stamp(1, 3));
    store.home().run(["check", "--content"]);
    server.terminate();
}

/// A checkpoint that was staged and then sent home is the volume's own, whoever sent it: replication goes on from it.
#[test]
fn what_was_staged_is_no_other_writers() {
    for sent_by_a_plain_server in [true, false] {
        let store = Shared::in_bucket();
        let net = store.cloud.as_ref().expect("it is in a bucket");
        let home = store.home();
        home.file("disk", &stamp(7, 1).repeat(16));
        home.run(["import", "./disk", "base"]);
        home.run(["create", "vm", "--from", "base"]);
        let server = home.serve(["vm"]);
        // A delta needs the index that it is one of: what was read is in the cache.
        let mut client = write(&server, 1, 1);
        client.read(0, &mut vec![0; 16 * BLOCK]).expect("a read");
        net.cloud.unplug();
        let staged = tools::output(&mut home.gabion(["checkpoint", "vm"]));
        assert_eq!(staged.status.code(), Some(9), "{staged:?}");
        server.terminate();
        net.cloud.plug();
        if sent_by_a_plain_server {
            let server = home.serve(["vm"]);
            let start = Instant::now();
            while home.json(["ls"])["staged"].as_array().is_some_and(|staged| !staged.is_empty()) {
                assert!(start.elapsed() < PATIENCE, "it is not sent");
            }
            server.terminate();
        }
        let server = home.serve(["vm", "--flush", "remote", "--every", "1h"]);
        write(&server, 2, 2).flush().expect("a flush that home has");
        until(&home, "current");
        let disk = store.export("vm");
        assert!(disk[BLOCK..2 * BLOCK] == stamp(1, 1) && disk[2 * BLOCK..3 * BLOCK] == stamp(2, 2));
        server.terminate();
    }
}

/// As [`replication`], where the rest of what is shown can't be had.
fn replication_of_failing(home: &Home) -> Value {
    let shown = tools::output(&mut home.gabion(["show", "vm", "--json"]));
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("what can be shown is shown");
    shown["volume"]["replication"].clone()
}

/// A bucket that does not answer: nobody waits for it who is asked to stop. Its time-out is far longer than the
/// test's patience. Row 42.
#[test]
fn a_stop_does_not_wait_for_a_bucket_that_hangs() {
    let store = Shared::in_bucket();
    let net = store.cloud.as_ref().expect("it is in a bucket");
    let home = store.home().with("GABION_TIMEOUT", "1h");
    home.file("disk", &stamp(7, 1).repeat(256));
    home.run(["import", "./disk", "base"]);
    home.run(["create", "vm", "--from", "base"]);
    let server = home.serve(["vm", "--flush", "remote", "--every", "1h"]);
    until(&home, "current");
    net.cloud.add_fault(Rule::new(Fault::Stall));
    let clients: Vec<_> = (0..3_usize)
        .map(|number| {
            let mut client = Client::connect(server.uri()).expect("a connection");
            thread::spawn(move || {
                // Each ends with its connection.
                let _refused = match number {
                    0 => client.read(0, &mut [0; BLOCK]),
                    1 => client.write(100 * BLOCK as u64 + 1, &[1]),
                    _ => client.write(0, &stamp(0, 2)).and_then(|()| client.flush()),
                };
            })
        })
        .collect();
    net.wait_for_stalled();
    let said = server.terminate();
    assert!(said.contains("on this host only"), "{said}");
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    net.cloud.clear_faults();
    let server = home.serve(["vm"]);
    let mut block = vec![0; BLOCK];
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.read(0, &mut block).expect("a read");
    assert!(block == stamp(0, 2) || block == stamp(7, 1), "a block is old or new");
}
