"""AMQP on a bare socket: the handshake, framing, and errors that no client library makes.

pika only spells the methods here; what is sent when, and what must come back, is this script's.
"""

import socket
import struct
import time

import pika
from pika import spec

from harness import AMQP, HOST, case, equal, eventually, later, main, unique

HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT, BODY, HEARTBEAT = 1, 2, 3, 8


class Wire:
    """One connection, frame by frame."""

    def __init__(self, header=HEADER):
        self.socket = socket.create_connection((HOST, AMQP), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(30)
        later(self.socket.close)
        self.buffer = b""
        if header:
            self.socket.sendall(header)

    @staticmethod
    def opened(*, heartbeat=0, capabilities=None, channels=1):
        wire = Wire()
        wire.log_in(heartbeat=heartbeat, capabilities=capabilities)
        for number in range(1, channels + 1):
            wire.method(number, spec.Channel.Open())
            wire.expect(spec.Channel.OpenOk, number)
        return wire

    def log_in(self, *, user=b"guest", password=b"guest", heartbeat=0, capabilities=None, vhost="/"):
        self.expect(spec.Connection.Start)
        properties = {"capabilities": capabilities or {}}
        self.method(0, spec.Connection.StartOk(properties, "PLAIN", b"\0" + user + b"\0" + password, "en_US"))
        tune = self.expect(spec.Connection.Tune)
        self.method(0, spec.Connection.TuneOk(tune.channel_max, tune.frame_max, heartbeat))
        self.method(0, spec.Connection.Open(vhost))
        self.expect(spec.Connection.OpenOk)

    def raw(self, data):
        self.socket.sendall(data)

    def frame(self, kind, channel, payload, end=b"\xce"):
        self.raw(struct.pack(">BHI", kind, channel, len(payload)) + payload + end)

    def method(self, channel, method):
        self.raw(encoded(channel, method))

    def read(self):
        """The next frame as (type, channel, payload), or None at the end of the stream."""
        while True:
            if len(self.buffer) >= 7:
                kind, channel, size = struct.unpack_from(">BHI", self.buffer)
                if len(self.buffer) >= size + 8:
                    payload = self.buffer[7 : 7 + size]
                    assert self.buffer[7 + size] == 0xCE, self.buffer
                    self.buffer = self.buffer[size + 8 :]
                    return kind, channel, payload
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self.buffer, f"the stream ends inside a frame: {self.buffer}"
                return None
            self.buffer += data

    def next_method(self):
        """The next method as (channel, method), heartbeats aside; None at the end of the stream."""
        while True:
            frame = self.read()
            if frame is None:
                return None
            kind, channel, payload = frame
            if kind == HEARTBEAT:
                continue
            assert kind == METHOD, frame
            method = spec.methods[struct.unpack_from(">I", payload)[0]]()
            method.decode(payload, 4)
            return channel, method

    def expect(self, kind, channel=0):
        got = self.next_method()
        assert got is not None, f"expected {kind.__name__}, and the stream ended"
        assert isinstance(got[1], kind), f"expected {kind.__name__}, got {got}"
        equal(got[0], channel, "channel")
        return got[1]

    def closed_with(self, code, text, of=(0, 0), exact=True):
        """Expects connection.close with these, answers it, and expects the end of the stream."""
        close = self.expect(spec.Connection.Close)
        equal(close.reply_code, code, close.reply_text)
        if exact:
            equal(close.reply_text, text)
        else:
            assert text in close.reply_text, close.reply_text
        equal((close.class_id, close.method_id), of)
        self.method(0, spec.Connection.CloseOk())
        self.ended()

    def ended(self):
        equal(self.next_method(), None, "after the close")


def encoded(channel, method):
    return pika.frame.Method(channel, method).marshal()


def publish(channel, exchange, key, body, properties=None, chunk=100_000):
    """The frames of a publish."""
    data = encoded(channel, spec.Basic.Publish(exchange=exchange, routing_key=key))
    data += pika.frame.Header(channel, len(body), properties or spec.BasicProperties()).marshal()
    for start in range(0, len(body), chunk):
        data += pika.frame.Body(channel, body[start : start + chunk]).marshal()
    return data


@case
def garbage_is_answered_with_the_header_we_speak():
    for greeting in [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x00\x09\x02", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\x00" * 8]:
        wire = Wire(greeting)
        data = b""
        try:
            while chunk := wire.socket.recv(100):
                data += chunk
        except ConnectionResetError:
            pass
        equal(data, HEADER, f"answer to {greeting}")


@case
def the_nine_header_is_served():
    wire = Wire(b"AMQP\x01\x01\x00\x09")
    start = wire.expect(spec.Connection.Start)
    equal((start.version_major, start.version_minor), (0, 9))


@case
def start_names_product_mechanisms_and_capabilities():
    start = Wire().expect(spec.Connection.Start)
    equal((start.version_major, start.version_minor), (0, 9))
    assert {b"PLAIN", b"AMQPLAIN"} <= set(as_bytes(start.mechanisms).split()), start.mechanisms
    assert b"en_US" in as_bytes(start.locales).split(), start.locales
    for key in ["product", "version", "platform", "cluster_name", "copyright", "information"]:
        assert start.server_properties.get(key), f"no {key} in {start.server_properties}"
    capabilities = start.server_properties["capabilities"]
    for key in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ]:
        equal(capabilities.get(key), True, key)


@case
def tune_offers_the_documented_limits():
    wire = Wire()
    wire.expect(spec.Connection.Start)
    wire.method(0, spec.Connection.StartOk({}, "PLAIN", b"\0guest\0guest", "en_US"))
    tune = wire.expect(spec.Connection.Tune)
    equal((tune.channel_max, tune.frame_max, tune.heartbeat), (2047, 131072, 60))


@case
def amqplain_comes_without_its_length():
    wire = Wire()
    wire.expect(spec.Connection.Start)
    response = b"\x05LOGINS\x00\x00\x00\x05guest\x08PASSWORDS\x00\x00\x00\x05guest"
    wire.method(0, spec.Connection.StartOk({}, "AMQPLAIN", response, "en_US"))
    wire.expect(spec.Connection.Tune)


@case
def a_wrong_password_is_403_where_the_client_can_take_it():
    wire = Wire()
    wire.expect(spec.Connection.Start)
    properties = {"capabilities": {"authentication_failure_close": True}}
    wire.method(0, spec.Connection.StartOk(properties, "PLAIN", b"\0guest\0wrong", "en_US"))
    close = wire.expect(spec.Connection.Close)
    equal(close.reply_code, 403)
    assert close.reply_text.startswith(
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
    ), close.reply_text


@case
def a_wrong_password_closes_without_an_answer_where_the_client_cannot_take_403():
    wire = Wire()
    wire.expect(spec.Connection.Start)
    wire.method(0, spec.Connection.StartOk({}, "PLAIN", b"\0guest\0wrong", "en_US"))
    wire.ended()


@case
def an_unknown_vhost_is_530():
    wire = Wire()
    wire.expect(spec.Connection.Start)
    wire.method(0, spec.Connection.StartOk({}, "PLAIN", b"\0guest\0guest", "en_US"))
    tune = wire.expect(spec.Connection.Tune)
    wire.method(0, spec.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
    wire.method(0, spec.Connection.Open("nope"))
    wire.closed_with(530, "NOT_ALLOWED - vhost nope not found", (10, 40))


@case(differs="rabbitmq")  # 3.10 closes the socket after three seconds without connection.close.
def tune_ok_may_only_lower():
    for channel_max, frame_max, text in [
        (2047, 100, "negotiated frame_max = 100 is lower than the minimum allowed value (4096)"),
        (2047, 131073, "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)"),
        (2048, 131072, "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)"),
    ]:
        wire = Wire()
        wire.expect(spec.Connection.Start)
        wire.method(0, spec.Connection.StartOk({}, "PLAIN", b"\0guest\0guest", "en_US"))
        wire.expect(spec.Connection.Tune)
        wire.method(0, spec.Connection.TuneOk(channel_max, frame_max, 0))
        close = wire.expect(spec.Connection.Close)
        equal(close.reply_code, 530, close.reply_text)
        equal(close.reply_text, "NOT_ALLOWED - " + text)


@case
def channel_max_counts_channels_and_not_their_numbers():
    wire = Wire()
    wire.expect(spec.Connection.Start)
    wire.method(0, spec.Connection.StartOk({}, "PLAIN", b"\0guest\0guest", "en_US"))
    wire.expect(spec.Connection.Tune)
    wire.method(0, spec.Connection.TuneOk(2, 131072, 0))
    wire.method(0, spec.Connection.Open("/"))
    wire.expect(spec.Connection.OpenOk)
    for number in (50, 7):
        wire.method(number, spec.Channel.Open())
        wire.expect(spec.Channel.OpenOk, number)
    wire.method(1, spec.Channel.Open())
    close = wire.expect(spec.Connection.Close)
    equal(close.reply_code, 530, close.reply_text)
    equal(close.reply_text, "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)")


@case
def open_ok_of_a_channel_ends_in_four_zero_bytes():
    wire = Wire()
    wire.log_in()
    wire.method(3, spec.Channel.Open())
    equal(wire.read(), (METHOD, 3, b"\x00\x14\x00\x0b\x00\x00\x00\x00"))


@case
def one_byte_at_a_time_is_understood():
    wire = Wire(None)
    for byte in HEADER:
        wire.raw(bytes([byte]))
    wire.log_in()
    queue = unique()
    data = encoded(1, spec.Channel.Open()) + encoded(1, spec.Queue.Declare(queue=queue, exclusive=True))
    data += publish(1, "", queue, b"body", chunk=1) + encoded(1, spec.Basic.Get(queue=queue, no_ack=True))
    for byte in data:
        wire.raw(bytes([byte]))
    wire.expect(spec.Channel.OpenOk, 1)
    wire.expect(spec.Queue.DeclareOk, 1)
    wire.expect(spec.Basic.GetOk, 1)
    equal(wire.read()[:2], (CONTENT, 1))
    equal(wire.read(), (BODY, 1, b"body"))


@case
def a_zero_length_body_has_no_body_frame():
    wire = Wire.opened()
    queue = unique()
    wire.method(1, spec.Queue.Declare(queue=queue, exclusive=True))
    wire.expect(spec.Queue.DeclareOk, 1)
    wire.raw(publish(1, "", queue, b"") + encoded(1, spec.Basic.Get(queue=queue, no_ack=True)))
    wire.expect(spec.Basic.GetOk, 1)
    kind, _, payload = wire.read()
    equal((kind, struct.unpack_from(">HHQ", payload)), (CONTENT, (60, 0, 0)))
    wire.method(1, spec.Basic.Get(queue=queue, no_ack=True))
    wire.expect(spec.Basic.GetEmpty, 1)


@case
def an_oversized_frame_is_501():
    wire = Wire.opened()
    wire.raw(struct.pack(">BHI", METHOD, 1, 200_000))
    close = wire.expect(spec.Connection.Close)
    equal(close.reply_code, 501)
    assert "frame_too_large" in close.reply_text, close.reply_text


@case
def a_wrong_end_byte_is_501():
    wire = Wire.opened()
    wire.frame(METHOD, 1, b"abcd", end=b"\x00")
    wire.closed_with(501, 'FRAME_ERROR - type 1, all octets = <<"abcd">>: {invalid_frame_end_marker,0}')


@case
def an_unknown_frame_type_is_501():
    wire = Wire.opened()
    wire.frame(7, 1, b"abc")
    wire.closed_with(501, 'FRAME_ERROR - type 7, all octets = <<"abc">>: unknown_frame')


@case
def a_heartbeat_on_a_channel_is_505():
    wire = Wire.opened()
    wire.frame(HEARTBEAT, 1, b"")
    wire.closed_with(505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", exact=False)


@case
def arguments_that_cannot_be_read_are_501():
    wire = Wire.opened()
    # queue.declare, and then only half of it.
    wire.frame(METHOD, 1, struct.pack(">HH", 50, 10) + b"\x00\x00")
    close = wire.expect(spec.Connection.Close)
    equal(close.reply_code, 501, close.reply_text)


@case
def text_that_is_no_utf8_is_501():
    wire = Wire.opened()
    wire.frame(METHOD, 1, struct.pack(">HHHB", 50, 10, 0, 2) + b"\xff\xfe" + b"\x00" + b"\x00\x00\x00\x00")
    close = wire.expect(spec.Connection.Close)
    equal((close.reply_code, close.reply_text), (501, "FRAME_ERROR - Malformed UTF-8 in shortstr"))


@case
def content_out_of_place_is_505():
    body = pika.frame.Body(1, b"x").marshal()
    header = pika.frame.Header(1, 1, spec.BasicProperties()).marshal()
    of_publish = encoded(1, spec.Basic.Publish(exchange="", routing_key="k"))
    for data, text in [
        (body, "expected method frame, got non method frame instead"),
        (header, "expected method frame, got non method frame instead"),
        (of_publish + body, "expected content header for class 60, got non content header frame instead"),
        (
            of_publish + encoded(1, spec.Queue.Purge(queue="q")),
            "expected content header for class 60, got non content header frame instead",
        ),
        (
            of_publish + header.replace(b"\x00\x3c", b"\x00\x32", 1),
            "expected content header for class 60, got one for class 50 instead",
        ),
        (of_publish + header + header, "expected content body, got non content body frame instead"),
    ]:
        wire = Wire.opened()
        wire.raw(data)
        close = wire.expect(spec.Connection.Close)
        equal((close.reply_code, close.reply_text), (505, "UNEXPECTED_FRAME - " + text))


@case(differs="rabbitmq")  # 3.10 hangs.
def more_body_than_announced_is_501():
    wire = Wire.opened()
    wire.raw(encoded(1, spec.Basic.Publish(exchange="", routing_key="k")))
    wire.raw(pika.frame.Header(1, 1, spec.BasicProperties()).marshal() + pika.frame.Body(1, b"xyz").marshal())
    close = wire.expect(spec.Connection.Close)
    equal(close.reply_code, 501, close.reply_text)


@case(differs="rabbitmq")  # It closes the socket without connection.close.
def an_unknown_method_is_503():
    wire = Wire.opened()
    wire.frame(METHOD, 1, struct.pack(">HH", 99, 99))
    close = wire.expect(spec.Connection.Close)
    equal((close.reply_code, close.class_id, close.method_id), (503, 99, 99), close.reply_text)


@case(differs="rabbitmq")  # 541 there.
def a_broken_header_table_is_501():
    wire = Wire.opened()
    wire.raw(encoded(1, spec.Basic.Publish(exchange="", routing_key="k")))
    # The property flags announce headers, and the length of the table exceeds the frame.
    wire.frame(CONTENT, 1, struct.pack(">HHQHI", 60, 0, 1, 0x2000, 1000) + b"\x01aS")
    close = wire.expect(spec.Connection.Close)
    equal(close.reply_code, 501, close.reply_text)


@case
def a_second_open_of_a_channel_is_504():
    wire = Wire.opened()
    wire.method(1, spec.Channel.Open())
    wire.closed_with(504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10))


@case
def a_method_on_an_unopened_channel_is_504():
    wire = Wire.opened()
    wire.method(9, spec.Queue.Declare(queue="q"))
    wire.closed_with(504, "CHANNEL_ERROR - expected 'channel.open'", (50, 10))


@case
def what_follows_a_channel_error_is_discarded_and_the_number_is_free_again():
    wire = Wire.opened(channels=2)
    queue = unique()
    wire.method(2, spec.Queue.Declare(queue=queue, exclusive=True))
    wire.expect(spec.Queue.DeclareOk, 2)
    wire.raw(publish(1, "nosuch", "k", b"x" * 200_000) + publish(1, "", queue, b"discarded" * 1000) * 20)
    wire.method(1, spec.Queue.Declare(queue=queue, passive=True))
    close = wire.expect(spec.Channel.Close, 1)
    equal((close.reply_code, close.class_id, close.method_id), (404, 60, 40))
    equal(close.reply_text, "NOT_FOUND - no exchange 'nosuch' in vhost '/'")
    # The other channel still works, and this one can be reopened at once.
    wire.raw(encoded(1, spec.Channel.CloseOk()) + encoded(1, spec.Channel.Open()))
    wire.expect(spec.Channel.OpenOk, 1)
    wire.raw(encoded(1, spec.Confirm.Select()) + publish(1, "", queue, b"after"))
    wire.expect(spec.Confirm.SelectOk, 1)
    wire.expect(spec.Basic.Ack, 1)
    wire.method(1, spec.Queue.Declare(queue=queue, passive=True))
    equal(wire.expect(spec.Queue.DeclareOk, 1).message_count, 1)


@case
def closes_from_both_sides_cross_cleanly():
    wire = Wire.opened()
    # Both are sent before either is answered.
    wire.raw(encoded(1, spec.Queue.Declare(queue="nosuch", passive=True)) + encoded(1, spec.Channel.Close(200, "", 0, 0)))
    wire.expect(spec.Channel.Close, 1)
    wire.expect(spec.Channel.CloseOk, 1)
    wire.method(1, spec.Channel.CloseOk())
    wire.method(1, spec.Channel.Open())
    wire.expect(spec.Channel.OpenOk, 1)
    wire.method(0, spec.Connection.Close(200, "bye", 0, 0))
    wire.expect(spec.Connection.CloseOk)


@case
def a_connection_that_drops_gives_its_messages_back():
    wire = Wire.opened()
    queue = unique()
    wire.method(1, spec.Queue.Declare(queue=queue))
    wire.expect(spec.Queue.DeclareOk, 1)
    wire.raw(b"".join(publish(1, "", queue, b"%d" % n) for n in range(3)))
    wire.method(1, spec.Basic.Consume(queue=queue, consumer_tag="c"))
    wire.expect(spec.Basic.ConsumeOk, 1)
    for n in range(3):
        equal(wire.expect(spec.Basic.Deliver, 1).redelivered, False)
        wire.read(), wire.read()
    wire.socket.close()
    other = Wire.opened()
    for n in range(3):

        def got():
            other.method(1, spec.Basic.Get(queue=queue, no_ack=True))
            channel, method = other.next_method()
            return isinstance(method, spec.Basic.GetOk) and method

        equal(eventually(got).redelivered, True)
        other.read()
        equal(other.read()[2], b"%d" % n)
    other.method(1, spec.Queue.Delete(queue=queue))
    other.expect(spec.Queue.DeleteOk, 1)


@case
def nowait_is_not_answered():
    wire = Wire.opened()
    queue, exchange = unique(), unique("x")
    for method in [
        spec.Exchange.Declare(exchange=exchange, type="direct", auto_delete=True, nowait=True),
        spec.Queue.Declare(queue=queue, exclusive=True, nowait=True),
        spec.Queue.Bind(queue=queue, exchange=exchange, routing_key="k", nowait=True),
        spec.Confirm.Select(nowait=True),
        spec.Queue.Purge(queue=queue, nowait=True),
        spec.Basic.Consume(queue=queue, consumer_tag="c", no_ack=True, nowait=True),
    ]:
        wire.method(1, method)
    wire.raw(publish(1, exchange, "k", b"x"))
    kinds = {type(wire.next_method()[1]).__name__}
    while not {"Deliver", "Ack"} <= kinds:
        frame = wire.read()
        if frame[0] == METHOD:
            kinds.add(type(spec.methods[struct.unpack_from(">I", frame[2])[0]]()).__name__)
    equal(kinds, {"Deliver", "Ack"})
    for method in [
        spec.Basic.Cancel(consumer_tag="c", nowait=True),
        spec.Queue.Delete(queue=queue, nowait=True),
        spec.Exchange.Delete(exchange=exchange, nowait=True),
        spec.Basic.Qos(prefetch_count=1),
    ]:
        wire.method(1, method)
    while (frame := wire.read())[0] != METHOD or frame[2][:4] != struct.pack(">HH", 60, 11):
        assert frame[0] != METHOD, frame


@case
def answers_come_in_the_order_of_what_was_asked():
    wire = Wire.opened()
    data, kinds = b"", []
    for n in range(50):
        queue = unique()
        data += encoded(1, spec.Queue.Declare(queue=queue, durable=n % 2 == 0, exclusive=True))
        data += encoded(1, spec.Basic.Qos(prefetch_count=n))
        data += encoded(1, spec.Queue.Bind(queue=queue, exchange="amq.direct", routing_key="k"))
        data += encoded(1, spec.Queue.Delete(queue=queue))
        kinds += [spec.Queue.DeclareOk, spec.Basic.QosOk, spec.Queue.BindOk, spec.Queue.DeleteOk]
    wire.raw(data)
    for kind in kinds:
        wire.expect(kind, 1)


@case
def a_close_leaves_behind_what_was_asked_before():
    wire = Wire.opened(channels=2)
    queue = unique()
    for channel, closing, closed in [
        (1, spec.Channel.Close(200, "", 0, 0), spec.Channel.CloseOk),
        (2, spec.Connection.Close(200, "", 0, 0), spec.Connection.CloseOk),
    ]:
        data = encoded(channel, spec.Queue.Declare(queue=queue, durable=True))
        data += encoded(channel, spec.Confirm.Select()) + publish(channel, "", queue, b"x", pika.BasicProperties(delivery_mode=2))
        data += encoded(channel, spec.Queue.Delete(queue=queue))
        wire.raw(data + encoded(channel if channel == 1 else 0, closing))
        wire.expect(spec.Queue.DeclareOk, channel)
        wire.expect(spec.Confirm.SelectOk, channel)
        kinds = [type(wire.next_method()[1])]
        # The confirm may come before or after the answer of the delete.
        while kinds[-1] is not closed:
            kinds.append(type(wire.next_method()[1]))
        assert spec.Queue.DeleteOk in kinds, kinds


@case
def a_silent_peer_is_dropped_after_two_to_three_intervals():
    # Its last frame comes after this.
    began = time.monotonic()
    wire = Wire.opened(heartbeat=1)
    while (frame := wire.read()) is not None:
        equal(frame, (HEARTBEAT, 0, b""))
    silent = time.monotonic() - began
    assert silent >= 1.9, f"dropped after {silent:.1f} s"


@case
def a_client_that_sends_heartbeats_stays_connected_and_gets_heartbeats():
    def kept():
        gap, last = 0, time.monotonic()
        wire = Wire.opened(heartbeat=1)
        try:
            for _ in range(8):
                time.sleep(0.5)
                sent = time.monotonic()
                wire.frame(HEARTBEAT, 0, b"")
                gap, last = max(gap, time.monotonic() - last), sent
            for _ in range(2):
                equal(wire.read(), (HEARTBEAT, 0, b""))
            wire.method(1, spec.Basic.Qos(prefetch_count=1))
            wire.expect(spec.Basic.QosOk, 1)
        except (AssertionError, OSError):
            # The machine may have been too slow to send a heartbeat in time.
            if max(gap, time.monotonic() - last) < 1.9:
                raise
            return False
        return True

    eventually(kept, "beats in time")


@case
def heartbeat_zero_means_none():
    wire = Wire.opened(heartbeat=0)
    wire.socket.settimeout(3)
    try:
        data = wire.socket.recv(1)
    except TimeoutError:
        data = None
    equal(data, None)
    wire.method(1, spec.Basic.Qos(prefetch_count=1))
    wire.socket.settimeout(10)
    wire.expect(spec.Basic.QosOk, 1)


@case
def a_message_without_time_to_live_is_delivered_once():
    # A consumer that rejected it within the millisecond got it again and again.
    wire = Wire.opened()
    wire.method(1, spec.Queue.Declare(queue="", exclusive=True, arguments={"x-message-ttl": 0}))
    queue = wire.expect(spec.Queue.DeclareOk, 1).queue
    wire.method(1, spec.Basic.Consume(queue=queue, consumer_tag="c"))
    wire.expect(spec.Basic.ConsumeOk, 1)
    for round in range(1, 101):
        wire.raw(publish(1, "", queue, b"x"))
        equal(wire.expect(spec.Basic.Deliver, 1).delivery_tag, round)
        equal([wire.read()[0] for _ in range(2)], [CONTENT, BODY])
        wire.method(1, spec.Basic.Reject(round, requeue=True))
        wire.method(1, spec.Queue.Declare(queue=queue, passive=True))
        equal(wire.expect(spec.Queue.DeclareOk, 1).message_count, 0)


@case
def update_secret_is_answered():
    wire = Wire.opened()
    # Guest's password does not expire, so there is nothing to check the secret against.
    wire.method(0, spec.Connection.UpdateSecret("whatever", "renewed"))
    wire.expect(spec.Connection.UpdateSecretOk)


@case
def access_request_is_answered_with_ticket_one():
    wire = Wire.opened()
    wire.frame(METHOD, 1, struct.pack(">HHB", 30, 10, 5) + b"/data" + b"\x1f")
    equal(wire.read(), (METHOD, 1, struct.pack(">HHH", 30, 11, 1)))


def as_bytes(text):
    return text.encode() if isinstance(text, str) else text


if __name__ == "__main__":
    main(side_by_side=16)
