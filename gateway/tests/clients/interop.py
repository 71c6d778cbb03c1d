"""One message under several protocols: names, reliability, properties, replies, retained messages and wills.

RabbitMQ loses much of this by rewriting names as text; the cases say where.
"""

import time

import pika

from amqp import channel, get
from harness import case, equal, eventually, later, main, unique
from mqtt import V5
from mqtt import Client as Mqtt
from mqtt_raw import PUBACK, PUBREC, Wire, publish
from stomps import Client as Stomp
from stomps import text


def bound(pattern, exchange="amq.topic"):
    """An AMQP channel and an exclusive queue bound by a pattern."""
    ch = channel()
    queue = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind(queue, exchange, pattern)
    return ch, queue


@case
def empty_levels_go_round():
    root = unique("t")
    ch, queue = bound(f".{root}.#")
    device = Mqtt()
    device.subscribe(f"/{root}/#", 1)
    page = Stomp().subscribe(f"/topic/.{root}.#")
    device.publish(f"/{root}//dbl/", "m", qos=1)
    ch.basic_publish("amq.topic", f".{root}..dbl.", b"a")
    page.send(f"/topic/.{root}..dbl.", "s")
    equal([get(ch, queue)[0].routing_key for _ in range(3)], [f".{root}..dbl."] * 3)
    equal([m.topic for m in device.settled(3).inbox], [f"/{root}//dbl/"] * 3)
    equal([f.headers["destination"] for f in page.settled(3).inbox], [f"/topic/.{root}..dbl."] * 3)


@case(differs="rabbitmq")
def a_dot_in_a_level_survives_the_echo():
    root = unique("t")
    ch, queue = bound(f"{root}.#")
    watcher, device = Mqtt(), Mqtt()
    watcher.subscribe(f"{root}/#", 1)
    page = Stomp().subscribe(f"/topic/{root}.#")
    device.publish(f"{root}/v1.5/s", "x", qos=1)
    method, _, _ = get(ch, queue)
    equal(method.routing_key, f"{root}.v1%2E5.s")
    equal(page.wait(1).inbox[0].headers["destination"], f"/topic/{root}.v1%2E5.s")
    ch.basic_publish("amq.topic", method.routing_key, b"amqp echo")
    page.send(page.inbox[0].headers["destination"], "stomp echo")
    equal([m.topic for m in watcher.settled(3).inbox], [f"{root}/v1.5/s"] * 3)


@case(differs="rabbitmq")
def keys_with_wildcard_characters_never_make_bad_topics():
    root = unique("t")
    device = Mqtt()
    device.subscribe(f"{root}/#", 1)
    ch, queue = bound(f"{root}.#")
    for key, topic in [("x/y.z", "x%2Fy/z"), ("a+b", "a%2Bb"), ("#", "%23"), ("c#d", "c%23d")]:
        ch.basic_publish("amq.topic", f"{root}.{key}", key.encode())
        equal(get(ch, queue)[0].routing_key, f"{root}.{key}", "verbatim in its own protocol")
        equal(device.wait(1).inbox.pop().topic, f"{root}/{topic}")


@case(differs="rabbitmq")
def reliability_crosses():
    root = unique("t")
    device = Mqtt()
    device.subscribe(f"{root}/to/device", 2)
    ch, queue = bound(f"{root}.from.device")
    page = Stomp().subscribe(f"/topic/{root}.from.device")
    for qos, mode, persistent in [(0, (None, 1), None), (1, (2,), "true"), (2, (2,), "true")]:
        device.publish(f"{root}/from/device", str(qos), qos=qos)
        got = get(ch, queue)[1].delivery_mode
        assert got in mode, f"QoS {qos} has delivery mode {got}"
        equal(page.wait(1).inbox.pop().headers.get("persistent"), persistent, f"QoS {qos}")
    for mode, qos in [(None, 0), (1, 0), (2, 1)]:
        ch.basic_publish("amq.topic", f"{root}.to.device", b"x", pika.BasicProperties(delivery_mode=mode))
        equal(device.wait(1).inbox.pop().qos, qos, f"delivery mode {mode}")
    sender = Stomp()
    for persistent, mode in [(None, None), ("true", 2)]:
        sender.send(f"/topic/{root}.from.device", "x", **({"persistent": persistent} if persistent else {}))
        equal(get(ch, queue)[1].delivery_mode, mode, f"persistent {persistent}")
    sender.send(f"/topic/{root}.to.device", "x")
    equal(device.wait(1).inbox.pop().qos, 0)
    sender.send(f"/topic/{root}.to.device", "x", persistent="true")
    equal(device.wait(1).inbox.pop().qos, 1)


@case(differs="rabbitmq")
def foreign_headers_change_no_qos_and_no_dup():
    topic = unique("t")
    device = Mqtt()
    device.subscribe(topic, 1)
    headers = {"x-mqtt-publish-qos": 0, "x-mqtt-dup": True}
    channel().basic_publish("amq.topic", topic, b"x", pika.BasicProperties(delivery_mode=2, headers=headers))
    message = device.settled(1).inbox[0]
    equal((message.qos, message.dup), (1, False))


@case(differs="rabbitmq")
def mqtt_5_properties_reach_amqp_and_stomp():
    topic = unique("t")
    ch, queue = bound(topic)
    page = Stomp().subscribe(f"/topic/{topic}")
    Mqtt(V5).publish(
        topic, "x", qos=1, ContentType="text/plain", CorrelationData=b"c-7", MessageExpiryInterval=60,
        UserProperty=[("a", "1"), ("b", "2"), ("a", "again")],
    )
    _, got, _ = get(ch, queue)
    equal((got.content_type, got.correlation_id, got.delivery_mode), ("text/plain", "c-7", 2))
    equal((got.headers["a"], got.headers["b"]), ("1", "2"))
    assert 50_000 <= int(got.expiration) <= 60_000, got.expiration
    headers = page.settled(1).inbox[0].headers
    equal((headers["content-type"], headers["correlation-id"]), ("text/plain", "c-7"))
    equal((headers["a"], headers["b"]), ("1", "2"))


@case(differs="rabbitmq")
def amqp_properties_and_headers_reach_mqtt_5_and_stomp():
    topic = unique("t")
    device = Mqtt(V5)
    device.subscribe(topic, 1)
    page = Stomp().subscribe(f"/topic/{topic}")
    channel().basic_publish(
        "amq.topic", topic, b"x",
        pika.BasicProperties(
            delivery_mode=2, content_type="application/json", correlation_id="c", expiration="60000",
            headers={"sev": 3, "name": "pump", "on": True, "zones": [1]},
        ),
    )
    got = device.settled(1).inbox[0].properties
    equal((got.ContentType, got.CorrelationData), ("application/json", b"c"))
    user = dict(got.UserProperty)
    equal((user["sev"], user["name"], user["on"]), ("3", "pump", "true"))
    assert "zones" not in user, user
    assert 55 <= got.MessageExpiryInterval <= 60, got.MessageExpiryInterval
    headers = page.settled(1).inbox[0].headers
    equal((headers["sev"], headers["name"], headers["on"]), ("3", "pump", "true"))
    equal(headers["correlation-id"], "c")


@case(differs="rabbitmq")
def correlation_data_that_is_no_text_is_not_lost():
    topic = unique("t")
    binary = bytes(range(256)) + b"\xff" * 100
    watcher = Mqtt(V5)
    watcher.subscribe(topic, 1)
    ch, queue = bound(topic)
    page = Stomp().subscribe(f"/topic/{topic}")
    Mqtt(V5).publish(topic, "x", qos=1, CorrelationData=binary)
    equal(watcher.settled(1).inbox[0].properties.CorrelationData, binary)
    _, got, _ = get(ch, queue)
    equal((got.correlation_id, got.headers["x-correlation-id"]), (None, binary))
    headers = page.settled(1).inbox[0].headers
    equal(headers["correlation-id-encoding"], "base64")


@case(differs="rabbitmq")
def a_device_asks_and_an_amqp_service_answers_to_reply_to():
    root = unique("svc")
    ch, queue = bound(f"{root}.add")
    device = Mqtt(V5)
    device.subscribe(f"{root}/answers", 1)
    device.publish(f"{root}/add", "2+2", qos=1, ResponseTopic=f"{root}/answers", CorrelationData=b"\x7f")
    _, asked, _ = get(ch, queue)
    ch.basic_publish(
        "", asked.reply_to, b"4", pika.BasicProperties(delivery_mode=2, correlation_id=asked.correlation_id)
    )
    message = device.settled(1).inbox[0]
    equal((message.topic, message.payload, message.qos), (f"{root}/answers", b"4", 1))
    equal(message.properties.CorrelationData, b"\x7f")


@case(differs="rabbitmq")
def an_amqp_client_asks_and_a_device_answers_to_the_response_topic():
    topic = unique("svc")
    device = Mqtt(V5)
    device.subscribe(topic, 1)
    ch = channel()
    replies = ch.queue_declare("", exclusive=True).method.queue
    ch.basic_publish("amq.topic", topic, b"?", pika.BasicProperties(reply_to=replies, correlation_id="7"))
    asked = device.settled(1).inbox[0]
    device.publish(
        asked.properties.ResponseTopic, "!", qos=1, CorrelationData=asked.properties.CorrelationData
    )
    _, got, body = get(ch, replies)
    equal((body, got.correlation_id), (b"!", "7"))


@case
def a_stomp_client_asks_and_an_amqp_service_answers():
    ch = channel()
    queue = ch.queue_declare(unique("svc"), durable=True).method.queue
    later(lambda: channel().queue_delete(queue))
    page = Stomp()
    page.send(f"/queue/{queue}", "?", reply_to="/temp-queue/mine", correlation_id="7")
    _, asked, _ = get(ch, queue)
    ch.basic_publish("", asked.reply_to, b"!", pika.BasicProperties(correlation_id=asked.correlation_id))
    frame = page.settled(1).inbox[0]
    equal((text(frame.body), frame.headers["correlation-id"]), ("!", "7"))
    equal(frame.headers["subscription"], "/temp-queue/mine")


@case
def a_queue_is_the_same_for_amqp_and_stomp():
    queue = unique()
    page = Stomp()
    page.send(f"/queue/{queue}", "from stomp", persistent="true", key="value")
    ch = channel()
    later(lambda: channel().queue_delete(queue))
    ok = ch.queue_declare(queue, durable=True).method
    equal(ok.message_count, 1)
    _, got, body = get(ch, queue)
    equal((body, got.delivery_mode, got.headers["key"]), (b"from stomp", 2, "value"))
    ch.basic_publish("", queue, b"from amqp", pika.BasicProperties(content_type="text/plain", headers={"n": "1"}))
    page.subscribe(f"/queue/{queue}")
    frame = page.settled(1).inbox[0]
    equal((text(frame.body), frame.headers["content-type"], frame.headers["n"]), ("from amqp", "text/plain", "1"))
    equal(frame.headers["destination"], f"/queue/{queue}")


@case(differs="rabbitmq")
def a_waiting_message_reaches_mqtt_5_with_its_remaining_expiry():
    topic = unique("t")
    device = Mqtt(V5, clean=False, expiry=60)
    device.subscribe(topic, 1)
    device.disconnect()
    began = time.monotonic()
    channel().basic_publish("amq.topic", topic, b"x", pika.BasicProperties(delivery_mode=2, expiration="30000"))
    channel().basic_publish("amq.topic", topic, b"late", pika.BasicProperties(delivery_mode=2, expiration="500"))
    time.sleep(2.2)
    device.connect(clean=False)
    message = device.settled(1).inbox[0]
    equal(message.payload, b"x")
    left = message.properties.MessageExpiryInterval
    assert 29 - (time.monotonic() - began) <= left <= 29, f"{left} s are left"


@case(differs="rabbitmq")
def what_a_full_queue_refuses_is_not_confirmed_to_mqtt():
    topic = unique("full")
    ch, queue = channel(), unique()
    ch.queue_declare(queue, exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.queue_bind(queue, "amq.topic", topic)
    five = Wire.opened()
    five.raw(publish(topic, b"kept", qos=1, mid=1))
    five.expect(PUBACK, b"\0\1")
    five.raw(publish(topic, b"refused", qos=1, mid=2))
    five.expect(PUBACK, b"\0\2\x97")
    five.raw(publish(topic, b"refused", qos=2, mid=3))
    five.expect(PUBREC, b"\0\3\x97")
    for qos in (1, 2):
        # A PUBACK would confirm that the message is stored.
        three = Wire.opened(level=4)
        three.raw(publish(topic, b"refused", qos=qos, mid=4, level=4))
        equal(three.read(), None, "the end of the connection")
    equal(ch.basic_get(queue, auto_ack=True)[2], b"kept")


@case(differs="rabbitmq")
def amqp_and_stomp_can_set_and_clear_what_mqtt_retains():
    root = unique("r")

    def retained():
        subscriber = Mqtt()
        subscriber.subscribe(f"{root}/#", 1)
        # Follows the retained messages.
        subscriber.publish(f"{root}/fence", "x", qos=1)
        eventually(lambda: subscriber.inbox and subscriber.inbox[-1].topic == f"{root}/fence")
        *kept, fence = subscriber.inbox
        assert all(m.retain for m in kept)
        return {m.topic.split("/")[1]: m.payload for m in kept}

    ch, page = channel(), Stomp()
    ch.confirm_delivery()
    mark = pika.BasicProperties(delivery_mode=2, headers={"x-mqtt-retain": True})
    ch.basic_publish("amq.topic", f"{root}.amqp", b"a", mark)
    page.send(f"/topic/{root}.stomp", "s", x_mqtt_retain="true")
    ch.basic_publish("amq.topic", f"{root}.not", b"n")
    equal(retained(), {"amqp": b"a", "stomp": b"s"})
    ch.basic_publish("amq.topic", f"{root}.stomp", b"", mark)
    page.send(f"/topic/{root}.amqp", "", x_mqtt_retain="true")
    equal(retained(), {})


@case(differs="rabbitmq")
def the_retain_flag_reaches_amqp_and_stomp():
    topic = unique("flag")
    ch, queue = bound(topic)
    page = Stomp().subscribe(f"/topic/{topic}")
    sensor = Mqtt()
    sensor.publish(topic, "kept", qos=1, retain=True)
    sensor.publish(topic, "plain", qos=1)
    sensor.publish(topic, "", qos=1, retain=True)
    marks = [(got.headers or {}).get("x-mqtt-retain") for _, got, _ in (get(ch, queue) for _ in range(3))]
    equal(marks, [True, None, True])
    frames = page.settled(3).inbox
    equal([f.headers.get("x-mqtt-retain") for f in frames], ["true", None, "true"])


@case(differs="rabbitmq")
def x_retained_replays_what_is_retained_to_stomp_and_amqp():
    root = unique("replay")
    sensor = Mqtt()
    for name in ("1", "2"):
        sensor.publish(f"{root}/{name}", name, qos=1, retain=True)
    later(lambda: [Mqtt().publish(f"{root}/{name}", "", qos=1, retain=True) for name in ("1", "2")])
    page = Stomp().subscribe(f"/topic/{root}.*", x_retained="true")
    frames = page.settled(2).inbox
    equal([f.headers["destination"] for f in frames], [f"/topic/{root}.1", f"/topic/{root}.2"])
    equal([f.headers["x-mqtt-retain"] for f in frames], ["true", "true"])
    # Not without the header.
    equal(Stomp().subscribe(f"/topic/{root}.*").settled(0).inbox, [])
    # A durable subscription gets them each time it is made again with the header.
    for _ in range(2):
        durable = {"durable": "true", "auto_delete": "false", "x_retained": "true"}
        page = Stomp().subscribe(f"/topic/{root}.#", id=root, **durable)
        equal(page.settled(2).bodies, ["1", "2"])
        page.stomp.disconnect()
    queue = unique()
    ch = channel()
    ch.queue_declare(queue, exclusive=True)
    ch.queue_bind(queue, "amq.topic", f"{root}.2", arguments={"x-retained": True})
    method, properties, body = get(ch, queue)
    equal((method.routing_key, body, properties.headers["x-mqtt-retain"]), (f"{root}.2", b"2", True))


@case(differs="rabbitmq")
def a_percent_sign_names_one_topic_in_every_protocol():
    root = unique("pc")
    names = ["a%b", "a%25b", "a%2525b", "x.y", "x%2Ey", "x%252Ey"]
    device = Mqtt()
    device.subscribe(f"{root}/+", 1)
    ch, queue = bound(f"{root}.*")
    page = Stomp().subscribe(f"/topic/{root}.*")
    for name in names:
        Mqtt().publish(f"{root}/{name}", "m", qos=1)
    equal([m.topic for m in device.settled(len(names)).inbox], [f"{root}/{name}" for name in names])
    keys = [get(ch, queue)[0].routing_key for _ in names]
    dotted = ["a%b", "a%25b", "a%2525b", "x%2Ey", "x%252Ey", "x%25252Ey"]
    equal(keys, [f"{root}.{name}" for name in dotted])
    destinations = [f.headers["destination"] for f in page.settled(len(names)).inbox]
    equal(destinations, [f"/topic/{root}.{name}" for name in dotted])
    # And from each of the other protocols: the device sees the names that it could have published.
    for key in keys:
        ch.basic_publish("amq.topic", key, b"m")
    for destination in destinations:
        page.send(destination, "m")
    topics = [m.topic for m in device.settled(3 * len(names)).inbox]
    equal(topics, [f"{root}/{name}" for name in names] * 3)


@case
def a_will_is_seen_by_amqp_and_stomp():
    topic = unique("will")
    ch, queue = bound(topic)
    page = Stomp().subscribe(f"/topic/{topic}")
    Mqtt(will={"topic": topic, "payload": b"gone", "qos": 1}).drop()
    method, got, body = get(ch, queue)
    equal((body, got.delivery_mode, method.routing_key), (b"gone", 2, topic))
    equal(page.settled(1).bodies, ["gone"])


@case
def an_offline_device_collects_from_amqp_and_stomp():
    topic = unique("t")
    device = Mqtt(clean=False)
    device.subscribe(topic, 1)
    device.disconnect()
    channel().basic_publish("amq.topic", topic, b"from amqp", pika.BasicProperties(delivery_mode=2))
    Stomp().send(f"/topic/{topic}", "from stomp", persistent="true")
    device.connect()
    equal(sorted(device.settled(2).payloads), [b"from amqp", b"from stomp"])


@case(differs="rabbitmq")
def a_shared_subscription_competes_beside_a_stomp_copy():
    topic = unique("t")
    members = [Mqtt(V5) for _ in range(2)]
    for member in members:
        member.subscribe(f"$share/{topic}/{topic}", 1)
    page = Stomp().subscribe(f"/topic/{topic}")
    ch = channel()
    for n in range(20):
        ch.basic_publish("amq.topic", topic, b"%d" % n, pika.BasicProperties(delivery_mode=2))
    page.settled(20)
    eventually(lambda: sum(len(m.inbox) for m in members) == 20)
    equal(sorted(int(p) for m in members for p in m.payloads), list(range(20)))


@case(differs="rabbitmq")
def mqtt_wildcards_skip_dollar_topics_of_amqp_too():
    marker = unique("m")
    device = Mqtt()
    device.subscribe(f"+/{marker}", 1)
    ch, queue = bound(f"*.{marker}")
    ch.basic_publish("amq.topic", f"$hidden.{marker}", b"hidden", pika.BasicProperties(delivery_mode=2))
    ch.basic_publish("amq.topic", f"open.{marker}", b"open", pika.BasicProperties(delivery_mode=2))
    equal([get(ch, queue)[2] for _ in range(2)], [b"hidden", b"open"])
    equal(device.settled(1).payloads, [b"open"])


if __name__ == "__main__":
    main()
