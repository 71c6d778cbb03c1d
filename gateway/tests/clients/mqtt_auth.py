"""Enhanced authentication of MQTT 5: SCRAM by another implementation (scramp), and tokens that are renewed."""

import json
import struct

from scramp import ScramClient

from harness import case, equal, main, unique
from management import ADMIN
from mqtt_raw import AUTH, CONNACK, DISCONNECT, PINGREQ, PINGRESP, PUBLISH, SUBACK, Wire, connect, packet
from mqtt_raw import props, publish, subscribe, text, varint

CONTINUE, AGAIN = 0x18, 0x19
SCRAM, JWT = "SCRAM-SHA-256", "OAUTH2-JWT"
NOT_AUTHORIZED, PROTOCOL_ERROR, BAD_METHOD = 0x87, 0x82, 0x8C

with open("tokens.json") as file:
    TOKENS = json.load(file)


def said(method, data):
    data = data.encode() if isinstance(data, str) else data
    return b"\x15" + text(method) + b"\x16" + struct.pack(">H", len(data)) + data


def auth(reason, method, data):
    return packet(AUTH, bytes([reason]) + props(said(method, data)))


def hello(method, data):
    return connect(unique("auth"), properties=said(method, data))


def heard(properties):
    """Method and data of a packet's properties."""
    method, data = None, b""
    length, at = properties[0], 1
    assert length < 0x80 and len(properties) == 1 + length
    while at < len(properties):
        kind = properties[at]
        if kind in (0x15, 0x16):
            size = struct.unpack_from(">H", properties, at + 1)[0]
            value = properties[at + 3 : at + 3 + size]
            method, data = (value.decode(), data) if kind == 0x15 else (method, value)
            at += 3 + size
        else:
            at += {0x21: 3, 0x27: 5, 0x22: 3}[kind]
    return method, data.decode()


def asked(wire, reason=CONTINUE):
    body = wire.expect(AUTH)
    equal(body[0], reason)
    method, data = heard(body[1:])
    equal(method, SCRAM)
    return data


def scram(user="guest", password="guest"):
    return ScramClient([SCRAM], user, password)


def answered(wire, client):
    """Sends the client's final message."""
    client.set_server_first(asked(wire))
    wire.raw(auth(CONTINUE, SCRAM, client.get_client_final()))


def opened(*who):
    client = scram(*who)
    wire = Wire(hello(SCRAM, client.get_client_first()))
    answered(wire, client)
    body = wire.expect(CONNACK)
    equal(body[1], 0)
    method, data = heard(body[2:])
    equal(method, SCRAM)
    client.set_server_final(data)
    return wire


@case
def a_user_that_was_exported_and_imported_logs_in_by_scram():
    name = unique("u")
    ADMIN.put(f"/api/users/{name}", {"password": "s3cret", "tags": ""}, expect=201)
    document = ADMIN.get("/api/definitions")
    [user] = [user for user in document["users"] if user["name"] == name]
    ADMIN.delete(f"/api/users/{name}")
    permission = {"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    ADMIN.post("/api/definitions", {"users": [user], "permissions": [permission]}, expect=204)
    opened(name, "s3cret")
    wrong = {**user, "gatepost_scram_sha_256": "SCRAM-SHA-256$1:x$y:z"}
    answer = ADMIN.ask("POST", "/api/definitions", {"users": [wrong]})
    equal((answer.status, "the SCRAM verifier is not valid" in answer.reason), (400, True))
    ADMIN.delete(f"/api/users/{name}")


@case
def both_sides_prove_that_they_know_the_password():
    wire = opened()
    wire.raw(packet(PINGREQ))
    wire.expect(PINGRESP)


@case
def a_wrong_password_and_a_stranger_are_refused_alike():
    for user, password in (("guest", "wrong"), ("nobody", "guest"), ("nobody", "guest")):
        client = scram(user, password)
        wire = Wire(hello(SCRAM, client.get_client_first()))
        answered(wire, client)
        equal(wire.expect(CONNACK)[:2], bytes([0, NOT_AUTHORIZED]), user)
        equal(wire.read(), None)


@case
def what_is_not_spoken_is_refused():
    for method in ("SCRAM-SHA-1", "PLAIN", "x" * 60_000):
        Wire(hello(method, "n,,n=guest,r=x")).refused(BAD_METHOD)
    Wire(hello(SCRAM, "nonsense")).refused(NOT_AUTHORIZED)
    Wire(hello(SCRAM, "p=tls-exporter,,n=guest,r=x")).refused(NOT_AUTHORIZED)


@case
def nothing_but_auth_comes_between():
    client = scram()
    first = hello(SCRAM, client.get_client_first())
    wire = Wire(first + publish("t", b"x"))
    asked(wire)
    wire.refused(PROTOCOL_ERROR)
    wire = Wire(first)
    asked(wire)
    wire.raw(packet(DISCONNECT))
    equal(wire.read(), None)


@case
def messages_go_on_while_it_is_proved_again():
    topic = unique("t")
    wire, other = opened(), Wire.opened()
    wire.raw(subscribe(1, (topic, 0)))
    wire.expect(SUBACK)
    client = scram()
    wire.raw(auth(AGAIN, SCRAM, client.get_client_first()))
    client.set_server_first(asked(wire))
    other.raw(publish(topic, b"between"))
    assert wire.expect(PUBLISH).endswith(b"between")
    wire.raw(publish(topic, b"own") + auth(CONTINUE, SCRAM, client.get_client_final()))
    # The message passes through the engine, and may arrive after the answer.
    packets = dict(wire.read() for _ in range(2))
    assert packets[PUBLISH].endswith(b"own")
    equal(packets[AUTH][0], 0)
    client.set_server_final(heard(packets[AUTH][1:])[1])


@case
def a_failed_reauthentication_disconnects():
    wire = opened()
    client = scram(password="wrong")
    wire.raw(auth(AGAIN, SCRAM, client.get_client_first()))
    answered(wire, client)
    equal(wire.expect(DISCONNECT)[0], NOT_AUTHORIZED)
    equal(wire.read(), None)
    wire = opened()
    wire.raw(auth(AGAIN, JWT, TOKENS["service"]))
    equal(wire.expect(DISCONNECT)[0], PROTOCOL_ERROR)
    Wire(hello(JWT, "nonsense")).refused(NOT_AUTHORIZED)


@case
def a_token_is_renewed_without_closing():
    def by_token(name):
        wire = Wire(hello(JWT, TOKENS[name]))
        body = wire.expect(CONNACK)
        equal(body[1], 0)
        equal(heard(body[2:])[0], JWT)
        return wire

    renewed, beside, taken = by_token("service"), by_token("brief"), by_token("other")
    # A connection cannot change to another user.
    taken.raw(auth(AGAIN, JWT, TOKENS["service-renewed"]))
    equal(taken.expect(DISCONNECT)[0], NOT_AUTHORIZED)
    renewed.raw(auth(AGAIN, JWT, TOKENS["service-renewed"]))
    equal(renewed.expect(AUTH), b"\0" + varint(3 + len(JWT)) + b"\x15" + text(JWT))
    # The first token expires meanwhile.
    equal(beside.expect(DISCONNECT)[0], NOT_AUTHORIZED)
    renewed.raw(subscribe(1, ("jwt/service", 0)) + publish("jwt/service", b"still there"))
    renewed.expect(SUBACK)
    assert renewed.expect(PUBLISH).endswith(b"still there")


if __name__ == "__main__":
    main()
