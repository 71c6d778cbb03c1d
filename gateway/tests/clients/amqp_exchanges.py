"""AMQP exchanges under pika: the types and how they match, and the errors for what is refused."""

import pika

from amqp import Inbox, channel, connect, drain, get, refused
from harness import case, equal, later, main, unique


def routed(bind, keys_and_headers, exchange_type, arguments=None):
    """Binds a queue as `bind(ch, queue, exchange)` does and returns the indexes of the publishes that reach it."""
    ch = channel()
    exchange, queue = unique("x"), unique()
    ch.exchange_declare(exchange, exchange_type, auto_delete=True, arguments=arguments)
    ch.queue_declare(queue, exclusive=True)
    bind(ch, queue, exchange)
    for n, (key, headers) in enumerate(keys_and_headers):
        ch.basic_publish(exchange, key, b"%d" % n, pika.BasicProperties(headers=headers))
    ch.basic_publish("", queue, b"end")
    got = []
    while (body := get(ch, queue)[2]) != b"end":
        got.append(int(body))
    return got


@case
def topic_keys_match_by_words():
    keys = ["", ".", "a", "a.", ".a", "a.b", "a..b", "a.b.c", "a.x.b", "a*", "#", "*"]
    for pattern, matching in [
        ("#", keys),
        ("*", ["a", "a*", "#", "*"]),
        ("#.#", keys),
        ("*.#", [k for k in keys if k]),
        ("#.*", [k for k in keys if k]),
        ("a.#", ["a", "a.", "a.b", "a..b", "a.b.c", "a.x.b"]),
        ("a.*.b", ["a..b", "a.x.b"]),
        ("a.#.b", ["a.b", "a..b", "a.x.b"]),
        ("a.*", ["a.", "a.b"]),
        ("*.*", [".", "a.", ".a", "a.b"]),
        ("#.b.#", ["a.b", "a..b", "a.b.c", "a.x.b"]),
        ("", [""]),
        ("a*", ["a*"]),
        ("a.b", ["a.b"]),
    ]:
        got = routed(
            lambda ch, queue, exchange: ch.queue_bind(queue, exchange, pattern), [(key, None) for key in keys], "topic"
        )
        equal([keys[n] for n in got], matching, f"pattern {pattern!r}")


@case
def a_topic_queue_bound_twice_gets_one_copy():
    def bind(ch, queue, exchange):
        for pattern in ["a.#", "a.b", "*.b", "#"]:
            ch.queue_bind(queue, exchange, pattern)

    equal(routed(bind, [("a.b", None)], "topic"), [0])


@case
def direct_keys_match_exactly():
    keys = ["k", "K", "k.", "", "other"]
    got = routed(lambda ch, q, x: ch.queue_bind(q, x, "k"), [(key, None) for key in keys], "direct")
    equal([keys[n] for n in got], ["k"])
    got = routed(lambda ch, q, x: ch.queue_bind(q, x, ""), [(key, None) for key in keys], "direct")
    equal([keys[n] for n in got], [""])


@case
def fanout_asks_for_no_key():
    equal(routed(lambda ch, q, x: ch.queue_bind(q, x, "ignored"), [("a", None), ("", None)], "fanout"), [0, 1])


@case
def headers_match_all_or_any():
    messages = [
        None,
        {},
        {"a": 1},
        {"a": 1, "b": "two"},
        {"a": 2, "b": "two"},
        {"a": "1", "b": "two"},
        {"a": 1, "b": "two", "c": True},
        {"x-y": 1},
    ]
    for criteria, matching in [
        ({"x-match": "all", "a": 1, "b": "two"}, [3, 6]),
        ({"a": 1, "b": "two"}, [3, 6]),
        ({"x-match": "any", "a": 1, "b": "two"}, [2, 3, 4, 5, 6]),
        ({"x-match": "all"}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"x-match": "any"}, []),
        ({"x-match": "all", "c": None}, [6]),
        ({"x-match": "any", "x-y": 1}, []),
        ({"x-match": "any-with-x", "x-y": 1}, [7]),
    ]:
        got = routed(
            lambda ch, q, x: ch.queue_bind(q, x, "", arguments=criteria), [("k", h) for h in messages], "headers"
        )
        equal(got, matching, f"criteria {criteria}")


@case
def a_wrong_x_match_is_406():
    connection = connect()
    queue = connection.channel().queue_declare("", exclusive=True).method.queue
    refused(
        406,
        'PRECONDITION_FAILED - Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x',
        lambda: connection.channel().queue_bind(queue, "amq.headers", "", arguments={"x-match": "foo"}),
    )


@case
def bindings_with_other_arguments_are_other_bindings():
    ch = channel()
    exchange, queue = unique("x"), unique()
    ch.exchange_declare(exchange, "headers", auto_delete=True)
    ch.queue_declare(queue, exclusive=True)
    ch.queue_bind(queue, exchange, "", arguments={"a": 1})
    ch.queue_bind(queue, exchange, "", arguments={"b": 1})
    ch.queue_unbind(queue, exchange, "", arguments={"a": 1})
    ch.basic_publish(exchange, "", b"a", pika.BasicProperties(headers={"a": 1}))
    ch.basic_publish(exchange, "", b"b", pika.BasicProperties(headers={"b": 1}))
    equal(get(ch, queue)[2], b"b")


@case
def the_predeclared_exchanges_are_there():
    ch = channel()
    for name, kind in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ]:
        ch.exchange_declare(name, passive=True)
        ch.exchange_declare(name, kind, durable=True)


@case
def an_unknown_type_closes_the_channel_with_406():
    # RabbitMQ 4 answers this, and clients expect it. RabbitMQ 3.10 closed the whole connection with 503.
    connection = connect()
    for kind, text in [("nosuch", "unknown exchange type 'nosuch'"), ("", "invalid exchange type ''")]:
        refused(
            406,
            f"PRECONDITION_FAILED - {text}",
            lambda: connection.channel().exchange_declare(unique("x"), kind),
        )
    assert connection.channel().is_open


@case
def declares_are_checked():
    connection = connect()
    name = unique("x")
    refused(
        404,
        f"NOT_FOUND - no exchange '{name}' in vhost '/'",
        lambda: connection.channel().exchange_declare(name, passive=True),
    )
    connection.channel().exchange_declare(name, "direct", durable=True)
    later(lambda: connection.channel().exchange_delete(name))
    refused(
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '/': received 'fanout' but "
        "current is 'direct'",
        lambda: connection.channel().exchange_declare(name, "fanout", durable=True),
    )
    refused(
        406,
        f"inequivalent arg 'durable' for exchange '{name}' in vhost '/': received 'false' but current is 'true'",
        lambda: connection.channel().exchange_declare(name, "direct"),
    )
    # A passive declare compares only the name.
    connection.channel().exchange_declare(name, "fanout", passive=True)
    refused(
        403,
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        lambda: connection.channel().exchange_declare("amq.mine", "direct"),
    )
    refused(
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
        lambda: connection.channel().exchange_declare("", passive=True),
    )


@case
def deletes_are_checked():
    connection = connect()
    ch = connection.channel()
    name = unique("x")
    ch.exchange_delete("nosuch")
    ch.exchange_declare(name, "direct")
    queue = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind(queue, name, "k")
    refused(
        406,
        f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use",
        lambda: connection.channel().exchange_delete(name, if_unused=True),
    )
    connection.channel().exchange_delete(name)
    refused(404, f"no exchange '{name}'", lambda: connection.channel().exchange_declare(name, passive=True))
    refused(403, "ACCESS_REFUSED - ", lambda: connection.channel().exchange_delete("amq.direct"))


@case
def an_auto_delete_exchange_goes_with_its_last_binding():
    connection = connect()
    ch = connection.channel()
    name = unique("x")
    ch.exchange_declare(name, "direct", auto_delete=True)
    ch.exchange_declare(name, passive=True)
    one = ch.queue_declare("", exclusive=True).method.queue
    two = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind(one, name, "k")
    ch.queue_bind(two, name, "k")
    ch.queue_unbind(one, name, "k")
    ch.exchange_declare(name, passive=True)
    ch.queue_delete(two)
    refused(404, f"no exchange '{name}'", lambda: ch.exchange_declare(name, passive=True))


@case
def exchanges_bind_to_exchanges_and_cycles_give_one_copy():
    ch = channel()
    a, b = unique("x"), unique("x")
    for name in (a, b):
        ch.exchange_declare(name, "topic")
        later(lambda name=name: connect().channel().exchange_delete(name))
    queue = ch.queue_declare("", exclusive=True).method.queue
    ch.exchange_bind(b, a, "k.#")
    ch.exchange_bind(a, b, "#")
    ch.queue_bind(queue, a, "#")
    ch.queue_bind(queue, b, "#")
    ch.basic_publish(a, "k.1", b"one")
    equal(get(ch, queue)[2], b"one")
    equal(drain(ch, queue), [])
    ch.exchange_unbind(b, a, "k.#")
    ch.queue_unbind(queue, a, "#")
    ch.basic_publish(a, "k.1", b"two")
    ch.basic_publish(b, "k.1", b"three")
    equal(get(ch, queue)[2], b"three")


@case
def publishing_to_a_missing_exchange_is_404():
    connection = connect()
    ch = connection.channel()
    ch.confirm_delivery()
    refused(
        404, "NOT_FOUND - no exchange 'nosuch' in vhost '/'", lambda: ch.basic_publish("nosuch", "k", b"x")
    )


@case
def publishing_to_an_internal_exchange_is_403_and_bindings_reach_it():
    connection = connect()
    ch = connection.channel()
    inner, outer = unique("x"), unique("x")
    ch.exchange_declare(inner, "fanout", internal=True, auto_delete=True)
    ch.exchange_declare(outer, "fanout", auto_delete=True)
    ch.exchange_bind(inner, outer)
    queue = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind(queue, inner)
    ch.basic_publish(outer, "", b"through")
    equal(get(ch, queue)[2], b"through")
    other = connection.channel()
    other.confirm_delivery()
    refused(
        403,
        f"ACCESS_REFUSED - cannot publish to internal exchange '{inner}' in vhost '/'",
        lambda: other.basic_publish(inner, "", b"x"),
    )


@case
def the_default_exchange_reaches_every_queue_by_its_name():
    ch = channel()
    name = "queue with spaces/and.dots#" + unique()
    ch.queue_declare(name, exclusive=True)
    ch.basic_publish("", name, b"here")
    method, _, body = get(ch, name)
    equal((method.exchange, method.routing_key, body), ("", name, b"here"))


@case
def cc_and_bcc_add_keys_and_bcc_stays_secret():
    ch = channel()
    one, two, three = (ch.queue_declare("", exclusive=True).method.queue for _ in range(3))
    ch.basic_publish("", one, b"x", pika.BasicProperties(headers={"CC": [two, one], "BCC": [three], "other": 1}))
    for queue in (one, two, three):
        method, properties, _ = get(ch, queue)
        equal(properties.headers, {"CC": [two, one], "other": 1})
        equal(method.routing_key, one)
        equal(drain(ch, queue), [])
    ch.confirm_delivery()
    refused(
        406,
        "PRECONDITION_FAILED - ",
        lambda: ch.basic_publish("", one, b"x", pika.BasicProperties(headers={"CC": two})),
    )


@case
def an_alternate_exchange_takes_what_is_not_routed():
    ch = channel()
    main_exchange, alternate = unique("x"), unique("x")
    ch.exchange_declare(alternate, "fanout", auto_delete=True)
    ch.exchange_declare(main_exchange, "direct", auto_delete=True, arguments={"alternate-exchange": alternate})
    queue, rest = (ch.queue_declare("", exclusive=True).method.queue for _ in range(2))
    ch.queue_bind(queue, main_exchange, "known")
    ch.queue_bind(rest, alternate)
    ch.confirm_delivery()
    ch.basic_publish(main_exchange, "known", b"1", mandatory=True)
    ch.basic_publish(main_exchange, "unknown", b"2", mandatory=True)
    equal((drain(ch, queue), drain(ch, rest)), ([b"1"], [b"2"]))


if __name__ == "__main__":
    main()
