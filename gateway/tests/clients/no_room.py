"""A gateway that allows three connections: the refusal that the fourth gets, in each protocol."""

import socket

import pika

from harness import AMQP, HOST, STOMP, case, equal, eventually, later, main
from mqtt_raw import CONNACK, Wire, connect


def amqp():
    try:
        pika.BlockingConnection(pika.ConnectionParameters(HOST, AMQP, socket_timeout=30)).close()
    except pika.exceptions.AMQPConnectionError as error:
        # pika takes any close at this point for a failed login, and quotes it.
        return str(error)
    return "opened"


def stomp():
    connection = socket.create_connection((HOST, STOMP), 30)
    later(connection.close)
    connection.sendall(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
    answer = b""
    while b"\0" not in answer and (data := connection.recv(4096)):
        answer += data
    return answer


@case
def the_fourth_connection_gets_its_protocols_error():
    holders = [Wire.opened() for _ in range(3)]
    for _ in range(3):
        wire = Wire(connect("five"))
        equal(wire.expect(CONNACK)[1], 0x97, "quota exceeded")
        equal(wire.read(), None)
        wire = Wire(connect("three", level=4))
        equal(wire.expect(CONNACK), b"\x00\x03", "server unavailable")
        equal(wire.read(), None)
        text = amqp()
        assert "(320)" in text and "too many connections" in text, text
        answer = stomp()
        assert answer.startswith(b"ERROR") and b"oo many connections" in answer, answer
    for holder in holders:
        holder.still_works()
    # Silent connections use up all places for refusals (`refusals_max`). The next one is just closed.
    silent = [Wire() for _ in range(16)]

    def is_just_closed():
        wire = Wire()
        try:
            wire.socket.sendall(connect("bare"))
        except OSError:
            return True
        return wire.read() is None

    eventually(is_just_closed, "a bare close")
    for wire in silent:
        wire.socket.close()
    eventually(lambda: Wire(connect("told")).read() is not None, "an answer")
    # Connections are accepted again.
    holders.pop().socket.close()

    def is_let_in():
        answer = Wire(connect("in", level=4)).read()
        return answer == (CONNACK, b"\x00\x00")

    eventually(is_let_in, "room")


if __name__ == "__main__":
    main()
