"""What every part needs: commands that fail loudly, servers that are ended, medians, tables."""

import os
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

SERVER_CPU, CLIENT_CPU = "0", "1"
MIB = 1 << 20


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def need(*tools):
    """Ends the run if a tool is missing: a table without a peer is no comparison."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        sys.exit(f"bench: missing {', '.join(missing)}: run scripts/install-test-tools")


def run(*command, env=None, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL):
    """Runs a command that must succeed; gives its output if stdout is PIPE."""
    command = [str(word) for word in command]
    done = subprocess.run(command, env=env, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(command)} failed:\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def timed(*command, **options):
    """Seconds that a command took."""
    start = time.monotonic()
    run(*command, **options)
    return time.monotonic() - start


def stored(path):
    """Bytes that a file or folder takes on disk, everything counted."""
    return int(run("du", "-s", "--block-size=1", path, stdout=subprocess.PIPE).split()[0])


def fresh(path):
    """An empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def warm(path):
    """Brings a file into the page cache."""
    with open(path, "rb") as file:
        while file.read(8 * MIB):
            pass


class Gabion:
    """The binary under test, in a home of its own."""

    def __init__(self, binary, home):
        self.binary, self.home = binary, fresh(home)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("GABION_")}
        self.env["GABION_HOME"] = str(self.home)

    def run(self, *arguments, **options):
        return run(self.binary, *arguments, env=self.env, **options)

    def timed(self, *arguments):
        return timed(self.binary, *arguments, env=self.env)

    def serve(self, name):
        return Server([self.binary, "serve", name], env=self.env)


class Server:
    """An NBD server, on the server's CPU if `pinned`. With `socket`, ready when that accepts; else when it prints a URI."""

    def __init__(self, command, env=None, socket=None, pinned=True):
        command = [str(word) for word in command]
        if pinned:
            command = ["taskset", "-c", SERVER_CPU, *command]
        if socket:
            Path(socket).unlink(missing_ok=True)
        start = time.monotonic()
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        self.uri = self._socket_ready(socket) if socket else self._line_ready()
        self.start_seconds = time.monotonic() - start

    def _fail(self):
        self.stop()
        sys.exit(f"bench: {' '.join(map(str, self.process.args))} did not get ready")

    def _socket_ready(self, socket):
        import socket as sockets

        for _ in range(3000):
            with sockets.socket(sockets.AF_UNIX) as probe:
                try:
                    probe.connect(str(socket))
                    return f"nbd+unix:///?socket={socket}"
                except OSError:
                    pass
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        self._fail()

    def _line_ready(self):
        seen, deadline = b"", time.monotonic() + 30
        while select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            part = os.read(self.process.stdout.fileno(), 4096)
            if not part:
                break
            seen += part
            found = re.search(rb"nbd\+unix://\S+(?=\s)", seen)
            if found:
                return found.group().decode()
        self._fail()

    def cpu_seconds(self):
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Samples:
    """Figures of interleaved rounds: subject -> row -> values."""

    def __init__(self):
        self.values = {}

    def add(self, subject, row, value):
        self.values.setdefault(subject, {}).setdefault(row, []).append(value)

    def median(self, subject, row):
        values = self.values.get(subject, {}).get(row)
        return statistics.median(values) if values else None

    def table(self, title):
        """Markdown: a line per row, a column per subject, and gabion's ratio to each peer in brackets."""
        subjects = list(self.values)
        rows = list(dict.fromkeys(row for values in self.values.values() for row in values))
        lines = [f"### {title}", "", "| | " + " | ".join(subjects) + " |", "|---" * (len(subjects) + 1) + "|"]
        for row in rows:
            own = self.median("gabion", row)
            cells = []
            for subject in subjects:
                value = self.median(subject, row)
                if value is None:
                    cells.append("-")
                    continue
                ratio = f" ({own / value:.2f})" if own is not None and subject != "gabion" and value else ""
                cells.append(f"{shown(value)}{ratio}")
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def shown(value):
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
