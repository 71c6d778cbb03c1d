#!/usr/bin/env python3
"""Writes gateway/layout.ld: which functions lie together in the program, so that a gateway at rest has few pages in memory.

    GATEPOST_LAYOUT=none cargo build --release -p gatepost -p gatepost-bench
    gateway/layout.py

The kernel maps a program's file in pieces of 64 KiB around each page that is touched. The functions of a start and of the path of
a message are 2 of the 9 MB of code; spread over the file as the compiler leaves them, they have all of it mapped. This starts the
gateway with every listener in valgrind, lets each protocol carry some messages, and lists the functions that ran. Their names
carry hashes that differ from build to build: the list has wildcards there. A list that is older than the code is not wrong: what
it does not name is only farther away, and names that are gone match nothing.
"""

import bisect
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GATEPOST = ROOT / "target/release/gatepost"
BENCH = ROOT / "target/release/gatepost-bench"
LAYOUT = ROOT / "gateway/layout.ld"
# Plain, TLS and QUIC; metrics and the management API are bound by default.
LISTENERS = {"amqp": ("bind", "tls_bind"), "mqtt": ("bind", "tls_bind", "quic_bind"), "stomp": ("bind", "tls_bind"),
             "web_mqtt": ("bind", "tls_bind"), "web_stomp": ("bind", "tls_bind"), "metrics": ("bind",), "management": ("bind",)}

HEAD = """/* The functions of a start and of the path of a message, side by side. Written by gateway/layout.py, which says why.
   Sections that are not named here follow in the order of the objects. */
SECTIONS {
  .text.start : {
"""
FOOT = """  }
}
INSERT BEFORE .text;
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configuration(directory):
    """A configuration with every listener, and the ports of the plain ones."""
    subprocess.run([GATEPOST, "cert", "dev", "--dir", directory / "tls"], check=True, stdout=subprocess.DEVNULL)
    text = f'[node]\ndata_dir = "{directory}/data"\n[tls]\ncert = "{directory}/tls/server.pem"\nkey = "{directory}/tls/server.key"\n'
    ports = {}
    for name, keys in LISTENERS.items():
        text += f"[listeners.{name}]\n"
        for key in keys:
            port = free_port()
            text += f'{key} = ["127.0.0.1:{port}"]\n'
            if key == "bind":
                ports[name] = port
    (directory / "gatepost.toml").write_text(text)
    return ports


def run(directory):
    """Runs the gateway in valgrind and returns the file with the addresses that it executed."""
    ports = configuration(directory)
    profile, log = directory / "profile", directory / "log"
    with open(log, "w") as out:
        gateway = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={profile}",
             GATEPOST, "--config", directory / "gatepost.toml"], stdout=out, stderr=out)
    print("starting the gateway in valgrind", flush=True)
    while "ready_ms=" not in log.read_text():
        if gateway.poll() is not None:
            sys.exit(log.read_text())
        time.sleep(0.2)
    for protocol in ("mqtt", "amqp", "stomp"):
        print(f"messages over {protocol}", flush=True)
        subprocess.run([BENCH, "run", "--uri", f"{protocol}://127.0.0.1:{ports[protocol]}", "--publishers", "2", "--consumers", "2",
                        "--rate", "200", "--seconds", "2"], check=True, stdout=subprocess.DEVNULL)
    time.sleep(15)  # A round of $SYS and of the statistics
    gateway.send_signal(signal.SIGTERM)
    if gateway.wait() != 0:
        sys.exit(log.read_text())
    return profile


def executed(profile):
    """The addresses of the program's instructions that ran, of a profile in callgrind's format, section "positions: instr"."""
    objects, ours, address, found = {}, False, 0, set()
    for line in open(profile):
        if named := re.match(r"(c?ob)=\((\d+)\)(?: (.*))?$", line):
            kind, number, name = named.groups()
            if name:
                objects[number] = name
            if kind == "ob":
                ours = objects[number] == str(GATEPOST)
        elif position := re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) ", line):
            step = position[1]
            if step.startswith("0x"):
                address = int(step, 16)
            elif step != "*":
                address += int(step)
            if ours:
                found.add(address)
    return found


def functions(addresses):
    """The names of the functions that hold these addresses, in the order of the program."""
    table = []
    for line in subprocess.run(["nm", "-S", "--defined-only", GATEPOST], check=True, capture_output=True, text=True).stdout.splitlines():
        parts = line.split(" ", 3)
        if len(parts) == 4 and parts[2] in "tTwW":
            table.append((int(parts[0], 16), int(parts[1], 16), parts[3]))
    table.sort()
    starts = [start for start, _, _ in table]
    used = {}
    for address in sorted(addresses):
        at = bisect.bisect_right(starts, address) - 1
        if at >= 0 and address < starts[at] + table[at][1]:
            used[table[at][2]] = table[at][1]
    return used


def pattern(name):
    """The name without what differs from build to build."""
    name = re.sub(r"\.llvm\.\d+$", "*", name)
    name = re.sub(r"17h[0-9a-f]{16}E\*?$", "*", name)
    return re.sub(r"(?<=Cs)[0-9A-Za-z]+_", "*_", name) if name.startswith("_R") else name


def main():
    # Valgrind assigns no function to code in a section of another name.
    if ".text.start" in subprocess.run(["readelf", "-SW", GATEPOST], check=True, capture_output=True, text=True).stdout:
        sys.exit(f"{GATEPOST} is laid out already: build it with GATEPOST_LAYOUT=none")
    with tempfile.TemporaryDirectory() as directory:
        used = functions(executed(run(Path(directory))))
    patterns = dict.fromkeys(pattern(name) for name in used)
    # .text.NAME, and .text.unlikely.NAME of a function that is marked as cold.
    LAYOUT.write_text(HEAD + "".join(f"    *(.text*.{p})\n" for p in patterns) + FOOT)
    print(f"{len(used)} functions, {sum(used.values())} bytes; {len(patterns)} patterns in {LAYOUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
