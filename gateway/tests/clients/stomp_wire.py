"""STOMP on a bare socket: grammar, versions, heart-beats, and the texts of ERROR frames."""

import socket
import time

from harness import HOST, PEER, STOMP, case, equal, eventually, later, main, unique

CONNECT = "CONNECT\naccept-version:{}\nhost:/\nlogin:guest\npasscode:guest\n\n\0"


class Wire:
    def __init__(self, data=b""):
        self.socket = socket.create_connection((HOST, STOMP), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(30)
        later(self.socket.close)
        self.buffer = b""
        if data:
            self.raw(data)

    @staticmethod
    def opened(version="1.2"):
        wire = Wire(CONNECT.format(version))
        wire.expect("CONNECTED")
        return wire

    def raw(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def read(self):
        """The next frame as (command, headers, body), or None at the end of the stream. Headers are not unescaped."""
        while True:
            self.buffer = self.buffer.lstrip(b"\r\n")
            head, separator, rest = self.buffer.partition(b"\n\n")
            if separator:
                command, *lines = head.decode().split("\n")
                headers = {}
                for line in lines:
                    name, _, value = line.partition(":")
                    headers.setdefault(name, value)
                length = headers.get("content-length")
                end = int(length) if length is not None else rest.find(b"\0")
                if 0 <= end < len(rest):
                    equal(rest[end : end + 1], b"\0", "the octet after the body")
                    self.buffer = rest[end + 1 :]
                    return command, headers, rest[:end]
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                equal(self.buffer, b"", "the stream ends inside a frame")
                return None
            self.buffer += data

    def expect(self, command):
        got = self.read()
        assert got is not None, f"expected {command}, and the stream ended"
        equal(got[0], command, str(got))
        return got

    def error(self, message, body=None, receipt=None):
        """Expects this ERROR, and the end of the stream after it."""
        _, headers, got = self.expect("ERROR")
        equal(headers.get("message"), message, str(got))
        if body is not None:
            assert got.decode().strip() == body.strip(), f"expected {body!r}, got {got!r}"
        if PEER != "rabbitmq":
            equal(headers.get("receipt-id"), receipt, "receipt-id")
            equal(self.read(), None, "after the ERROR")

    def still_works(self):
        self.raw("BEGIN\ntransaction:fence\nreceipt:fence\n\n\0ABORT\ntransaction:fence\n\n\0")
        equal(self.expect("RECEIPT")[1]["receipt-id"], "fence")


@case
def the_highest_common_version_is_chosen_for_connect_and_stomp():
    for command, offer, chosen in [
        ("CONNECT", "1.0,1.1,1.2", "1.2"),
        ("STOMP", "1.2,1.1", "1.2"),
        ("CONNECT", "1.0,1.1", "1.1"),
        ("STOMP", "1.1,9.9", "1.1"),
        ("CONNECT", "1.0", "1.0"),
    ]:
        wire = Wire(CONNECT.format(offer).replace("CONNECT", command))
        equal(wire.expect("CONNECTED")[1]["version"], chosen, offer)
    wire = Wire("CONNECT\nlogin:guest\npasscode:guest\n\n\0")
    headers = wire.expect("CONNECTED")[1]
    equal((headers["version"], headers["heart-beat"]), ("1.0", "0,0"))


@case
def an_unknown_version_is_told_the_known_ones():
    Wire(CONNECT.format("2.0")).error("Version mismatch", "Supported versions are 1.0,1.1,1.2\n")


@case
def a_frame_before_connect_is_an_illegal_command():
    Wire("SEND\ndestination:/queue/x\n\nx\0").error("Illegal command", "You must log in using CONNECT first")


@case(differs="rabbitmq")  # It closes without an ERROR.
def a_second_connect_is_refused():
    wire = Wire.opened()
    wire.raw(CONNECT.format("1.2"))
    _, headers, _ = wire.expect("ERROR")
    equal(headers["message"], "Already connected")
    equal(wire.read(), None)


@case
def an_invalid_vhost_is_refused():
    for host in ["/nosuch"]:
        wire = Wire(f"CONNECT\naccept-version:1.2\nhost:{host}\nlogin:guest\npasscode:guest\n\n\0")
        wire.error("Bad CONNECT", f"Virtual host '{host}' access denied")


@case(differs="rabbitmq")  # It takes them for vhosts.
def a_host_name_or_address_means_the_default_vhost():
    for host in ["127.0.0.1", "localhost", "gateway.example.com"]:
        Wire(f"CONNECT\naccept-version:1.2\nhost:{host}\nlogin:guest\npasscode:guest\n\n\0").expect("CONNECTED")


@case
def unknown_commands_and_missing_headers_are_named():
    for data, message, body in [
        ("FOO\n\n\0", "Bad command", 'Could not interpret command "FOO"\n'),
        ("SEND\n\nx\0", "Missing destination", "\"SEND\" must include a 'destination' header\n"),
        ("SUBSCRIBE\nid:1\n\n\0", "Missing destination", "\"SUBSCRIBE\" must include a 'destination' header\n"),
        (
            "SEND\ndestination:/nowhere/x\n\nx\0",
            "Unknown destination",
            "'/nowhere/x' is not a valid destination.\nValid destination types are: /temp-queue, /exchange, /topic, "
            "/queue, /amq/queue, /reply-queue/.\n",
        ),
        ("SEND\ndestination:/queue/a/b\n\nx\0", "Invalid destination", "'/a/b' is not a valid queue destination\n"),
        (
            "SEND\ndestination:/temp-queue/foo\n\nx\0",
            "Invalid destination",
            "'/temp-queue/foo' is not a valid destination for 'SEND'\n",
        ),
        (
            "SEND\ndestination:/queue/x\nmessage-id:1\n\nx\0",
            "Invalid header",
            "'message-id' is not allowed on 'SEND'.\n",
        ),
        ("ACK\nmessage-id:1\n\n\0", "Missing header", '"ACK" must include the "id" header\n'),
        ("BEGIN\n\n\0", "Missing transaction", "\"BEGIN\" must include a 'transaction' header\n"),
        ("COMMIT\ntransaction:zz\n\n\0", "Bad transaction", 'Invalid transaction identifier: "zz"\n'),
        (
            "UNSUBSCRIBE\nid:77\n\n\0",
            "No subscription found",
            "UNSUBSCRIBE must refer to an existing subscription.\nSubscription to \"id='77'\" not found.\n",
        ),
    ]:
        wire = Wire.opened()
        wire.raw(data)
        try:
            wire.error(message, body)
        except AssertionError as e:
            raise AssertionError(f"after {data!r}: {e}") from e


@case(differs="rabbitmq")  # It never sends one.
def an_error_names_the_receipt_that_was_asked_for():
    wire = Wire.opened()
    wire.raw("SEND\ndestination:/nowhere/x\nreceipt:r1\n\nx\0")
    wire.error("Unknown destination", receipt="r1")


@case(differs="rabbitmq")  # 3.10 says precondition_failed.
def acknowledging_the_unknown_is_message_not_found():
    wire = Wire.opened()
    wire.raw("ACK\nid:T_1@@session-x@@99\nreceipt:r\n\n\0")
    _, headers, _ = wire.expect("ERROR")
    assert headers["message"] in ("Message not found", "Invalid header"), headers


@case
def a_missing_exchange_is_not_found():
    for data in ["SEND\ndestination:/exchange/nosuch/k\n\nx\0", "SUBSCRIBE\nid:1\ndestination:/exchange/nosuch/k\n\n\0"]:
        wire = Wire.opened()
        wire.raw(data)
        _, headers, body = wire.expect("ERROR")
        equal(headers["message"], "not_found")
        assert "no exchange 'nosuch'" in body.decode(), body
        equal(wire.read(), None)


@case
def a_duplicate_subscription_id_ends_the_connection():
    wire = Wire.opened()
    wire.raw("SUBSCRIBE\nid:1\ndestination:/topic/a\n\n\0SUBSCRIBE\nid:1\ndestination:/topic/b\n\n\0")
    _, headers, _ = wire.expect("ERROR")
    equal(headers["message"], "Duplicated subscription identifier")
    equal(wire.read(), None)


@case
def carriage_returns_before_line_feeds_are_accepted():
    wire = Wire(CONNECT.format("1.2").replace("\n", "\r\n"))
    wire.expect("CONNECTED")
    queue = unique()
    wire.raw(f"SUBSCRIBE\r\nid:1\r\ndestination:/queue/{queue}\r\n\r\n\0\r\n\n\r\n")
    wire.raw(f"SEND\r\ndestination:/queue/{queue}\r\nkey:value\r\n\r\nbody\0\n\n")
    _, headers, body = wire.expect("MESSAGE")
    equal((headers["key"], body), ("value", b"body"))


@case(differs="rabbitmq")  # It drops the connection without an ERROR, or accepts them.
def broken_frames_are_an_error_and_the_end():
    for data in [
        "SEND\ndestination:/queue/x\nno colon here\n\nx\0",
        "SEND\ndestination:/queue/x\nkey:a\\tb\n\nx\0",
        "SEND\ndestination:/queue/x\ncontent-length:2\n\nxyz\0",
        "SEND\ndestination:/queue/x\ncontent-length:-1\n\nx\0",
        "SEND\ndestination:/queue/x\nkey:a\rb\n\nx\0",
        b"SEND\ndestination:/queue/x\nkey:\xff\xfe\n\nx\0",
        "X" * 500 + "\n\n\0",
    ]:
        wire = Wire.opened()
        wire.raw(data)
        wire.expect("ERROR")
        equal(wire.read(), None, str(data))


@case
def escapes_follow_the_version():
    for version, sent, expected in [
        ("1.2", "a\\cb\\\\c\\nd\\re", "a\\cb\\\\c\\nd\\re"),
        ("1.1", "a\\cb\\\\c\\nd", "a\\cb\\\\c\\nd"),
    ]:
        wire = Wire.opened(version)
        queue = unique()
        wire.raw(f"SUBSCRIBE\nid:1\ndestination:/queue/{queue}\n\n\0SEND\ndestination:/queue/{queue}\nkey:{sent}\n\nx\0")
        equal(wire.expect("MESSAGE")[1]["key"], expected, version)


@case(differs="rabbitmq")
def version_1_0_knows_no_escapes_and_trims():
    wire = Wire.opened("1.0")
    queue = unique()
    wire.raw(f"SUBSCRIBE\nid:1\ndestination:/queue/{queue}\n\n\0")
    wire.raw(f"SEND\ndestination: /queue/{queue} \npath:C:\\temp\n\nx\0")
    equal(wire.expect("MESSAGE")[1]["path"], "C:\\temp")


@case
def the_first_of_repeated_headers_counts():
    wire = Wire.opened()
    one, two = unique(), unique()
    wire.raw(f"SUBSCRIBE\nid:1\ndestination:/queue/{one}\n\n\0")
    wire.raw(f"SEND\ndestination:/queue/{one}\ndestination:/queue/{two}\nkey:first\nkey:second\n\nx\0")
    equal(wire.expect("MESSAGE")[1]["key"], "first")


@case
def values_keep_their_spaces_and_bodies_their_zeros():
    wire = Wire.opened()
    queue = unique()
    wire.raw(f"SUBSCRIBE\nid:1\ndestination:/queue/{queue}\n\n\0")
    wire.raw(f"SEND\ndestination:/queue/{queue}\nkey:  padded \ncontent-length:5\n\na\0b\0c\0")
    _, headers, body = wire.expect("MESSAGE")
    equal((headers["key"], body, headers["content-length"]), ("  padded ", b"a\0b\0c", "5"))


@case
def one_byte_at_a_time_is_understood():
    queue = unique()
    data = CONNECT.format("1.2") + f"SUBSCRIBE\nid:1\ndestination:/queue/{queue}\n\n\0"
    data += f"SEND\ndestination:/queue/{queue}\ncontent-length:3\n\na\0b\0"
    wire = Wire()
    for byte in data.encode():
        wire.raw(bytes([byte]))
    wire.expect("CONNECTED")
    equal(wire.expect("MESSAGE")[2], b"a\0b")


@case
def a_receipt_precedes_the_first_message():
    queue = unique()
    sender = Wire.opened()
    sender.raw(f"SEND\ndestination:/queue/{queue}\nreceipt:sent\n\nx\0")
    sender.expect("RECEIPT")
    wire = Wire.opened()
    wire.raw(f"SUBSCRIBE\nid:1\nreceipt:subscribed\ndestination:/queue/{queue}\n\n\0")
    equal(wire.expect("RECEIPT")[1]["receipt-id"], "subscribed")
    wire.expect("MESSAGE")


@case
def a_sender_cannot_forge_what_the_server_says():
    queue = unique()
    wire = Wire.opened()
    wire.raw(f"SUBSCRIBE\nid:real\nack:client\ndestination:/queue/{queue}\n\n\0")
    wire.raw(f"SEND\ndestination:/queue/{queue}\nsubscription:forged\nack:forged\nredelivered:true\n\nx\0")
    _, headers, _ = wire.expect("MESSAGE")
    equal((headers["subscription"], headers["redelivered"]), ("real", "false"))
    assert headers["ack"] != "forged", headers


@case
def a_socket_closed_right_after_send_loses_nothing():
    queue = unique()
    wire = Wire(CONNECT.format("1.2"))
    wire.raw("".join(f"SEND\ndestination:/queue/{queue}\n\n{n}\0" for n in range(200)))
    wire.socket.shutdown(socket.SHUT_WR)
    while wire.read() is not None:
        pass
    reader = Wire.opened()
    reader.raw(f"SUBSCRIBE\nid:1\ndestination:/queue/{queue}\n\n\0")
    equal([int(reader.expect("MESSAGE")[2]) for _ in range(200)], list(range(200)))


@case
def the_receipt_of_disconnect_comes_last():
    wire = Wire.opened()
    queue = unique()
    sends = "".join(f"SEND\ndestination:/queue/{queue}\npersistent:true\nreceipt:{n}\n\nx\0" for n in range(20))
    wire.raw(sends + "DISCONNECT\nreceipt:bye\n\n\0" + f"SEND\ndestination:/queue/{queue}\n\nignored\0")
    receipts = []
    while (frame := wire.read()) is not None:
        receipts.append(frame[1]["receipt-id"])
    equal(receipts[-1], "bye")
    if PEER != "rabbitmq":
        equal(set(receipts), {str(n) for n in range(20)} | {"bye"})


@case
def heart_beats_come_and_a_silent_client_is_dropped():
    # Its last byte is sent after this.
    began = time.monotonic()
    wire = Wire("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:1000,1000\n\n\0")
    equal(wire.expect("CONNECTED")[1]["heart-beat"], "1000,1000")
    while wire.socket.recv(100):
        pass
    silent = time.monotonic() - began
    assert silent >= 1.4, f"after {silent:.1f} s"
    # The opposite: a client that only receives gets heart-beats and stays connected.
    wire = Wire("CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,1000\n\n\0")
    equal(wire.expect("CONNECTED")[1]["heart-beat"].split(",")[0], "1000")
    beats = wire.buffer.count(b"\n")
    while beats < 2:
        data = wire.socket.recv(100)
        assert data, "closed"
        beats += data.count(b"\n")


@case
def a_login_that_never_comes_is_given_up():
    # The limit is ten seconds.
    wire = Wire()
    wire.socket.settimeout(60)
    equal(wire.read(), None)


@case
def a_flood_before_login_is_not_kept():
    wire = Wire()
    try:
        for _ in range(100):
            wire.raw("X" * 10_000)
        wire.socket.shutdown(socket.SHUT_WR)
        eventually(lambda: wire.read() is None)
    except (ConnectionResetError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main(side_by_side=16)
