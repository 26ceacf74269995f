"""A store behind 20 ms and 200 MB/s: push, pull, their memory, streaming, warm reads, a cold boot, its reads replayed."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import guest, io_bench
from .cloud import MB_PER_S, Cloud
from .common import Gabion, Samples, Server, fresh, need, run, say

PYTHON = "/usr/bin/python3"  # has libnbd
REPLAY = Path(__file__).with_name("replay.py")


class Host(Gabion):
    """A host with an empty home, whose store in force is the bucket."""

    def __init__(self, options, cloud, name, store):
        super().__init__(options.gabion, options.out / "remote" / name)
        self.env |= cloud.env()
        self.remote = cloud.store(store)

    def at_remote(self, *arguments, **settings):
        return self.run(*arguments, "--store", self.remote, **settings)

    def serve_remote(self, name, *flags):
        return Server([self.binary, "serve", name, "--store", self.remote, *flags], env=self.env, pinned=False)


def link_use(cloud, direction, work):
    """Percent of the link that some work used, and what it asked for."""
    cloud.slow()
    cloud.count()
    start = time.monotonic()
    work()
    took = time.monotonic() - start
    stats = cloud.stats()
    cloud.fast()
    return 100 * stats[direction] / 1e6 / took / MB_PER_S, stats


def streams(options, cloud, images, samples):
    """Push and pull of the base image and of its edited version; the whole disk read in sequence."""
    a, b = (Host(options, cloud, name, f"streams-{time.monotonic_ns()}") for name in ("a", "b"))
    b.remote = a.remote
    a.run("import", images["base"], "vm")
    # Nobody pushes to a store that was never written without probing it: that is counted apart.
    _, stats = link_use(cloud, "up", lambda: a.at_remote("init", a.remote))
    a.run("create", "empty", "--size", "4M")
    a.run("checkpoint", "empty")
    _, probe = link_use(cloud, "up", lambda: a.at_remote("push", "empty"))
    samples.add("gabion", "making a store and its first write: requests", stats["requests"] + probe["requests"])
    percent, stats = link_use(cloud, "up", lambda: a.at_remote("push", "vm"))
    samples.add("gabion", "push: link used, %", percent)
    samples.add("gabion", "push: requests beyond packs", stats["requests"] - stats["puts of packs"])
    whole = stats["up"]
    a.run("import", images["edited"], "vm")
    _, stats = link_use(cloud, "up", lambda: a.at_remote("push", "vm"))
    samples.add("gabion", "push of the edited version: requests beyond packs", stats["requests"] - stats["puts of packs"])
    samples.add("gabion", "push of the edited version: bytes, % of the first", 100 * stats["up"] / whole)
    percent, _ = link_use(cloud, "down", lambda: b.at_remote("pull", "vm"))
    samples.add("gabion", "pull: link used, %", percent)
    c = Host(options, cloud, "c", "unused")
    c.remote = a.remote
    with c.serve_remote("vm", "--no-trace") as server:
        percent, _ = link_use(cloud, "down", lambda: copy_out(server))
    samples.add("gabion", "read in sequence: link used, %", percent)


def boots(options, cloud, samples):
    """A guest that boots and reads 200 files: from the local store, and from the bucket with nothing cached."""
    kit = guest.kit(options.out)
    a = Host(options, cloud, "boot-a", f"boot-{time.monotonic_ns()}")
    a.run("import", kit / "root.img", "vm")
    a.run("create", "vm", "--from", "vm")
    with a.serve("vm") as server:
        guest.boot(kit, server.uri, "write", f"WROTE {guest.FILES} ", stop=True)
    a.run("checkpoint", "vm")
    a.at_remote("push", "vm", "--init")
    verify = lambda uri: guest.boot(kit, uri, "verify", "GABION-GUEST-DONE")
    a.run("tag", "vm", "disk")
    for first in (False, True):
        for number in range(1 if first is False else options.rounds):
            say(f"remote: boot {number + 1}")
            b = Host(options, cloud, "boot-b", "unused")
            b.remote = a.remote
            cloud.slow()
            cloud.count()
            with b.serve_remote("vm", "--ephemeral") as server:
                took = verify(server.uri)
            stats = cloud.stats()
            cloud.fast()
            label = "cold, its trace recorded before" if first else "cold, for the first time"
            samples.add("gabion", f"boot and read: {label}, s", took)
            samples.add("gabion", f"boot and read: {label}, MB fetched", stats["down"] / 1e6)
            if first:
                with Server([a.binary, "serve", "disk", "--ephemeral"], env=a.env, pinned=False) as server:
                    samples.add("gabion", "boot and read: local store, s", verify(server.uri))
    return kit, a


def replays(options, cloud, kit, a, samples):
    """The reads of that boot, by a client that never thinks: from the bucket, and by nbdkit's curl from the raw disk."""
    work = fresh(options.out / "remote" / "replay")
    raw, log, socket = work / "raw.img", work / "log", work / "s"
    a.run("export", "disk", raw)
    with Server(["nbdkit", "-f", "-U", socket, "--filter=cow", "--filter=log", "file", raw, f"logfile={log}"], socket=socket) as server:
        guest.boot(kit, server.uri, "verify", "GABION-GUEST-DONE")
    found = re.finditer(r" Read id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)", log.read_text())
    reads = "".join(f"{int(m[1], 16)} {int(m[2], 16)}\n" for m in found)
    samples.add("gabion", "reads of the boot", reads.count("\n"))

    def replay(uri):
        done = subprocess.run([PYTHON, REPLAY, uri], input=reads.encode(), stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit("bench: the replay failed")
        return float(done.stdout)

    with Cloud(options.testcloud, raw) as plain:
        for _ in range(options.rounds):
            plain.slow()
            curl = ["nbdkit", "-f", "-r", "-U", socket, "curl", plain.raw_url()]
            with Server(curl, socket=socket, pinned=False) as server:
                samples.add("nbdkit curl", "replay of the boot's reads, s", replay(server.uri))
            b = Host(options, cloud, "boot-b", "unused")
            b.remote = a.remote
            cloud.slow()
            with b.serve_remote("vm") as server:
                samples.add("gabion", "replay of the boot's reads, s", replay(server.uri))
            cloud.fast()


def warm_reads(options, cloud, images, samples):
    """All of a volume was read once: from then on it is as fast as one of the local store. Same binary, in turns."""
    a, b = (Host(options, cloud, f"warm-{name}", f"warm-{time.monotonic_ns()}") for name in ("a", "b"))
    b.remote = a.remote
    a.run("import", images["base"], "vm")
    a.at_remote("push", "vm", "--init")
    a.run("create", "near", "--from", "vm")
    b.at_remote("create", "far", "--from", "vm")
    with a.serve("near") as near, b.serve("far") as far:
        for server in (near, far):
            run("nbdcopy", server.uri, "null:")
        cloud.slow()
        cloud.count()
        for number in range(options.rounds):
            say(f"remote: round {number + 1} of {options.rounds}, warm reads")
            for row in ("seq read 1M QD8, MB/s", "rand read 4K QD1, kIOPS", "rand read 4K QD16, kIOPS"):
                arguments, figure = io_bench.ROWS[row]
                for subject, server in (("gabion", far), ("gabion, local store", near)):
                    found = io_bench.fio(server.uri, arguments, 1 if options.quick else 4)
                    samples.add(subject, f"warm: {row}", found[figure])
        samples.add("gabion", "warm: requests", cloud.stats()["requests"])
        cloud.fast()


def peak(host, *arguments, stdin=subprocess.DEVNULL):
    """Most memory that a command had, in MiB."""
    command = [str(word) for word in (host.binary, *arguments)]
    process = subprocess.Popen(command, env=host.env, stdin=stdin, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"bench: {' '.join(command)} failed")
    return usage.ru_maxrss / 1024


# Blocks that compress to a half and never repeat: GiB as the argument, disk on standard output.
HALVES = """
import os, sys
pad = (b"gabion " * 300)[:2048]
for _ in range(int(float(sys.argv[1]) * 1024)):
    noise = os.urandom(1 << 19)
    sys.stdout.buffer.write(b"".join(noise[at:at + 2048] + pad for at in range(0, len(noise), 2048)))
"""


def large(options, cloud, samples):
    """A disk that the link is busy with for a while, of blocks that compress to a half; and what memory that takes."""
    budget, gib = 64, 0.25 if options.quick else 3
    a, b = (Host(options, cloud, f"large-{name}", f"large-{time.monotonic_ns()}") for name in ("a", "b"))
    b.remote = a.remote
    for host in (a, b):
        host.env["GABION_MEMORY_CACHE"] = f"{budget}M"
    with subprocess.Popen([sys.executable, "-c", HALVES, str(gib)], stdout=subprocess.PIPE) as disk:
        a.run("import", "-", "vm", stdin=disk.stdout)
    a.at_remote("init", a.remote)
    for verb, host, direction in (("push", a, "up"), ("pull", b, "down")):
        say(f"remote: {verb} of {gib} GiB")
        used = []
        percent, _ = link_use(cloud, direction, lambda: used.append(peak(host, verb, "vm", "--store", a.remote)))
        samples.add("gabion", f"{verb} of {gib} GiB, half compressible: link used, %", percent)
        samples.add("gabion", f"{verb} of {gib} GiB: memory beside the cache's budget, MiB", used[0] - budget)
    say(f"remote: read of {gib} GiB")
    c = Host(options, cloud, "large-c", "unused")
    c.remote = a.remote
    with c.serve_remote("vm", "--no-trace") as server:
        percent, _ = link_use(cloud, "down", lambda: copy_out(server))
    samples.add("gabion", f"read of {gib} GiB in sequence, half compressible: link used, %", percent)
    for host in (a, b, c):
        shutil.rmtree(host.home)


def copy_out(server):
    """Reads an export in sequence."""
    run("nbdcopy", "--connections=1", "--requests=4", server.uri, "null:")


def bench(options, images):
    need("nbdkit", "nbdcopy", "fio", "qemu-system-x86_64", "taskset")
    if not options.gabion:
        return {}
    if not os.access(options.testcloud, os.X_OK):
        sys.exit(f"bench: no {options.testcloud}: run cargo build --release -p gabion-testcloud, or give --testcloud")
    fresh(options.out / "remote")
    samples = Samples()
    with Cloud(options.testcloud) as cloud:
        for number in range(options.rounds):
            say(f"remote: round {number + 1} of {options.rounds}, streams")
            streams(options, cloud, images, samples)
        warm_reads(options, cloud, images, samples)
        kit, a = boots(options, cloud, samples)
        replays(options, cloud, kit, a, samples)
    with Cloud(options.testcloud) as cloud:
        large(options, cloud, samples)
    shutil.rmtree(options.out / "remote", ignore_errors=True)
    return {f"A bucket behind 20 ms and {MB_PER_S} MB/s": samples}
