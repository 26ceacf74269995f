"""Import, stored size, second versions and restore against casync, restic and zstd."""

import json
import os
import subprocess
import time

from .common import Gabion, Samples, fresh, need, run, say, stored, timed, warm


class GabionStore:
    def __init__(self, options, work, *flags):
        self.gabion, self.flags = Gabion(options.gabion, work), flags
        self.folder = work

        self.checkpoints = {}

    def put(self, image, name):
        """All versions are one image's history."""
        start = time.monotonic()
        record = self.gabion.run("import", image, "disk", "--json", *self.flags, stdout=subprocess.PIPE)
        seconds = time.monotonic() - start
        self.checkpoints[name] = json.loads(record)["checkpoint"]
        return seconds

    def get(self, name, target):
        return self.gabion.timed("export", f"disk@{self.checkpoints[name]}", target)


class Casync:
    def __init__(self, work):
        self.folder = fresh(work)

    def put(self, image, name):
        return durable(self.folder, "casync", "make", *self.store(), self.folder / f"{name}.caibx", image)

    def get(self, name, target):
        return timed("casync", "extract", *self.store(), self.folder / f"{name}.caibx", target)

    def store(self):
        return [f"--store={self.folder / 'chunks.castr'}", "--compression=zstd"]


class Restic:
    def __init__(self, work):
        self.folder = fresh(work)
        self.env = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(self.folder)}
        run("restic", "init", "--quiet", env=self.env)

    def put(self, image, name):
        with open(image, "rb") as file:
            arguments = ["backup", "--quiet", "--no-cache", "--stdin", "--stdin-filename", name, "--tag", name]
            return durable(self.folder, "restic", *arguments, env=self.env, stdin=file)

    def get(self, name, target):
        with open(target, "wb") as file:
            arguments = ["dump", "--quiet", "--no-cache", "--tag", name, "latest", f"/{name}"]
            return timed("restic", *arguments, env=self.env, stdout=file)


class Zstd:
    def __init__(self, work):
        self.folder = fresh(work)

    def put(self, image, name):
        return durable(self.folder, "zstd", "-q", "-1", "-T2", "-f", image, "-o", self.folder / name)

    def get(self, name, target):
        return timed("zstd", "-q", "-d", "-f", self.folder / name, "-o", target)


def durable(folder, *command, **options):
    """Seconds of a command and of making its work durable, which gabion's import does by itself."""
    return timed(*command, **options) + timed("sync", "-f", folder)


def bench(options, images):
    need("casync", "restic", "zstd", "cmp")
    work = fresh(options.out / "import")
    subjects = {
        "casync": lambda: Casync(work / "casync"),
        "restic": lambda: Restic(work / "restic"),
        "zstd -1 -T2": lambda: Zstd(work / "zstd"),
    }
    if options.gabion:
        subjects = {
            "gabion": lambda: GabionStore(options, work / "gabion"),
            "gabion fixed 64K": lambda: GabionStore(options, work / "fixed", "--chunker", "fixed:64K"),
            **subjects,
        }
    samples, target = Samples(), work / "restored.img"
    for image in images.values():
        warm(image)
    for number in range(options.rounds):
        for name, make in subjects.items():
            say(f"import: round {number + 1} of {options.rounds}, {name}")
            os.sync()
            store, before = make(), 0
            for version in ("base", "edited", "rebuilt"):
                samples.add(name, f"{version}: import, s", store.put(images[version], version))
                after = stored(store.folder)
                samples.add(name, f"{version}: stored, MB", (after - before) / 1e6)
                before = after
            samples.add(name, "base again: import, s", store.put(images["base"], "base"))
            for version in ("base", "rebuilt"):
                target.unlink(missing_ok=True)
                samples.add(name, f"{version}: restore, s", store.get(version, target))
                # A figure of a wrong restore is none.
                run("cmp", target, images[version], stdout=subprocess.DEVNULL)
    target.unlink()
    return {"Import of a 1 GiB image, its second versions, restore (durable, page cache warm)": samples}
