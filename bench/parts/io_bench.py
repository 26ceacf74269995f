"""Reads and writes over NBD against other servers of the same image."""

import json
import subprocess

from .common import CLIENT_CPU, Gabion, Samples, Server, fresh, need, run, say, warm

# Row -> (fio's options, figure: MB/s or kIOPS).
ROWS = {
    "seq read 1M QD8, MB/s": (["--rw=read", "--bs=1M", "--iodepth=8"], "mbs"),
    "seq write 1M QD8, MB/s": (["--rw=write", "--bs=1M", "--iodepth=8"], "mbs"),
    "rand read 4K QD1, kIOPS": (["--rw=randread", "--bs=4k", "--iodepth=1"], "kiops"),
    "rand read 4K QD16, kIOPS": (["--rw=randread", "--bs=4k", "--iodepth=16"], "kiops"),
    "rand read 4K QD64, kIOPS": (["--rw=randread", "--bs=4k", "--iodepth=64"], "kiops"),
    "rand write 4K QD16, kIOPS": (["--rw=randwrite", "--bs=4k", "--iodepth=16"], "kiops"),
    "rand write 4K QD16, flush every 64, kIOPS": (
        ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=64"],
        "kiops",
    ),
    "write+flush 4K QD1, kIOPS": (["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"], "kiops"),
}


def servers(options, images):
    """Name -> function that starts a server of a fresh, writable copy of the base image."""
    work = fresh(options.out / "io")
    base, socket = images["base"], work / "s"

    def copy():
        raw = work / "copy.img"
        run("cp", "--sparse=always", base, raw)
        warm(raw)
        return raw

    def overlay():
        warm(base)
        image = work / "overlay.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image)
        return image

    qemu = ["qemu-nbd", "-t", "-e", "8", "-k", socket, "--discard=unmap"]
    started = {
        "nbdkit file": lambda: Server(["nbdkit", "-f", "-U", socket, "file", copy()], socket=socket),
        "qemu-nbd raw": lambda: Server([*qemu, "-f", "raw", copy()], socket=socket),
        "qcow2 overlay": lambda: Server([*qemu, "-f", "qcow2", overlay()], socket=socket),
    }
    if options.gabion:

        def gabion():
            made = Gabion(options.gabion, work / "gabion")
            made.run("import", base, "base")
            made.run("create", "vm", "--from", "base")
            return made.serve("vm")

        started = {"gabion": gabion, **started}
    return started


def fio(uri, arguments, seconds):
    report = run(
        *["taskset", "-c", CLIENT_CPU, "fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--size=1G"],
        *["--time_based", f"--runtime={seconds}", "--randrepeat=1", "--norandommap", "--output-format=json"],
        *arguments,
        stdout=subprocess.PIPE,
    )
    job = json.loads(report[report.index(b"{") :])["jobs"][0]
    side = job["read"] if job["read"]["total_ios"] else job["write"]
    return {"mbs": side["bw_bytes"] / 1e6, "kiops": side["iops"] / 1e3, "ios": side["total_ios"]}


def bench(options, images):
    need("nbdkit", "qemu-nbd", "qemu-img", "fio", "taskset")
    samples, cpu = Samples(), Samples()
    seconds = 2 if options.quick else 5
    started = servers(options, images)
    for number in range(options.rounds):
        for name, start in started.items():
            say(f"io: round {number + 1} of {options.rounds}, {name}")
            with start() as server:
                # What was never read is read once before it is measured: all tables are of a warm server.
                fio(server.uri, ROWS["seq read 1M QD8, MB/s"][0], 1)
                for row, (arguments, figure) in ROWS.items():
                    before = server.cpu_seconds()
                    result = fio(server.uri, arguments, seconds)
                    samples.add(name, row, result[figure])
                    used = (server.cpu_seconds() - before) * 1e6 / result["ios"]
                    cpu.add(name, row.rsplit(",", 1)[0] + ", µs", used)
    return {
        "Reads and writes over one connection (server on CPU 0, client on CPU 1)": samples,
        "The server's CPU time per operation": cpu,
    }
