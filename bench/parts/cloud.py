"""An object store behind a slow link: the server of crates/testcloud, steered and read by HTTP."""

import json
import subprocess
import sys
import urllib.request

LATENCY_MS = 20
MB_PER_S = 200


class Cloud:
    """A bucket behind round trips of 20 ms and 200 MB/s in each direction."""

    def __init__(self, binary, raw=None):
        command = [str(binary)]
        if raw:
            command += ["--load", f"bucket/raw.img={raw}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        line = self.process.stdout.readline().decode().strip()
        if not line.startswith("http://"):
            sys.exit(f"bench: {binary} did not start")
        self.root = line

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.root + path, data, method=method)) as answer:
            return answer.read()

    def slow(self):
        self._ask("PUT", "/_cloud/settings", {"latency_ms": LATENCY_MS, "bandwidth": MB_PER_S * 1_000_000})

    def fast(self):
        self._ask("PUT", "/_cloud/settings", {"latency_ms": 0, "bandwidth": 0})

    def count(self):
        """Counts from 0 from here on."""
        self._ask("DELETE", "/_cloud/stats")

    def stats(self):
        """Requests, bytes up and bytes down since `count`."""
        rows = json.loads(self._ask("GET", "/_cloud/stats"))["rows"]
        return {
            "requests": sum(row["requests"] for row in rows),
            "puts of packs": sum(row["requests"] for row in rows if (row["operation"], row["class"]) == ("put", "packs")),
            "up": sum(row["bytes_in"] for row in rows),
            "down": sum(row["bytes_out"] for row in rows),
        }

    def store(self, prefix):
        """URL of a store in the bucket."""
        return f"s3://bucket/{prefix}?endpoint={self.root}/s3"

    def env(self):
        """Credentials, which this server does not look at."""
        return {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}

    def raw_url(self):
        """The raw image, for a plain HTTP client."""
        return f"{self.root}/http/bucket/raw.img"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

