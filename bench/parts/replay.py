#!/usr/bin/python3
"""Reads, one after the other and without thinking, what a guest read: `replay.py URI < lines of offset length`.
Prints the seconds it took. Runs with the system's Python, which has libnbd."""

import sys
import time

import nbd

reads = [tuple(map(int, line.split())) for line in sys.stdin]
start = time.monotonic()
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
for offset, length in reads:
    handle.pread(length, offset)
print(time.monotonic() - start)
handle.shutdown()
