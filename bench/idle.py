#!/usr/bin/env python3
"""What an idle MQTT connection costs a broker, in bytes of resident memory, over each transport.

    bench/idle.py PID TRANSPORT PORT COUNT [CA]

TRANSPORT is plain, tls, ws, wss or quic. Start the broker anew for each: memory that one run has given back is used again by
the next. QUIC needs aioquic (the tests' Python has it: target/clients/venv/bin/python).
"""

import os
import socket
import ssl
import sys
import time

WARM_UP = 20
UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS"):
                return 1024 * int(line.split()[1])
    raise SystemExit(f"process {pid} says nothing about its memory")


def connect(client):
    body = b"\0\4MQTT\4\2\0\0" + len(client).to_bytes(2, "big") + client
    return bytes([0x10, len(body)]) + body


def read(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise SystemExit(f"the broker closed after {data}")
        data += more
    return data


def connection(transport, port, ca, client):
    if transport == "quic":
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../gateway/tests/clients"))
        from quic_socket import Stream

        quic = Stream(port, ca, idle=3600.0)
        quic.sendall(connect(client))
        assert read(quic, 4)[3] == 0
        return quic
    peer = socket.create_connection(("127.0.0.1", port))
    if transport in ("tls", "wss"):
        peer = ssl.create_default_context(cafile=ca).wrap_socket(peer, server_hostname="localhost")
    if transport in ("ws", "wss"):
        peer.sendall(UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += read(peer, 1)
        packet = connect(client)
        peer.sendall(bytes([0x82, 0x80 | len(packet)]) + b"\0\0\0\0" + packet)
        assert read(peer, 6)[5] == 0
    else:
        peer.sendall(connect(client))
        assert read(peer, 4)[3] == 0
    return peer


def main():
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    pid, transport, port, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ca = sys.argv[5] if len(sys.argv) > 5 else None
    kept = [connection(transport, port, ca, f"warm-{n}".encode()) for n in range(WARM_UP)]
    before = resident(pid)
    kept += [connection(transport, port, ca, f"idle-{n}".encode()) for n in range(count)]
    time.sleep(2)
    print(f"{transport}: {(resident(pid) - before) // count} bytes a connection")
    # The threads of QUIC connections go with the process.
    sys.stdout.flush()
    os._exit(0)


main()
