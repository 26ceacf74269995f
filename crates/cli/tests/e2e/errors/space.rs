//! Full disks: what was there stays, and what failed works once there is space.

use super::{says, text};
use crate::support::nbd::Client;
use crate::support::{Home, Rng, tools};

const MIB: usize = 1 << 20;

/// Runs what follows in a mount namespace of its own, with a file system of some size on a folder: gone with its
/// last process, however that ends.
fn on_small_disk<'a>(folder: &'a str, size: &'a str) -> [&'a str; 7] {
    let script = "mount -t tmpfs -o size=\"$1\" none \"$0\" && shift && exec \"$@\"";
    ["unshare", "--mount", "sh", "-c", script, folder, size]
}

/// Row 9.
#[test]
fn an_import_that_does_not_fit_leaves_a_good_store() {
    let home = Home::new();
    let mut disk = vec![0; 12 * MIB];
    Rng::new(6).fill(&mut disk);
    home.file("disk.raw", &disk);
    let small = home.path("small");
    std::fs::create_dir(&small).expect("a folder");
    let script = r#"
        gabion() { "$0" "$@" --store small/s; }
        "$0" init small/s
        gabion import disk.raw vm; echo "import $?"
        gabion check; echo "check $?"
        gabion ls
        mount -o remount,size=64m small
        gabion import disk.raw vm; echo "import $?"
        gabion check --content; echo "check $?"
        gabion export vm - | cmp - disk.raw; echo "same $?"
    "#;
    let wrapped = on_small_disk(text(&small), "6m").into_iter().chain(["bash", "-c", script]);
    let output = tools::output(&mut home.under(wrapped, []));
    let (printed, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    says(&printed, &["import 8", "0 images", "check 0", "no images", "import 0", "1 images", "same 0"]);
    says(&said, &["importing disk.raw", "No space left"]);
    assert_eq!(said.matches("gabion: ").count(), 1, "{said}");
    assert!(std::fs::read_dir(&small).expect("a folder").next().is_none(), "the file system leaked");
}

/// Row 9.
#[test]
fn a_volume_without_space_goes_on_when_there_is_some() {
    let home = Home::new();
    let volumes = home.path("home/volumes");
    std::fs::create_dir_all(&volumes).expect("a folder");
    let server = home.serve_under(on_small_disk(text(&volumes), "4m"), ["vm", "--size", "16M"]);
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(0, &[1; MIB]).expect("a write");
    client.flush().expect("a flush");

    let mut written = 1;
    let full = loop {
        match client.write(written * MIB as u64, &[2; MIB]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 8, "8 MiB fit on 4");
    };
    says(&full.to_string(), &["errno 28"]);
    let mut read = vec![0; MIB];
    client.read(0, &mut read).expect("what was flushed is there");
    assert!(read == [1; MIB]);

    let pid = server.pid().to_string();
    let remount = ["-t", &pid, "-m", "mount", "-o", "remount,size=64m", text(&volumes)];
    tools::tool("nsenter", remount);
    for at in 1..16 {
        client.write(at * MIB as u64, &[3; MIB]).expect("a write with space");
    }
    client.flush().expect("a flush with space");
    for (at, byte) in [(0, 1), (1, 3), (written, 3), (15, 3)] {
        client.read(at * MIB as u64, &mut read).expect("a read");
        assert!(read == vec![byte; MIB], "MiB {at}");
    }
    let said = server.terminate();
    says(&said, &["'vm'", "No space left"]);
}

#[test]
fn an_export_that_does_not_fit_leaves_nothing() {
    let home = Home::new();
    let mut disk = vec![0; 8 * MIB];
    Rng::new(7).fill(&mut disk);
    home.file("disk.raw", &disk);
    home.run(["import", "disk.raw", "vm"]);
    let small = home.path("small");
    std::fs::create_dir(&small).expect("a folder");
    let script = r#""$0" export vm small/out; echo "export $?"; ls -A small; echo end"#;
    let wrapped = on_small_disk(text(&small), "2m").into_iter().chain(["bash", "-c", script]);
    let output = tools::output(&mut home.under(wrapped, []));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "export 8\nend\n");
    says(&String::from_utf8_lossy(&output.stderr), &["'vm'", "small/out", "No space left"]);
}
