"""Connecting and publishing, as several scripts about access need it."""

import pika

from amqp import connect as amqp_connect
from harness import eventually
from mqtt import Client

NOT_AUTHORIZED = 0x87


def amqp(user):
    return amqp_connect(credentials=pika.PlainCredentials(*user)).channel()


def refusal(**settings):
    """Connects and returns the reason of the CONNACK."""
    client = Client(connect=False, **settings)
    try:
        client.connect()
        client._until(lambda: client.connack, "a CONNACK")
    finally:
        client.drop()
    return client.connack[0].value


def acknowledged(client, topic, qos):
    """Publishes, and returns the reason code of the acknowledgement."""
    reasons = []
    client.paho.on_publish = lambda c, u, mid, reason, props: reasons.append(reason.value)
    client.publish(topic, b"x", qos)
    eventually(lambda: reasons, "the acknowledgement")
    return reasons[0]
