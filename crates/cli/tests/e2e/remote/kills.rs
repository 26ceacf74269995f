//! Kills at every request: a process gets as far as its n-th request, for every n, before that request has its effect
//! or after it. Whatever it was doing, old names stay intact, no name points at what is not there, and a rerun
//! finishes.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use gabion_testcloud::{Fault, Rule, When};

use super::{MIB, local, noise};
use crate::support::Home;
use crate::support::cloud::Net;
use crate::support::nbd::Client;
use crate::support::tools;

/// A host and its bucket, which begin each attempt as they were.
struct Scene {
    net: Net,
    home: Home,
}

/// What a process can be killed in.
enum Step {
    /// The request has had no effect.
    Before(u64),
    /// It has had its effect, and its sender was not told.
    After(u64),
}

impl Scene {
    /// A bucket with a store that has image `old`, and a host.
    fn new() -> Self {
        let net = Net::new();
        let home = net.host();
        home.file("old.raw", &noise(1, MIB));
        home.run(["init", &net.url("prod")]);
        home.run(["import", "old.raw", "old"]);
        Self { net, home }
    }

    /// Runs a verb until it is killed at each of its requests, and judges what is left. Ends once it has made fewer.
    fn kill_everywhere<const N: usize>(&self, arguments: [&str; N], mut judge: impl FnMut(&str)) {
        let objects = self.net.cloud.objects("images");
        let (home, saved) = (self.home.path("home"), self.home.path("saved"));
        std::fs::create_dir_all(&home).expect("a folder");
        tools::tool("cp", ["-a".as_ref(), home.as_os_str(), saved.as_os_str()]);
        for after in [false, true] {
            for n in 1.. {
                self.restore(&objects);
                let step = if after { Step::After(n) } else { Step::Before(n) };
                let ended = self.run_to(&arguments, &step);
                let told = match step {
                    _ if ended => "at its end".to_owned(),
                    Step::Before(n) => format!("killed before request {n}"),
                    Step::After(n) => format!("killed after request {n}"),
                };
                assert_eq!(self.home.json(["check"])["ok"], true, "{told}");
                assert!(self.home.run(["export", "old", "-"]) == noise(1, MIB), "{told}");
                judge(&told);
                if ended {
                    assert!(n > 5, "it makes requests");
                    break;
                }
            }
        }
    }

    fn restore(&self, objects: &BTreeMap<String, impl AsRef<[u8]>>) {
        let cloud = &self.net.cloud;
        for key in cloud.objects("images").keys().filter(|key| !objects.contains_key(*key)) {
            cloud.remove_object("images", key);
        }
        for (key, bytes) in objects {
            if cloud.object("images", key).is_none_or(|now| now != bytes.as_ref()) {
                cloud.put_object("images", key, bytes.as_ref().to_vec());
            }
        }
        let (home, saved) = (self.home.path("home"), self.home.path("saved"));
        std::fs::remove_dir_all(&home).expect("a folder");
        tools::tool("cp", ["-a".as_ref(), saved.as_os_str(), home.as_os_str()]);
    }

    /// Runs a verb up to a step and kills it there; whether it ended by itself before, which must be with success.
    fn run_to(&self, arguments: &[&str], step: &Step) -> bool {
        let stall = |n| Rule::new(Fault::Stall).when(When::From(n));
        self.net.cloud.add_fault(match step {
            Step::Before(n) => stall(*n),
            Step::After(n) => stall(*n).after(),
        });
        let mut command = self.home.plain(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary runs");
        let stalled = self.net.stalls(&mut child);
        end(child, stalled);
        self.net.cloud.clear_faults();
        !stalled
    }

    /// Images of a store, by name.
    fn names(&self, store: &str) -> Vec<String> {
        let images =
            self.home.json(["ls", "--store", store])["images"].as_array().cloned().unwrap_or_default();
        images.iter().map(|image| image["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// An image of the store in force, if there is one of that name.
    fn export(&self, image: &str) -> Option<Vec<u8>> {
        let there = self.names(&self.net.url("prod")).iter().any(|name| name == image);
        there.then(|| self.home.run(["export", image, "-"]))
    }
}

fn end(mut child: Child, stalled: bool) {
    if stalled {
        child.kill().expect("it has not ended");
    }
    let status = child.wait().expect("the child is ours");
    assert!(stalled || status.success(), "it ended with {status} though every request was answered");
}

/// Row 29.
#[test]
fn a_push_killed_at_any_request() {
    let scene = Scene::new();
    // Two packs of chunks, and one of nodes.
    let disk = noise(2, 17 * MIB);
    scene.home.file("disk.raw", &disk);
    scene.home.run(["import", "disk.raw", "vm1", "--store", &local(&scene.home)]);
    scene.kill_everywhere(["push", "vm1"], |told| {
        assert!(scene.export("vm1").is_none_or(|there| there == disk), "{told}");
        scene.home.run(["push", "vm1"]);
        assert!(scene.export("vm1").as_ref() == Some(&disk), "{told}, then pushed");
    });
}

/// Row 30.
#[test]
fn a_pull_killed_at_any_request() {
    let scene = Scene::new();
    let disk = noise(3, 17 * MIB);
    scene.home.file("disk.raw", &disk);
    scene.home.run(["import", "disk.raw", "vm1"]);
    let here = local(&scene.home);
    scene.kill_everywhere(["pull", "vm1"], |told| {
        let pulled = || scene.home.run(["export", "vm1", "-", "--store", &here]) == disk;
        assert!(scene.names(&here).is_empty() || pulled(), "{told}");
        scene.home.run(["pull", "vm1"]);
        assert!(pulled(), "{told}, then pulled");
        assert_eq!(scene.home.json(["check", "--content", "--store", &here])["ok"], true, "{told}");
    });
}

/// A host with a volume `vm` of 4 MiB whose image in the bucket holds `was`, and that was written since.
fn changed_volume(scene: &Scene) -> (Vec<u8>, Vec<u8>) {
    let was = noise(4, 4 * MIB);
    scene.home.file("disk.raw", &was);
    scene.home.run(["import", "disk.raw", "vm"]);
    scene.home.run(["create", "vm", "--from", "vm"]);
    let mut is = was.clone();
    for at in [0, MIB, 3 * MIB] {
        is[at..at + 65536].copy_from_slice(&noise(5 + at as u64, 65536));
        write(scene, at, &is[at..at + 65536]);
    }
    (was, is)
}

fn write(scene: &Scene, at: usize, bytes: &[u8]) {
    let server = scene.home.serve(["vm"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(at as u64, bytes).expect("a write");
    drop(client);
    server.terminate();
}

#[test]
fn a_checkpoint_killed_at_any_request() {
    let scene = Scene::new();
    let (was, is) = changed_volume(&scene);
    scene.kill_everywhere(["checkpoint", "vm"], |told| {
        assert!(scene.export("vm").is_some_and(|there| there == was || there == is), "{told}");
        scene.home.run(["checkpoint", "vm"]);
        assert!(scene.export("vm").as_ref() == Some(&is), "{told}, then checkpointed");
    });
}

#[test]
fn what_was_staged_is_published_though_the_publisher_is_killed_at_any_request() {
    let scene = Scene::new();
    let (was, staged) = changed_volume(&scene);
    let server = scene.home.serve(["vm"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    // A delta needs the index that it is one of: what was read is in the cache.
    let mut is = vec![0; 4 * MIB];
    client.read(0, &mut is).expect("a read");
    assert!(is == staged);
    scene.net.cloud.unplug();
    let kept = tools::output(&mut scene.home.gabion(["checkpoint", "vm", "by-hand", "--json"]));
    assert!(String::from_utf8_lossy(&kept.stdout).contains("\"staged\":true"), "{kept:?}");
    is[2 * MIB..][..4096].fill(7);
    client.write(2 << 20, &is[2 * MIB..][..4096]).expect("a write needs no home");
    client.flush().expect("a flush needs no home");
    // A server would publish what is staged by itself.
    server.kill();
    scene.net.cloud.plug();

    scene.kill_everywhere(["checkpoint", "vm"], |told| {
        assert!(scene.export("by-hand").is_none_or(|there| there == staged), "{told}");
        assert!(scene.export("vm").is_some_and(|there| there == was || there == is), "{told}");
        scene.home.run(["checkpoint", "vm"]);
        assert!(scene.export("by-hand").as_ref() == Some(&staged), "{told}, then checkpointed");
        assert!(scene.export("vm").as_ref() == Some(&is), "{told}, then checkpointed");
        assert_eq!(scene.home.json(["ls"])["staged"].as_array().map(Vec::len), Some(0), "{told}");
    });
}
