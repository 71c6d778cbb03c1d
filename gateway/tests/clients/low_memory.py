"""Messages that cannot leave memory fill it: pika is told blocked and unblocked, PUBACKs and receipts are withheld."""

import time

import pika

from amqp import connect
from harness import case, equal, eventually, main
from mqtt import V3, V5
from mqtt import Client as Mqtt
from stomps import Client as Stomp

BODY = b"x" * 20_000
COUNT = 100


@case
def publishers_of_every_protocol_wait_until_a_consumer_settles():
    # A subscriber that acknowledges nothing: what is in flight to it is in memory, in case it has to be sent again.
    holder = Mqtt(V5, manual_ack=True)
    holder.subscribe("hold", 1)
    held = holder.inbox
    told = []
    publisher = connect()
    publisher.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
    publisher.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
    channel = publisher.channel()
    bystanders = [Mqtt(V5), Mqtt(V3)]
    stomp = Stomp()
    for _ in range(COUNT):
        channel.basic_publish("amq.topic", "hold", BODY, pika.BasicProperties(delivery_mode=2))
    eventually(lambda: publisher.process_data_events(0.05) or told, "connection.blocked")
    equal(told, ["low on memory"])
    # Who has published once is told; the first publish of a connection is what makes it a publisher.
    for client in bystanders:
        client.publish("a/b", "first", 1, wait=False)
    waiting = [client.publish("a/b", "second", 1, wait=False) for client in bystanders]
    stomp.stomp.send("/topic/a.b", "first", None, {"receipt": "r1"})
    time.sleep(0.1)
    stomp.stomp.send("/topic/a.b", "second", None, {"receipt": "r2"})
    publisher.process_data_events(1)
    equal([info.is_published() for info in waiting], [False, False], "PUBACKs that are withheld")
    assert "r2" not in stomp.receipts and not stomp.errors, (stomp.receipts, stomp.errors)
    assert len(held) < COUNT, "the rest waits"
    # Settling makes room, and everything goes on.
    stop = time.monotonic() + 20
    acknowledged = 0
    while acknowledged < COUNT and time.monotonic() < stop:
        for message in held[acknowledged:]:
            equal(message.qos, 1)
            holder.paho.ack(message.mid, message.qos)
            acknowledged += 1
        publisher.process_data_events(0.05)
    equal(len(held), COUNT, "messages in the end")
    eventually(lambda: publisher.process_data_events(0.05) or told[-1] == "unblocked", "connection.unblocked")
    for info in waiting:
        info.wait_for_publish(10)
        assert info.is_published()
    stomp.until(lambda: "r2" in stomp.receipts, "the receipt")


if __name__ == "__main__":
    main()
