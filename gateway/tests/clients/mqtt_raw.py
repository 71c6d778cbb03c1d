"""MQTT spelled out: packets as bytes, and a socket to send them on."""

import json
import os
import socket
import struct

from harness import HOST, MQTT, equal, later, unique

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x10, 0x20, 0x30, 0x40, 0x50, 0x62, 0x70
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = (
    0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0,
)


def varint(n):
    out = b""
    while True:
        n, digit = n >> 7, n & 0x7F
        out += bytes([digit | (0x80 if n else 0)])
        if not n:
            return out


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack(">H", len(s)) + s


def packet(byte, body=b""):
    return bytes([byte]) + varint(len(body)) + body


def props(data=b""):
    return varint(len(data)) + data


def connect(client_id="", *, level=5, flags=0x02, keepalive=0, properties=b"", name="MQTT", rest=b""):
    body = text(name) + bytes([level, flags]) + struct.pack(">H", keepalive)
    if level == 5:
        body += props(properties)
    return packet(CONNECT, body + text(client_id) + rest)


def publish(topic, payload=b"", *, qos=0, mid=0, flags=0, properties=b"", level=5):
    body = text(topic) + (struct.pack(">H", mid) if qos else b"") + (props(properties) if level == 5 else b"")
    return packet(PUBLISH | qos << 1 | flags, body + payload)


def subscribe(mid, *filters, properties=b"", level=5):
    body = struct.pack(">H", mid) + (props(properties) if level == 5 else b"")
    return packet(SUBSCRIBE, body + b"".join(text(f) + bytes([options]) for f, options in filters))


def ack(kind, mid, tail=b""):
    return packet(kind, struct.pack(">H", mid) + tail)


def send(wire, topic, payload, qos, mid=1):
    """Publishes and completes the handshake of its QoS."""
    wire.raw(publish(topic, payload, qos=qos, mid=mid))
    if qos == 1:
        wire.expect(PUBACK)
    if qos == 2:
        wire.expect(PUBREC)
        wire.raw(ack(PUBREL, mid))
        wire.expect(PUBCOMP)


def dial():
    """A connection over TCP, or over QUIC if `GATEPOST_TRANSPORT` says so."""
    if os.environ.get("GATEPOST_TRANSPORT") == "quic":
        from quic_socket import Stream

        with open("tls.json") as file:
            settings = json.load(file)
        return Stream(settings["quic"], os.path.join(settings["directory"], "ca.pem"))
    tcp = socket.create_connection((HOST, MQTT), 30)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.settimeout(30)
    return tcp


class Wire:
    def __init__(self, data=b"", over=None):
        self.socket = over or dial()
        later(self.socket.close)
        self.buffer = b""
        self.raw(data)

    @staticmethod
    def opened(client_id="", level=5, **settings):
        wire = Wire(connect(client_id or unique("w"), level=level, **settings))
        byte, body = wire.read()
        equal((byte, body[1]), (CONNACK, 0), "CONNACK")
        wire.present = body[0] == 1
        return wire

    def raw(self, data):
        self.socket.sendall(data)

    def read(self):
        """The next packet as (first byte, body), or None at the end of the stream."""
        while True:
            length, shift = 0, 0
            for at in range(1, min(len(self.buffer), 5)):
                length |= (self.buffer[at] & 0x7F) << shift
                shift += 7
                if self.buffer[at] < 0x80:
                    if len(self.buffer) > at + length:
                        byte, body = self.buffer[0], self.buffer[at + 1 : at + 1 + length]
                        self.buffer = self.buffer[at + 1 + length :]
                        return byte, body
                    break
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                equal(self.buffer, b"", "the stream ends inside a packet")
                return None
            self.buffer += data

    def expect(self, byte, body=None):
        got = self.read()
        assert got is not None, f"expected {byte:02X}, and the stream ended"
        assert got[0] == byte, f"expected {byte:02X}, got {got[0]:02X} {got[1][:80]}"
        if body is not None:
            equal(got[1], body, f"body of {byte:02X}")
        return got[1]

    def refused(self, *codes):
        """Expects DISCONNECT or CONNACK with one of these codes, or just the end, and then the end."""
        got = self.read()
        if got is not None:
            byte, body = got
            assert byte in (DISCONNECT, CONNACK), f"{byte:02X} {body}"
            code = body[1] if byte == CONNACK else body[0]
            assert code in codes, f"closed with {code:02X}, expected one of {[f'{c:02X}' for c in codes]}"
            equal(self.read(), None, "after the refusal")
            return code
        return None

    def still_works(self):
        self.raw(packet(PINGREQ))
        self.expect(PINGRESP, b"")
