"""Floods of QUIC handshakes, and a server that restarts without the state of its connections.

The listener asks clients to prove their addresses once four handshakes are under way, and takes early data.
"""

import socket
import time

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from harness import HOST, ask, case, equal, eventually, later, main, unique
from mqtt_raw import CONNACK, PUBACK, Wire, connect, publish
from quic_wire import SETTINGS, metric, opened, stream


def knock():
    """Sends the first flight of a handshake and nothing after it. Returns the first answer."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["mqtt"])
    quic = QuicConnection(configuration=configuration)
    quic.connect((HOST, SETTINGS["quic"]), now=time.monotonic())
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    later(udp.close)
    udp.settimeout(30)
    for datagram, address in quic.datagrams_to_send(now=time.monotonic()):
        udp.sendto(datagram, address)
    return udp.recv(65536)


def is_retry(datagram):
    return datagram[0] & 0xF0 == 0xF0


def half_open_handshakes_are_bounded_and_others_come_in():
    answers = [knock() for _ in range(100)]
    # The first few are accepted; the others get a Retry packet, for which the server keeps no state.
    assert not is_retry(answers[0])
    assert is_retry(answers[-1])
    assert sum(map(is_retry, answers)) >= 90, answers
    assert metric("gatepost_quic_handshakes") < 10
    assert metric("gatepost_quic_retries_total") >= 90
    opened().still_works()
    # The handshakes time out, and clients are accepted without Retry again.
    eventually(lambda: metric("gatepost_quic_handshakes") == 0, "the end of the handshakes")
    assert not is_retry(knock())


def early_data_is_taken_where_the_listener_allows_it():
    first = opened()
    first.socket.wait(lambda: first.socket.tickets, "a ticket")
    topic = unique("early")
    ticket = first.socket.tickets[0]
    first.socket.close()
    for is_first in (True, False):
        # A ticket is accepted once: early data that comes with it again could be a replay.
        hello = connect(unique("c")) + publish(topic, b"early", qos=1, mid=5)
        wire = Wire(over=stream(ticket=ticket, first=hello))
        wire.expect(CONNACK)
        wire.expect(PUBACK)
        equal(wire.socket.early, is_first)
        wire.socket.close()


def a_server_that_was_killed_says_that_it_knows_nothing():
    wire = opened()
    ask("kill")
    ask("start")
    wire.raw(b"\xc0\x00")
    wire.socket.wait(lambda: wire.socket.reset_by_stranger, "a stateless reset")
    opened().still_works()


@case
def one_after_another():
    half_open_handshakes_are_bounded_and_others_come_in()
    early_data_is_taken_where_the_listener_allows_it()
    a_server_that_was_killed_says_that_it_knows_nothing()


if __name__ == "__main__":
    main()
