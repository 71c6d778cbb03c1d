"""Quorum queues under pika after the daemon was killed: their messages and the delivery count of each."""

import pika

from amqp import connect, get
from harness import ask, case, equal, main


def count(properties):
    return properties.headers["x-delivery-count"]


@case
def messages_and_counts_survive_a_kill():
    connection = connect()
    ch = connection.channel()
    ch.confirm_delivery()
    queue, dead = "often", "dead"
    ch.queue_declare(dead, durable=True)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 3}
    dlx = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    ch.queue_declare(queue, durable=True, arguments={**arguments, **dlx})
    # A quorum queue also stores messages that were published as transient.
    for body, mode in ((b"1", 2), (b"2", 1)):
        ch.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=mode))
    for _ in range(2):
        first, second = get(ch, queue, auto_ack=False)[0], get(ch, queue, auto_ack=False)[0]
        ch.basic_nack(first.delivery_tag)
        ch.basic_nack(second.delivery_tag)
    # Counts are written in the log's order, so a later confirm shows that they are stored.
    ch.basic_publish("", queue, b"3", pika.BasicProperties(delivery_mode=2))
    ask("kill")
    ask("start")
    connection = connect()
    ch = connection.channel()
    found = [get(ch, queue, auto_ack=False) for _ in range(3)]
    equal([(body, count(properties)) for _, properties, body in found], [(b"1", 2), (b"2", 2), (b"3", 0)])
    ch.basic_nack(found[0][0].delivery_tag)
    method, properties, _ = get(ch, queue, auto_ack=False)
    equal(count(properties), 3)
    ch.basic_nack(method.delivery_tag)
    _, properties, body = get(ch, dead)
    equal((body, properties.headers["x-death"][0]["reason"]), (b"1", "delivery_limit"))


if __name__ == "__main__":
    main()
