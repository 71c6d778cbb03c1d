"""MQTT over QUIC, spoken by aioquic.

Reads `tls.json` of its working directory: the port, and the directory with `ca.pem` and, for `guest`, certificate and key.
"""

import random
import socket
import struct

from harness import HOST, case, equal, main, later, unique
from mqtt_raw import (
    CONNACK, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, Wire, ack, connect, packet,
    publish, subscribe, text,
)
from quic_wire import SETTINGS, metric, opened, path, stream

# The error codes with which the gateway closes connections and streams.
BROKEN_OFF, NO_STREAM, FURTHER_STREAM = 1, 3, 4


@case
def every_quality_of_service_and_a_large_message_go_both_ways():
    for level in (4, 5):
        wire, topic = opened(level=level), unique("t")
        wire.raw(subscribe(1, (topic, 2), level=level))
        wire.expect(SUBACK)
        for size in (0, 10, 700_000):
            payload = random.randbytes(size)
            for qos in (0, 1, 2):
                wire.raw(publish(topic, payload, qos=qos, mid=7, level=level))
                got, acked, released = None, qos == 0, qos < 2
                while got is None or not acked or not released:
                    byte, body = wire.read()
                    if byte == PUBREC:
                        wire.raw(ack(PUBREL, 7))
                    elif byte in (PUBACK, PUBCOMP):
                        acked = True
                    elif byte == PUBREL:
                        released = True
                        wire.raw(ack(PUBCOMP, *struct.unpack(">H", body[:2])))
                    else:
                        equal(byte & 0xF6, PUBLISH | qos << 1, "PUBLISH")
                        got = body
                        at = 2 + len(topic)
                        if qos:
                            mid = struct.unpack(">H", body[at : at + 2])[0]
                            wire.raw(ack(PUBACK if qos == 1 else PUBREC, mid))
                assert got.endswith(payload) and len(got) < len(topic) + size + 8
        wire.still_works()
        wire.raw(packet(DISCONNECT))
        # The server ends its stream; the client should close the connection.
        equal(wire.read(), None)
        wire.socket.close()
        wire.socket.wait_terminated()


@case
def tcp_and_quic_clients_exchange_messages():
    topic = unique("both")
    quic, tcp = opened(), Wire.opened()
    for here, there, what in ((quic, tcp, b"from tcp"), (tcp, quic, b"from quic")):
        here.raw(subscribe(1, (topic + "/" + what.decode(), 0)))
        here.expect(SUBACK)
        there.raw(publish(topic + "/" + what.decode(), what))
        assert here.read()[1].endswith(what)


@case
def the_last_connect_wins_over_every_transport():
    name = unique("taken-over")
    first = opened(name)
    second = Wire.opened(name)
    equal(first.expect(DISCONNECT)[:1], b"\x8e", "session taken over")
    equal(first.read(), None)
    third = opened(name)
    equal(second.expect(DISCONNECT)[:1], b"\x8e", "session taken over")
    third.still_works()


@case
def a_further_stream_is_refused_and_the_first_goes_on():
    before = metric("gatepost_quic_streams_refused_total")
    wire = opened()
    for _ in range(5):
        number = wire.socket.act(lambda quic: quic.get_next_available_stream_id())
        wire.socket.act(lambda quic: quic.send_stream_data(number, connect("second")))
        wire.socket.wait(lambda: number in wire.socket.resets and number in wire.socket.stops, "a refusal")
        equal((wire.socket.resets[number], wire.socket.stops[number]), (FURTHER_STREAM, FURTHER_STREAM))
        # Without this, the client's half of the stream would stay open and count towards its limit.
        wire.socket.act(lambda quic: quic.reset_stream(number, 0))
        wire.still_works()
    equal(metric("gatepost_quic_streams_refused_total") >= before + 5, True)


@case
def a_client_that_does_not_stop_opening_streams_is_closed():
    wire, other = opened(), opened()
    # limits.quic_further_streams
    for _ in range(101):
        number = wire.socket.act(lambda quic: quic.get_next_available_stream_id())
        wire.socket.act(lambda quic: quic.send_stream_data(number, b"x"))
        wire.socket.wait(lambda: number in wire.socket.resets or wire.socket.terminated, "a refusal")
        if not wire.socket.terminated:
            wire.socket.act(lambda quic: quic.reset_stream(number, 0))
    wire.socket.wait(lambda: wire.socket.terminated, "the end of the connection")
    equal(wire.socket.terminated.error_code, FURTHER_STREAM)
    other.still_works()


@case
def another_protocol_and_none_fail_the_handshake():
    for alpn in ("h3", None):
        connection = stream(alpn=alpn, open=False)
        equal(connection.wait_terminated().error_code, 0x100 + 120, "no_application_protocol")


@case
def a_client_that_opens_no_stream_is_closed():
    connection = stream(open=False)
    connection.handshake()
    end = connection.wait_terminated()
    equal((end.error_code, end.reason_phrase), (NO_STREAM, "no stream was opened in time"))


@case
def a_client_that_sends_nothing_on_its_stream_is_closed():
    connection = stream()
    connection.sendall(b"\x10")
    connection.wait_terminated()


@case
def a_session_outlives_a_client_that_vanishes_or_closes():
    for how in ("closes", "vanishes"):
        topic, name = unique("t"), unique("session")
        wire = opened(name, flags=0x00, properties=b"\x11\x00\x00\x0e\x10")
        wire.raw(subscribe(1, (topic, 1)))
        wire.expect(SUBACK)
        if how == "closes":
            wire.socket.close(code=77)
        else:
            wire.socket.vanish()
        other = Wire.opened()
        other.raw(publish(topic, b"meanwhile", qos=1, mid=9))
        other.expect(PUBACK)
        again = opened(name, flags=0x00, properties=b"\x11\x00\x00\x0e\x10")
        assert again.present
        assert again.read()[1].endswith(b"meanwhile")


@case
def a_close_without_disconnect_fires_the_will():
    topic = unique("will")
    watch = Wire.opened()
    watch.raw(subscribe(1, (topic, 0)))
    watch.expect(SUBACK)
    wire = opened(flags=0x06, rest=b"\x00" + text(topic) + text(b"gone"))
    wire.socket.close()
    assert watch.read()[1].endswith(b"gone")
    # A later one does not.
    wire = opened(flags=0x06, rest=b"\x00" + text(topic) + text(b"not said"))
    wire.raw(packet(DISCONNECT))
    equal(wire.read(), None)
    watch.raw(packet(PINGREQ))
    watch.expect(PINGRESP)


@case
def a_reset_of_the_stream_ends_the_connection():
    topic = unique("will")
    watch = Wire.opened()
    watch.raw(subscribe(1, (topic, 0)))
    watch.expect(SUBACK)
    wire = opened(flags=0x06, rest=b"\x00" + text(topic) + text(b"gone"))
    wire.socket.act(lambda quic: quic.reset_stream(wire.socket.id, 5))
    assert watch.read()[1].endswith(b"gone")
    equal(wire.socket.wait_terminated().error_code, BROKEN_OFF)


@case
def a_new_address_carries_on_the_connection():
    wire, topic = opened(), unique("t")
    wire.raw(subscribe(1, (topic, 1)))
    wire.expect(SUBACK)
    for n in range(3):
        with wire.socket.changed:
            wire.socket.new_socket()
        wire.still_works()
        wire.raw(publish(topic, f"after {n}".encode(), qos=1, mid=n + 1))
        kinds = sorted(wire.read()[0] & 0xF0 for _ in range(2))
        equal(kinds, [PUBLISH, PUBACK])
    large = random.randbytes(300_000)
    wire.raw(publish(topic, large))
    assert wire.read()[1].endswith(large)


@case
def a_lossy_way_delays_and_loses_nothing():
    wire, topic = opened(loss=0.05), unique("t")
    wire.raw(subscribe(1, (topic, 1)))
    wire.expect(SUBACK)
    count, got, acked = 200, [], 0
    for n in range(count):
        wire.raw(publish(topic, struct.pack(">I", n) * 100, qos=1, mid=n + 1))
    while acked < count or len(got) < count:
        byte, body = wire.read()
        if byte == PUBACK:
            acked += 1
        else:
            at = 2 + len(topic)
            got.append(struct.unpack(">I", body[-4:])[0])
            wire.raw(ack(PUBACK, *struct.unpack(">H", body[at : at + 2])))
    equal(got, list(range(count)))


@case
def garbage_does_not_affect_other_clients():
    wire = opened()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    later(udp.close)
    chance = random.Random(11)
    for n in range(3000):
        size = chance.choice((0, 1, 7, 21, 40, 300, 1200, 1400))
        datagram = bytearray(chance.randbytes(size))
        if size and n % 3 == 0:
            # A long header of version 1, so that it is parsed further.
            datagram[:1] = bytes([0xC0 | datagram[0] & 0x3F])
            datagram[1:5] = b"\x00\x00\x00\x01"[: max(size - 1, 0)]
        udp.sendto(datagram, (HOST, SETTINGS["quic"]))
        # This client's own datagrams, with bits changed.
        with wire.socket.changed:
            wire.socket.send_datagram(bytes(datagram[:60]))
        if n % 500 == 0:
            wire.still_works()
    wire.still_works()
    opened().still_works()


@case
def a_disconnect_with_its_reason_arrives_before_the_close():
    wire = opened()
    # A second CONNECT is a protocol error.
    wire.raw(connect("again"))
    equal(wire.expect(DISCONNECT)[:1], b"\x82")
    equal(wire.read(), None)
    # The client does not close, so the server closes after a while, with an error code.
    equal(wire.socket.wait_terminated().error_code, BROKEN_OFF)


@case
def a_large_answer_arrives_whole_before_the_close_on_a_lossy_way():
    topic = unique("retained")
    payload = random.randbytes(400_000)
    other = Wire.opened()
    other.raw(publish(topic, payload, flags=1, qos=1, mid=1))
    other.expect(PUBACK)
    wire = opened(loss=0.03)
    wire.raw(subscribe(1, (topic, 0)))
    wire.expect(SUBACK)
    wire.raw(connect("again"))
    assert wire.read()[1].endswith(payload)
    equal(wire.expect(DISCONNECT)[:1], b"\x82")
    equal(wire.read(), None)


@case
def a_client_that_does_not_read_delays_no_other():
    topic = unique("flood")
    wire = opened()
    wire.raw(subscribe(1, (topic, 0)))
    wire.expect(SUBACK)
    wire.socket.vanish()
    other = Wire.opened()
    for n in range(40):
        other.raw(publish(topic, bytes(100_000)))
    other.still_works()


@case
def a_certificate_logs_in():
    wire = Wire(over=stream(certificate=(path("guest.pem"), path("guest.key"))))
    wire.raw(connect(unique("c"), flags=0xC2, rest=text("guest") + text("")))
    byte, body = wire.read()
    equal((byte, body[1]), (CONNACK, 0), "CONNACK")
    wire = Wire(over=stream())
    wire.raw(connect(unique("c"), flags=0xC2, rest=text("guest") + text("")))
    equal(wire.expect(CONNACK)[1], 0x86)


@case
def a_session_is_resumed_without_early_data():
    first = opened()
    first.socket.wait(lambda: first.socket.tickets, "a ticket")
    again = opened(ticket=first.socket.tickets[0])
    assert again.socket.connected.session_resumed
    assert not again.socket.early


if __name__ == "__main__":
    main(side_by_side=6)
