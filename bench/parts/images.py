"""The disk images: an ext4 of real files, an edited version, a rebuilt version. Made once, kept in bench/out."""

import os
import random
import shutil
import subprocess
import sys

from .common import MIB, run, say

TREE_BYTES = 910 * MIB
LARGEST = 48 * MIB
FILES = 40_000


def build(out):
    """Paths of the base, edited and rebuilt images."""
    images = {name: out / f"{name}.img" for name in ("base", "edited", "rebuilt")}
    finished = out / "images.done"
    if finished.exists() and all(path.exists() for path in images.values()):
        return images
    say("building the images (1 GiB ext4 of files of /usr)")
    tree, changed = out / "tree", out / "tree-changed"
    for folder in (tree, changed):
        shutil.rmtree(folder, ignore_errors=True)
    files = collect(tree)
    make(tree, images["base"], seed=1)

    # Edited in place: in 3 % of the files, some bytes at up to three places are others.
    chance = random.Random(3)
    run("cp", "--sparse=always", images["base"], images["edited"])
    with open(images["edited"], "r+b") as image:
        for blocks in blocks_of(images["base"], chance.sample(files, len(files) * 3 // 100)):
            for block in chance.sample(blocks, min(len(blocks), chance.randrange(1, 4))):
                image.seek(block * 4096 + chance.randrange(4096 - 200))
                image.write(chance.randbytes(200))
    run("e2fsck", "-fn", images["edited"])

    # Built anew: 5 % of the files changed, every file placed again.
    chance = random.Random(5)
    run("cp", "-al", tree, changed)
    for name in chance.sample(files, len(files) * 5 // 100):
        data = (tree / name).read_bytes()
        (changed / name).unlink()  # a link to the tree's file, which stays
        (changed / name).write_bytes(edit(data, chance))
    make(changed, images["rebuilt"], seed=2)
    for folder in (tree, changed):
        shutil.rmtree(folder)
    finished.touch()
    return images


def blocks_of(image, files):
    """The blocks of each file of an image that has any, in the order of the file's content."""
    questions = image.with_suffix(".debugfs")
    questions.write_text("".join(f'blocks "/{name}"\n' for name in files))
    told = run("debugfs", "-f", questions, image, stdout=subprocess.PIPE).decode()
    lines = [line for line in told.splitlines() if not line.startswith("debugfs:")]
    if len(lines) != len(files):
        sys.exit(f"bench: debugfs told of {len(lines)} of {len(files)} files")
    return [blocks for line in lines if (blocks := [int(word) for word in line.split()])]


def collect(tree):
    """Copies files of /usr, in an order that depends on their names alone; gives their names."""
    names = []
    for top, folders, files in os.walk("/usr", followlinks=False):
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(top, name))]
        names += [os.path.join(top, name) for name in files]
    random.Random(1).shuffle(names := sorted(names))
    chosen, total = [], 0
    for name in names:
        # debugfs takes names in quotes and knows no escapes.
        if os.path.islink(name) or not os.path.isfile(name) or '"' in name or "\n" in name:
            continue
        size = os.path.getsize(name)
        if size > LARGEST:
            continue
        target = tree / name.removeprefix("/usr/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, target)
        chosen.append(name.removeprefix("/usr/"))
        total += size + 2048
        if total >= TREE_BYTES or len(chosen) == FILES:
            break
    return chosen


def edit(data, chance):
    """A file as a new version of it would be: some bytes put in at one place, some replaced at another."""
    cut, at = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
    data = data[:cut] + chance.randbytes(100) + data[cut:]
    return data[:at] + chance.randbytes(200) + data[at + 200:]


def make(tree, image, seed):
    image.unlink(missing_ok=True)
    uuid = f"00000000-0000-4000-8000-{seed:012d}"
    options = ["-q", "-t", "ext4", "-b", "4096", "-N", "49152", "-m", "0", "-U", uuid]
    run("mke2fs", *options, "-E", f"hash_seed={uuid},lazy_itable_init=0", "-d", tree, image, "1G")
