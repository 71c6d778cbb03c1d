"""Quorum queues under pika: their arguments, and what happens to messages that are requeued."""

import pika

from amqp import Inbox, channel, connect, connection_refused, depth, get, refused
from harness import case, equal, later, main, unique


def declared(ch, name=None, **arguments):
    """A quorum queue, and the queue of its dead letters."""
    name = name or unique()
    dead = f"{name}-dead"
    ch.queue_declare(dead, durable=True)
    more = {"x-" + k.replace("_", "-"): v for k, v in arguments.items()}
    dlx = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    ch.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", **dlx, **more})

    def delete():
        ch = connect().channel()
        ch.queue_delete(name)
        ch.queue_delete(dead)

    later(delete)
    return name, dead


def count(properties):
    return (properties.headers or {}).get("x-delivery-count")


def nack(connection, ch, tag):
    ch.basic_nack(tag, requeue=True)
    return connection, ch


def reject(connection, ch, tag):
    ch.basic_reject(tag, requeue=True)
    return connection, ch


def recover(connection, ch, tag):
    ch.basic_recover(requeue=True)
    return connection, ch


def close_channel(connection, ch, tag):
    ch.close()
    return connection, connection.channel()


def close_connection(connection, ch, tag):
    connection.close()
    connection = connect()
    return connection, connection.channel()


def lose_connection(connection, ch, tag):
    connection._impl._transport._tx_buffers.clear()
    connection._impl._transport._sock.close()
    connection = connect()
    return connection, connection.channel()


@case
def each_requeue_counts_and_beyond_the_limit_the_message_is_dead_lettered():
    for give_back in (nack, reject, recover, close_channel, close_connection, lose_connection):
        connection = connect()
        ch = connection.channel()
        queue, dead = declared(ch, delivery_limit=2)
        ch.basic_publish("", queue, b"m", pika.BasicProperties(headers={"mine": 1}, delivery_mode=2))
        for round in range(3):
            method, properties, _ = get(ch, queue, auto_ack=False)
            equal((method.redelivered, count(properties)), (round > 0, round), give_back.__name__)
            equal(properties.headers["mine"], 1)
            connection, ch = give_back(connection, ch, method.delivery_tag)
        _, properties, body = get(ch, dead)
        death = properties.headers["x-death"][0]
        equal((body, death["reason"], death["queue"], death["count"]), (b"m", "delivery_limit", queue, 1))
        equal((properties.headers["mine"], count(properties)), (1, None))
        equal(depth(ch, queue), 0)


@case
def a_consumer_reads_the_count_from_the_first_return_on():
    connection = connect()
    ch = connection.channel()
    queue, dead = declared(ch, delivery_limit=3)
    ch.basic_qos(prefetch_count=1)
    inbox = Inbox(ch, queue)
    ch.basic_publish("", queue, b"m", pika.BasicProperties(headers={"CC": [], "BCC": [], "x-delivery-count": 9}))
    for round in range(4):
        method, properties, _ = inbox.wait(round + 1)[round]
        equal(method.redelivered, round > 0)
        if round > 0:
            equal((count(properties), "BCC" in properties.headers), (round, False))
        ch.basic_nack(method.delivery_tag)
    equal(get(ch, dead)[2], b"m")


@case(differs="rabbitmq")  # 3.10 has no limit of its own; 4 has this one.
def the_limit_is_20():
    ch = channel()
    queue, dead = declared(ch)
    ch.basic_publish("", queue, b"m")
    for round in range(21):
        method, properties, _ = get(ch, queue, auto_ack=False)
        equal(count(properties), round)
        ch.basic_nack(method.delivery_tag)
    equal(get(ch, dead)[2], b"m")


@case
def arguments_and_properties_are_checked():
    def refused_declare(text, **flags):
        arguments = flags.pop("arguments", {})
        flags.setdefault("durable", True)
        refused(
            406,
            f"PRECONDITION_FAILED - {text}",
            lambda: channel().queue_declare(
                flags.pop("name", "q"), arguments={"x-queue-type": "quorum", **arguments}, **flags
            ),
        )

    for wrong, flags in [
        ("non-durable", {"durable": False}),
        ("exclusive-owner", {"exclusive": True}),
        ("auto-delete", {"auto_delete": True}),
    ]:
        refused_declare(f"invalid property '{wrong}' for queue 'q' in vhost '/'", **flags)
    refused_declare("Cannot declare a server-named queue for type rabbit_quorum_queue", name="")
    for key, value in [
        ("x-max-priority", 5),
        ("x-queue-mode", "lazy"),
        ("x-queue-version", 2),
        ("x-queue-master-locator", "min-masters"),
        ("x-max-age", "1D"),
        ("x-stream-max-segment-size-bytes", 100),
    ]:
        text = f"invalid arg '{key}' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue"
        refused_declare(text, arguments={key: value})
    for key, value, why in [
        ("x-overflow", "foo", "invalid_overflow"),
        ("x-quorum-initial-group-size", 0, "{value_zero,0}"),
        ("x-quorum-initial-group-size", "3", '"expected integer, got longstr"'),
        ("x-dead-letter-strategy", "foo", "invalid_dlx_strategy"),
        ("x-queue-leader-locator", "foo", "invalid_queue_locator_arg"),
    ]:
        refused_declare(f"invalid arg '{key}' for queue 'q' in vhost '/': {why}", arguments={key: value})
    for key in ("x-delivery-limit", "x-quorum-initial-group-size", "x-max-in-memory-length"):
        text = f"invalid arg '{key}' for queue 'q' in vhost '/' of queue type rabbit_classic_queue"
        refused(406, text, lambda: channel().queue_declare("q", durable=True, arguments={key: 3}))


@case
def arguments_that_mean_nothing_here_are_accepted_and_part_of_equivalence():
    ch = channel()
    sizes = {"quorum_initial_group_size": 3, "max_in_memory_length": 5, "max_in_memory_bytes": 5}
    others = {"dead_letter_strategy": "at-least-once", "overflow": "reject-publish", "queue_leader_locator": "balanced"}
    queue, _ = declared(ch, **sizes, **others, single_active_consumer=True, message_ttl=10000, foo=1)
    declared(ch, queue, **sizes, **others, single_active_consumer=True, message_ttl=10000, foo=2)
    equal(ch.queue_declare(queue, passive=True).method.queue, queue)
    queue = unique()
    ch.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    later(lambda: connect().channel().queue_delete(queue))
    text = f"inequivalent arg 'x-queue-type' for queue '{queue}' in vhost '/': received"
    refused(406, text, lambda: channel().queue_declare(queue, durable=True))
    refused(406, text, lambda: channel().queue_declare(queue, durable=True, arguments={"x-queue-type": "classic"}))


@case
def what_quorum_queues_do_not_offer_is_refused():
    queue, _ = declared(channel())
    for flag in ("if_empty", "if_unused"):
        text = f"cannot delete queue '{queue}' in vhost '/'. queue.delete operations with {flag.replace('_', '-')} flag set"
        connection_refused(540, text, lambda: channel().queue_delete(queue, **{flag: True}))

    def consume_with_global_prefetch():
        ch = channel()
        ch.basic_qos(prefetch_count=1, global_qos=True)
        Inbox(ch, queue)

    text = f"NOT_IMPLEMENTED - queue '{queue}' in vhost '/' does not support global qos"
    connection_refused(540, text, consume_with_global_prefetch)
    queue, _ = declared(channel(), single_active_consumer=True)
    text = f"cannot obtain access to locked queue '{queue}' in vhost '/'. basic.get operations are not supported by"
    refused(405, text, lambda: channel().basic_get(queue))


if __name__ == "__main__":
    main()
