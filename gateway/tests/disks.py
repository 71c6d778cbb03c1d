#!/usr/bin/env python3
"""A full disk and a failing disk under the gateway. Needs root, because it mounts them:

    cargo build --release && cargo test -p gatepost --test daemon watermarks   # the binary, and the clients
    sudo target/clients/venv/bin/python gateway/tests/disks.py target/release/gatepost

full     a 64 MiB ext4 is filled by confirmed publishes until publishers are told to wait, then to the last byte by
         somebody else: publishes are refused, `kill -9` and a start lose nothing, consumers drain it with not a byte
         free, and everything goes on by itself.
failing  an ext4 whose device loses its backing store in the middle, ten times, a page later each time: in a batch, at the
         end of a segment, at the begin of the next. Writes and syncs fail; the gateway ends with 74, and once the device
         is back every message that was confirmed is there, and the directory has no damage.

`cargo test` has the same on a simulated disk (`core/tests/engine/full.rs`, `core/src/store/tests`).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import paho.mqtt.client as paho
import pika
import pika.exceptions
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

MIB = 1 << 20
BODY = 16_384
BLOCK = 4096
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def sh(*command, check=True):
    return subprocess.run(command, check=check, capture_output=True, text=True)


def say(text):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def eventually(condition, what, within=90):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {within} s"
        time.sleep(0.05)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Gatepost:
    """A gateway whose data is in `directory`, with segments of a mebibyte."""

    def __init__(self, binary, directory, home):
        self.binary, self.data = binary, os.path.join(directory, "data")
        self.log = os.path.join(home, "gatepost.log")
        self.config = os.path.join(home, "gatepost.toml")
        self.amqp, self.mqtt, self.metrics = free_ports(3)
        with open(self.config, "w") as file:
            file.write(
                f'[node]\ndata_dir = "{self.data}"\n[disk]\nfree_limit = "1MiB"\n[store]\nsegment_size = "1MiB"\n'
                f'[listeners.amqp]\nbind = ["127.0.0.1:{self.amqp}"]\n[listeners.mqtt]\nbind = ["127.0.0.1:{self.mqtt}"]\n'
                f'[listeners.stomp]\nbind = []\n[listeners.web_mqtt]\nbind = []\n[listeners.web_stomp]\nbind = []\n[listeners.management]\nbind = []\n[listeners.metrics]\nbind = ["127.0.0.1:{self.metrics}"]\n'
            )
        self.process = None
        self.start()

    def start(self):
        with open(self.log, "a") as log:
            self.process = subprocess.Popen([self.binary, "--config", self.config], stdout=log, stderr=log)
        # Red because its disk is full; consumers are still served.
        eventually(lambda: self.status("/readyz") in (200, 503) or self.process.poll() is not None, "readiness", 20)
        assert self.process.poll() is None, open(self.log).read()

    def status(self, path):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def metric(self, name):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5).read().decode()
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def connect(self, blocked_timeout=30):
        settings = pika.ConnectionParameters(
            "127.0.0.1", self.amqp, heartbeat=0, blocked_connection_timeout=blocked_timeout
        )
        return pika.BlockingConnection(settings)

    def device(self, client_id, clean=True):
        """A paho client, MQTT 5; `reasons` gets the reason codes of its publishes."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        client.reasons = {}
        client.on_publish = lambda c, _, mid, reason, properties: c.reasons.update({mid: reason.value})
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 0 if clean else 3600
        client.connect("127.0.0.1", self.mqtt, clean_start=clean, properties=session)
        client.loop_start()
        eventually(client.is_connected, "a CONNACK", 10)
        return client


def body(n):
    return n.to_bytes(8, "big") + b"." * (BODY - 8)


def publish(gateway, confirmed):
    """Publishes one by one, confirmed, until that stops. Returns how many are confirmed, and how it stopped."""
    connection = gateway.connect(blocked_timeout=3)
    channel = connection.channel()
    channel.queue_declare("work", durable=True)
    channel.confirm_delivery()
    while True:
        try:
            channel.basic_publish("", "work", body(confirmed), PERSISTENT)
        except (pika.exceptions.AMQPError, pika.exceptions.AMQPConnectionError) as stopped:
            return confirmed, stopped
        confirmed += 1


def drain(gateway, confirmed):
    """Consumes and settles everything: all that was confirmed is there, in order."""
    connection = gateway.connect()
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    numbers = []
    for method, _, content in channel.consume("work", inactivity_timeout=5):
        if method is None:
            break
        numbers.append(int.from_bytes(content[:8], "big"))
        channel.basic_ack(method.delivery_tag)
    connection.close()
    # At the end, there may also be messages that were not confirmed.
    there = [n for n in numbers if n < confirmed]
    assert there == sorted(set(there)), "in order, and once"
    missing = sorted(set(range(confirmed)) - set(there))
    assert not missing, f"confirmed and not there: {missing[:20]}, {len(missing)} in all"


def full(binary, home):
    image, mount = os.path.join(home, "image"), os.path.join(home, "mount")
    os.mkdir(mount)
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    sh("mkfs.ext4", "-q", "-m", "0", image)
    sh("mount", "-o", "loop", image, mount)
    gateway = None
    try:
        gateway = Gatepost(binary, mount, home)
        subscriber = gateway.device("subscriber", clean=False)
        subscriber.subscribe("a/#", 1)
        time.sleep(0.5)
        subscriber.disconnect()

        confirmed, stopped = publish(gateway, 0)
        assert isinstance(stopped, pika.exceptions.ConnectionBlockedTimeout), repr(stopped)
        assert gateway.metric("rabbitmq_alarms_free_disk_space_watermark") == 1
        free = shutil.disk_usage(mount).free
        say(f"{confirmed} messages of 16 KiB confirmed, then told to wait; {free / MIB:.1f} MiB free")

        sensor = gateway.device("sensor")
        # A client is told after its first publish; what it sent together with that publish is accepted.
        sensor.publish("a/b", "x", 1)
        time.sleep(0.5)
        second = sensor.publish("a/b", "x", 1)
        time.sleep(1)
        assert not second.is_published(), "the PUBACK is withheld"

        # Another program uses up the rest.
        with open(os.path.join(mount, "ballast"), "wb", buffering=0) as ballast:
            size = 64 << 10
            while size:
                try:
                    ballast.write(b"\1" * size)
                except OSError:
                    size //= 2
        eventually(lambda: gateway.metric("gatepost_disk_full") == 1, "the last alarm")
        eventually(lambda: second.mid in sensor.reasons, "an answer to the publish that waited")
        assert sensor.reasons[second.mid] == 0x97, sensor.reasons
        now, stopped = publish(gateway, confirmed)
        assert now == confirmed and isinstance(stopped, pika.exceptions.NackError), repr(stopped)
        say(f"{shutil.disk_usage(mount).free} bytes free: AMQP publishes are nacked, MQTT 5 ones get 0x97")

        gateway.kill()
        gateway.start()
        connection = gateway.connect()
        depth = connection.channel().queue_declare("work", passive=True).method.message_count
        assert depth >= confirmed, f"{depth} of {confirmed}"
        connection.close()
        say(f"kill -9 and a start on the full disk: all {depth} are there")

        drain(gateway, confirmed)
        say("drained and settled with the disk full")
        eventually(lambda: gateway.metric("rabbitmq_alarms_free_disk_space_watermark") == 0, "room")
        free = shutil.disk_usage(mount).free
        say(f"recovered by itself: {free / MIB:.1f} MiB free")

        connection = gateway.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        for n in range(200):
            channel.basic_publish("", "work", body(n), PERSISTENT)
        connection.close()
        gateway.kill()
        gateway.start()
        drain(gateway, 200)
        gateway.stop()
        checked = sh(binary, "check", "--data", gateway.data, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "panicked" not in open(gateway.log).read()
        say("200 more confirmed, killed, there; the directory is sound")
    except BaseException:
        print(open(os.path.join(home, "gatepost.log")).read()[-8_000:])
        raise
    finally:
        if gateway:
            gateway.stop()
        sh("umount", mount, check=False)


def back_tables(image):
    """Writes the file system's own blocks once, so that the device has blocks under them. A file system that loses its tables
    cannot keep the data that it has synced."""
    free = set()
    for line in sh("dumpe2fs", image).stdout.splitlines():
        if line.startswith("  Free blocks: "):
            for span in line.removeprefix("  Free blocks: ").split(", "):
                first, _, last = span.partition("-")
                free.update(range(int(first), int(last or first) + 1) if first else [])
    with open(image, "r+b") as file:
        for block in set(range(64 * MIB // BLOCK)) - free:
            file.seek(block * BLOCK)
            bytes_there = file.read(BLOCK)
            file.seek(block * BLOCK)
            file.write(bytes_there)


def attach(image):
    """A loop device that reports every failed write. The loop driver treats a request that was written in part as written (seen on
    Linux 6.18: a sync succeeds, and after the first page of the data there are zeros), so no request may be larger than a page."""
    device = sh("losetup", "--find", "--show", image).stdout.strip()
    with open(f"/sys/block/{os.path.basename(device)}/queue/max_sectors_kb", "w") as limit:
        limit.write(str(BLOCK // 1024))
    return device


def failing(binary, home):
    for pages in range(10):
        place = os.path.join(home, str(pages))
        os.mkdir(place)
        fail(binary, place, 24 * MIB + pages * BLOCK)


def fail(binary, home, room):
    """The device says it has 64 MiB, and what is under it has `room`: writes beyond fail, as on a dying medium."""
    backing, mount = os.path.join(home, "backing"), os.path.join(home, "mount")
    os.mkdir(backing)
    os.mkdir(mount)
    sh("mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", backing)
    gateway, device = None, None
    try:
        image = os.path.join(backing, "image")
        with open(image, "wb") as file:
            file.truncate(64 * MIB)
        sh("mkfs.ext4", "-q", "-m", "0", "-b", str(BLOCK), "-E", "nodiscard,lazy_itable_init=0", image)
        back_tables(image)
        # The same for the directories, and for whatever a first mount writes.
        sh("mount", "-o", "loop", image, mount)
        for directory in ["log", "cold", "quarantine"]:
            os.makedirs(os.path.join(mount, "data", directory))
        sh("umount", mount)
        device = attach(image)
        sh("mount", device, mount)
        gateway = Gatepost(binary, mount, home)
        confirmed, stopped = publish(gateway, 0)
        say(f"{confirmed} messages confirmed, then {type(stopped).__name__}")
        code = gateway.process.wait(60)
        assert code == 74, f"it ended with {code}"
        said = [line for line in open(gateway.log) if "nothing more is confirmed" in line]
        assert said, open(gateway.log).read()
        say(f"it ended with 74: {said[-1].strip().split('ERROR')[-1].strip()}")

        sh("umount", mount)
        sh("mount", "-o", "remount,size=128m", backing)
        # The file system's own journal was hurt too; what it says is right is what there is.
        repaired = sh("e2fsck", "-fy", device, check=False)
        say(f"e2fsck: {' / '.join(repaired.stdout.splitlines())}")
        sh("mount", device, mount)
        checked = sh(binary, "check", "--data", gateway.data, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        gateway.start()
        drain(gateway, confirmed)
        gateway.stop()
        checked = sh(binary, "check", "--data", gateway.data, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "damage in the log" not in open(gateway.log).read()
        say(f"the device is back: all {confirmed} were there, and nothing is damaged")
    except BaseException:
        print(open(os.path.join(home, "gatepost.log")).read()[-8_000:])
        raise
    finally:
        if gateway:
            gateway.stop()
        sh("umount", mount, check=False)
        if device:
            sh("losetup", "--detach", device, check=False)
        # The device lets go of its file a moment later.
        eventually(lambda: sh("umount", backing, check=False).returncode == 0, "an end of the device", 10)


if __name__ == "__main__":
    if len(sys.argv) < 2 or os.geteuid() != 0:
        sys.exit(__doc__)
    BEGAN = time.monotonic()
    for scene in [full, failing]:
        if sys.argv[2:] and scene.__name__ not in sys.argv[2:]:
            continue
        say(scene.__name__)
        with tempfile.TemporaryDirectory(prefix="gatepost-disks-") as home:
            scene(os.path.abspath(sys.argv[1]), home)
    say("all of it held")
