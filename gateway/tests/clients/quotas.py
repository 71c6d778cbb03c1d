"""Publishers of one user, each in its own protocol, that together publish more than the user may: they wait, and lose nothing."""

import os

from amqp import channel as amqp_channel
from harness import case, equal, eventually, main
from mqtt import V5, Client
from stomps import Client as StompClient

COUNT = int(os.environ.get("QUOTA_COUNT", 60))
GUEST = ("guest", "guest")


def body(n):
    return f"{n:04}".encode() * 64


def arrived(protocol):
    """A queue for the messages published in a protocol, and its content."""
    channel = amqp_channel()
    queue = f"by-{protocol}"
    channel.queue_declare(queue)
    channel.queue_bind(queue, "amq.topic", f"quota.{protocol}")
    got = []

    def drain():
        while True:
            method, _, message = channel.basic_get(queue, True)
            if method is None:
                return got
            got.append(bytes(message))

    def check():
        eventually(lambda: len(drain()) >= COUNT, f"all of {protocol}", 100)
        equal(got, [body(n) for n in range(COUNT)])

    return check


@case
def amqp_waits():
    check = arrived("amqp")
    channel = amqp_channel()
    channel.confirm_delivery()
    for n in range(COUNT):
        channel.basic_publish("amq.topic", "quota.amqp", body(n))
    check()


@case
def stomp_waits():
    check = arrived("stomp")
    client = StompClient(login=GUEST)
    for n in range(COUNT):
        client.send("/topic/quota.stomp", body(n))
    check()


@case
def mqtt_waits():
    check = arrived("mqtt")
    client = Client(V5, user=GUEST)
    for n in range(COUNT):
        client.publish("quota/mqtt", body(n), 1, wait=False)
    check()


if __name__ == "__main__":
    main()
