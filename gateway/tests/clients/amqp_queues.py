"""AMQP queues under pika: declare, bind, get, purge, delete, and the errors for what is refused."""

import pika

from amqp import Inbox, channel, connect, depth, drain, get, refused
from harness import case, equal, eventually, later, main, unique


@case
def a_server_named_queue_begins_with_amq_gen():
    ch = channel()
    one = ch.queue_declare("", exclusive=True).method.queue
    two = ch.queue_declare("", exclusive=True).method.queue
    assert one.startswith("amq.gen-") and len(one) == len("amq.gen-") + 22, one
    assert one != two


@case
def the_empty_name_means_the_last_declared_queue():
    ch = channel()
    ch.queue_declare("", exclusive=True)
    name = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind("", "amq.direct", routing_key="")
    # With an empty name and an empty key, the key is the queue's name.
    ch.basic_publish("amq.direct", name, b"by its own name")
    equal(get(ch, "")[2], b"by its own name")
    ch.basic_publish("", name, b"x")
    eventually(lambda: depth(ch, name) == 1)
    equal(ch.queue_purge("").method.message_count, 1)
    ch.queue_delete("")
    refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", lambda: ch.queue_declare(name, passive=True))


@case
def a_passive_declare_of_an_unknown_queue_is_404():
    ch = channel()
    name = unique()
    refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", lambda: ch.queue_declare(name, passive=True))


@case
def a_passive_declare_asks_for_no_equivalence():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True, arguments={"x-max-length": 5})
    ok = ch.queue_declare(name, passive=True, durable=True, auto_delete=True).method
    equal((ok.queue, ok.message_count, ok.consumer_count), (name, 0, 0))


@case
def counts_are_of_ready_messages_and_consumers():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    for n in range(5):
        ch.basic_publish("", name, b"%d" % n)
    eventually(lambda: depth(ch, name) == 5)
    ch.basic_get(name)
    equal(depth(ch, name), 4, "ready")
    ch.basic_qos(prefetch_count=1)
    inbox = Inbox(ch, name)
    inbox.wait(1)
    ok = ch.queue_declare(name, passive=True).method
    equal((ok.message_count, ok.consumer_count), (3, 1))


@case
def a_redeclare_with_other_properties_is_406_and_says_which():
    connection = connect()
    ch = connection.channel()
    name = unique()
    ch.queue_declare(name, durable=True, arguments={"x-max-length": 10, "x-foo": "bar"})
    later(lambda: connection.channel().queue_delete(name))
    # Equal, whatever the width of the integer, and whatever an unknown argument says.
    ch.queue_declare(name, durable=True, arguments={"x-max-length": 10, "x-foo": "other"})
    refused(
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{name}' in vhost '/': "
        "received 'false' but current is 'true'",
        lambda: ch.queue_declare(name, durable=False, arguments={"x-max-length": 10}),
    )
    ch = connection.channel()
    refused(
        406,
        f"inequivalent arg 'auto_delete' for queue '{name}' in vhost '/': received 'true' but current is 'false'",
        lambda: ch.queue_declare(name, durable=True, auto_delete=True, arguments={"x-max-length": 10}),
    )
    ch = connection.channel()
    refused(
        406,
        f"inequivalent arg 'x-max-length' for queue '{name}' in vhost '/': received '11' but current is '10'",
        lambda: ch.queue_declare(name, durable=True, arguments={"x-max-length": 11}),
    )
    ch = connection.channel()
    refused(
        406,
        f"inequivalent arg 'x-max-length' for queue '{name}' in vhost '/': received none but current is the value "
        "'10' of type 'signedint'",
        lambda: ch.queue_declare(name, durable=True),
    )
    # The connection still works.
    equal(depth(connection.channel(), name), 0)


@case
def bad_arguments_are_406():
    connection = connect()
    for arguments, text in [
        ({"x-message-ttl": -1}, "invalid arg 'x-message-ttl' for queue '{}' in vhost '/': {{value_negative,-1}}"),
        ({"x-max-length": "ten"}, "invalid arg 'x-max-length' for queue '{}' in vhost '/': "),
        ({"x-expires": 0}, "invalid arg 'x-expires' for queue '{}' in vhost '/': {{value_zero,0}}"),
        ({"x-overflow": "away"}, "invalid arg 'x-overflow' for queue '{}' in vhost '/': "),
    ]:
        name = unique()
        refused(
            406,
            "PRECONDITION_FAILED - " + text.format(name),
            lambda: connection.channel().queue_declare(name, exclusive=True, arguments=arguments),
        )


@case
def names_with_the_reserved_prefix_are_403():
    connection = connect()
    refused(
        403,
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        lambda: connection.channel().queue_declare("amq.mine", exclusive=True),
    )
    ch = connection.channel()
    own = ch.queue_declare("", exclusive=True).method.queue
    equal(ch.queue_declare(own, passive=True).method.queue, own)
    refused(403, "contains reserved prefix 'amq.*'", lambda: ch.queue_declare(own, exclusive=True))


@case
def an_exclusive_queue_is_locked_to_others_but_not_to_publishers():
    owner, other = connect(), connect()
    name = unique()
    mine = owner.channel()
    mine.queue_declare(name, exclusive=True)
    text = (
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration."
    )
    for action in [
        lambda ch: ch.queue_declare(name, exclusive=True),
        lambda ch: ch.queue_declare(name, passive=True),
        lambda ch: ch.basic_consume(name, lambda *_: None),
        lambda ch: ch.basic_get(name),
        lambda ch: ch.queue_bind(name, "amq.direct", "k"),
        lambda ch: ch.queue_purge(name),
        lambda ch: ch.queue_delete(name),
    ]:
        refused(405, text, lambda: action(other.channel()))
    other.channel().basic_publish("", name, b"from outside")
    equal(get(mine, name)[2], b"from outside")
    # Its owner may not declare it with other properties either.
    refused(405, text, lambda: owner.channel().queue_declare(name, exclusive=False))


@case
def an_exclusive_queue_is_gone_when_close_ok_arrives():
    connection, other = connect(), connect()
    name = unique()
    connection.channel().queue_declare(name, exclusive=True)
    connection.close()
    refused(404, f"no queue '{name}'", lambda: other.channel().queue_declare(name, passive=True))


@case
def an_auto_delete_queue_goes_with_its_last_consumer_and_not_before_the_first():
    connection = connect()
    ch = connection.channel()
    name = unique()
    ch.queue_declare(name, auto_delete=True)
    ch.basic_publish("", name, b"kept")
    eventually(lambda: depth(ch, name) == 1)
    first = Inbox(ch, name, auto_ack=True)
    second = Inbox(connection.channel(), name, auto_ack=True)
    ch.basic_cancel(first.tag)
    equal(ch.queue_declare(name, passive=True).method.consumer_count, 1)
    second.channel.close()
    refused(404, f"no queue '{name}'", lambda: ch.queue_declare(name, passive=True))


@case
def purge_counts_ready_messages_and_leaves_the_unacked():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    for n in range(4):
        ch.basic_publish("", name, b"%d" % n)
    eventually(lambda: depth(ch, name) == 4)
    method, _, _ = ch.basic_get(name)
    equal(ch.queue_purge(name).method.message_count, 3)
    ch.basic_nack(method.delivery_tag)
    equal(get(ch, name)[2], b"0")
    refused(404, "no queue 'nosuch' in vhost '/'", lambda: ch.queue_purge("nosuch"))


@case
def delete_obeys_if_empty_and_if_unused():
    connection = connect()
    ch = connection.channel()
    name = unique()
    ch.queue_declare(name)
    ch.basic_publish("", name, b"x")
    eventually(lambda: depth(ch, name) == 1)
    refused(
        406,
        f"PRECONDITION_FAILED - queue '{name}' in vhost '/' not empty",
        lambda: connection.channel().queue_delete(name, if_empty=True),
    )
    inbox = Inbox(ch, name)
    inbox.wait(1)
    refused(
        406,
        f"PRECONDITION_FAILED - queue '{name}' in vhost '/' in use",
        lambda: connection.channel().queue_delete(name, if_unused=True),
    )
    # Unacknowledged messages do not count.
    equal(connection.channel().queue_delete(name, if_empty=True).method.message_count, 0)
    equal(connection.channel().queue_delete(name).method.message_count, 0, "deleting what is not there")


@case
def delete_answers_how_many_were_ready():
    ch = channel()
    name = unique()
    ch.queue_declare(name)
    for _ in range(3):
        ch.basic_publish("", name, b"x")
    eventually(lambda: depth(ch, name) == 3)
    equal(ch.queue_delete(name).method.message_count, 3)


@case
def get_says_how_many_are_left_and_when_there_is_nothing():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    equal(ch.basic_get(name), (None, None, None))
    for n in range(3):
        ch.basic_publish("", name, b"%d" % n, pika.BasicProperties(content_type="text/plain"))
    eventually(lambda: depth(ch, name) == 3)
    method, properties, body = ch.basic_get(name)
    equal((method.message_count, method.redelivered, method.exchange, method.routing_key), (2, False, "", name))
    equal((properties.content_type, body), ("text/plain", b"0"))
    equal(drain(ch, name), [b"1", b"2"])
    refused(404, "no queue 'nosuch' in vhost '/'", lambda: ch.basic_get("nosuch"))


@case
def unbinding_what_is_not_bound_succeeds_and_binding_to_nothing_does_not():
    connection = connect()
    ch = connection.channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    ch.queue_unbind(name, "amq.direct", "never")
    ch.queue_unbind("nosuch", "amq.direct", "never")
    ch.queue_unbind(name, "nosuch", "never")
    refused(404, "NOT_FOUND - no exchange 'nosuch' in vhost '/'", lambda: ch.queue_bind(name, "nosuch", "k"))
    ch = connection.channel()
    refused(404, "NOT_FOUND - no queue 'nosuch' in vhost '/'", lambda: ch.queue_bind("nosuch", "amq.direct", "k"))
    ch = connection.channel()
    refused(
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
        lambda: ch.queue_bind(name, "", "k"),
    )


@case
def a_binding_made_twice_is_one_binding():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    ch.queue_bind(name, "amq.direct", name)
    ch.queue_bind(name, "amq.direct", name)
    ch.basic_publish("amq.direct", name, b"once")
    equal(get(ch, name)[2], b"once")
    equal(drain(ch, name), [])
    ch.queue_unbind(name, "amq.direct", name)
    ch.basic_publish("amq.direct", name, b"never")
    ch.basic_publish("", name, b"after")
    equal(get(ch, name)[2], b"after")


@case
def a_message_keeps_all_its_properties_and_headers():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    headers = {
        "text": "grün",
        "bytes": b"\x00\xff",
        "small": 7,
        "negative": -5,
        "big": 2**40,
        "yes": True,
        "nothing": None,
        "list": [1, "two", [3], {"four": 4}],
        "table": {"a": {"b": {"c": "deep"}}},
        "empty": {},
    }
    sent = pika.BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        headers=headers,
        delivery_mode=2,
        priority=0,
        correlation_id="",
        reply_to="somewhere",
        expiration="60000",
        message_id="m1",
        timestamp=1234567890,
        type="reading",
        user_id="guest",
        app_id="app",
        cluster_id="c",
    )
    ch.basic_publish("", name, b"\x00\x01\xff", sent)
    _, got, body = get(ch, name)
    equal(body, b"\x00\x01\xff")
    for field in vars(sent):
        equal(getattr(got, field), getattr(sent, field), field)


@case
def a_message_without_properties_has_none_on_arrival():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    ch.basic_publish("", name, b"bare")
    _, got, _ = get(ch, name)
    equal({k: v for k, v in vars(got).items() if v is not None}, {})


@case
def bodies_of_every_size_arrive_whole():
    ch = channel()
    name = unique()
    ch.queue_declare(name, exclusive=True)
    for size in [0, 1, 131063, 131064, 131065, 1_000_000, 8_000_000]:
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        ch.basic_publish("", name, body)
        got = get(ch, name)[2]
        assert got == body, f"{size} bytes came back as {len(got)}"


if __name__ == "__main__":
    main()
