"""Messages that cannot leave memory fill it: pika gets connection.blocked and unblocked, PUBACKs and receipts are withheld."""

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
    # A connection counts as a publisher from its first publish on. That publish waits, too, until the holder settles.
    waiting = [client.publish("a/b", "x", 1, wait=False) for client in bystanders for _ in range(2)]
    for receipt in ["r1", "r2"]:
        stomp.stomp.send("/topic/a.b", "x", None, {"receipt": receipt})
    publisher.process_data_events(1)
    equal([info.is_published() for info in waiting], [False] * 4, "PUBACKs that are withheld")
    assert not stomp.receipts and not stomp.errors, (stomp.receipts, stomp.errors)
    assert len(held) < COUNT, "the rest waits"
    # Settling frees memory, and everything goes on.
    acknowledged = 0

    def all_settled():
        nonlocal acknowledged
        for message in held[acknowledged:]:
            equal(message.qos, 1)
            holder.paho.ack(message.mid, message.qos)
            acknowledged += 1
        publisher.process_data_events(0.05)
        return acknowledged >= COUNT

    eventually(all_settled, "messages in the end", within=120)
    equal(len(held), COUNT)
    eventually(lambda: publisher.process_data_events(0.05) or told[-1] == "unblocked", "connection.unblocked")
    for info in waiting:
        info.wait_for_publish(60)
        assert info.is_published()
    stomp.until(lambda: "r2" in stomp.receipts, "the receipt")


if __name__ == "__main__":
    main()
