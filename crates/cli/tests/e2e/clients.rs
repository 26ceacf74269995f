//! What QEMU's and libnbd's tools and fio see of a served disk.

use std::path::{Path, PathBuf};

use crate::support::nbd::Client;
use crate::support::tools::{assert_same_files, fails, limited, nbdsh, run, tool};
use crate::support::{Home, sample_disk};

const MIB: usize = 1 << 20;

/// A home with image `base` of a sample disk, and that disk's raw file.
fn home_with_base(seed: u64) -> (Home, PathBuf) {
    let home = Home::new();
    let raw = home.file("base.raw", &sample_disk(seed, 24 * MIB + 4096));
    home.run(["import", text(&raw), "base"]);
    (home, raw)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the test is UTF-8")
}

#[test]
fn qemu_img_reads_an_image() {
    let (home, raw) = home_with_base(1);
    let server = home.serve(["base"]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri(), text(&raw)]);

    let copy = home.path("copy.qcow2");
    tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", server.uri(), text(&copy)]);
    tool("qemu-img", ["compare", "-F", "raw", text(&copy), text(&raw)]);
    server.terminate();
}

#[test]
fn qemu_img_fills_a_volume() {
    let (home, _) = home_with_base(2);
    let other = home.file("other.raw", &sample_disk(3, 24 * MIB + 4096));
    home.run(["create", "vm", "--from", "base"]);
    let server = home.serve(["vm"]);
    tool("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", text(&other), server.uri()]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri(), text(&other)]);
    server.terminate();

    let server = home.serve(["vm"]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri(), text(&other)]);
}

#[test]
fn qemu_io_sees_what_it_wrote() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "64M"]);
    let server = home.serve(["vm"]);
    // Each step reads what the one before wrote: whole blocks, sectors, over a block's edge, zeros, discards.
    let steps = [
        "write -P 0x11 0 1M",
        "read -P 0x11 0 1M",
        "write -P 0x22 512 512",
        "read -P 0x11 0 512",
        "read -P 0x22 512 512",
        "read -P 0x11 1024 3072",
        "write -P 0x33 7680 1024",
        "read -P 0x11 4096 3584",
        "read -P 0x33 7680 1024",
        "write -z 65536 65536",
        "read -P 0 65536 65536",
        "write -z -u 131584 1024",
        "read -P 0x11 131072 512",
        "read -P 0 131584 1024",
        "read -P 0x11 132608 2560",
        "discard 262144 65536",
        "read -P 0 262144 65536",
        "write -f -P 0x44 33554432 4096",
        "read -P 0x44 33554432 4096",
        "read -P 0 67104768 4096",
        "write -P 0x55 67104768 4096",
        "read -P 0x55 67104768 4096",
        "flush",
    ];
    let run = |server: &str, steps: &[&str]| {
        let mut arguments = vec!["-f", "raw", "-t", "none"];
        for step in steps {
            arguments.extend(["-c", step]);
        }
        arguments.push(server);
        let said = tool("qemu-io", &arguments);
        // qemu-io tells of a pattern that does not match, and some versions still end with success.
        assert!(!said.contains("failed"), "{said}");
    };
    run(server.uri(), &steps);
    server.kill();

    let server = home.serve(["vm"]);
    run(server.uri(), &["read -P 0x22 512 512", "read -P 0 262144 65536", "read -P 0x55 67104768 4096"]);
    server.terminate();
}

#[test]
fn an_image_refuses_writes() {
    let (home, raw) = home_with_base(4);
    let server = home.serve(["base"]);
    let seen = nbdsh(
        server.uri(),
        "h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(uri)
assert h.is_read_only()
for refused in (lambda: h.pwrite(b'x' * 512, 0), lambda: h.trim(4096, 0), lambda: h.zero(4096, 0)):
    try:
        refused()
        sys.exit('a read-only export took a write')
    except nbd.Error as error:
        assert error.errno == 'EPERM', error
print(len(h.pread(4096, 0)))",
    );
    assert_eq!(seen.trim(), "4096", "the connection still reads");
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri(), text(&raw)]);
}

#[test]
fn nbdinfo_shows_size_flags_and_map() {
    let home = Home::new();
    // 1 MiB of data, 2 MiB of nothing, 1 MiB of data.
    let mut disk = vec![0; 4 * MIB];
    disk[..MIB].fill(1);
    disk[3 * MIB..].fill(2);
    let raw = home.file("map.raw", &disk);
    home.run(["import", text(&raw), "map"]);
    home.run(["create", "vm", "--from", "map"]);
    let server = home.serve(["vm"]);

    let info: serde_json::Value =
        serde_json::from_str(&tool("nbdinfo", ["--json", server.uri()])).expect("nbdinfo prints JSON");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 4 * MIB);
    assert_eq!(export["is_read_only"], false);
    for ability in ["can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_df", "can_cache"] {
        assert_eq!(export[ability], true, "{ability} in {info}");
    }
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 * MIB);

    let map: Vec<serde_json::Value> =
        serde_json::from_str(&tool("nbdinfo", ["--map", "--json", server.uri()]))
            .expect("nbdinfo prints JSON");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let mut at = 0;
    for extent in &map {
        assert_eq!(number(&extent["offset"]), at, "extents follow each other");
        let zeros = number(&extent["type"]) & 2 != 0;
        let length = number(&extent["length"]);
        assert_eq!(zeros, disk[at..at + length].iter().all(|byte| *byte == 0), "{extent} of {map:?}");
        at += length;
    }
    assert_eq!(at, disk.len());
    server.terminate();
}

#[test]
fn nbdcopy_goes_both_ways() {
    let home = Home::new();
    let disk = sample_disk(5, 32 * MIB);
    let raw = home.file("disk.raw", &disk);
    home.run(["create", "vm", "--size", "32M"]);
    let server = home.serve(["vm"]);
    tool("nbdcopy", ["--flush", text(&raw), server.uri()]);
    server.kill();

    let server = home.serve(["vm"]);
    let back = home.path("back.raw");
    tool("nbdcopy", [server.uri(), text(&back)]);
    assert_same_files(&raw, &back);
    server.terminate();
}

#[test]
fn fio_verifies_over_several_connections() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "128M"]);
    let server = home.serve(["vm"]);
    for (name, sizes) in [("sectors", "512-512"), ("blocks", "4k-4k"), ("mixed", "4k-256k")] {
        let arguments =
            [format!("--name={name}"), format!("--uri={}", server.uri()), format!("--bsrange={sizes}")];
        let fixed = [
            "--ioengine=nbd", // first: it brings the option `uri`
            "--rw=randwrite",
            "--numjobs=4",
            "--size=8M",
            "--offset_increment=32M",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--do_verify=1",
            "--randseed=7",
            "--group_reporting",
            "--output-format=json",
        ];
        let report = run(limited("fio").args(fixed).args(&arguments));
        let at = report.iter().position(|byte| *byte == b'{').expect("fio prints JSON");
        let report: serde_json::Value = serde_json::from_slice(&report[at..]).expect("fio prints JSON");
        let job = &report["jobs"][0];
        assert_eq!(job["error"], 0, "{job}");
        assert!(
            job["read"]["io_bytes"].as_u64() >= Some(4 * 8 * MIB as u64),
            "all was verified: {}",
            job["read"]
        );
    }
    server.terminate();
}

#[test]
fn a_flush_covers_every_connection() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "16M"]);
    let server = home.serve(["vm"]);
    nbdsh(
        server.uri(),
        "a, b, c = nbd.NBD(), nbd.NBD(), nbd.NBD()
for h in (a, b, c):
    h.connect_uri(uri)
assert a.can_multi_conn()
a.pwrite(b'A' * 4096, 0)
assert b.pread(4096, 0) == b'A' * 4096, 'a write is seen by every connection'
b.pwrite(b'B' * 512, 8192 + 512)
a.zero(65536, 1048576, nbd.CMD_FLAG_NO_HOLE)
b.trim(65536, 2097152)
c.flush()
a.pwrite(b'F' * 1536, 3145728 + 512, nbd.CMD_FLAG_FUA)",
    );
    server.kill();

    let server = home.serve(["vm"]);
    nbdsh(
        server.uri(),
        "h = nbd.NBD()
h.connect_uri(uri)
assert h.pread(4096, 0) == b'A' * 4096, 'flushed on another connection'
assert h.pread(1536, 8192) == bytes(512) + b'B' * 512 + bytes(512), 'flushed sector'
assert h.pread(65536, 1048576) == bytes(65536)
assert h.pread(2560, 3145728) == bytes(512) + b'F' * 1536 + bytes(512), 'FUA'",
    );
}

#[test]
fn requests_past_the_end_are_refused_and_harmless() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "1M"]);
    let server = home.serve(["vm"]);
    nbdsh(
        server.uri(),
        "h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(uri)
size = h.get_size()
def refused(code, request):
    try:
        request()
    except nbd.Error as error:
        assert error.errno == code, error
    else:
        sys.exit('a request past the end succeeded')
refused('EINVAL', lambda: h.pread(4096, size - 512))
refused('EINVAL', lambda: h.pread(512, 2**63 - 512))
refused('ENOSPC', lambda: h.pwrite(b'x' * 4096, size - 512))
refused('ENOSPC', lambda: h.zero(4096, size))
refused('EINVAL', lambda: h.trim(4096, size))
assert h.pread(size, 0) == bytes(size)",
    );
    server.terminate();
}

#[test]
fn sigterm_ends_it_with_clients_attached() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "1M"]);
    let server = home.serve(["vm"]);
    let mut idle = Client::connect(server.uri()).expect("a connection");
    idle.write(0, &[7; 4096]).expect("a write");
    server.terminate();

    // What was written and not flushed by the client is flushed by an orderly end.
    let server = home.serve(["vm"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    let mut block = [0; 4096];
    client.read(0, &mut block).expect("a read");
    assert_eq!(block, [7; 4096]);
}

/// Row 17.
#[test]
fn a_volume_has_one_server() {
    let home = Home::new();
    home.run(["create", "vm", "--size", "1M"]);
    let server = home.serve(["vm"]);
    let said = fails(&mut home.gabion(["serve", "vm"]));
    assert!(said.contains("vm"), "the refusal names the volume: {said}");
    // The first one does not suffer from it.
    tool("nbdinfo", ["--size", server.uri()]);
    server.kill();
    // A killed server leaves its socket and its lock file behind; neither keeps the next from starting.
    home.serve(["vm"]).terminate();
}

#[test]
fn a_socket_can_be_chosen() {
    let (home, raw) = home_with_base(6);
    let socket = home.path("s.sock");
    let server = home.serve(["base", "--socket", text(&socket)]);
    assert_eq!(server.socket(), socket);
    let uri = format!("nbd+unix:///base?socket={}", text(&socket));
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", &uri, text(&raw)]);
    server.terminate();
}

#[test]
fn files_are_served_in_place() {
    let home = Home::new();
    let disk = sample_disk(8, 8 * MIB);
    let raw = home.file("disk.raw", &disk);
    let qcow2 = home.path("other.qcow2");
    tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-c", text(&raw), text(&qcow2)]);
    let server = home.serve([&raw]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri(), text(&raw)]);
    tool("qemu-io", ["-f", "raw", "-c", "write -P 0x55 1M 64k", "-c", "flush", server.uri()]);
    home.run(["checkpoint", "disk"]);
    server.terminate();
    assert!(std::fs::read(&raw).expect("the file is there") == disk, "the file was changed");
    // The same command goes on where it stopped: the volume is made of the file once.
    let server = home.serve([&raw]);
    tool("qemu-io", ["-f", "raw", "-r", "-c", "read -P 0x55 1M 64k", server.uri()]);
    server.terminate();
    let said = fails(&mut home.gabion(["serve", text(&qcow2)]));
    assert!(said.contains("qcow2") && said.contains("import"), "{said}");
}

#[test]
fn checkpoints_are_whole_disks_that_stay() {
    let (home, raw) = home_with_base(9);
    home.run(["create", "vm", "--from", "base"]);
    let server = home.serve(["vm"]);
    tool("qemu-io", ["-f", "raw", "-c", "write -P 0x77 1M 128k", "-c", "write -z 3M 1M", server.uri()]);
    let first = home.path("first.raw");
    tool("nbdcopy", [server.uri(), text(&first)]);
    let record = home.json(["checkpoint", "vm", "kept"]);
    assert!(record["held_ms"].is_number(), "writes were held for a time that is told: {record}");
    tool("qemu-io", ["-f", "raw", "-c", "write -P 0x88 1M 64k", "-c", "flush", server.uri()]);
    server.terminate();

    // By file, by pipe and over the socket it is the disk of then; the base and its source are as before.
    let exported = home.path("kept.raw");
    home.run(["export", "kept", text(&exported)]);
    assert_same_files(&first, &exported);
    let piped = home.run(["export", "kept", "-"]);
    assert!(piped == std::fs::read(&first).expect("the file is there"), "export to a pipe differs");
    let server = home.serve(["kept"]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri(), text(&first)]);
    server.terminate();
    home.run(["export", "base", text(&exported), "--force"]);
    assert_same_files(&raw, &exported);
    home.run(["check"]);
}
