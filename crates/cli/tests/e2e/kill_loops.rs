//! SIGKILL of everything, again and again: of a server under fio and clients that know what was flushed, of a
//! checkpoint, an import and a push, each at any moment. What was flushed is there, the stores are whole, an image is
//! there as a whole or not at all, and a rerun finishes.
//!
//! Five rounds in a usual run. `GABION_KILL_SECONDS` says for how long, for `scripts/kill-loops`; `GABION_SEED` draws the
//! same moments again, as far as clocks allow.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::crash::{load, lock, whole};
use crate::replicate::whole_writes_of_fio;
use crate::support::nbd::Client;
use crate::support::oracle::{BLOCK, Oracle};
use crate::support::{Home, Rng, Server, tools};

const ROUNDS: u64 = 5;
/// Rounds on one host: nothing collects what was removed.
const ROUNDS_OF_A_HOST: u64 = 20;
/// Blocks of the half that the oracle's clients write to; fio has the other.
const HALF: usize = 2048;
const WRITERS: usize = 2;
/// How long a server is given for a checkpoint before it is killed, at most: about as long as it takes.
const SERVED: Duration = Duration::from_millis(300);
const MIB: usize = 1 << 20;

/// A verb that is killed at a random moment of the time that it takes.
struct Victim {
    verb: &'static str,
    /// How long it takes, as far as is known.
    takes: Duration,
    killed: u64,
    ended: u64,
}

impl Victim {
    fn new(verb: &'static str) -> Self {
        Self { verb, takes: Duration::from_millis(40), killed: 0, ended: 0 }
    }

    /// Runs a command and kills it at some moment; whether it was done by then.
    fn kill(&mut self, command: &mut Command, rng: &mut Rng) -> bool {
        let (begin, moment) = (Instant::now(), within(self.takes * 5 / 4, rng));
        let mut child = quiet(command);
        loop {
            if let Some(status) = child.try_wait().expect("the child is ours") {
                assert!(
                    status.success(),
                    "one of the {} ended with {status} before it was killed",
                    self.verb
                );
                self.takes = (self.takes + begin.elapsed()) / 2;
                self.ended += 1;
                return true;
            }
            if begin.elapsed() >= moment {
                child.kill().expect("it has not ended");
                let ended = child.wait().expect("the child is ours").success();
                self.takes = self.takes.max(begin.elapsed() * 9 / 8);
                self.killed += u64::from(!ended);
                return ended;
            }
            thread::yield_now();
        }
    }
}

/// A moment within some time.
fn within(time: Duration, rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.below(time.as_micros() as u64 + 1))
}

fn quiet(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary runs")
}

fn fio(server: &Server, seed: u64) -> Child {
    let mut load = tools::limited("fio");
    load.arg("--ioengine=nbd").arg(format!("--uri={}", server.uri())).arg(format!("--randseed={seed}"));
    load.args(["--name=load", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--offset=8M", "--size=8M"]);
    load.args(["--time_based", "--runtime=1h", "--fsync=64", "--verify=crc32c", "--do_verify=0"]);
    load.arg("--verify_state_save=0");
    quiet(&mut load)
}

/// A host, and what is known of it.
struct Host {
    home: Home,
    other: String,
    oracle: Mutex<Oracle>,
}

impl Host {
    fn new() -> Self {
        let home = Home::new();
        home.run(["create", "vm", "--size", &(2 * HALF * BLOCK).to_string()]);
        let other = home.path("other").display().to_string();
        home.run(["init", &other]);
        Self { home, other, oracle: Mutex::new(Oracle::new(HALF)) }
    }

    /// Serves under load, until `kill` has killed the server after some flushes.
    fn under_load(&self, rng: &mut Rng, kill: impl FnOnce(&mut Rng, Server)) {
        let server = self.home.serve(["vm"]);
        let mut fio = fio(&server, rng.next());
        let (progress, flushes) = mpsc::channel();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let client = Client::connect(server.uri()).expect("a connection");
                let (oracle, progress, rng) = (&self.oracle, progress.clone(), Rng::new(rng.next()));
                let own = writer * HALF / WRITERS..(writer + 1) * HALF / WRITERS;
                scope.spawn(move || load(client, oracle, own, rng, &progress));
            }
            drop(progress);
            for _ in 0..20 + rng.below(60) {
                flushes.recv().expect("writers run until the server is killed");
            }
            kill(rng, server);
        });
        assert!(!fio.wait().expect("the child is ours").success(), "it has nobody to write to any more");
    }

    /// What was flushed is there.
    fn judge(&self, disk: &[u8], what: &str) {
        let (ours, fios) = disk.split_at(HALF * BLOCK);
        lock(&self.oracle).judge(ours).unwrap_or_else(|why| panic!("{what}: {why}"));
        let _written = whole_writes_of_fio(fios).unwrap_or_else(|why| panic!("{what}: {why}"));
    }

    fn check(&self, what: &str) {
        for depth in ["structure", "checksums"] {
            assert_eq!(self.home.json(["check", "--depth", depth])["ok"], true, "{what}");
        }
    }

    /// What the next round finds is its own.
    fn tidy(&self) {
        self.home.run(["rm", "alone", "--store", &self.other]);
        for image in ["alone", "served"] {
            if self.has(image, &[]) {
                self.home.run(["rm", image]);
            }
        }
    }

    fn has(&self, image: &str, store: &[&str]) -> bool {
        let listed = self.home.json([&["ls"], store].concat());
        listed["images"].as_array().into_iter().flatten().any(|found| found["name"] == image)
    }
}

/// Everything that is killed.
struct Victims {
    server: u64,
    with_checkpoint: u64,
    checkpoint: Victim,
    import: Victim,
    push: Victim,
}

impl Victims {
    /// The server is killed under load; every other time a checkpoint is being made.
    fn kill_server(&mut self, host: &Host, rng: &mut Rng, what: &str) {
        let at = within(SERVED, rng);
        let mut made = None;
        host.under_load(rng, |rng, server| {
            if rng.below(2) == 0 {
                let mut asked = quiet(&mut host.home.plain(["checkpoint", "vm", "served"]));
                let begin = Instant::now();
                while begin.elapsed() < at && asked.try_wait().expect("the child is ours").is_none() {
                    thread::yield_now();
                }
                server.kill();
                made = Some(asked.wait().expect("the child is ours").success());
            } else {
                server.kill();
            }
        });
        self.server += 1;
        self.with_checkpoint += u64::from(made == Some(false));
        if made == Some(true) {
            assert!(host.has("served", &[]), "{what}: a checkpoint that was reported is there");
        }
        host.check(what);
        let server = host.home.serve(["vm"]);
        let mut client = Client::connect(server.uri()).expect("a killed server's volume opens again");
        host.judge(&whole(&mut client), what);
        client.flush().expect("a flush");
        server.kill();
        self.server += 1;
    }

    /// A process that makes a checkpoint is killed; a rerun makes it.
    fn kill_checkpoint(&mut self, host: &Host, rng: &mut Rng, what: &str) {
        self.checkpoint.kill(&mut host.home.plain(["checkpoint", "vm", "alone"]), rng);
        host.check(what);
        if host.has("alone", &[]) {
            host.judge(&host.home.run(["export", "alone", "-"]), what);
        }
        host.home.run(["checkpoint", "vm", "alone"]);
        host.judge(&host.home.run(["export", "alone", "-"]), what);
    }

    /// An import is killed: the image is whole or not there; a rerun finishes.
    fn kill_import(&mut self, host: &Host, rng: &mut Rng, what: &str) {
        let mut disk = vec![0; 6 * MIB];
        rng.fill(&mut disk);
        host.home.file("disk.raw", &disk);
        let done = self.import.kill(&mut host.home.plain(["import", "disk.raw", "disk"]), rng);
        host.check(what);
        let there = host.has("disk", &[]);
        assert!(there || !done, "{what}: an import that was reported is there");
        if there {
            assert!(host.home.run(["export", "disk", "-"]) == disk, "{what}: the image is another disk");
            host.home.run(["rm", "disk"]);
        }
        host.home.run(["import", "disk.raw", "disk"]);
        assert!(host.home.run(["export", "disk", "-"]) == disk, "{what}: the rerun's image is another disk");
        host.home.run(["rm", "disk"]);
    }

    /// A push is killed: the other store is whole, what it has is what was pushed; a rerun finishes.
    fn kill_push(&mut self, host: &Host, rng: &mut Rng, what: &str) {
        let elsewhere = ["--store", host.other.as_str()];
        let verb = [&["push", "alone"], &elsewhere[..]].concat();
        let done = self.push.kill(&mut host.home.plain(&verb), rng);
        let sound = || {
            let report = host.home.json([&["check", "--depth", "checksums"], &elsewhere[..]].concat());
            assert_eq!(report["ok"], true, "{what}");
        };
        sound();
        assert!(!done || host.has("alone", &elsewhere), "{what}: a push that was reported is there");
        host.home.run(&verb);
        sound();
        let there = host.home.run([&["export", "alone", "-"], &elsewhere[..]].concat());
        assert!(there == host.home.run(["export", "alone", "-"]), "{what}: another disk was pushed");
    }

    fn told(&self) -> String {
        let Self { server, with_checkpoint, checkpoint, import, push } = self;
        let one = |victim: &Victim| format!("{} {} ({} were done)", victim.killed, victim.verb, victim.ended);
        format!(
            "killed {server} servers, {with_checkpoint} of them in a checkpoint; {}; {}; {}",
            one(checkpoint),
            one(import),
            one(push)
        )
    }
}

/// Row 16.
#[test]
#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with a failure, and scripts/kill-loops always"
)]
fn everything_is_killed_again_and_again() {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    #[expect(clippy::disallowed_methods, reason = "a seed that is another one each time")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = given("GABION_SEED").unwrap_or(now.as_millis() as u64);
    let (begin, time) = (Instant::now(), given("GABION_KILL_SECONDS").map(Duration::from_secs));
    let mut rng = Rng::new(seed);
    let mut victims = Victims {
        server: 0,
        with_checkpoint: 0,
        checkpoint: Victim::new("checkpoints"),
        import: Victim::new("imports"),
        push: Victim::new("pushes"),
    };
    let mut host = Host::new();
    let mut round = 0;
    while time.map_or(round < ROUNDS, |time| begin.elapsed() < time) {
        if round > 0 && round % ROUNDS_OF_A_HOST == 0 {
            host = Host::new();
        }
        let what = format!("seed {seed}, round {round}");
        victims.kill_server(&host, &mut rng, &what);
        victims.kill_checkpoint(&host, &mut rng, &what);
        victims.kill_import(&host, &mut rng, &what);
        victims.kill_push(&host, &mut rng, &what);
        host.tidy();
        round += 1;
        if time.is_some() && round % 5 == 0 {
            eprintln!("{round} rounds survived after {} s: {}", begin.elapsed().as_secs(), victims.told());
        }
    }
    assert!(Path::new(&host.other).exists() && victims.server >= 2 * round);
    eprintln!("{round} rounds survived in {} s (seed {seed}): {}", begin.elapsed().as_secs(), victims.told());
}
