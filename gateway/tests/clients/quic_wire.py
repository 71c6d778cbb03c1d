"""MQTT connections over QUIC, as the scripts about QUIC use them.

Reads `tls.json` of the working directory: the port, and the directory with `ca.pem`.
"""

import json
import os
import urllib.request

from harness import HOST, METRICS, equal, later, unique
from mqtt_raw import CONNACK, Wire, connect
from quic_socket import Stream

with open("tls.json") as file:
    SETTINGS = json.load(file)


def path(name):
    return os.path.join(SETTINGS["directory"], name)


def stream(**settings):
    connection = Stream(SETTINGS["quic"], path("ca.pem"), **settings)
    later(connection.close)
    return connection


def opened(client_id=None, level=5, flags=0x02, keepalive=60, properties=b"", rest=b"", **settings):
    """An MQTT connection after its CONNACK."""
    wire = Wire(over=stream(**settings))
    wire.raw(connect(client_id or unique("q"), level=level, flags=flags, keepalive=keepalive, properties=properties, rest=rest))
    byte, body = wire.read()
    equal((byte, body[1]), (CONNACK, 0), "CONNACK")
    wire.present = body[0] == 1
    return wire


def metric(name):
    text = urllib.request.urlopen(f"http://{HOST}:{METRICS}/metrics", timeout=30).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
