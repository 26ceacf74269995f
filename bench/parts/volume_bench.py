"""Checkpoints of scattered writes; start and memory of a large volume."""

import json
import subprocess
import time

from .common import CLIENT_CPU, Gabion, Samples, Server, fresh, need, run, say, stored


def scatter(uri, size, count, seed):
    """Writes `count` blocks of 4 KiB at random places, and flushes."""
    run(
        *["taskset", "-c", CLIENT_CPU, "fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--size={size}"],
        *["--rw=randwrite", "--bs=4k", "--iodepth=16", f"--number_ios={count}", "--norandommap", "--end_fsync=1"],
        *["--random_generator=tausworthe64", f"--randseed={seed}", "--refill_buffers"],
    )


def checkpoint(options, _images):
    """How long writes are held, how long it takes, what it stores."""
    need("fio", "taskset")
    samples = Samples()
    if not options.gabion:
        return {}
    gabion = Gabion(options.gabion, options.out / "checkpoint")
    gabion.run("create", "vm", "--size", "1T")
    with gabion.serve("vm") as server:
        for number in range(options.rounds):
            say(f"checkpoint: round {number + 1} of {options.rounds}")
            scatter(server.uri, "1T", 10_000, seed=number)
            start = time.monotonic()
            record = json.loads(gabion.run("checkpoint", "vm", "--json", stdout=subprocess.PIPE))
            samples.add("gabion", "whole checkpoint, s", time.monotonic() - start)
            samples.add("gabion", "writes held, ms", record["held_ms"])
            samples.add("gabion", "home folder in all, MB", stored(gabion.home) / 1e6)
    return {"Live checkpoint of 10,000 scattered dirty blocks on 1 TiB": samples}


def memory(options, _images):
    """Start and resident memory at 1 TiB, untouched and with scattered dirty blocks."""
    need("nbdkit", "fio", "taskset")
    samples, work = Samples(), fresh(options.out / "memory")
    count = 50_000 if options.quick else 1_000_000
    socket, raw = work / "s", work / "sparse.img"

    def nbdkit():
        raw.unlink(missing_ok=True)
        run("truncate", "-s", "1T", raw)
        return lambda: Server(["nbdkit", "-f", "-U", socket, "file", raw], socket=socket)

    def own():
        gabion = Gabion(options.gabion, work / "gabion")
        gabion.run("create", "vm", "--size", "1T")
        return lambda: gabion.serve("vm")

    # No qcow2: with clusters of 64 KiB, a million scattered blocks take 64 GB of disk.
    subjects = {"nbdkit file": nbdkit}
    if options.gabion:
        subjects = {"gabion": own, **subjects}
    for number in range(options.rounds):
        for name, make in subjects.items():
            say(f"memory: round {number + 1} of {options.rounds}, {name}")
            start = make()
            with start() as server:
                samples.add(name, "empty: start, ms", server.start_seconds * 1e3)
                samples.add(name, "empty: resident, MiB", server.memory() / 2**20)
                scatter(server.uri, "1T", count, seed=number)
                samples.add(name, f"{count:,} dirty blocks: resident, MiB", server.memory() / 2**20)
            with start() as server:
                samples.add(name, f"{count:,} dirty blocks: start again, ms", server.start_seconds * 1e3)
    return {"Start and memory of a volume of 1 TiB": samples}
