//! A QEMU guest that boots from an export and tells on its serial line what it does.
//!
//! What it can do is told in `scripts/guest/root-init`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::lines::Lines;

/// Longest wait for one event of a guest: an emulated one boots in 8 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long an accelerated kernel may take to its first words. Some hosts offer KVM and let guests hang in it.
const PROBE: Duration = Duration::from_secs(6);

/// The folder that `scripts/guest-kit` made.
pub(crate) fn kit() -> PathBuf {
    let kit = std::env::var_os("GABION_GUEST_KIT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-kit"), PathBuf::from);
    assert!(
        kit.join("stamp").exists(),
        "no guest in {}: run scripts/guest-kit target/guest-kit, or set GABION_GUEST_KIT",
        kit.display()
    );
    kit
}

/// A running guest; its power is cut when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    child: Child,
    serial: Lines,
    mode: &'static str,
}

impl Guest {
    /// Powers on a guest whose disk is the export at `uri`; returns once it runs from there. `mode` is `write`,
    /// `verify` or `idle`.
    pub(crate) fn boot(uri: &str, mode: &'static str) -> Self {
        // Without KVM the emulator is slow but the same for every host.
        static ACCELERATOR: OnceLock<&str> = OnceLock::new();
        let accelerator = *ACCELERATOR.get_or_init(|| {
            let mut probe = Self::power_on("kvm", "probe", None);
            let works = probe.serial.find(PROBE, |line| line.contains("GABION-GUEST-KERNEL").then_some(()));
            if works.is_ok() { "kvm" } else { "tcg" }
        });
        let mut guest = Self::power_on(accelerator, mode, Some(uri));
        guest.event(&format!("GABION-GUEST-READY {mode}"));
        guest
    }

    fn power_on(accelerator: &str, mode: &'static str, uri: Option<&str>) -> Self {
        let kit = kit();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", accelerator, "-cpu", "max", "-smp", "1", "-m", "256"]);
        command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-net", "none"]);
        command.args(["-serial", "stdio", "-monitor", "none"]);
        command.arg("-kernel").arg(kit.join("vmlinuz")).arg("-initrd").arg(kit.join("initrd.img"));
        command.args(["-append", &format!("console=ttyS0 panic=-1 quiet gabion.mode={mode}")]);
        if let Some(uri) = uri {
            let drive = format!("file={uri},if=virtio,format=raw,cache=none,discard=unmap");
            command.args(["-drive", &drive]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("qemu-system-x86_64: {error}: run scripts/install-test-tools"));
        let serial = child.stdout.take().expect("a pipe was asked for");
        Self { child, serial: Lines::of(format!("guest ({accelerator}, {mode})"), serial), mode }
    }

    /// Waits for a line that holds `event`; gives the words behind it.
    pub(crate) fn event(&mut self, event: &str) -> Vec<String> {
        let found = self.serial.find(PATIENCE, |line| {
            if line.contains("GABION-GUEST-FAILED") || line.contains("Kernel panic") {
                return Some(Err(line.to_owned()));
            }
            let at = line.find(event)?;
            Some(Ok(line[at + event.len()..].split_whitespace().map(str::to_owned).collect()))
        });
        match found {
            Ok(Ok(words)) => words,
            Ok(Err(failure)) => panic!("guest ({}): {failure}\n{}", self.mode, self.serial.all()),
            Err(why) => panic!("no {event:?} from the {why}"),
        }
    }

    /// The next file of a writing guest: its number and hash.
    pub(crate) fn wrote(&mut self) -> (usize, String) {
        let words = self.event("WROTE ");
        let [number, hash] = words.as_slice() else { panic!("WROTE {words:?}") };
        (number.parse().expect("a number"), hash.clone())
    }

    /// All files of a verifying guest, by number from 1; returns once it has powered off by itself.
    pub(crate) fn files(mut self) -> Vec<String> {
        let count: usize = self.event("VERIFY ")[0].parse().expect("a number");
        self.event("GABION-GUEST-DONE");
        self.serial.ended(PATIENCE).unwrap_or_else(|why| panic!("{why}"));
        let files: Vec<String> = self
            .serial
            .all()
            .lines()
            .filter_map(|line| line.split_once("FILE ")?.1.split_once(' '))
            .map(|(_, hash)| hash.to_owned())
            .collect();
        assert_eq!(files.len(), count, "as many FILE lines as VERIFY counts");
        files
    }

    /// Asks a writing or idle guest to stop; returns once it has powered off by itself.
    pub(crate) fn stop(mut self) {
        let mut stdin = self.child.stdin.take().expect("a pipe was asked for");
        stdin.write_all(b"stop\n").expect("the guest still runs");
        self.event("GABION-GUEST-DONE");
        self.serial.ended(PATIENCE).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Cuts the power.
    pub(crate) fn cut(self) {
        drop(self);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ended = self.child.kill();
        self.child.wait().expect("the child is ours");
    }
}
