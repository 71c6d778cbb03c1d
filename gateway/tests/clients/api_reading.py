"""What the management API shows of what runs, as RabbitMQ's tools read it."""

import time

import amqp
import pika
from harness import PEER, case, equal, eventually, main, unique
from management import ADMIN, MANAGEMENT, segment, user
from mqtt import Client

RABBITMQ = PEER == "rabbitmq"
QUEUE_KEYS = """name vhost type node state durable auto_delete exclusive arguments messages messages_details messages_ready
messages_ready_details messages_unacknowledged messages_unacknowledged_details messages_ram messages_persistent message_bytes
message_bytes_ready message_bytes_unacknowledged message_bytes_ram message_bytes_persistent consumers consumer_utilisation memory
policy operator_policy effective_policy_definition exclusive_consumer_tag single_active_consumer_tag
head_message_timestamp""".split()
NODE_STATS = """publish confirm deliver deliver_no_ack deliver_get get get_no_ack get_empty ack redeliver drop_unroutable
return_unroutable""".split()


def queue(name):
    return f"/api/queues/%2F/{segment(name)}"


def declared(**arguments):
    """A queue for this case, and its channel."""
    channel, name = amqp.channel(), unique("api")
    channel.queue_declare(name, **arguments)
    return channel, name


def shown(name, holds, within=30):
    """The queue, once the condition is true for it. (RabbitMQ's statistics are up to five seconds old.)"""
    return eventually(lambda: (lambda q: q if holds(q) else None)(ADMIN.get(queue(name))), f"{name} as expected", within)


def named(items, name):
    return next(item for item in items if item["name"] == name)


def floats(value, path=""):
    """The paths of all floating-point numbers in a value."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in floats(inner, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for inner in value for found in floats(inner, path)]
    return [path] if isinstance(value, float) else []


@case
def a_queue_has_all_that_strict_clients_want():
    channel, name = declared(durable=True, arguments={"x-max-length": 1000})
    channel.basic_publish("", name, b"hello", pika.BasicProperties(delivery_mode=2))
    found = shown(name, lambda q: q.get("messages") == 1 and "memory" in q)
    missing = [key for key in QUEUE_KEYS if key not in found]
    equal(missing, [])
    equal((found["vhost"], found["type"], found["state"], found["durable"]), ("/", "classic", "running", True))
    equal((found["arguments"], found["effective_policy_definition"]), ({"x-max-length": 1000}, {}))
    equal((found["messages_ready"], found["message_bytes_ready"], found["message_bytes"]), (1, 5, 5))
    for key in ("consumer_details", "incoming", "deliveries"):
        equal(found[key], [])
    listed = named(ADMIN.get("/api/queues/%2F"), name)
    assert "consumer_details" not in listed


@case
def queue_counts_add_up():
    channel, name = declared()
    for body in (b"a", b"b", b"c"):
        channel.basic_publish("", name, body)
    amqp.get(channel, name)
    method, _, _ = channel.basic_get(name, auto_ack=False)
    channel.basic_ack(method.delivery_tag)
    amqp.Inbox(channel, name).wait(1)
    found = shown(name, lambda q: q.get("message_stats", {}).get("deliver_get", 0) >= 3)
    stats = found["message_stats"]
    equal((stats["publish"], stats["get"], stats["get_no_ack"]), (3, 1, 1))
    equal(stats["deliver"] + stats["deliver_no_ack"], 1)
    equal(stats["deliver_get"], stats["deliver"] + stats["deliver_no_ack"] + stats["get"] + stats["get_no_ack"])


@case
def unsettled_messages_and_consumers_are_shown():
    channel, name = declared()
    channel.basic_qos(prefetch_count=5)
    channel.basic_consume(name, lambda *_: None, consumer_tag="c1")
    channel.basic_publish("", name, b"x")
    channel.connection.process_data_events(0.2)
    found = shown(name, lambda q: q.get("messages_unacknowledged") == 1 and q.get("consumer_details"))
    equal((found["messages"], found["messages_ready"], found["consumers"]), (1, 0, 1))
    found = shown(name, lambda q: q.get("message_bytes_unacknowledged") == 1)
    equal((found["message_bytes"], found["message_bytes_ready"]), (1, 0))
    consumer = found["consumer_details"][0]
    equal((consumer["consumer_tag"], consumer["ack_required"], consumer["prefetch_count"]), ("c1", True, 5))
    equal(consumer["queue"], {"name": name, "vhost": "/"})
    equal((consumer["active"], consumer["activity_status"], consumer["exclusive"]), (True, "up", False))
    details = consumer["channel_details"]
    equal(details["name"], f"{details['connection_name']} ({details['number']})")
    if not RABBITMQ:
        equal(consumer["consumer_timeout"], 1_800_000)
    everywhere = [c for c in ADMIN.get("/api/consumers") if c["queue"]["name"] == name]
    equal(len(everywhere), 1)
    equal([c["consumer_tag"] for c in ADMIN.get("/api/consumers/%2F") if c["queue"]["name"] == name], ["c1"])


@case
def queue_name_with_slash_and_space():
    channel, name = amqp.channel(), unique("a/b c%2Fd")
    channel.queue_declare(name, exclusive=True)
    equal(ADMIN.get(queue(name))["name"], name)
    equal([b["routing_key"] for b in ADMIN.get(queue(name) + "/bindings")], [name])


@case
def unknown_things_are_404_and_lists_of_unknown_vhosts_too():
    for path in (
        queue("nope-at-all"),
        "/api/queues/nowhere",
        "/api/exchanges/%2F/nope",
        "/api/exchanges/nowhere",
        "/api/bindings/nowhere",
        "/api/consumers/nowhere",
        "/api/connections/nope",
        "/api/channels/nope",
        "/api/vhosts/nowhere/connections",
        "/api/bindings/%2F/e/amq.topic/q/nope/x",
    ):
        answer = ADMIN.ask("GET", path)
        equal((answer.status, answer.json.get("reason")), (404, "Not Found"), path)


@case
def unknown_objects_have_no_bindings_and_no_limits():
    """rabbitmqadmin v2 removes and clears without a check before."""
    for path in (queue("nope-at-all") + "/bindings", "/api/exchanges/%2F/nope/bindings/source", "/api/exchanges/%2F/nope/bindings/destination"):
        # RabbitMQ generates a queue's default binding.
        equal([binding for binding in ADMIN.get(path) if binding["source"]], [], path)
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}")
    ADMIN.delete(f"/api/vhost-limits/{vhost}/max-queues")
    ADMIN.delete("/api/user-limits/guest/max-channels")
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def the_default_exchange_is_addressed_by_another_name():
    equal(ADMIN.get("/api/exchanges/%2F/amq.default")["name"], "")
    names = [exchange["name"] for exchange in ADMIN.get("/api/exchanges/%2F")]
    assert {"", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic"} <= set(names), names
    equal(names, sorted(names))


@case
def a_channel_counts_what_it_publishes_and_takes_by_the_way_it_is_settled():
    label = unique("stats")
    connection = amqp.connect(client_properties={"connection_name": label})
    publisher, consumer = connection.channel(), connection.channel()
    name = unique("api")
    consumer.queue_declare(name, exclusive=True)
    publisher.basic_publish("", name, b"plain")
    publisher.confirm_delivery()
    for body in (b"1", b"2", b"3", b"4"):
        publisher.basic_publish("", name, body)
    method, _, _ = consumer.basic_get(name)
    consumer.basic_nack(method.delivery_tag, requeue=True)
    consumer.basic_ack(consumer.basic_get(name)[0].delivery_tag)
    consumer.basic_get(name, auto_ack=True)
    taken = []

    def take(ch, method, _, body):
        ch.basic_ack(method.delivery_tag)
        taken.append(body)

    tag = consumer.basic_consume(name, take)
    eventually(lambda: connection.process_data_events(0.01) or len(taken) == 3, "three deliveries")
    consumer.basic_cancel(tag)
    consumer.basic_get(name)
    publishing = {"publish": 5, "confirm": 4}
    consuming = {"get": 2, "get_no_ack": 1, "get_empty": 1, "redeliver": 1, "deliver": 3, "deliver_no_ack": 0, "ack": 4, "deliver_get": 6}

    def stats():
        connection.process_data_events(0)
        found = [c for c in ADMIN.get("/api/channels") if c.get("connection_details", {}).get("name") == row["name"]]
        return [channel.get("message_stats", {}) for channel in sorted(found, key=lambda c: c["number"])]

    def mine():
        return next((c for c in ADMIN.get("/api/connections") if c.get("user_provided_name") == label), None)

    row = eventually(mine, "the connection")

    def counted():
        found = stats()
        if len(found) != 2:
            return False
        return [all(half.get(key, 0) == value for key, value in expected.items()) for half, expected in zip(found, (publishing, consuming))] == [True, True]

    eventually(counted, f"{publishing} and {consuming}, not {stats()}", 30)

    def rate():
        publisher.basic_publish("", name, b"x")
        time.sleep(0.05)
        return stats()[0].get("publish_details", {}).get("rate", 0) > 0

    eventually(rate, "a rate", 60)
    connection.close()


@case
def an_exchange_counts_what_comes_in_and_what_goes_out():
    channel, name = declared()
    exchange = unique("x")
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.queue_bind(name, exchange, "k")
    path = f"/api/exchanges/%2F/{exchange}"

    def rates():
        channel.basic_publish(exchange, "k", b"x")
        channel.basic_publish(exchange, "nobody", b"x")
        # From the second request on, there is a sample to compare with.
        stats = ADMIN.get(path).get("message_stats", {})
        time.sleep(0.05)
        return stats.get("publish_in_details", {}).get("rate", 0) > 0 and stats["publish_out_details"]["rate"] > 0

    if not RABBITMQ:
        stats = ADMIN.get(path)["message_stats"]
        counts = {key: value["rate"] if key.endswith("_details") else value for key, value in stats.items()}
        equal(counts, {f"publish_{way}{end}": value for way in ("in", "out") for end, value in (("", 0), ("_details", 0.0))})
    eventually(rates, "rates", 60)
    stats = ADMIN.get(path)["message_stats"]
    assert 0 < stats["publish_out"] <= stats["publish_in"], stats
    listed = named(ADMIN.get("/api/exchanges?msg_rates_age=60&msg_rates_incr=5"), exchange)["message_stats"]
    equal(len(listed["publish_in_details"]["samples"]), 13)
    if not RABBITMQ:
        channel.queue_declare(name, passive=True)
        stats = ADMIN.get(path)["message_stats"]
        equal(stats["publish_in"], 2 * stats["publish_out"])


@case
def default_binding_listed():
    channel, name = declared()
    found = ADMIN.get(queue(name) + "/bindings")
    expected = {
        "source": "",
        "vhost": "/",
        "destination": name,
        "destination_type": "queue",
        "routing_key": name,
        "arguments": {},
        "properties_key": name,
    }
    equal(found, [expected])


@case
def binding_args_get_distinct_keys():
    channel, name = declared()
    exchange, other = unique("x"), unique("y")
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    channel.exchange_declare(other, "fanout", auto_delete=True)
    channel.exchange_bind(other, exchange, "to.y")
    channel.queue_bind(name, exchange, "a.#")
    channel.queue_bind(name, exchange, "")
    for value in (1, 2):
        channel.queue_bind(name, exchange, "a b", {"h": value})
    between = f"/api/bindings/%2F/e/{exchange}/q/{name}"
    found = ADMIN.get(between)
    keys = [binding["properties_key"] for binding in found]
    equal(len(set(keys)), 4)
    assert "~" in keys and "a.%23" in keys, keys
    assert sum(key.startswith("a+b~") for key in keys) == 2, keys
    for binding in found:
        equal(ADMIN.get(f"{between}/{segment(binding['properties_key'])}"), binding)
    equal(len(ADMIN.get(f"/api/exchanges/%2F/{exchange}/bindings/source")), 5)
    to = ADMIN.get(f"/api/exchanges/%2F/{other}/bindings/destination")
    equal([(b["destination_type"], b["routing_key"]) for b in to], [("exchange", "to.y")])
    equal(ADMIN.get(f"/api/bindings/%2F/e/{exchange}/e/{other}"), to)
    assert all(b in ADMIN.get("/api/bindings/%2F") for b in found)
    # This list has no pages: it is always returned whole.
    assert isinstance(ADMIN.get("/api/bindings?page=1"), list)


@case
def page_object_vs_array_without_page():
    channel, prefix = amqp.channel(), unique("pages")
    for n in range(5):
        channel.queue_declare(f"{prefix}.{n}")
    assert isinstance(ADMIN.get("/api/queues?page_size=2"), list)
    page = ADMIN.get(f"/api/queues?page=2&page_size=2&name={prefix}")
    items = page.pop("items")
    total = page.pop("total_count")
    assert total >= 5, total
    equal(page, {"filtered_count": 5, "item_count": 2, "page": 2, "page_count": 3, "page_size": 2})
    equal([q["name"] for q in items], [f"{prefix}.2", f"{prefix}.3"])
    up = ADMIN.get(f"/api/queues?page=1&name={prefix.upper()}&sort=name&sort_reverse=true&columns=name")
    equal([q["name"] for q in up["items"]], [f"{prefix}.{n}" for n in (4, 3, 2, 1, 0)])
    for kind in ("exchanges", "connections", "channels", "vhosts"):
        equal(ADMIN.get(f"/api/{kind}?page=1")["page"], 1)


@case
def keda_regex_page_count():
    channel, prefix = amqp.channel(), unique("keda")
    for n in range(3):
        channel.queue_declare(f"{prefix}.{n}")
    page = ADMIN.get(f"/api/queues?page=1&use_regex=true&pagination=false&name=%5E{prefix}%5C.%5B01%5D%24&page_size=100")
    equal((page["page_count"], page["filtered_count"]), (1, 2))
    if not RABBITMQ:
        assert {"messages", "messages_ready"} <= page["items"][0].keys()
        equal(page["items"][0]["message_stats"]["publish_details"]["rate"], 0.0)
        equal(page["items"][0]["message_stats"]["deliver_get_details"]["rate"], 0.0)


@case
def page_size_over_500_400_and_page_past_end_400():
    for query, error in (
        ("page=1&page_size=501", "invalid_pagination_parameters"),
        ("page=0", "invalid_pagination_parameters"),
        ("page=1000000", "page_out_of_range"),
        ("page=x", "bad_request"),
        ("page=1&use_regex=true&name=(", "bad_request"),
    ):
        answer = ADMIN.ask("GET", f"/api/queues?{query}")
        equal((answer.status, answer.json["error"]), (400, error), query)
        assert isinstance(answer.reason, str)


@case(differs="rabbitmq")
def columns_dotted_projection():
    _, name = declared()
    found = ADMIN.get(queue(name) + "?columns=name,message_stats.publish_details.rate")
    equal(found, {"name": name, "message_stats": {"publish_details": {"rate": 0.0}}})
    listed = named(ADMIN.get("/api/queues?columns=name,message_stats.publish_details.rate,arguments.x-max-length"), name)
    equal(listed, {"name": name, "message_stats": {"publish_details": {"rate": 0.0}}, "arguments": {}})
    equal(ADMIN.get("/api/overview?columns=queue_totals.messages").keys(), {"queue_totals"})


@case
def lists_that_cost_little():
    _, name = declared()
    totals = named(ADMIN.get("/api/queues?disable_stats=true&enable_queue_totals=true"), name)
    expected = {"arguments", "auto_delete", "durable", "exclusive", "messages", "messages_ready", "messages_unacknowledged"}
    equal(totals.keys(), expected | {"name", "node", "state", "type", "vhost"})
    assert "messages" not in named(ADMIN.get("/api/queues?disable_stats=true"), name)


@case(differs="rabbitmq")
def rates_present_on_idle_broker():
    overview = ADMIN.get("/api/overview")
    for key in NODE_STATS:
        assert isinstance(overview["message_stats"][key], int), key
        assert isinstance(overview["message_stats"][f"{key}_details"]["rate"], float), key
    _, name = declared()
    stats = ADMIN.get(queue(name))["message_stats"]
    equal((stats["publish"], stats["publish_details"]["rate"]), (0, 0.0))


@case
def samples_newest_first_age_over_incr_plus_one():
    channel, name = declared()
    channel.basic_publish("", name, b"x")
    path = queue(name) + "?lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=20"
    details = eventually(lambda: ADMIN.get(path).get("messages_details"), "details")
    samples = details["samples"]
    equal(len(samples), 13)
    times = [sample["timestamp"] for sample in samples]
    equal(times, [times[0] - n * 5000 for n in range(13)])
    equal(times[0] % 5000, 0)
    assert {"avg", "avg_rate", "rate"} <= details.keys()
    overview = ADMIN.get("/api/overview?lengths_age=600&lengths_incr=5&columns=queue_totals.messages_details")
    equal(len(overview["queue_totals"]["messages_details"]["samples"]), 121)
    junk = ADMIN.get("/api/overview?lengths_age=60&lengths_incr=x&columns=queue_totals.messages_details")
    # Until it has been sampled twice, the rate is marked as unknown.
    equal(junk["queue_totals"]["messages_details"].keys() - {"unknown"}, {"rate"})


@case
def a_rate_is_shown_within_some_seconds():
    channel, name = declared()
    ADMIN.get(queue(name))

    def rate():
        for _ in range(50):
            channel.basic_publish("", name, b"x")
        stats = ADMIN.get(queue(name)).get("message_stats", {})
        time.sleep(0.05)
        return stats.get("publish_details", {}).get("rate", 0) > 0

    eventually(rate, "a rate", 60)
    overview = ADMIN.get("/api/overview")["message_stats"]
    assert overview["publish"] > 0


@case
def node_has_being_drained_and_string_pid():
    found = ADMIN.get("/api/nodes")[0]
    assert isinstance(found["os_pid"], str) and isinstance(found["uptime"], int) and found["running"] is True
    if not RABBITMQ:
        equal(found["being_drained"], False)
    for key in "mem_used mem_limit fd_used fd_total sockets_total disk_free disk_free_limit proc_used proc_total processors".split():
        assert isinstance(found[key], int) and (found[key] > 0 or key == "disk_free"), key
    for key in ("mem_alarm", "disk_free_alarm"):
        assert isinstance(found[key], bool), key
    equal(ADMIN.get(f"/api/nodes/{segment(found['name'])}")["name"], found["name"])
    memory = ADMIN.get(f"/api/nodes/{segment(found['name'])}/memory")["memory"]
    assert memory["total"]["rss"] > 0
    if not RABBITMQ:
        ADMIN.get("/api/nodes/nobody", expect=404)


@case
def management_user_nodes_401():
    manager = user(unique("manager"), "management", ["/"])
    answer = manager.ask("GET", "/api/nodes")
    equal((answer.status, answer.reason), (401, "Not monitor user"))
    assert user(unique("monitor"), "monitoring").get("/api/nodes")


@case
def management_user_sees_its_vhosts_and_its_own_connections():
    vhost, name = unique("v"), unique("manager")
    ADMIN.put(f"/api/vhosts/{vhost}")
    ADMIN.put(f"/api/permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    manager = user(name, "management", [vhost])
    other = amqp.connect(virtual_host=vhost)
    other.channel().queue_declare("there")
    mine = amqp.connect(virtual_host=vhost, credentials=pika.PlainCredentials(name, "s3cret"))
    mine.channel()
    _, elsewhere = declared()
    equal([q["name"] for q in manager.get("/api/queues")], ["there"])
    answer = manager.ask("GET", queue(elsewhere))
    equal((answer.status, answer.reason), (401, "User not authorised to access virtual host"))
    owners = eventually(lambda: [c["user"] for c in manager.get("/api/connections")], "its connection")
    equal(owners, [name])
    eventually(lambda: len(ADMIN.get(f"/api/vhosts/{vhost}/connections")) == 2, "both")
    eventually(lambda: {c["user"] for c in manager.get("/api/channels")} == {name}, "its channel")
    overview = manager.get("/api/overview")
    equal(overview["object_totals"]["queues"], 1)
    assert "listeners" not in overview
    other.close()
    mine.close()
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def an_amqp_connection_and_its_channels_are_shown():
    label = unique("app")
    connection = amqp.connect(client_properties={"connection_name": label})
    first, second = connection.channel(), connection.channel()
    first.confirm_delivery()
    second.basic_qos(prefetch_count=7)
    second.tx_select()
    declared = second.queue_declare("", exclusive=True).method.queue
    second.basic_consume(declared, lambda *_: None, consumer_tag=label)

    def mine():
        found = [c for c in ADMIN.get("/api/connections") if c.get("user_provided_name") == label]
        return found[0] if found and found[0].get("channels") == 2 else None

    found = eventually(mine, "the connection")
    equal((found["protocol"], found["user"], found["vhost"], found["state"]), ("AMQP 0-9-1", "guest", "/", "running"))
    equal((found["auth_mechanism"], found["ssl"], found["type"]), ("PLAIN", False, "network"))
    equal((found["channel_max"], found["frame_max"]), (2047, 131072))
    equal(found["name"], f"127.0.0.1:{found['peer_port']} -> 127.0.0.1:{found['port']}")
    equal(found["client_properties"]["connection_name"], label)
    assert abs(found["connected_at"] / 1000 - time.time()) < 120, found["connected_at"]
    for key in ("recv_oct", "send_oct", "recv_cnt", "send_cnt", "timeout"):
        assert isinstance(found[key], int), key
    path = f"/api/connections/{segment(found['name'])}"
    equal(ADMIN.get(path)["name"], found["name"])
    def both():
        channels = ADMIN.get(path + "/channels")
        return channels if len(channels) == 2 and channels[1].get("transactional") else None

    one, two = eventually(both, "both channels")
    equal((one["name"], one["number"], one["confirm"], one["transactional"]), (found["name"] + " (1)", 1, True, False))
    equal((two["prefetch_count"], two["confirm"], two["transactional"]), (7, False, True))
    equal(one["connection_details"]["name"], found["name"])
    shown = ADMIN.get(f"/api/channels/{segment(two['name'])}")
    equal([(c["consumer_tag"], c["prefetch_count"]) for c in shown["consumer_details"]], [(label, 7)])
    equal(ADMIN.get(f"/api/channels/{segment(one['name'])}")["consumer_details"], [])
    for key in """consumer_count messages_unacknowledged messages_unconfirmed messages_uncommitted acks_uncommitted
            global_prefetch_count""".split():
        equal(one[key], 0, key)
    equal(ADMIN.get(f"/api/channels/{segment(one['name'])}")["name"], one["name"])
    connection.close()


@case(differs="rabbitmq")
def mqtt_connection_row_complete():
    name = unique("dev")
    client = Client(client_id=name)
    client.subscribe("api/+/x/#", 1)
    found = next(c for c in ADMIN.get("/api/connections") if c.get("variable_map", {}).get("client_id") == name)
    assert found["protocol"].startswith("MQTT "), found["protocol"]
    equal(found["channels"], 1)
    equal(found["client_properties"]["product"], "MQTT client")
    equal(found["client_properties"]["client_id"], name)
    session = ADMIN.get(queue(f"mqtt-subscription-{name}"))
    equal((session["consumers"], session["vhost"]), (1, "/"))
    bindings = ADMIN.get(queue(f"mqtt-subscription-{name}") + "/bindings")
    equal([(b["source"], b["routing_key"]) for b in bindings], [("amq.topic", "api.*.x.#")])
    channels = ADMIN.get(f"/api/connections/{segment(found['name'])}/channels")
    equal([c["number"] for c in channels], [1])


@case
def an_exclusive_queue_names_its_owner():
    channel, name = amqp.channel(), unique("mine")
    channel.queue_declare(name, exclusive=True)
    found = shown(name, lambda q: "name" in q.get("owner_pid_details", []))
    equal(found["exclusive"], True)
    assert found["owner_pid_details"]["name"] in [c["name"] for c in ADMIN.get("/api/connections")]


@case
def closing_a_connection_sends_the_reason_to_its_client():
    label = unique("closed")
    connection = amqp.connect(client_properties={"connection_name": label})
    mine = lambda: [c["name"] for c in ADMIN.get("/api/connections") if c.get("user_provided_name") == label]  # noqa: E731
    name = eventually(mine, "the connection")[0]
    manager = user(unique("manager"), "management", ["/"])
    assert manager.ask("DELETE", f"/api/connections/{segment(name)}").status in (401, 404)
    answer = ADMIN.ask("DELETE", f"/api/connections/{segment(name)}", headers={"x-reason": "time for maintenance"})
    equal((answer.status, answer.body), (204, b""))
    try:
        while True:
            connection.process_data_events(1)
    except pika.exceptions.ConnectionClosedByBroker as closed:
        equal((closed.reply_code, closed.reply_text), (320, "CONNECTION_FORCED - time for maintenance"))
    eventually(lambda: not mine(), "its end")
    equal(ADMIN.ask("DELETE", f"/api/connections/{segment(name)}").status, 404)


@case
def integers_never_floats_and_timestamps_milliseconds():
    channel, name = declared()
    channel.basic_publish("", name, b"x")
    allowed = ("rate", "avg", "avg_rate", "consumer_utilisation", "consumer_capacity")
    ours = ("/api/overview", "/api/connections", "/api/channels", queue(name), "/api/vhosts", "/api/consumers")
    for path in ours + (() if RABBITMQ else ("/api/nodes",)):
        found = [at for at in floats(ADMIN.get(path)) if not at.endswith(allowed)]
        found = [at for at in found if "backing_queue_status" not in at]
        equal(found, [], path)


@case
def overview_says_what_it_is():
    overview = ADMIN.get("/api/overview")
    for key in """management_version rabbitmq_version product_name product_version erlang_version cluster_name node rates_mode
            exchange_types message_stats churn_rates queue_totals object_totals statistics_db_event_queue listeners
            contexts""".split():
        assert key in overview, key
    assert overview["rabbitmq_version"].replace(".", "").isdigit()
    assert {"amqp", "mqtt", "http"} <= {listener["protocol"] for listener in overview["listeners"]}
    assert {"channels", "connections", "consumers", "exchanges", "queues"} <= overview["object_totals"].keys()
    equal(ADMIN.get("/api/cluster-name"), {"name": overview["cluster_name"]})
    assert isinstance(ADMIN.get("/api/extensions"), list) and isinstance(ADMIN.get("/api/feature-flags"), list)


@case
def opened_and_closed_objects_are_counted():
    def churn():
        rates = ADMIN.get("/api/overview")["churn_rates"]
        assert all(isinstance(rates[f"{key}_details"]["rate"], (int, float)) for key in rates if not key.endswith("_details"))
        return {key: value for key, value in rates.items() if not key.endswith("_details")}

    before = churn()
    connection = amqp.connect()
    channel, name = connection.channel(), unique("churn")
    for _ in range(3):
        channel.queue_declare(name)
    channel.queue_delete(name)
    channel.close()
    connection.close()
    expected = {
        "connection_created": 1,
        "connection_closed": 1,
        "channel_created": 1,
        "channel_closed": 1,
        "queue_declared": 3,
        "queue_created": 1,
        "queue_deleted": 1,
    }

    def counted():
        now = churn()
        return all(now[key] - before[key] >= count for key, count in expected.items())

    eventually(counted, f"{expected} more than {before}", 30)
    now = churn()
    if not RABBITMQ:
        # The object existed both times, so it was not created.
        more = (now["queue_declared"] - now["queue_created"]) - (before["queue_declared"] - before["queue_created"])
        assert more >= 2, (before, now)
        nodes = ADMIN.get("/api/nodes")[0]
        assert nodes["channel_created"] >= now["channel_created"] and "queue_declared_details" in nodes, nodes


@case
def health_checks_are_green():
    for path in (
        "healthchecks/node",
        "aliveness-test/%2F",
        "health/checks/alarms",
        "health/checks/local-alarms",
        f"health/checks/port-listener/{MANAGEMENT}",
        "health/checks/protocol-listener/amqp",
        "health/checks/virtual-hosts",
        "health/checks/certificate-expiration/1/months",
        "health/checks/node-is-quorum-critical",
    ):
        equal(ADMIN.get(f"/api/{path}")["status"], "ok", path)
    missing = ADMIN.ask("GET", "/api/health/checks/port-listener/1")
    equal((missing.status, missing.json["status"], missing.json["missing"]), (503, "failed", 1))
    missing = ADMIN.ask("GET", "/api/health/checks/protocol-listener/gopher")
    equal((missing.status, missing.json["missing"]), (503, "gopher"))
    for bad in ("port-listener/x", "certificate-expiration/1/ages"):
        equal(ADMIN.ask("GET", f"/api/health/checks/{bad}").status, 400, bad)


@case
def vhosts_count_what_is_in_them():
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}", {"description": "a plant", "tags": "a,b"})
    found = ADMIN.get(f"/api/vhosts/{vhost}")
    equal((found["name"], found["description"], found["tags"], found["tracing"]), (vhost, "a plant", ["a", "b"], False))
    equal(found["metadata"]["description"], "a plant")
    equal(list(found["cluster_state"].values()), ["running"])
    if not RABBITMQ:
        equal((found["messages"], found["message_stats"]["publish"]), (0, 0))
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def many_names_sort_by_number():
    channel, prefix = amqp.channel(), unique("sort")
    for n, count in enumerate((2, 0, 1)):
        channel.queue_declare(f"{prefix}.{n}")
        for _ in range(count):
            channel.basic_publish("", f"{prefix}.{n}", b"x")

    def order():
        page = ADMIN.get(f"/api/queues?page=1&name={prefix}&sort=messages&sort_reverse=true&columns=name,messages")
        return [q["name"][-1] for q in page["items"]] == ["0", "2", "1"]

    eventually(order, "the order")


if __name__ == "__main__":
    main()
