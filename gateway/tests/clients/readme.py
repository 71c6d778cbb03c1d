"""Runs the README's first example and the banner's commands, with other ports only."""

import os
import pathlib
import queue
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import urllib.request

from harness import AMQP, METRICS, MQTT, STOMP, case, equal, main

README = pathlib.Path(__file__).parents[3] / "README.md"
LIMIT = 60


def program(name):
    """The block of Python that follows the program's name, with this gateway's ports in it."""
    text = README.read_text()
    block = re.search(rf"\(`{name}`.*?```python\n(.*?)```", text, re.DOTALL)
    assert block, f"the README has no program {name}"
    source = block[1]
    # The README's programs use the default ports, which a test cannot: another program may use them.
    ports = {
        "backend.py": ("pika.BlockingConnection()", f"pika.BlockingConnection(pika.ConnectionParameters(port={AMQP}))"),
        "page.py": ("61613", str(STOMP)),
        "device.py": ('device.connect("localhost")', f'device.connect("localhost", {MQTT})'),
    }
    default, ours = ports[name]
    equal(source.count(default), 1, f"{default} in {name}")
    return source.replace(default, ours)


class Running:
    """A running program, and the lines it has written."""

    def __init__(self, command, **settings):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, **settings
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def wait_for(self, wanted):
        """Reads lines until one is `wanted`, and returns it. A pattern need only match a part of a line."""
        seen = []
        while True:
            try:
                line = self.lines.get(timeout=LIMIT)
            except queue.Empty:
                line = None
            assert line is not None, f"{wanted!r} did not come, but {seen}"
            if line == wanted if isinstance(wanted, str) else wanted.search(line):
                return line
            seen.append(line)

    def stop(self):
        self.process.kill()
        self.process.wait()


@case
def the_backend_the_page_and_the_device_of_the_readme_meet():
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as directory:
        running = {}
        try:
            for name, ready in [("backend.py", "backend: ready"), ("page.py", re.compile("on_receipt .*ready")), ("device.py", None)]:
                path = pathlib.Path(directory) / name
                path.write_text(program(name))
                running[name] = Running([sys.executable, "-u", str(path)])
                if ready:
                    running[name].wait_for(ready)
            running["backend.py"].wait_for("backend: plant.1.temp 21.5")
            running["device.py"].wait_for("device: plant/1/valve open")
            for topic, body in [("plant.1.temp", "21.5"), ("plant.1.valve", "open")]:
                running["page.py"].wait_for(re.compile(f"on_message .*/topic/{re.escape(topic)}.* {re.escape(body)}$"))
        finally:
            for program_ in running.values():
                program_.stop()


def banner():
    """The lines under "Try it" that this gateway wrote when it started."""
    log = pathlib.Path("log").read_text()
    return re.search(r"Try it, from this machine:\n((?:    .*\n)+)", log)[1].splitlines()


@case
def what_the_banner_says_to_try_works():
    import pika

    [amqp] = [line.split()[0] for line in banner() if "amqp://" in line]
    channel = pika.BlockingConnection(pika.URLParameters(amqp)).channel()
    channel.queue_declare("tried", exclusive=True)
    channel.queue_bind("tried", "amq.topic", "plant.1.temp")

    [mqtt] = [line.strip() for line in banner() if "mosquitto_sub" in line]
    subscribe, publish = [shlex.split(part) for part in mqtt.split("   then, beside it: ")]
    # Only its debug lines show when the subscriber has subscribed.
    subscriber = Running(["stdbuf", "-oL", *subscribe, "-d", "-F", "%t %p"])
    try:
        subscriber.wait_for("Subscribed (mid: 1): 0")
        subprocess.run(publish, check=True, timeout=LIMIT)
        subscriber.wait_for("plant/1/temp 21.5")
    finally:
        subscriber.stop()
    while (message := channel.basic_get("tried", auto_ack=True))[0] is None:
        channel.connection.sleep(0.01)
    equal(message[2], b"21.5", "the message in the queue")

    [curl] = [line.split()[1] for line in banner() if "curl" in line]
    equal(curl, f"localhost:{METRICS}/metrics", "the address of the metrics")
    assert b"gatepost_build_info" in urllib.request.urlopen(f"http://{curl}", timeout=LIMIT).read()


main()
