"""What RabbitMQ's users expect of AMQP queues beyond the protocol: expiry, limits, dead letters, priorities."""

import time

import pika

from amqp import Inbox, channel, connect, depth, drain, get, refused
from harness import case, equal, eventually, later, main, unique


def declared(ch, **arguments):
    name = unique()
    ch.queue_declare(name, exclusive=True, arguments={"x-" + k.replace("_", "-"): v for k, v in arguments.items()})
    return name


def outlive(ch, milliseconds):
    """Waits until a message published now, after all earlier ones, has reached that age."""
    queue = declared(ch)
    ch.basic_publish("", queue, b"x", pika.BasicProperties(expiration=str(milliseconds)))
    eventually(lambda: depth(ch, queue) == 0, "the end of a message")


@case
def a_ttl_expires_messages_at_the_head_only():
    ch = channel()
    queue = declared(ch)
    ch.basic_publish("", queue, b"long", pika.BasicProperties(expiration="60000"))
    ch.basic_publish("", queue, b"short", pika.BasicProperties(expiration="1"))
    eventually(lambda: depth(ch, queue) == 2)
    # A message with the same TTL at the head of another queue has expired: this one would have, too, if it could.
    outlive(ch, 1)
    equal(depth(ch, queue), 2)
    equal(get(ch, queue)[2], b"long")
    eventually(lambda: depth(ch, queue) == 0)
    equal(drain(ch, queue), [])


@case
def the_shorter_of_message_and_queue_ttl_holds():
    ch = channel()
    queue = declared(ch, message_ttl=100)
    ch.basic_publish("", queue, b"x", pika.BasicProperties(expiration="60000"))
    eventually(lambda: depth(ch, queue) == 0)
    queue = declared(ch, message_ttl=60000)
    ch.basic_publish("", queue, b"x", pika.BasicProperties(expiration="100"))
    eventually(lambda: depth(ch, queue) == 0)


@case
def a_ttl_of_zero_reaches_only_a_waiting_consumer():
    connection = connect()
    ch = connection.channel()
    queue = declared(ch, message_ttl=0)
    ch.basic_publish("", queue, b"nobody")
    eventually(lambda: depth(ch, queue) == 0)
    inbox = Inbox(ch, queue, auto_ack=True)
    ch.basic_publish("", queue, b"somebody")
    inbox.settled(1)
    equal(inbox.bodies, [b"somebody"])


@case
def max_length_drops_the_oldest():
    ch = channel()
    queue = declared(ch, max_length=3)
    ch.confirm_delivery()
    for n in range(10):
        ch.basic_publish("", queue, b"%d" % n)
    equal(drain(ch, queue), [b"7", b"8", b"9"])
    queue = declared(ch, max_length_bytes=10)
    for n in range(10):
        ch.basic_publish("", queue, b"%04d" % n)
    equal(drain(ch, queue), [b"0008", b"0009"])


@case
def overflow_reject_publish_nacks():
    ch = channel()
    queue = declared(ch, max_length=2, overflow="reject-publish")
    ch.confirm_delivery()
    ch.basic_publish("", queue, b"0")
    ch.basic_publish("", queue, b"1")
    try:
        ch.basic_publish("", queue, b"2")
    except pika.exceptions.NackError:
        pass
    else:
        raise AssertionError("not refused")
    equal(drain(ch, queue), [b"0", b"1"])


@case
def an_expiring_queue_goes_when_nobody_uses_it():
    connection = connect()
    expires = 500
    while True:
        ch = connection.channel()
        last = time.monotonic()
        queue = declared(ch, expires=expires)
        gap = 0
        try:
            for use in (ch.basic_get, lambda queue: depth(ch, queue)):
                time.sleep(0.6 * expires / 1000)
                used = time.monotonic()
                try:
                    use(queue)
                finally:
                    gap, last = max(gap, time.monotonic() - last), used
            break
        except pika.exceptions.ChannelClosedByBroker:
            # The machine was too slow to use the queue in time.
            assert gap >= expires / 1000, f"it went after {gap:.1f} s"
            expires *= 4

    def gone():
        # basic.get counts as a use.
        time.sleep(2 * expires / 1000)
        try:
            depth(connection.channel(), queue)
        except pika.exceptions.ChannelClosedByBroker as closed:
            assert closed.reply_code == 404 and f"no queue '{queue}'" in closed.reply_text, closed
            return True

    eventually(gone, "the end of the queue")


@case
def rejected_expired_and_surplus_messages_are_dead_lettered():
    ch = channel()
    graveyard = declared(ch)
    # A dead letter keeps what its sender said of its delivery mode; all were shown with 1 that had none.
    for reason, mode, arguments in [
        ("rejected", None, {}),
        ("expired", 1, {"message_ttl": 50}),
        ("maxlen", 2, {"max_length": 0}),
    ]:
        queue = declared(ch, dead_letter_exchange="", dead_letter_routing_key=graveyard, **arguments)
        ch.basic_publish("", queue, reason.encode(), pika.BasicProperties(headers={"mine": 1}, priority=0, delivery_mode=mode))
        if reason == "rejected":
            ch.basic_reject(get(ch, queue, auto_ack=False)[0].delivery_tag, requeue=False)
        method, properties, body = get(ch, graveyard)
        equal((body, method.exchange, method.routing_key), (reason.encode(), "", graveyard))
        equal(properties.delivery_mode, mode)
        headers = properties.headers
        equal(headers["mine"], 1)
        equal(headers["x-first-death-reason"], reason)
        equal(headers["x-first-death-queue"], queue)
        equal(headers["x-first-death-exchange"], "")
        death = headers["x-death"][0]
        equal((death["count"], death["reason"], death["queue"], death["exchange"]), (1, reason, queue, ""))
        equal(death["routing-keys"], [queue])
        assert "time" in death, death


@case
def an_expired_message_loses_its_expiration_and_remembers_it():
    ch = channel()
    graveyard = declared(ch)
    queue = declared(ch, dead_letter_exchange="", dead_letter_routing_key=graveyard)
    ch.basic_publish("", queue, b"x", pika.BasicProperties(expiration="50"))
    _, properties, _ = get(ch, graveyard)
    equal(properties.expiration, None)
    equal(properties.headers["x-death"][0]["original-expiration"], "50")


@case
def dead_letters_count_up_and_a_ttl_cycle_ends():
    ch = channel()
    first, second = unique(), unique()
    for queue, target in [(first, second), (second, first)]:
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
        ch.queue_declare(queue, exclusive=True, arguments=arguments)
    ch.basic_publish("", first, b"x")
    for _ in range(3):
        for queue in (first, second):
            method, properties, _ = get(ch, queue, auto_ack=False)
            ch.basic_reject(method.delivery_tag, requeue=False)
    _, properties, _ = get(ch, first)
    equal({death["queue"]: death["count"] for death in properties.headers["x-death"]}, {first: 3, second: 3})
    # No consumer rejects in this cycle, so it would never end.
    queue = unique()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": 20}
    ch.queue_declare(queue, exclusive=True, arguments=arguments)
    ch.basic_publish("", queue, b"x")
    eventually(lambda: depth(ch, queue) == 0)
    # Longer than one round of the cycle takes.
    outlive(ch, 100)
    equal(depth(ch, queue), 0)


def deaths(properties):
    """(reason, queue, count) of each entry of `x-death`."""
    return [(death["reason"], death["queue"], death["count"]) for death in properties.headers["x-death"]]


@case
def a_history_that_a_client_publishes_again_counts_on_newest_first():
    ch = channel()
    work, retry = unique(), unique()
    for queue, target, more in [(work, retry, {}), (retry, work, {"x-message-ttl": 50})]:
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target, **more}
        ch.queue_declare(queue, exclusive=True, arguments=arguments)
    ch.basic_publish("", work, b"x")
    ch.basic_reject(get(ch, work, auto_ack=False)[0].delivery_tag, requeue=False)
    _, properties, _ = get(ch, work)
    equal(deaths(properties), [("expired", retry, 1), ("rejected", work, 1)])
    for round in range(2, 5):
        ch.basic_publish("", retry, b"x", pika.BasicProperties(headers=properties.headers))
        _, properties, _ = get(ch, work)
        equal(deaths(properties), [("expired", retry, round), ("rejected", work, 1)])
        equal(properties.headers["x-first-death-queue"], work)


@case(differs="rabbitmq")  # In 3.10 the queue's process crashes, and the message is lost.
def a_history_that_makes_no_sense_is_left_out():
    ch = channel()
    graveyard = declared(ch)
    queue = declared(ch, dead_letter_exchange="", dead_letter_routing_key=graveyard)
    for forged in ["text", [1, 2], {"a": 1}, [{"queue": queue, "reason": "rejected", "count": "many"}], []]:
        ch.basic_publish("", queue, b"x", pika.BasicProperties(headers={"x-death": forged}))
        ch.basic_reject(get(ch, queue, auto_ack=False)[0].delivery_tag, requeue=False)
        equal(deaths(get(ch, graveyard)[1]), [("rejected", queue, 1)])


@case
def dead_letters_go_to_the_keys_of_cc_and_bcc_unless_the_queue_names_one():
    ch = channel()
    exchange = unique("x")
    ch.exchange_declare(exchange, "direct", auto_delete=True)
    key, cc, bcc, own = [declared(ch) for _ in range(4)]
    for queue in (key, cc, bcc, own):
        ch.queue_bind(queue, exchange, queue)
    source = unique("x")
    ch.exchange_declare(source, "fanout")
    later(lambda: connect().channel().exchange_delete(source))
    headers = {"CC": [cc], "BCC": [bcc], "mine": 1}
    queue = declared(ch, dead_letter_exchange=exchange)
    ch.queue_bind(queue, source)
    ch.basic_publish(source, key, b"x", pika.BasicProperties(headers=headers))
    ch.basic_reject(get(ch, queue, auto_ack=False)[0].delivery_tag, requeue=False)
    for target in (key, cc, bcc):
        method, properties, _ = get(ch, target)
        equal((method.exchange, method.routing_key), (exchange, key))
        equal(properties.headers["x-death"][0]["routing-keys"], [key, cc])
        equal((properties.headers["CC"], "BCC" in properties.headers), ([cc], False))
    equal(depth(ch, own), 0)
    ch.queue_unbind(queue, source)
    queue = declared(ch, dead_letter_exchange=exchange, dead_letter_routing_key=own)
    ch.queue_bind(queue, source)
    ch.basic_publish(source, key, b"x", pika.BasicProperties(headers=headers))
    ch.basic_reject(get(ch, queue, auto_ack=False)[0].delivery_tag, requeue=False)
    method, properties, _ = get(ch, own)
    equal((method.exchange, method.routing_key), (exchange, own))
    equal(properties.headers["x-death"][0]["routing-keys"], [key, cc])
    equal(("CC" in properties.headers, properties.headers["mine"]), (False, 1))
    equal([depth(ch, target) for target in (key, cc, bcc)], [0, 0, 0])


@case
def a_missing_dead_letter_exchange_drops_dead_letters():
    ch = channel()
    queue = declared(ch, dead_letter_exchange="nosuch")
    ch.basic_publish("", queue, b"x")
    ch.basic_reject(get(ch, queue, auto_ack=False)[0].delivery_tag, requeue=False)
    equal(drain(ch, queue), [])
    refused(406, "PRECONDITION_FAILED - ", lambda: declared(ch, dead_letter_routing_key="k"))


@case
def priorities_are_served_from_the_highest_and_in_order_within():
    ch = channel()
    queue = declared(ch, max_priority=5)
    ch.confirm_delivery()
    for n, priority in enumerate([None, 1, 5, 3, 9, 1, 0]):
        ch.basic_publish("", queue, b"%d" % n, pika.BasicProperties(priority=priority))
    equal(drain(ch, queue), [b"2", b"4", b"3", b"1", b"5", b"0", b"6"])
    refused(406, "invalid arg 'x-max-priority'", lambda: declared(ch, max_priority=256))


if __name__ == "__main__":
    main()
