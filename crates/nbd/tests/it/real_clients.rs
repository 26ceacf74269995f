//! The clients that people use, against a server over its socket. A tool that is missing is a failure:
//! on Debian they are in `libnbd-bin python3-libnbd qemu-utils fio`.

use std::{path::Path, process::Output, sync::Arc};

use gabion_nbd::Limits;
use tokio::{process::Command, time::timeout};

use crate::{
    client::{DEADLINE, TestServer},
    device::{Call, MemDevice, shared},
};

const SIZE: usize = 24 << 20;

/// Runs a tool to its end; it must succeed.
async fn run(tool: &str, arguments: &[&str]) -> String {
    let output = attempt(tool, arguments).await;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

async fn attempt(tool: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(tool);
    if tool == "nbdsh" {
        // Its module belongs to the system's python, not to one that a developer put before it.
        command.env("PATH", "/usr/bin:/bin");
    }
    let child = command.args(arguments).kill_on_drop(true).output();
    let output = timeout(DEADLINE, child).await.unwrap_or_else(|_| panic!("{tool} {arguments:?} hangs"));
    output.unwrap_or_else(|error| panic!("{tool} must be installed: {error}"))
}

/// A sparse disk: pattern, hole, pattern.
async fn sparse() -> Arc<MemDevice> {
    let device = MemDevice::patterned(SIZE);
    gabion_store_core::BlockDevice::trim(&device, 4 << 20, 16 << 20).await.unwrap();
    device.calls.lock().clear();
    shared(device)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nbdinfo_shows_exports_and_map() {
    let device = sparse().await;
    let other = shared(MemDevice::new(4096).read_only());
    let server = TestServer::with(&[("vm1", &device), ("ro", &other)], Limits::default()).await;
    let shown = run("nbdinfo", &[&server.handle.uri()]).await;
    for line in [
        "export-size: 25165824",
        "is_read_only: false",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "can_fast_zero: true",
        "can_df: true",
        "can_cache: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
        "base:allocation",
        "description: disk vm1",
    ] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
    let listed = run("nbdinfo", &["--list", &server.handle.uri()]).await;
    assert!(listed.contains("export=\"vm1\"") && listed.contains("export=\"ro\""), "{listed}");
    let map = run("nbdinfo", &["--map", &server.handle.uri()]).await;
    let fields: Vec<Vec<_>> =
        map.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>()).collect();
    assert_eq!(fields, [["0", "4194304", "0"], ["4194304", "16777216", "3"], ["20971520", "4194304", "0"]]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nbdcopy_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (sparse().await, shared(MemDevice::patterned(SIZE)));
    let server = TestServer::with(&[("source", &source), ("target", &target)], Limits::default()).await;
    let file = folder.path().join("disk.raw");
    let uri = |name| server.handle.uri_of(name).unwrap();
    run("nbdcopy", &["--flush", &uri("source"), text(&file)]).await;
    assert_eq!(std::fs::read(&file).unwrap(), source.contents());
    run("nbdcopy", &["--flush", text(&file), &uri("target")]).await;
    assert_eq!(target.contents(), source.contents());
    assert!(target.calls.lock().contains(&Call::Flush));
    // From export to export, over as many connections as it likes, with a task for every request.
    let slow = shared(MemDevice::new(SIZE).waiting());
    let second = TestServer::of(&slow).await;
    run("nbdcopy", &["--connections=4", "--requests=64", &uri("source"), &second.handle.uri()]).await;
    assert_eq!(slow.contents(), source.contents());
    second.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nbdsh_speaks_every_command() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::of(&device).await;
    let script = r#"
h.add_meta_context("base:allocation")
h.connect_uri(uri)
assert h.get_structured_replies_negotiated()
h.pwrite(b"x" * 8192, 4096)
h.pwrite(b"y" * 512, 0, nbd.CMD_FLAG_FUA)
h.flush()
assert bytes(h.pread(8192, 4096)) == b"x" * 8192
assert bytes(h.pread_structured(512, 0, lambda *a: 0, nbd.CMD_FLAG_DF)) == b"y" * 512
h.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 1 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 8192)
h.cache(1 << 20, 0)
seen = []
h.block_status(1 << 20, 0, lambda context, offset, entries, error: seen.append((context, offset, list(entries))))
assert seen == [("base:allocation", 0, [4096, 0, 4096, 2, (1 << 20) - 8192, 3])], seen
def errno_of(f, *a):
    try:
        f(*a)
    except nbd.Error as e:
        return e.errno
h.set_strict_mode(0)
size = h.get_size()
assert errno_of(h.pread, 1, size) == "EINVAL"
assert errno_of(h.pwrite, b"z", size) == "ENOSPC"
assert errno_of(h.zero, 2, size - 1) == "ENOSPC"
assert errno_of(h.trim, 2, size - 1) == "EINVAL"
h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(uri)
names = []
h.opt_list(lambda name, description: names.append((name, description)))
assert names == [("vm1", "disk vm1")], names
h.set_export_name("nope")
assert errno_of(h.opt_go) is not None
h.set_export_name("vm1")
h.opt_info()
assert h.get_size() == size
h.opt_abort()
"#;
    let uri = format!("uri = {:?}", server.handle.uri());
    run("nbdsh", &["-c", &uri, "-c", script]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn qemu_img_converts_and_compares() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (sparse().await, shared(MemDevice::new(SIZE)));
    let server = TestServer::with(&[("source", &source), ("target", &target)], Limits::default()).await;
    let (from, to) = (server.handle.uri_of("source").unwrap(), server.handle.uri_of("target").unwrap());
    let file = folder.path().join("disk.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &from, text(&file)]).await;
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &from, text(&file)]).await;
    run("qemu-img", &["convert", "-n", "-W", "-f", "qcow2", "-O", "raw", text(&file), &to]).await;
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &from, &to]).await;
    assert_eq!(target.contents(), source.contents());
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &from]).await;
    assert_eq!(map.matches("\"start\"").count(), 3, "{map}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn qemu_io_writes_reads_zeroes_and_discards() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::of(&device).await;
    let script = [
        "-c",
        "write -P 0xaa 0 1M",
        "-c",
        "write -f -P 0xbb 1000k 3k",
        "-c",
        "read -P 0xaa 0 1000k",
        "-c",
        "read -P 0xbb 1000k 3k",
        "-c",
        "write -z 512k 64k",
        "-c",
        "write -z -u 576k 64k",
        "-c",
        "read -P 0 512k 128k",
        "-c",
        "discard 0 256k",
        "-c",
        "read -P 0 0 256k",
        "-c",
        "flush",
        "-c",
        "read -P 0xaa 256k 256k",
    ];
    let uri = server.handle.uri();
    let mut arguments = vec!["-f", "raw", "-d", "unmap"];
    arguments.extend(script);
    arguments.push(&uri);
    let said = run("qemu-io", &arguments).await;
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    let modes: Vec<_> = device
        .calls
        .lock()
        .iter()
        .filter_map(|call| if let Call::Zero(_, _, mode) = call { Some(mode.no_hole) } else { None })
        .collect();
    assert_eq!(modes, [true, false]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn fio_verifies_what_it_wrote() {
    for device in [MemDevice::new(SIZE), MemDevice::new(SIZE).waiting()] {
        let device = shared(device);
        let server = TestServer::of(&device).await;
        let uri = format!("--uri={}", server.handle.uri());
        run(
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randrw",
                "--bsrange=512-512k",
                "--size=24m",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--fsync=32",
                "--verify_state_save=0",
            ],
        )
        .await;
        server.stop().await;
    }
}
