"""What was confirmed is there after `kill -9`: definitions, sessions, retained messages, unfinished QoS 2 handshakes.

Every case does its part, all wait for each other, the daemon is killed once and started again, and every case looks.
"""

import threading
import time

import pika

from amqp import PERSISTENT, Inbox, connect, get
from harness import ask, case, equal, main, unique
from mqtt import V3, V5, properties
from mqtt import Client as Mqtt
from mqtt_raw import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, Wire, ack, packet, publish, send, subscribe
from stomps import Client as Stomp

CASES = 9
EXPIRY = b"\x11\x00\x00\x00\x3c"
_together = threading.Barrier(CASES, lambda: (ask("kill"), ask("start")))


def kill_and_start():
    _together.wait(30)


@case
def queues_exchanges_and_bindings():
    ch = connect().channel()
    durable, transient, exchange, inner = unique(), unique(), unique("x"), unique("x")
    ch.queue_declare(durable, durable=True, arguments={"x-max-length": 10, "x-note": "n"})
    ch.queue_declare(transient)
    ch.exchange_declare(exchange, "headers", durable=True)
    ch.exchange_declare(inner, "topic", durable=True, internal=True)
    ch.exchange_declare(f"{exchange}-transient", "direct")
    ch.exchange_bind(inner, exchange, "", arguments={"x-match": "any", "a": 1, "b": "two"})
    ch.queue_bind(durable, inner, "*.#")
    ch.queue_bind(durable, "amq.topic", "removed")
    ch.queue_unbind(durable, "amq.topic", "removed")
    kill_and_start()
    connection = connect()
    ch = connection.channel()
    ch.queue_declare(durable, durable=True, arguments={"x-max-length": 10, "x-note": "n"})
    ch.exchange_declare(exchange, "headers", durable=True)
    ch.exchange_declare(inner, "topic", durable=True, internal=True)
    ch.basic_publish(exchange, "k", b"by header", pika.BasicProperties(headers={"b": "two"}))
    equal(get(ch, durable)[2], b"by header")
    ch.basic_publish("amq.topic", "removed", b"never")
    ch.basic_publish(exchange, "k", b"last", pika.BasicProperties(headers={"a": 1}))
    equal(get(ch, durable)[2], b"last")
    for gone in [lambda: connection.channel().queue_declare(transient, passive=True),
                 lambda: connection.channel().exchange_declare(f"{exchange}-transient", passive=True)]:
        try:
            gone()
        except pika.exceptions.ChannelClosedByBroker as closed:
            equal(closed.reply_code, 404)
        else:
            raise AssertionError("it was transient and is there")


@case
def messages_with_their_properties_order_and_marks():
    ch = connect().channel()
    queue = unique()
    ch.queue_declare(queue, durable=True)
    ch.confirm_delivery()
    sent = pika.BasicProperties(
        content_type="text/plain", headers={"a": 1, "b": [True, {"c": b"\xff"}]}, delivery_mode=2, priority=3,
        correlation_id="c", reply_to="r", message_id="m", timestamp=42, type="t", user_id="guest", app_id="app",
    )
    for n in range(20):
        ch.basic_publish("", queue, b"%d" % n, sent)
    ch.basic_publish("", queue, b"big" * 500_000, PERSISTENT)
    ch.basic_qos(prefetch_count=5)
    Inbox(ch, queue).settled(5)
    # The marks of delivered messages are being written; a later confirm shows that they are stored.
    ch.basic_publish("", queue, b"last", PERSISTENT)
    kill_and_start()
    ch = connect().channel()
    messages = [get(ch, queue) for _ in range(22)]
    equal([body for _, _, body in messages], [b"%d" % n for n in range(20)] + [b"big" * 500_000, b"last"])
    assert all(method.redelivered for method, _, _ in messages[:5])
    for field in vars(sent):
        equal(getattr(messages[7][1], field), getattr(sent, field), field)


@case
def messages_that_wait_in_a_delay_queue_nobody_consumes():
    ch = connect().channel()
    delay, target = unique(), unique()
    ch.queue_declare(target, durable=True)
    ch.queue_declare(
        delay, durable=True,
        arguments={"x-message-ttl": 3000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target},
    )
    ch.confirm_delivery()
    for n in range(10):
        ch.basic_publish("", delay, b"%d" % n, PERSISTENT)
    kill_and_start()
    ch = connect().channel()
    messages = [get(ch, target) for _ in range(10)]
    equal([body for _, _, body in messages], [b"%d" % n for n in range(10)])
    equal(messages[0][1].headers["x-first-death-reason"], "expired")


@case
def sessions_subscriptions_and_what_they_collect():
    topic = unique("t")
    old = Mqtt(V3, clean=False)
    old.subscribe([(f"{topic}/a", 1), (f"{topic}/+/x", 2)])
    new = Mqtt(V5, clean=False, expiry=60)
    new.subscribe(f"{topic}/#", 1, properties=properties("SUBSCRIBE", SubscriptionIdentifier=9))
    new.subscribe(f"{topic}/a", 1)
    new.unsubscribe(f"{topic}/a")
    ended = Mqtt(V5, clean=False, expiry=60)
    ended.subscribe(topic, 1)
    ended.disconnect()
    ended.expiry = 0
    ended.connect(clean=True)
    for client in (old, new):
        client.disconnect()
    publisher = Mqtt(V5)
    publisher.publish(f"{topic}/a", "collected", qos=1, UserProperty=[("k", "v")], MessageExpiryInterval=60)
    kill_and_start()
    # Long enough to be seen in whole seconds.
    time.sleep(1.1)
    old.connect()
    equal(old.present, True)
    equal(old.settled(1).payloads, [b"collected"])
    new.connect(clean=False)
    equal(new.present, True)
    message = new.settled(1).inbox[0]
    equal((message.properties.SubscriptionIdentifier, message.properties.UserProperty), ([9], [("k", "v")]))
    assert 30 <= message.properties.MessageExpiryInterval <= 59, message.properties
    publisher = Mqtt(V5)
    publisher.publish(f"{topic}/b/x", "live", qos=2)
    equal(old.settled(2).inbox[1].qos, 2)
    new.settled(2)
    ended.connect(clean=False)
    equal(ended.present, False)


@case
def retained_messages_set_replaced_and_cleared():
    topic = unique("r")
    publisher = Mqtt(V5)
    publisher.publish(f"{topic}/kept", "old", qos=1, retain=True)
    publisher.publish(f"{topic}/kept", "new", qos=1, retain=True, ContentType="a/b")
    publisher.publish(f"{topic}/cleared", "x", qos=1, retain=True)
    publisher.publish(f"{topic}/cleared", b"", qos=1, retain=True)
    publisher.publish(f"{topic}/expired", "x", qos=1, retain=True, MessageExpiryInterval=1)
    time.sleep(1.1)
    kill_and_start()
    subscriber = Mqtt(V5)
    subscriber.subscribe(f"{topic}/#", 1)
    message = subscriber.settled(1).inbox[0]
    equal((message.payload, message.retain, message.properties.ContentType), (b"new", True, "a/b"))


@case
def durable_stomp_subscriptions_and_queues():
    topic, queue, id = f"/topic/{unique('t')}", f"/queue/{unique()}", unique("d")
    durable = {"durable": "true", "auto_delete": "false"}
    Stomp().subscribe(topic, id, **durable).close()
    sender = Stomp()
    sender.send(topic, "collected", persistent="true")
    sender.send(queue, "queued", persistent="true", key="value")
    kill_and_start()
    client = Stomp().subscribe(topic, id, **durable)
    equal(client.settled(1).bodies, ["collected"])
    client.receipt(lambda receipt: client.stomp.unsubscribe(id, {"durable": "true", **receipt}))
    reader = Stomp().subscribe(queue)
    equal(reader.settled(1).inbox[0].headers["key"], "value")


@case
def an_incoming_qos_2_handshake_goes_on_where_it_was():
    topic, device, reader = unique("t"), unique("d"), unique("d")
    watcher = Wire.opened(reader, properties=EXPIRY)
    watcher.raw(subscribe(1, (topic, 1)))
    watcher.expect(SUBACK)
    watcher.socket.close()
    wire = Wire.opened(device, properties=EXPIRY)
    wire.raw(publish(topic, b"once", qos=2, mid=5))
    wire.expect(PUBREC)
    kill_and_start()
    wire = Wire.opened(device, flags=0, properties=EXPIRY)
    equal(wire.present, True)
    # The acknowledgement might have been lost, so the client sends the same again.
    wire.raw(publish(topic, b"once", qos=2, mid=5, flags=8))
    wire.expect(PUBREC)
    wire.raw(ack(PUBREL, 5))
    wire.expect(PUBCOMP)
    watcher = Wire.opened(reader, flags=0, properties=EXPIRY)
    body = watcher.expect(PUBLISH | 2)
    assert body.endswith(b"once"), body
    watcher.raw(packet(PUBACK, body[2 + len(topic) : 4 + len(topic)]))
    watcher.still_works()


@case
def an_outgoing_qos_2_handshake_goes_on_where_it_was():
    topic, device = unique("t"), unique("d")
    wire = Wire.opened(device, properties=EXPIRY)
    wire.raw(subscribe(1, (topic, 2)))
    wire.expect(SUBACK)
    sender = Wire.opened()
    mids = []
    for n in range(2):
        send(sender, topic, b"%d" % n, 2, mid=n + 1)
        mids.append(wire.expect(PUBLISH | 4)[2 + len(topic) : 4 + len(topic)])
    wire.raw(packet(PUBREC, mids[0]))
    equal(wire.expect(PUBREL)[:2], mids[0])
    kill_and_start()
    wire = Wire.opened(device, flags=0, properties=EXPIRY)
    equal(wire.present, True)
    # The PUBREC may have been lost with the process, so the first is released again or offered again under its id.
    seen = {}
    while len(seen) < 2:
        byte, body = wire.read()
        mid = body[:2] if byte == PUBREL else body[2 + len(topic) : 4 + len(topic)]
        assert mid in mids, (byte, body)
        assert byte == PUBREL or byte == PUBLISH | 4 | 8, f"{byte:02X}"
        seen.setdefault(mid, byte)
        if byte != PUBREL:
            wire.raw(packet(PUBREC, mid))
            equal(wire.expect(PUBREL)[:2], mid)
        wire.raw(packet(PUBCOMP, mid))
    equal(seen[mids[1]], PUBLISH | 4 | 8)
    wire.still_works()


@case
def delayed_wills_and_the_returns_that_cancel_them():
    topic = unique("will")
    watcher = Mqtt(V3, clean=False)
    watcher.subscribe(f"{topic}/#", 1)
    watcher.disconnect()
    will = lambda name, delay: {"topic": f"{topic}/{name}", "payload": b"will", "qos": 1,
                                "properties": properties("WILLMESSAGE", WillDelayInterval=delay)}
    waiting = Mqtt(V5, clean=False, expiry=60, will=will("waiting", 2))
    back = Mqtt(V5, clean=False, expiry=60, will=will("back", 3))
    dropped = time.monotonic()
    for device in (waiting, back):
        device.drop()
    kill_and_start()
    back.connect(clean=False)
    in_time = time.monotonic() - dropped < 3
    equal(back.present, True)
    watcher.connect()
    watcher.wait(1)
    if in_time:
        equal([m.topic for m in watcher.settled(1, quiet=3).inbox], [f"{topic}/waiting"])
    else:
        # The machine was too slow: the client was not back before the will delay was over.
        equal(sorted(m.topic for m in watcher.settled(2, quiet=3).inbox), [f"{topic}/back", f"{topic}/waiting"])


if __name__ == "__main__":
    main(side_by_side=CASES)
