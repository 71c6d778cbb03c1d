"""Messages that cannot leave memory fill it: pika is told blocked and unblocked, PUBACKs and receipts are withheld."""

import threading
import time

import pika

from amqp import Inbox, connect
from harness import case, equal, eventually, main, unique
from mqtt import V3, V5
from mqtt import Client as Mqtt
from stomps import Client as Stomp

BODY = b"x" * 16_384
COUNT = 100


@case
def publishers_of_every_protocol_wait_until_a_consumer_settles():
    # A consumer that holds transient messages: neither the log nor anything else can take them off its hands.
    holder = connect().channel()
    queue = holder.queue_declare("", exclusive=True).method.queue
    held = Inbox(holder, queue)
    told = []
    publisher = connect()
    publisher.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
    publisher.add_on_connection_unblocked_callback(lambda *_: told.append("unblocked"))
    channel = publisher.channel()
    bystanders = [Mqtt(V5), Mqtt(V3)]
    stomp = Stomp()
    for _ in range(COUNT):
        channel.basic_publish("", queue, BODY)
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
    while len(held) < COUNT and time.monotonic() < stop:
        holder.connection.process_data_events(0.05)
        if held:
            holder.basic_ack(0, multiple=True)
        publisher.process_data_events(0)
    equal(len(held), COUNT, "messages in the end")
    eventually(lambda: publisher.process_data_events(0.05) or told[-1] == "unblocked", "connection.unblocked")
    for info in waiting:
        info.wait_for_publish(10)
        assert info.is_published()
    stomp.until(lambda: "r2" in stomp.receipts, "the receipt")


if __name__ == "__main__":
    main()
