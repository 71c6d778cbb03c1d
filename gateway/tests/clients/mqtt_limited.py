"""Clients under `mqtt.retain_available = false` and `mqtt.maximum_qos = 1`, as MQTT 5 3.2.2.3.4 and 3.2.2.3.5 have it."""

from harness import case, equal, main, unique
from mqtt import V3, V5, Client
from mqtt_raw import CONNACK, DISCONNECT, PUBACK, SUBACK, Wire, connect, publish, subscribe, text

WILL, WILL_QOS_2, WILL_RETAIN = 0x04, 0x10, 0x20


@case
def connack_says_what_is_not_available():
    client = Client(V5)
    told = client.connack[2]
    equal((told.MaximumQoS, told.RetainAvailable), (1, 0))


@case
def a_publish_above_the_limits_ends_the_connection():
    over = [(dict(qos=2, mid=1), 0x9B), (dict(flags=1), 0x9A), (dict(qos=1, mid=1, flags=1), 0x9A)]
    for settings, code in over:
        wire = Wire.opened()
        wire.raw(publish(unique("t"), b"x", **settings))
        equal(wire.expect(DISCONNECT)[:1], bytes([code]))
        equal(wire.read(), None)
        wire = Wire.opened(level=4)
        wire.raw(publish(unique("t"), b"x", level=4, **settings))
        equal(wire.read(), None, "MQTT 3 has no reason")


@case
def a_will_above_the_limits_is_refused():
    for flags, code in [(WILL_QOS_2, 0x9B), (WILL_RETAIN, 0x9A)]:
        wire = Wire(connect(unique("c"), flags=0x02 | WILL | flags, rest=b"\0" + text("w") + text("x")))
        equal(wire.expect(CONNACK)[:2], bytes([0, code]))
        equal(wire.read(), None)
        wire = Wire(connect(unique("c"), level=4, flags=0x02 | WILL | flags, rest=text("w") + text("x")))
        equal(wire.read(), None, "MQTT 3 has no reason")


@case
def a_subscription_is_granted_the_most_there_is():
    topic = unique("t")
    for version in (V3, V5):
        subscriber = Client(version)
        equal(subscriber.subscribe([(topic + "/0", 0), (topic + "/2", 2)]), [0, 1])
        Client(version).publish(topic + "/2", "x", qos=1)
        got = subscriber.settled(1).inbox[0]
        equal((got.qos, got.retain), (1, False))


@case
def nothing_is_retained():
    topic = unique("t")
    wire = Wire.opened()
    wire.raw(publish(topic, b"x", qos=1, mid=1, flags=1))
    wire.expect(DISCONNECT)
    wire = Wire.opened()
    wire.raw(subscribe(1, (topic, 1)))
    wire.expect(SUBACK)
    wire.raw(publish(topic, b"live", qos=1, mid=2))
    first, second = wire.read(), wire.read()
    kinds = {first[0] & 0xF0, second[0] & 0xF0}
    equal(kinds, {PUBACK, 0x30})
    live = first if first[0] & 0xF0 == 0x30 else second
    assert live[1].endswith(b"live") and live[0] & 1 == 0, live


if __name__ == "__main__":
    main()
