//! What a user can write wrong, and names that are taken, missing or ambiguous.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use super::{says, text};
use crate::support::nbd::Client;
use crate::support::{Home, sample_disk, tools, without_checksum};

const MIB: usize = 1 << 20;

/// A home with image `vm1` of a small disk.
fn home() -> Home {
    let home = Home::new();
    home.file("disk.raw", &sample_disk(1, MIB));
    home.run(["import", "disk.raw", "vm1"]);
    home
}

fn replace(path: &Path, from: &str, to: &str) {
    let old = std::fs::read_to_string(path).expect("a text");
    assert!(old.contains(from), "{from} in {old}");
    std::fs::write(path, old.replacen(from, to, 1)).expect("a write");
}

#[test]
fn what_is_no_store_is_named() {
    let home = Home::new();
    std::fs::create_dir(home.path("other")).expect("a folder");
    home.file("other/letter.txt", b"dear");
    home.file("file", b"");
    says(&home.refuses(2, ["ls", "--store", "other"]), &["other", "no store", "init"]);
    says(&home.refuses(3, ["ls", "--store", "missing"]), &["missing", "init"]);
    says(&home.refuses(2, ["ls", "--store", "file"]), &["file", "folder"]);
    says(&home.refuses(2, ["init", "other"]), &["other", "letter.txt"]);
    says(&home.refuses(2, ["init", "file"]), &["file", "folder"]);
    says(&home.refuses(2, ["init", "file/below"]), &["file", "folder"]);
    says(&home.refuses(2, ["ls", "--store", "ftp://bucket"]), &["ftp://", "s3://"]);
    says(&home.refuses(2, ["ls", "--store", "file://relative"]), &["file:///"]);
    home.refuses(2, ["ls", "--store", ""]);
    home.run(["init", "s"]);
    says(&home.refuses(4, ["init", "s"]), &["holds a store already"]);
}

#[test]
fn newer_stores_are_refused_by_their_version() {
    let home = Home::new();
    let refused = |from: &str, to: &str, code, words: &[&str]| {
        let folder = home.path("s");
        home.run(["init", "s"]);
        let descriptor = folder.join("gabion.json");
        replace(&descriptor, from, to);
        for verb in [["check", "--store", "s"], ["ls", "--store", "s"]] {
            says(&home.refuses(6, verb), &["gabion.json", "damaged"]);
        }
        let text = std::fs::read_to_string(&descriptor).expect("a descriptor");
        std::fs::write(&descriptor, without_checksum(&text)).expect("a write");
        for verb in [["check", "--store", "s"], ["ls", "--store", "s"]] {
            says(&home.refuses(code, verb), words);
        }
        std::fs::remove_dir_all(folder).expect("a folder to remove");
    };
    refused("\"version\": 1", "\"version\": 2", 12, &["version 2", "newer gabion"]);
    refused("blake3-256", "sha256", 12, &["sha256"]);
    refused("\"features_open\": 0", "\"features_open\": 1", 12, &["newer gabion"]);
    refused("\"store\"", "\"zoo\"", 2, &["gabion.json"]);
    refused("{", "[", 2, &["gabion.json"]);

    // What must only be understood to write is no obstacle to readers.
    home.file("disk.raw", &[1; 4096]);
    home.run(["init", "s"]);
    let descriptor = home.path("s/gabion.json");
    replace(&descriptor, "\"features_write\": 0", "\"features_write\": 4");
    says(&home.refuses(6, ["ls", "--store", "s"]), &["gabion.json", "damaged"]);
    let text = std::fs::read_to_string(&descriptor).expect("a descriptor");
    std::fs::write(&descriptor, without_checksum(&text)).expect("a write");
    home.run(["ls", "--store", "s"]);
    says(&home.refuses(12, ["import", "disk.raw", "--store", "s"]), &["disk.raw", "writing"]);
}

#[test]
fn bad_names_are_refused_by_every_verb() {
    let home = home();
    let long = "x".repeat(256);
    let names = ["..", "a/../b", "/a", "a/", "a//b", "%2e", "a\nb", "\u{1b}[2J", &long, "", "a:b", " a"];
    let verbs: [&[&str]; 9] = [
        &["import", "disk.raw"],
        &["create", "--size=1M"],
        &["checkpoint"],
        &["show"],
        &["log"],
        &["rm"],
        &["tag", "vm1"],
        &["diff", "vm1"],
        &["create", "v", "--from"],
    ];
    for verb in verbs {
        for name in names {
            let said = home.refuses(2, verb.iter().chain([&name]));
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }
    for name in ["..", "%2e", "a\nb", &long, "", " a"] {
        home.refuses(2, ["serve", name]);
    }
    says(&home.refuses(2, ["show", "vm1@zz"]), &["vm1@zz", "hex"]);
    says(&home.refuses(2, ["show", "vm1~x"]), &["vm1~x", "number"]);
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let home = home();
    for arguments in [
        &["show", "vn1"][..],
        &["log", "vn1"],
        &["rm", "vn1"],
        &["export", "vn1", "out"],
        &["tag", "vn1", "x"],
        &["diff", "vm1", "vn1"],
        &["create", "v", "--from", "vn1"],
        &["serve", "vn1"],
    ] {
        says(&home.refuses(3, arguments), &["'vn1'", "nearest: vm1"]);
    }
    says(&home.refuses(3, ["checkpoint", "vm1"]), &["no volume 'vm1'"]);
    says(&home.refuses(3, ["rm", "--volume", "vm1"]), &["no volume 'vm1'"]);
    says(&home.refuses(3, ["show", "vm1~3"]), &["vm1", "~3", "history has 1"]);
    says(&home.refuses(3, ["show", "vm1@ffff"]), &["vm1", "@ffff"]);
    assert!(!home.path("out").exists());
}

#[test]
fn usage_errors_are_one_line_and_json_if_asked() {
    let home = home();
    says(&home.refuses(2, ["imprt"]), &["imprt", "import", "--help"]);
    says(&home.refuses(2, ["serve"]), &["VOLUME|IMAGE|FILE"]);
    says(&home.refuses(2, ["create", "v", "--size", "1Q"]), &["1Q", "512M"]);
    says(&home.refuses(2, ["import", "disk.raw", "--chunker", "fixed:3K"]), &["fixed:3K"]);
    says(&home.refuses(2, ["import", "disk.raw", "--compression", "lz"]), &["'lz'"]);
    home.refuses(2, ["import", "disk.raw", "--label", "novalue"]);
    home.refuses(2, ["import", "disk.raw", "--label", "=nokey"]);
    home.refuses(2, ["rm", "vm1", "--image", "--volume"]);
    for (code, kind, arguments) in [
        (2, "Invalid", &["--json", "imprt"][..]),
        (2, "Invalid", &["show", "--json"]),
        (3, "NotFound", &["show", "nothing", "--json"]),
        (4, "AlreadyExists", &["tag", "vm1", "vm1", "--json"]),
    ] {
        let said: serde_json::Value = serde_json::from_str(&home.refuses(code, arguments)).expect("JSON");
        assert_eq!(said["kind"], kind, "{said}");
        assert!(said["error"].as_str().is_some_and(|error| !error.is_empty()), "{said}");
    }
}

#[test]
fn every_verb_prints_one_json_object() {
    let home = home();
    home.file("other.raw", &sample_disk(2, MIB + 5));
    for arguments in [
        &["init", "s"][..],
        &["import", "other.raw", "vm2", "--label", "a=b"],
        &["create", "v", "--from", "vm1", "--size", "2M"],
        &["checkpoint", "v"],
        &["ls"],
        &["show", "v"],
        &["log", "vm1"],
        &["diff", "vm1", "vm2"],
        &["export", "vm1", "out.raw"],
        &["tag", "vm1", "vm3"],
        &["rm", "vm3"],
        &["check"],
        &["du"],
        &["config"],
    ] {
        home.json(arguments);
    }
    let differ = home.json(["diff", "vm1", "vm2"]);
    assert!(differ["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "disks of two sizes differ: {differ}");
}

#[test]
fn files_that_are_no_disk_are_refused() {
    let home = home();
    tools::tool("mkfifo", [home.path("fifo")]);
    home.file("empty.raw", b"");
    tools::tool("qemu-img", ["create", "-q", "-f", "qcow2", text(&home.path("disk.qcow2")), "10M"]);
    let qcow2 = std::fs::read(home.path("disk.qcow2")).expect("an image");
    home.file("short.qcow2", &qcow2[..100]);
    home.file("cut.qcow2", &qcow2[..70_000]);
    home.file("disk.vmdk", b"KDMV");
    home.file("disk.raw.gz", &[0x1f, 0x8b, 8, 0]);
    for (code, file, word) in [
        (2, "fifo", "FIFO"),
        (2, ".", "folder"),
        (2, "/dev/null", "character device"),
        (2, "empty.raw", "empty"),
        (3, "missing.raw", "missing.raw"),
        (6, "short.qcow2", "short.qcow2"),
        (6, "cut.qcow2", "cut.qcow2"),
        (12, "disk.vmdk", "qemu-img convert"),
        (12, "disk.raw.gz", "unpack"),
    ] {
        says(&home.refuses(code, ["import", file, "new"]), &[file, word]);
    }
    says(&home.refuses(2, ["import", "-", "new"]), &["standard input", "empty"]);
    for (code, file) in [(2, "./fifo"), (3, "./missing"), (12, "./disk.qcow2"), (12, "./disk.raw.gz")] {
        home.refuses(code, ["serve", file]);
    }
    assert_eq!(home.json(["ls"])["images"].as_array().map(Vec::len), Some(1), "none came in");
}

#[test]
fn what_another_user_may_not_do_is_refused() {
    let home = home();
    home.run(["create", "v", "--from", "vm1"]);
    // The whole way to the store is open, the store itself is not.
    tools::tool("chmod", ["755", text(&home.path("")), text(&home.path("home"))]);
    tools::tool("chmod", ["600", text(&home.path("disk.raw"))]);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    std::fs::copy(crate::support::binary(), home.path("gabion")).expect("a copy that nobody may run");
    for arguments in [
        &["ls"][..],
        &["import", "disk.raw", "--store", "/tmp"],
        &["export", "vm1", "out"],
        &["serve", "v"],
        &["init", "new"],
    ] {
        let mut as_nobody = tools::limited(nobody[0]);
        as_nobody.args(&nobody[1..]).arg(home.path("gabion")).args(arguments);
        as_nobody.current_dir(home.path("")).env("GABION_HOME", home.path("home"));
        let said = tools::output(&mut as_nobody);
        let line = String::from_utf8_lossy(&said.stderr).into_owned();
        let code = if arguments[0] == "import" { 2 } else { 10 };
        assert_eq!(said.status.code(), Some(code), "{arguments:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
    }
}

#[test]
fn exports_replace_nothing_unasked() {
    let home = home();
    let precious = home.file("precious", b"precious");
    says(&home.refuses(4, ["export", "vm1", "precious"]), &["precious", "--force"]);
    home.refuses(4, ["export", "vm1", "."]);
    home.refuses(2, ["export", "vm1", ".", "--force"]);
    home.refuses(2, ["export", "vm1", "/dev/null", "--force"]);
    says(&home.refuses(3, ["export", "vm1", "nowhere/out"]), &["nowhere/out"]);
    home.refuses(2, ["export", "vm1", "precious/out"]);
    assert_eq!(std::fs::read(&precious).expect("a file"), b"precious");
    home.run(["export", "vm1", "precious", "--force"]);
    assert!(std::fs::read(&precious).expect("a file") == sample_disk(1, MIB));
    assert!(home.run(["export", "vm1", "-"]) == sample_disk(1, MIB));
}

#[test]
fn a_stdout_that_fails_is_no_panic() {
    let home = home();
    for (script, code) in [
        ("\"$0\" ls | true; exit ${PIPESTATUS[0]}", 0),
        ("\"$0\" --help | true; exit ${PIPESTATUS[0]}", 0),
        ("\"$0\" export vm1 - | true; exit ${PIPESTATUS[0]}", 9),
        ("\"$0\" ls > /dev/full", 8),
        ("\"$0\" export vm1 - > /dev/full", 8),
    ] {
        let output = tools::output(home.under(["bash", "-c", script], []).stdout(Stdio::piped()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{script}: {said}");
        // A pipe may take a short answer before its reader is gone.
        let codes = if code == 9 { vec![0, 9] } else { vec![code] };
        assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{script}: {said}");
    }
}

#[test]
fn taken_and_ambiguous_names_are_refused() {
    let home = home();
    says(&home.refuses(4, ["tag", "vm1", "vm1"]), &["vm1", "exists already"]);
    home.run(["create", "vm1", "--from", "vm1"]);
    says(&home.refuses(4, ["create", "vm1", "--size", "1M"]), &["vm1", "exists already"]);
    says(&home.refuses(2, ["create", "v", "--from", "vm1", "--size", "4K"]), &["'v'", "smaller"]);
    says(&home.refuses(2, ["rm", "vm1"]), &["--image", "--volume"]);
    home.run(["rm", "vm1", "--image"]);
    home.run(["rm", "vm1"]);
    home.refuses(3, ["rm", "vm1"]);

    home.file("v.1", &sample_disk(3, MIB));
    home.run(["create", "v.1", "--size", "1M"]);
    says(&home.refuses(2, ["serve", "v.1"]), &["./v.1", "--file"]);
    home.run(["create", "v", "--size", "1M"]);
    says(&home.refuses(4, ["serve", "./v.1"]), &["volume 'v'", "exists already"]);
}

#[test]
fn a_volume_goes_even_without_its_store() {
    let home = home();
    home.run(["create", "v", "--from", "vm1"]);
    std::fs::remove_dir_all(home.path("home/store")).expect("a store to lose");
    home.run(["init", "empty"]);
    says(&home.refuses(3, ["serve", "v", "--store", "empty"]), &["home/store"]);
    home.run(["rm", "--volume", "v", "--store", "empty"]);
    home.refuses(3, ["rm", "--volume", "v", "--store", "empty"]);
}

#[test]
fn a_served_volume_is_in_use() {
    let home = home();
    home.run(["create", "v", "--from", "vm1"]);
    let server = home.serve(["v"]);
    says(&home.refuses(5, ["serve", "v"]), &["'v'", "in use"]);
    says(&home.refuses(5, ["rm", "v"]), &["'v'", "in use"]);
    home.refuses(4, ["create", "v", "--size", "1M"]);
    // Its server takes commands by a socket that is no more.
    let run = server.socket();
    let controls: Vec<_> = crate::support::files(run.parent().expect("a folder"))
        .into_iter()
        .filter(|path| text(path).contains("control-"))
        .collect();
    let [control] = controls.as_slice() else { panic!("{controls:?}") };
    std::fs::remove_file(control).expect("a socket to remove");
    says(&home.refuses(9, ["checkpoint", "v"]), &["'v'", "in use", "does not answer", text(control)]);
    server.terminate();
    home.run(["checkpoint", "v"]);

    // Held by something that takes no commands.
    let lock = crate::support::files(&home.path("home/volumes"))
        .into_iter()
        .find(|path| path.ends_with("lock"))
        .expect("a volume has a lock");
    let held = std::fs::OpenOptions::new().write(true).open(&lock).expect("the lock file");
    held.lock().expect("nobody else holds it");
    says(&home.refuses(5, ["checkpoint", "v"]), &["'v'", "in use", text(&lock)]);
}

#[test]
fn sockets_that_cannot_be_made_are_told() {
    let home = home();
    let long = "x".repeat(120);
    home.file("precious", b"precious");
    let live = UnixListener::bind(home.path("live")).expect("a socket");
    says(&home.refuses(5, ["serve", "vm1", "--socket", "live"]), &["live", "listens"]);
    says(&home.refuses(4, ["serve", "vm1", "--socket", "precious"]), &["precious", "no socket"]);
    says(&home.refuses(3, ["serve", "vm1", "--socket", "nowhere/s"]), &["nowhere"]);
    says(&home.refuses(2, ["serve", "vm1", "--socket", &long]), &["too long", "107"]);
    assert_eq!(std::fs::read(home.path("precious")).expect("a file"), b"precious");
    drop(live);
    home.serve(["vm1", "--socket", "live"]).terminate();
}

#[test]
fn several_exports_and_sizes() {
    let home = home();
    home.run(["create", "v", "--size", "1M"]);
    let server = home.serve(["v", "vm1", "vm1~0"]);
    let uri = |name: &str| server.uri().replacen("///v", &format!("///{name}"), 1);
    let mut block = vec![0; 4096];
    let mut volume = Client::connect(&uri("v")).expect("the volume");
    volume.write(0, &[7; 4096]).expect("a write");
    let mut image = Client::connect(&uri("vm1")).expect("the image");
    image.read(0, &mut block).expect("a read");
    assert!(block == sample_disk(1, MIB)[..4096]);
    let refused = image.write(0, &[7; 4096]).expect_err("an image is read-only");
    assert!(refused.to_string().contains("errno 1"), "EPERM, not {refused}");
    let unknown = Client::connect(&uri("other")).expect_err("no such export");
    assert!(unknown.to_string().contains("refused"), "{unknown}");
    server.terminate();

    let server = home.serve(["vm1", "--ephemeral"]);
    let mut copy = Client::connect(server.uri()).expect("a connection");
    copy.write(0, &[9; 4096]).expect("an ephemeral copy takes writes");
    copy.read(0, &mut block).expect("a read");
    assert!(block == [9; 4096]);
    server.terminate();
    assert!(home.run(["export", "vm1", "-"]) == sample_disk(1, MIB), "what was written is gone");

    let server = home.serve(["v", "--size", "2M"]);
    assert_eq!(Client::connect(server.uri()).expect("a connection").size(), 2 << 20);
    server.terminate();
    says(&home.refuses(2, ["serve", "v", "--size", "1M"]), &["'v'", "shrink"]);
    home.refuses(2, ["serve", "v", "vm1", "--size", "4M"]);
    home.refuses(2, ["serve", "v", "--ephemeral"]);
    says(&home.refuses(3, ["serve", "nothing"]), &["--size"]);
}

#[test]
fn settings_with_mistakes_name_their_place() {
    let home = home();
    let config = home.path("home/config.toml");
    for (file, words) in [
        ("stor = 'x'", &["line 1", "stor"][..]),
        ("\n\nx", &["line 3"]),
        ("memory_cache = 'x'", &["'x'"]),
        ("chunker = 'x'", &["'x'"]),
        ("compression = 'zstd:99'", &["zstd:99"]),
        ("[stores]\na = 1", &["line 2"]),
    ] {
        std::fs::write(&config, file).expect("a write");
        let line = home.refuses(2, ["ls"]);
        says(&line, words);
        says(&line, &["config.toml"]);
    }
    std::fs::write(&config, b"\xff").expect("a write");
    says(&home.refuses(2, ["ls"]), &["config.toml", "UTF-8"]);
    std::fs::write(&config, "[stores]\nprod = 'nowhere'").expect("a write");
    says(&home.refuses(3, ["ls", "--store", "prod"]), &["nowhere"]);
    std::fs::remove_file(&config).expect("a file to remove");

    says(
        &tools::refused(2, home.gabion(["ls"]).env("GABION_MEMORY_CACHE", "lots")),
        &["GABION_MEMORY_CACHE"],
    );
    says(&tools::refused(2, home.gabion(["ls"]).env("GABION_HOME", "disk.raw")), &["disk.raw"]);
    // A relative home is one of the folder that it runs in; an empty one is none.
    tools::run(home.gabion(["ls"]).env("GABION_HOME", "home"));
    let said = tools::refused(
        2,
        home.gabion(["ls"]).env("GABION_HOME", "").env("HOME", "").env_remove("XDG_DATA_HOME").arg("--bad"),
    );
    says(&said, &["--bad"]);
}
