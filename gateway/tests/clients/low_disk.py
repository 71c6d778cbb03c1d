"""Free disk is under its limit: publishers of every protocol wait, and consumers go on."""

import pika

from amqp import PERSISTENT, Inbox, connect
from harness import case, equal, eventually, main, unique
from mqtt import V3, V5, both
from mqtt import Client as Mqtt
from stomps import Client as Stomp

KEPT = {V3: {"clean": False}, V5: {"clean": False, "expiry": 600}}


@case
def pika_gets_connection_blocked_and_its_publish_waits():
    told = []
    connection = connect()
    connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
    channel = connection.channel()
    queue = unique()
    channel.queue_declare(queue, durable=True)
    channel.basic_publish("", queue, b"1", PERSISTENT)
    # A connection counts as a publisher from its first publish on. That publish waits, too.
    eventually(lambda: connection.process_data_events(0.05) or told, "connection.blocked")
    equal(told, ["low on disk"])
    channel.basic_publish("", queue, b"2", PERSISTENT)
    other = connect().channel()
    equal(other.queue_declare(queue, passive=True).method.message_count, 0, "both wait")


@case
def a_consumer_gets_and_settles_what_was_there():
    channel = connect().channel()
    inbox = Inbox(channel, "before")
    inbox.wait(100)
    equal([int.from_bytes(body[:8], "big") for body in inbox.bodies], list(range(100)))
    channel.basic_ack(0, multiple=True)
    equal(channel.queue_declare("before", passive=True).method.message_count, 0)


@both
def a_puback_is_withheld_and_messages_still_arrive(version):
    client = Mqtt(version)
    topic = unique("t")
    client.subscribe(f"{topic}/#", 1)
    # A publish is durable if a persistent session has subscribed to it.
    Mqtt(version, **KEPT[version]).subscribe(f"{topic}/#", 1)
    waiting = [client.publish(f"{topic}/{n}", str(n), 1, wait=False) for n in (1, 2)]
    # What needs no disk overtakes what waits. Once it has arrived, the others are known to wait.
    client.publish(f"{topic}/3", "3", 0)
    client.wait(1)
    equal(client.payloads, [b"3"])
    equal([info.is_published() for info in waiting], [False, False], "no PUBACK while the disk is low")
    assert not client.disconnects, client.disconnects
    # Other packets are still answered.
    client.subscribe("other/#", 0)


@case
def a_receipt_is_withheld():
    client = Stomp()
    destination = f"/queue/{unique()}"
    for receipt in ["r1", "r2"]:
        client.stomp.send(destination, "x", None, {"persistent": "true", "receipt": receipt})
    # A round trip for other clients.
    bystander = Mqtt(V5)
    bystander.subscribe("light", 0)
    bystander.publish("light", "x", 0)
    bystander.wait(1)
    equal(client.receipts, [])
    assert not client.errors, client.errors


if __name__ == "__main__":
    main()
