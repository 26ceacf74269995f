"""A guest that boots from an export, reads its files, and says so on its serial line (scripts/guest-kit)."""

import re
import subprocess
import sys
import time
from pathlib import Path

from .common import CLIENT_CPU, run

FILES = 200


def kit(out):
    """The folder of kernel, initrd and disk."""
    folder = out / "guest-kit"
    run(Path(__file__).parents[2] / "scripts/guest-kit", folder)
    return folder


def boot(kit, uri, mode, until, stop=False):
    """Seconds from power-on to the line `until`."""
    command = ["taskset", "-c", CLIENT_CPU, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1"]
    command += ["-m", "256", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-net", "none"]
    command += ["-serial", "stdio", "-monitor", "none", "-kernel", kit / "vmlinuz", "-initrd", kit / "initrd.img"]
    command += ["-append", f"console=ttyS0 panic=-1 quiet gabion.mode={mode}"]
    command += ["-drive", f"file={uri},if=virtio,format=raw,cache=none,discard=unmap"]
    start = time.monotonic()
    guest = subprocess.Popen(map(str, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for line in guest.stdout:
            if re.search(rb"GABION-GUEST-FAILED|Kernel panic", line):
                break
            if until in line.decode(errors="replace"):
                took = time.monotonic() - start
                if stop:
                    guest.stdin.write(b"stop\n")
                    guest.stdin.flush()
                guest.stdout.read()
                guest.wait(60)
                return took
    finally:
        guest.kill()
        guest.wait()
    sys.exit(f"bench: the guest did not get to {until!r}")
