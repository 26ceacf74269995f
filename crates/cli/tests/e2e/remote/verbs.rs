//! Every verb, with a store in a bucket.

use std::time::Instant;

use serde_json::Value;

use super::{MIB, local, noise};
use crate::support::cloud::{Net, PATIENCE};
use crate::support::nbd::Client;
use crate::support::{Home, sample_disk, tools};

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

#[test]
fn every_verb_works_on_a_bucket() {
    let net = Net::new();
    let home = net.host();
    let disk = sample_disk(1, 4 * MIB);
    let path = home.file("disk.raw", &disk);
    assert_eq!(home.json(["init", &net.url("prod")])["store"], net.url("prod"));
    home.json(["import", "disk.raw", "vm1"]);
    let mut changed = disk.clone();
    changed[MIB..MIB + 4096].fill(0xab);
    home.file("changed.raw", &changed);
    home.json(["import", "changed.raw", "vm1", "--label", "why=changed"]);
    assert_eq!(home.json(["ls"])["images"][0]["history"], 2);
    assert_eq!(number(&home.json(["show", "vm1"])["image"], "size"), 4 * MIB as u64);
    assert_eq!(home.json(["log", "vm1"])["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(number(&home.json(["diff", "vm1~1", "vm1"]), "bytes"), 4096);
    home.json(["export", "vm1~1", "out.raw"]);
    tools::assert_same_files(&path, &home.path("out.raw"));
    home.json(["tag", "vm1~1", "release"]);
    home.json(["create", "v", "--from", "release"]);
    let server = home.serve(["v", "vm1"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(0, &[7; 4096]).expect("a write");
    home.json(["checkpoint", "v"]);
    drop(client);
    server.terminate();
    let mut written = disk;
    written[..4096].fill(7);
    assert!(home.run(["export", "v", "-"]) == written, "the checkpoint went to the bucket");
    home.json(["rm", "release"]);
    home.json(["rm", "v", "--volume"]);
    let du = home.json(["du"]);
    assert!(number(&du, "packs") > 0 && number(&du, "total") > number(&du, "packs"), "{du}");
    assert_eq!(home.json(["check", "--content"])["ok"], true);
    home.json(["config"]);
    assert!(!home.path("home/store").exists(), "no verb made a local store");

    // The same image by a web server.
    let web = format!("{}/prod", net.cloud.http_url("images"));
    assert!(home.run(["export", "v", "-", "--store", &web]) == written);
}

#[test]
fn a_bucket_is_repaired_from_another_store() {
    let net = Net::new();
    let home = net.host();
    let disk = noise(6, 20 * MIB);
    home.file("disk.raw", &disk);
    home.run(["init", &net.url("prod")]);
    home.run(["import", "disk.raw", "vm1", "--store", &local(&home)]);
    home.run(["push", "vm1", "--store", &net.url("prod")]);
    let packs: Vec<_> =
        net.cloud.objects("images").into_iter().filter(|(key, _)| key.contains("/packs/")).collect();
    assert!(packs.len() > 1);
    let whole = || home.run(["check", "--content"]);
    let damaged = || {
        let checked = tools::output(&mut home.gabion(["check", "--content"]));
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        home.refuses(6, ["export", "vm1", "-"]);
    };
    whole();
    // Bytes that rot in each pack, in its middle and near its ends.
    for (key, bytes) in &packs {
        let mut rotten = bytes.to_vec();
        for at in [5000, bytes.len() / 2, bytes.len() - 8000] {
            rotten[at] ^= 1;
        }
        net.cloud.put_object("images", key, rotten);
    }
    damaged();
    let said = home.refuses(2, ["repair"]);
    assert!(said.contains("--from"), "{said}");
    let repair = || String::from_utf8_lossy(&home.run(["repair", "--from", "local"])).into_owned();
    let said = repair();
    assert!(said.contains("fetch") && said.contains("whole"), "{said}");
    whole();
    assert!(home.run(["export", "vm1", "-"]) == disk);
    // What was healed lies in new packs; of the old ones one is lost.
    net.cloud.remove_object("images", &packs[0].0);
    damaged();
    assert!(repair().contains("fetch"));
    assert!(home.run(["export", "vm1", "-"]) == disk);
    whole();
    assert!(repair().contains("nothing to repair"));
}

#[test]
fn names_of_stores_stand_before_images() {
    let net = Net::new();
    let home = net.stranger();
    let endpoint = net.cloud.s3_endpoint();
    std::fs::create_dir(home.path("home")).expect("a folder");
    home.file(
        "home/config.toml",
        format!(
            "store = \"prod\"\n[stores]\nbackup = \"{}\"\n[stores.prod]\nurl = \"s3://images/prod\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n",
            net.url("backup")
        )
        .as_bytes(),
    );
    home.file("disk.raw", &noise(1, MIB));
    home.run(["init", "prod"]);
    home.run(["import", "disk.raw", "vm1"]);
    home.run(["copy", "vm1", "backup:vm1", "--init"]);
    home.run(["tag", "backup:vm1", "backup:vm2"]);
    home.run(["tag", "backup:vm1", "vm3"]);
    let names = |store: &str| -> Vec<String> {
        let images = home.json(["ls", "--store", store])["images"].as_array().cloned().unwrap_or_default();
        images.iter().map(|image| image["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names("backup"), ["vm1", "vm2", "vm3"]);
    assert_eq!(names("prod"), ["vm1"]);
    assert_eq!(number(&home.json(["diff", "prod:vm1", "backup:vm2"]), "bytes"), 0);
    home.run(["pull", "backup:vm2", "here"]);
    assert_eq!(names(&local(&home)), ["here"]);
    home.run(["create", "v", "--from", "backup:vm2"]);
    assert_eq!(home.json(["show", "v"])["volume"]["home"], net.url("backup"));
    home.run(["checkpoint", "v", "backup:v"]);
    assert!(home.refuses(2, ["checkpoint", "v", "prod:v"]).contains("home"));
    assert!(home.refuses(2, ["tag", "backup:vm1", "prod:vm9"]).contains("copy"));
    assert!(home.refuses(2, ["show", "nowhere:vm1"]).contains("local, backup, prod"));
    let server = home.serve(["backup:vm1"]);
    Client::connect(server.uri()).expect("a connection");
    server.terminate();
}

#[test]
fn only_what_is_missing_travels_both_ways() {
    let net = Net::new();
    let (a, b) = (net.host(), net.host());
    let mut disk = noise(2, 8 * MIB);
    a.file("disk.raw", &disk);
    a.run(["import", "disk.raw", "vm1", "--store", &local(&a)]);
    let plan = a.json(["push", "vm1", "--dry-run", "--init"]);
    let pushed = a.json(["push", "vm1", "--init"]);
    assert_eq!(plan["bytes"], pushed["bytes"], "the plan is what was done");
    assert!(plan["cost_usd"]["requests"].as_f64().is_some_and(|cost| cost > 0.0), "{plan}");
    assert!(number(&pushed, "bytes") > 8 * MIB as u64, "noise does not compress");

    disk[MIB..MIB + 65536].copy_from_slice(&noise(3, 65536));
    a.file("disk.raw", &disk);
    a.run(["import", "disk.raw", "vm1", "--store", &local(&a)]);
    b.run(["pull", "vm1"]);
    let pushed = a.json(["push", "vm1"]);
    assert!(number(&pushed, "bytes") < 512 << 10, "a delta of 64 KiB, not {pushed}");
    let pulled = b.json(["pull", "vm1"]);
    assert!(number(&pulled, "bytes") < 512 << 10, "a delta of 64 KiB, not {pulled}");
    assert!(b.run(["export", "vm1", "-", "--store", &local(&b)]) == disk);
    b.run(["check", "--content", "--store", &local(&b)]);

    // With the history, under another name.
    a.run(["push", "vm1", "all", "--history"]);
    assert_eq!(a.json(["log", "all"])["history"].as_array().map(Vec::len), Some(2));

    // Two lines of history: neither is lost unasked.
    a.file("other.raw", &noise(4, MIB));
    a.run(["import", "other.raw", "vm2", "--store", &local(&a)]);
    let refused = a.refuses(5, ["push", "vm2", "vm1"]);
    assert!(refused.contains("--force") && refused.contains("another name"), "{refused}");
    a.run(["push", "vm2", "vm1", "--force"]);
    assert_eq!(a.json(["log", "vm1"])["history"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_served_image_needs_no_permission_to_write() {
    let net = Net::new();
    let a = net.host();
    let disk = noise(5, MIB);
    a.file("disk.raw", &disk);
    a.run(["init", &net.url("prod")]);
    a.run(["import", "disk.raw", "vm1"]);
    let web = format!("{}/prod", net.cloud.http_url("images"));
    let b = net.stranger().with("GABION_STORE", &web);
    let server = b.serve(["vm1"]);
    let mut block = vec![0; 4096];
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.read(4096, &mut block).expect("a read");
    assert!(block == disk[4096..8192]);
    drop(client);
    let said = server.terminate();
    assert!(said.contains("history"), "what protects it is told: {said}");

    let refused = b.refuses(7, ["create", "v", "--from", "vm1"]);
    assert!(refused.contains("pull 'vm1' first") && refused.contains("--unpinned"), "{refused}");
    b.run(["create", "v", "--from", "vm1", "--unpinned"]);
    let server = b.serve(["v"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(0, &[1; 4096]).expect("writes stay on the host");
    client.flush().expect("a flush");
    server.terminate();
    b.file("disk.raw", &disk);
    b.refuses(7, ["import", "disk.raw", "x"]);
}

#[test]
fn the_first_start_is_recorded_and_the_next_one_fetched_ahead() {
    let net = Net::new();
    let a = net.host();
    a.file("disk.raw", &noise(6, 8 * MIB));
    a.run(["init", &net.url("prod")]);
    a.run(["import", "disk.raw", "vm1"]);
    let boot = |host: &Home, arguments: &[&str]| {
        let server = host.serve(arguments);
        let mut client = Client::connect(server.uri()).expect("a connection");
        let mut piece = vec![0; 65536];
        for at in [0, 4 * MIB, MIB, 7 * MIB] {
            client.read(at as u64, &mut piece).expect("a read");
        }
        drop(client);
        server.terminate();
    };
    let maps = || net.cloud.objects("images").keys().filter(|key| key.contains("/maps/")).count();
    let before = maps();
    boot(&net.host(), &["vm1", "--no-trace"]);
    assert_eq!(maps(), before, "--no-trace publishes none");
    boot(&net.host(), &["vm1"]);
    assert_eq!(maps(), before + 1, "what was read first is recorded beside the image's maps");
    boot(&net.host(), &["vm1"]);
    assert_eq!(maps(), before + 1, "once");
    // It goes where the image goes.
    let c = net.host();
    c.run(["pull", "vm1"]);
    c.run(["push", "vm1", "--store", &net.url("copy"), "--init"]);
    let is_trace = |key: &str, bytes: &[u8]| key.starts_with("copy/maps/") && bytes.starts_with(b"GABITRCE");
    let objects = net.cloud.objects("images");
    assert_eq!(objects.iter().filter(|(key, bytes)| is_trace(key.as_str(), bytes.as_ref())).count(), 1);

    // Nobody reads, and yet the guest's first reads are on their way.
    let b = net.host();
    net.cloud.reset_stats();
    let server = b.serve(["vm1"]);
    let deadline = Instant::now() + PATIENCE;
    while net.cloud.stats().bytes_out() < 4 * 65536 {
        assert!(Instant::now() < deadline, "nothing is fetched ahead: {:?}", net.cloud.stats());
        std::thread::yield_now();
    }
    server.terminate();

    // All of it, if asked for: then no bucket is needed.
    let server = b.serve(["vm1", "--prefetch", "all"]);
    let deadline = Instant::now() + PATIENCE;
    while net.cloud.stats().bytes_out() < 8 * MIB as u64 {
        assert!(Instant::now() < deadline, "the disk is not fetched: {:?}", net.cloud.stats());
        std::thread::yield_now();
    }
    server.terminate();
}
