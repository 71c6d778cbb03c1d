"""The disk is full: each protocol refuses what needs more of it, with an error if it has one; consumers go on."""

import time

import pika
import pika.exceptions

from amqp import PERSISTENT, Inbox, connect, get, refused
from harness import case, equal, eventually, main, unique
from mqtt import V3, V5, Client as Mqtt
from mqtt_raw import PUBREC, Wire, publish
from stomps import Client as Stomp


@case
def a_confirm_channel_gets_a_nack():
    connection = connect()
    told = []
    connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
    channel = connection.channel()
    queue = unique()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    for n in range(3):
        try:
            channel.basic_publish("", queue, b"durable", PERSISTENT)
        except pika.exceptions.NackError:
            continue
        raise AssertionError(f"publish {n} was not refused")
    # What needs no disk is accepted.
    channel.basic_publish("", queue, b"transient")
    equal(get(channel, queue)[2], b"transient")
    equal(channel.queue_declare(queue, passive=True).method.message_count, 0)
    eventually(lambda: connection.process_data_events(0.05) or told, "connection.blocked")
    equal(told, ["low on disk"])


@case
def a_transaction_is_refused_as_a_whole():
    channel = connect().channel()
    queue = unique()
    channel.queue_declare(queue, durable=True)
    channel.tx_select()
    channel.basic_publish("", queue, b"durable", PERSISTENT)
    refused(406, "partial tx completion", channel.tx_commit)


@case
def consumers_settle_and_definitions_are_made():
    channel = connect().channel()
    inbox = Inbox(channel, "before")
    inbox.wait(100)
    channel.basic_ack(0, multiple=True)
    queue = unique()
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, "amq.topic", "a.b")
    channel.queue_delete(queue)


@case
def mqtt_5_says_quota_exceeded():
    topic = unique("t")
    device = Mqtt(V5, clean=False, expiry=600)
    device.subscribe(f"{topic}/#", 2)
    sensor = Mqtt(V5)
    reasons = {}
    sensor.paho.on_publish = lambda client, _, mid, reason, properties: reasons.update({mid: reason.value})
    info = sensor.publish(f"{topic}/a", "x", 1, wait=False)
    eventually(lambda: info.mid in reasons, "an answer")
    equal(reasons[info.mid], 0x97)
    # paho sends PUBREL after a PUBREC that refuses; the packet id is new the next time.
    wire = Wire.opened()
    for _ in range(2):
        wire.raw(publish(f"{topic}/a", b"x", qos=2, mid=7))
        equal(wire.expect(PUBREC)[:3], b"\x00\x07\x97")
    retained = sensor.publish(f"{topic}/r", "x", 1, retain=True, wait=False)
    eventually(lambda: retained.mid in reasons, "an answer")
    equal(reasons[retained.mid], 0x97)
    assert not sensor.disconnects
    device.nothing()


@case
def mqtt_3_has_no_error_for_it_and_waits():
    topic = unique("t")
    Mqtt(V3, clean=False).subscribe(f"{topic}/#", 1)
    sensor = Mqtt(V3)
    listener = Mqtt(V3)
    listener.subscribe(f"{topic}/#", 0)
    info = sensor.publish(f"{topic}/a", "x", 1, wait=False)
    # What needs no disk overtakes what waits. Once it has arrived, the other is known to wait.
    sensor.publish(f"{topic}/a", "passes", 0)
    equal(listener.wait(1).payloads, [b"passes"])
    assert not info.is_published(), "a PUBACK would say that it is safe"
    assert not sensor.disconnects, sensor.disconnects


@case
def stomp_gets_an_error_that_names_the_receipt():
    client = Stomp()
    destination = f"/queue/{unique()}"
    client.stomp.send(destination, "x", None, {"persistent": "true", "receipt": "r1"})
    client.until(lambda: client.errors, "an ERROR")
    error = client.errors[0]
    equal(error.headers["receipt-id"], "r1")
    equal(error.headers["message"], "resource_error")
    equal(client.receipts, [])


if __name__ == "__main__":
    main()
