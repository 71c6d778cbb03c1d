"""pika, as the cases use it."""

import time

import pika
import pika.exceptions

from harness import AMQP, HOST, eventually, later

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect(**settings):
    """A connection for this case, closed at its end."""
    settings.setdefault("heartbeat", 0)
    settings.setdefault("blocked_connection_timeout", 30)
    settings.setdefault("socket_timeout", 10)
    connection = pika.BlockingConnection(pika.ConnectionParameters(HOST, AMQP, **settings))
    later(lambda: connection.is_open and connection.close())
    return connection


def channel():
    return connect().channel()


def refused(code, text, action):
    """Expects `action` to close its channel with this code and text (which may be a part of it)."""
    try:
        action()
    except pika.exceptions.ChannelClosedByBroker as closed:
        assert closed.reply_code == code, f"expected {code} {text}, got {closed}"
        assert text in closed.reply_text, f"expected {text!r} in {closed.reply_text!r}"
        return
    raise AssertionError(f"expected channel error {code} {text}, and there was none")


def connection_refused(code, text, action):
    """Expects `action` to close its connection with this code and text."""
    try:
        action()
    except pika.exceptions.ConnectionClosedByBroker as closed:
        assert closed.reply_code == code, f"expected {code} {text}, got {closed}"
        assert text in closed.reply_text, f"expected {text!r} in {closed.reply_text!r}"
        return
    raise AssertionError(f"expected connection error {code} {text}, and there was none")


class Inbox(list):
    """Consumes a queue; a list of (method, properties, body) that fills while it waits."""

    def __init__(self, channel, queue, **settings):
        super().__init__()
        self.channel = channel
        self.tag = channel.basic_consume(queue, lambda _, *message: self.append(message), **settings)

    def wait(self, count, within=30):
        """Waits for `count` messages in all."""
        end = time.monotonic() + within
        while len(self) < count:
            left = end - time.monotonic()
            assert left > 0, f"expected {count} messages, got {len(self)}: {self.bodies}"
            self.channel.connection.process_data_events(min(left, 0.1))
        return self

    def settled(self, count, quiet=0.25):
        """Waits for `count` messages, and that no more follow."""
        self.wait(count)
        self.channel.connection.process_data_events(quiet)
        assert len(self) == count, f"expected {count} messages, got {len(self)}: {self.bodies}"
        return self

    @property
    def bodies(self):
        return [body for _, _, body in self]


def get(channel, queue, auto_ack=True, within=10):
    """One message by basic.get, waited for; None is never returned."""

    def one():
        message = channel.basic_get(queue, auto_ack=auto_ack)
        return message if message[0] else None

    return eventually(one, f"a message in {queue}", within)


def drain(channel, queue):
    """All ready bodies of a queue, now."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return bodies
        bodies.append(body)


def depth(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count
