"""What the management API changes: policies, queues, exchanges, bindings, messages, definitions."""

import base64
import hashlib
import json
import os

from harness import case, equal, eventually, main, unique
from management import ADMIN, Api, segment, user

HERE = os.path.dirname(os.path.abspath(__file__))


def queue(**body):
    name = unique()
    ADMIN.put(f"/api/queues/%2F/{name}", body)
    return name


def publish(exchange, key, payload="m", encoding="string", properties=None, api=ADMIN, expect=200):
    body = {"properties": properties or {}, "routing_key": key, "payload": payload, "payload_encoding": encoding}
    return api.post(f"/api/exchanges/%2F/{exchange}/publish", body, expect=expect).json


def fetch(name, count=10, ackmode="ack_requeue_false", encoding="auto", **more):
    body = {"count": count, "ackmode": ackmode, "encoding": encoding, **more}
    return ADMIN.post(f"/api/queues/%2F/{segment(name)}/get", body).json


def payloads(name, **more):
    return [message["payload"] for message in fetch(name, **more)]


@case
def put_queue_201_then_204():
    name = unique()
    body = {"durable": True, "arguments": {"x-max-length": 10}}
    ADMIN.put(f"/api/queues/%2F/{name}", body, expect=201)
    ADMIN.put(f"/api/queues/%2F/{name}", body, expect=204)
    ADMIN.delete(f"/api/queues/%2F/{name}")
    ADMIN.delete(f"/api/queues/%2F/{name}", expect=404)


@case
def put_queue_inequivalent_400():
    name = queue(durable=True)
    answer = ADMIN.ask("PUT", f"/api/queues/%2F/{name}", {"durable": False})
    equal(answer.status, 400)
    equal(
        answer.reason,
        f"inequivalent arg 'durable' for queue '{name}' in vhost '/': received 'false' but current is 'true'",
    )


@case
def put_queue_empty_body_is_not_durable():
    name = unique()
    ADMIN.put(f"/api/queues/%2F/{name}", "", expect=201)
    ADMIN.put(f"/api/queues/%2F/{name}", {"durable": False}, expect=204)
    ADMIN.put(f"/api/queues/%2F/{name}", {"durable": True}, expect=400)


@case
def string_booleans_and_counts_accepted():
    name = unique()
    body = {"durable": "true", "auto_delete": "false", "arguments": []}
    ADMIN.put(f"/api/queues/%2F/{name}", body, expect=201)
    ADMIN.put(f"/api/queues/%2F/{name}", {"durable": True}, expect=204)
    publish("amq.default", name)
    equal(len(fetch(name, count="1")), 1)
    answer = ADMIN.ask("PUT", f"/api/queues/%2F/{unique()}", {"durable": "maybe"})
    equal(answer.status, 400)


@case
def queue_name_with_slash_and_space():
    name = unique("a/b c")
    ADMIN.put(f"/api/queues/%2F/{segment(name)}", {}, expect=201)
    publish("amq.default", name, "x")
    equal(payloads(name), ["x"])
    ADMIN.delete(f"/api/queues/%2F/{segment(name)}")


@case
def unknown_vhost_put_404():
    for path in ("queues/nowhere/q", "exchanges/nowhere/x"):
        equal(ADMIN.ask("PUT", f"/api/{path}", {"type": "direct"}).status, 404, path)


@case
def amq_prefix_declare_refused():
    equal(ADMIN.ask("PUT", "/api/queues/%2F/amq.mine", {}).status, 401)
    equal(ADMIN.ask("PUT", "/api/exchanges/%2F/amq.mine", {"type": "topic"}).status, 401)
    equal(ADMIN.ask("DELETE", "/api/exchanges/%2F/amq.topic").status, 401)


@case
def delete_if_unused_if_empty_400():
    name = queue()
    publish("amq.default", name)
    answer = ADMIN.ask("DELETE", f"/api/queues/%2F/{name}?if-empty=true")
    equal(answer.status, 400)
    assert "not empty" in answer.reason, answer.reason
    ADMIN.delete(f"/api/queues/%2F/{name}?if-unused=true")
    exchange, name = unique("x"), queue()
    ADMIN.put(f"/api/exchanges/%2F/{exchange}", {"type": "fanout"}, expect=201)
    ADMIN.post(f"/api/bindings/%2F/e/{exchange}/q/{name}", {})
    answer = ADMIN.ask("DELETE", f"/api/exchanges/%2F/{exchange}?if-unused=true")
    equal(answer.status, 400)
    assert "in use" in answer.reason, answer.reason
    ADMIN.delete(f"/api/exchanges/%2F/{exchange}")
    ADMIN.delete(f"/api/exchanges/%2F/{exchange}", expect=404)


@case
def an_unknown_exchange_type_400():
    answer = ADMIN.ask("PUT", f"/api/exchanges/%2F/{unique('x')}", {"type": "nosuch"})
    equal(answer.status, 400)
    assert answer.reason.endswith("exchange type 'nosuch'"), answer.reason


@case(differs="rabbitmq")
def names_and_keys_that_amqp_cannot_say_400():
    long, name = "x" * 256, queue()
    equal(ADMIN.ask("PUT", f"/api/queues/%2F/{long}", {}).status, 400)
    equal(ADMIN.ask("PUT", f"/api/exchanges/%2F/{long}", {"type": "direct"}).status, 400)
    equal(ADMIN.ask("POST", f"/api/bindings/%2F/e/amq.direct/q/{name}", {"routing_key": long}).status, 400)
    message = {"properties": {}, "routing_key": name, "payload": "x", "payload_encoding": "string"}

    def refused(exchange, **changes):
        answer = ADMIN.ask("POST", f"/api/exchanges/%2F/{exchange}/publish", {**message, **changes})
        equal(answer.status, 400)
        return answer.reason

    equal(refused(long), "exchange: at most 255 bytes")
    equal(refused("amq.default", routing_key=long), "routing_key: at most 255 bytes")
    shorts = "content_type content_encoding correlation_id reply_to message_id type app_id user_id".split()
    for field in shorts:
        equal(refused("amq.default", properties={field: long}), f"{field}: at most 255 bytes")
    at_most = {field: "x" * 255 for field in shorts if field != "user_id"}
    publish("amq.default", name, properties=at_most)
    [got] = fetch(name)
    equal({field: got["properties"].get(field) for field in at_most}, at_most)


@case
def purge_drops_what_waits():
    name = queue()
    publish("amq.default", name)
    ADMIN.delete(f"/api/queues/%2F/{name}/contents")
    equal(payloads(name), [])
    ADMIN.delete(f"/api/queues/%2F/{unique()}/contents", expect=404)


@case
def binding_post_201_location_properties_key():
    name = queue()
    answer = ADMIN.post(f"/api/bindings/%2F/e/amq.topic/q/{name}", {"routing_key": "a b.#"}, expect=201)
    equal(answer.headers["location"], f"{name}/a%2Bb.%2523")
    publish("amq.topic", "a b.c", "x")
    equal(payloads(name), ["x"])
    ADMIN.delete(f"/api/bindings/%2F/e/amq.topic/q/{answer.headers['location']}")
    equal(publish("amq.topic", "a b.c")["routed"], False)
    ADMIN.delete(f"/api/bindings/%2F/e/amq.topic/q/{answer.headers['location']}", expect=404)


@case
def binding_delete_tilde():
    name = queue()
    answer = ADMIN.post(f"/api/bindings/%2F/e/amq.fanout/q/{name}", {}, expect=201)
    equal(answer.headers["location"], f"{name}/~")
    ADMIN.delete(f"/api/bindings/%2F/e/amq.fanout/q/{name}/~")
    ADMIN.post(f"/api/bindings/%2F/e/nosuch/q/{name}", {}, expect=404)


@case
def binding_args_get_distinct_keys():
    name = queue()
    keys = set()
    for arguments in ({}, {"h": 1, "x-match": "any"}, {"h": 2, "x-match": "any"}):
        body = {"routing_key": "k", "arguments": arguments}
        answer = ADMIN.post(f"/api/bindings/%2F/e/amq.headers/q/{name}", body, expect=201)
        keys.add(answer.headers["location"])
    equal(len(keys), 3)
    for key in keys:
        ADMIN.delete(f"/api/bindings/%2F/e/amq.headers/q/{key}")


@case
def an_exchange_is_bound_to_an_exchange():
    source, name = unique("x"), queue()
    ADMIN.put(f"/api/exchanges/%2F/{source}", {"type": "direct"})
    target = unique("x")
    ADMIN.put(f"/api/exchanges/%2F/{target}", {"type": "fanout"})
    ADMIN.post(f"/api/bindings/%2F/e/{source}/e/{target}", {"routing_key": "k"}, expect=201)
    ADMIN.post(f"/api/bindings/%2F/e/{target}/q/{name}", {}, expect=201)
    equal(publish(source, "k")["routed"], True)
    ADMIN.delete(f"/api/bindings/%2F/e/{source}/e/{target}/k")
    equal(publish(source, "k")["routed"], False)


@case
def publish_routed_false_when_unroutable():
    equal(publish("amq.default", queue()), {"routed": True})
    equal(publish("amq.default", unique()), {"routed": False})
    equal(ADMIN.ask("POST", "/api/exchanges/%2F/amq.default/publish", {"routing_key": "x"}).status, 400)


@case
def publish_base64_roundtrip():
    name = queue()
    octets = bytes(range(256))
    publish("amq.default", name, base64.b64encode(octets).decode(), "base64")
    [message] = fetch(name)
    equal((message["payload_encoding"], base64.b64decode(message["payload"])), ("base64", octets))
    equal(message["payload_bytes"], 256)


@case
def get_auto_switches_to_base64():
    name = queue()
    publish("amq.default", name, "hé")
    publish("amq.default", name, "/w==", "base64")
    got = fetch(name)
    equal([(m["payload"], m["payload_encoding"]) for m in got], [("hé", "string"), ("/w==", "base64")])
    equal([m["message_count"] for m in got], [1, 0])
    publish("amq.default", name, "x")
    equal(payloads(name, encoding="base64"), ["eA=="])


@case
def get_truncate_keeps_payload_bytes():
    name = queue()
    publish("amq.default", name, "0123456789")
    [message] = fetch(name, truncate=4)
    equal((message["payload"], message["payload_bytes"]), ("0123", 10))


@case
def get_requeue_keeps_order_sets_redelivered():
    name = queue()
    for body in "abc":
        publish("amq.default", name, body)
    for mode in ("ack_requeue_true", "reject_requeue_true"):
        equal(payloads(name, ackmode=mode), ["a", "b", "c"])
    got = fetch(name)
    equal([(m["payload"], m["redelivered"]) for m in got], [("a", True), ("b", True), ("c", True)])
    equal(fetch(name), [])


@case
def get_reject_without_requeue_dead_letters():
    dead = queue()
    name = queue(arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    publish("amq.default", name, "x")
    equal(payloads(name, ackmode="reject_requeue_false"), ["x"])
    [message] = eventually(lambda: fetch(dead))
    equal(message["properties"]["headers"]["x-death"][0]["reason"], "rejected")


@case(differs="rabbitmq")
def get_with_wrong_arguments_400():
    name = queue()
    for body in (
        {"count": 1, "ackmode": "nosuch", "encoding": "auto"},
        {"count": 1, "ackmode": "ack_requeue_true", "encoding": "nosuch"},
        {"ackmode": "ack_requeue_true", "encoding": "auto"},
        {"count": 1, "encoding": "auto"},
    ):
        answer = ADMIN.ask("POST", f"/api/queues/%2F/{name}/get", body)
        equal(answer.status, 400, body)
        assert isinstance(answer.reason, str)


@case
def properties_come_back_as_they_were_published():
    name = queue()
    properties = {
        "delivery_mode": 2, "priority": 3, "content_type": "text/plain", "correlation_id": "c", "reply_to": "r",
        "message_id": "m", "timestamp": 1700000000, "type": "t", "app_id": "a", "headers": {"n": 1, "s": "x", "b": True},
    }
    publish("amq.default", name, properties=properties)
    [message] = fetch(name)
    equal(message["properties"], properties)


@case(differs="rabbitmq")
def properties_of_the_wrong_type_400():
    name = queue()
    for wrong in ({"priority": 300}, {"content_type": 5}, {"headers": "x"}, {"expiration": "soon"}):
        publish("amq.default", name, properties=wrong, expect=400)
    publish("amq.default", name, properties=[])


@case
def rights_of_the_caller_count():
    name, queue_name = unique("u"), queue()
    api = user(name, "management")
    ADMIN.put(f"/api/permissions/%2F/{name}", {"configure": "^$", "write": "^$", "read": "^$"})
    body = {"properties": {}, "routing_key": queue_name, "payload": "m", "payload_encoding": "string"}
    for method, path, sent in (
        ("PUT", f"/api/queues/%2F/{unique()}", {}),
        ("DELETE", f"/api/queues/%2F/{queue_name}", None),
        ("POST", "/api/exchanges/%2F/amq.direct/publish", body),
        ("POST", f"/api/queues/%2F/{queue_name}/get", {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}),
        ("DELETE", f"/api/queues/%2F/{queue_name}/contents", None),
        ("POST", f"/api/bindings/%2F/e/amq.direct/q/{queue_name}", {}),
    ):
        answer = api.ask(method, path, sent)
        assert answer.status in (400, 401) and answer.status != 403, (path, answer.status, answer.body)
    other = user(unique("u"), "management")
    answer = other.ask("PUT", f"/api/queues/%2F/{unique()}", {})
    equal((answer.status, answer.reason), (401, "User not authorised to access virtual host"))


@case
def policy_put_201_then_204_and_takes_hold():
    prefix = unique("p")
    name = queue()
    ADMIN.put(f"/api/queues/%2F/{prefix}.q", {"durable": True})
    for body in "abc":
        publish("amq.default", f"{prefix}.q", body)
    policy = {"pattern": f"^{prefix}\\.", "definition": {"max-length": 1}, "apply-to": "queues", "priority": 1}
    ADMIN.put(f"/api/policies/%2F/{prefix}", policy, expect=201)
    ADMIN.put(f"/api/policies/%2F/{prefix}", policy, expect=204)
    equal(ADMIN.get(f"/api/policies/%2F/{prefix}"), {"vhost": "/", "name": prefix, **policy})
    assert ADMIN.get(f"/api/policies/%2F/{prefix}") in ADMIN.get("/api/policies")
    assert ADMIN.get(f"/api/policies/%2F/{prefix}") in ADMIN.get("/api/policies/%2F")
    last = lambda: payloads(f"{prefix}.q", ackmode="ack_requeue_true") == ["c"]
    eventually(last)
    ADMIN.delete(f"/api/policies/%2F/{prefix}")
    ADMIN.delete(f"/api/policies/%2F/{prefix}", expect=404)
    ADMIN.get(f"/api/policies/%2F/{prefix}", expect=404)
    ADMIN.delete(f"/api/queues/%2F/{name}")


@case
def policy_invalid_key_400():
    def refused(kind="policies", **policy):
        answer = ADMIN.ask("PUT", f"/api/{kind}/%2F/{unique('p')}", {"pattern": "^none$", **policy})
        equal(answer.status, 400, policy)
        return answer.reason.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')

    equal(
        refused(definition={"foo": 1, "bar": "x"}),
        'Validation failed\n\n[{<<"bar">>,<<"x">>},{<<"foo">>,1}] are not recognised policy settings\n',
    )
    equal(refused(definition={"max-length": -5}), "Validation failed\n\n-5 is not a valid maximum length\n")
    equal(refused(definition={"expires": 0}), "Validation failed\n\n0 is not a valid queue expiry\n")
    equal(refused(definition={"overflow": "x"}), 'Validation failed\n\n<<"x">> is not a valid overflow value\n')
    equal(refused(definition={}), "Validation failed\n\nno policy provided\n")
    for wrong in ({"definition": {"max-length": 1}, "apply-to": "nothing"}, {"definition": {"max-length": 1}, "priority": "1"}):
        assert refused(**wrong).startswith("Validation failed\n\n"), wrong
    assert "key_missing" in refused()
    equal(
        refused("operator-policies", definition={"dead-letter-exchange": "x"}),
        'Validation failed\n\n[{<<"dead-letter-exchange">>,<<"x">>}] are not recognised policy settings\n',
    )
    answer = ADMIN.ask("PUT", f"/api/policies/%2F/{unique('p')}", {"pattern": "(", "definition": {"max-length": 1}})
    equal(answer.status, 400)
    assert answer.reason.startswith("Validation failed\n\npattern should be regular expression but is invalid:")


@case
def operator_policies_are_an_administrators():
    name, prefix = unique("u"), unique("p")
    maker = user(name, "policymaker", ["/"])
    policy = {"pattern": f"^{prefix}", "definition": {"max-length": 9}, "apply-to": "queues", "priority": 0}
    maker.put(f"/api/policies/%2F/{prefix}", policy, expect=201)
    equal(maker.ask("PUT", f"/api/operator-policies/%2F/{prefix}", policy).status, 401)
    ADMIN.put(f"/api/operator-policies/%2F/{prefix}", policy, expect=201)
    maker.delete(f"/api/policies/%2F/{prefix}")
    ADMIN.delete(f"/api/operator-policies/%2F/{prefix}")
    manager = user(unique("u"), "management", ["/"])
    equal(manager.ask("PUT", f"/api/policies/%2F/{prefix}", policy).status, 401)
    elsewhere = user(unique("u"), "policymaker")
    equal(elsewhere.ask("PUT", f"/api/policies/%2F/{prefix}", policy).status, 401)


@case
def global_parameters_are_kept_and_unknown_components_refused():
    name = unique("g")
    ADMIN.put(f"/api/global-parameters/{name}", {"value": {"a": 1}}, expect=201)
    ADMIN.put(f"/api/global-parameters/{name}", {"value": [1, "x"]}, expect=204)
    equal(ADMIN.get(f"/api/global-parameters/{name}"), {"name": name, "value": [1, "x"]})
    assert {"name": name, "value": [1, "x"]} in ADMIN.get("/api/global-parameters")
    ADMIN.delete(f"/api/global-parameters/{name}")
    ADMIN.get(f"/api/global-parameters/{name}", expect=404)
    answer = ADMIN.ask("PUT", "/api/parameters/nosuch/%2F/x", {"value": 1})
    equal((answer.status, answer.reason), (400, "Validation failed\n\ncomponent nosuch not found\n"))


def rabbit_hash(password, algorithm):
    salt = b"\x90\x8d\xc6\x0a"
    return base64.b64encode(salt + hashlib.new(algorithm, salt + password.encode()).digest()).decode()


@case
def definitions_import_rabbitmq_password_hash_logs_in():
    users = []
    for algorithm in ("sha256", "sha512"):
        users.append({
            "name": unique("u"), "password_hash": rabbit_hash("s3cret", algorithm),
            "hashing_algorithm": f"rabbit_password_hashing_{algorithm}", "tags": ["management"],
        })
    ADMIN.post("/api/definitions", {"users": users}, expect=204)
    for one in users:
        equal(Api(one["name"], "s3cret").get("/api/whoami")["tags"], ["management"])
        equal(Api(one["name"], "wrong").ask("GET", "/api/whoami").status, 401)


@case(differs="rabbitmq")
def definitions_of_rabbitmq_3_10_take_hold_and_come_back():
    with open(os.path.join(HERE, "rabbitmq-3.10-definitions.json"), encoding="utf-8") as file:
        text = file.read()
    ADMIN.post("/api/definitions", text, expect=204)
    document, exported = json.loads(text), ADMIN.get("/api/definitions")
    for part in ("permissions", "queues", "exchanges", "bindings", "policies", "parameters"):
        ours = [one for one in exported[part] if one.get("vhost") == "plant"]
        theirs = [one for one in document[part] if one["vhost"] == "plant"]
        order = lambda one: json.dumps(one, sort_keys=True)
        equal(sorted(ours, key=order), sorted(theirs, key=order), part)
    # A tag as text, and a hash of SHA-512.
    equal(Api("operator", "operator").get("/api/whoami")["tags"], ["monitoring", "policymaker"])
    limits = {one["vhost"]: one["value"] for one in ADMIN.get("/api/vhost-limits")}
    equal(limits["plant"], {"max-queues": 100})
    body = {"properties": {}, "routing_key": "orders.new", "payload": "m", "payload_encoding": "string"}
    for _ in range(4):
        equal(ADMIN.post("/api/exchanges/plant/events/publish", body).json, {"routed": True})
    fetched = {"count": 9, "ackmode": "ack_requeue_true", "encoding": "auto"}
    equal(len(ADMIN.post("/api/queues/plant/orders/get", fetched).json), 3)


def exported():
    document = ADMIN.get("/api/definitions")
    return {part: ones for part, ones in document.items() if isinstance(ones, list)}


@case
def the_creator_of_a_vhost_may_do_everything_in_it():
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}", expect=201)
    everything = {"user": "guest", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}
    equal(ADMIN.get(f"/api/permissions/{vhost}/guest"), everything)
    ADMIN.put(f"/api/queues/{vhost}/q", {"durable": True}, expect=201)
    # A permission that an administrator has removed is not restored by another PUT of the vhost.
    ADMIN.delete(f"/api/permissions/{vhost}/guest", expect=204)
    ADMIN.put(f"/api/vhosts/{vhost}", expect=204)
    ADMIN.get(f"/api/permissions/{vhost}/guest", expect=404)
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def a_vhost_that_is_put_again_keeps_what_is_in_it_and_is_described_anew():
    vhost = unique("v")
    shown = lambda: ADMIN.get(f"/api/vhosts/{vhost}?columns=description,tags,metadata.description,metadata.tags")
    is_described = lambda text, tags: {"description": text, "tags": tags, "metadata": {"description": text, "tags": tags}}
    ADMIN.put(f"/api/vhosts/{vhost}", {"description": "one", "tags": "a,b"}, expect=201)
    ADMIN.put(f"/api/queues/{vhost}/q", {"durable": True}, expect=201)
    equal(shown(), is_described("one", ["a", "b"]))
    ADMIN.put(f"/api/vhosts/{vhost}", {"description": "two", "tags": ["c"]}, expect=204)
    equal(shown(), is_described("two", ["c"]))
    ADMIN.post("/api/definitions", {"vhosts": [{"name": vhost, "metadata": {"description": "three", "tags": ["d"]}}]}, expect=204)
    equal(shown(), is_described("three", ["d"]))
    # A request without them removes them, as in RabbitMQ.
    ADMIN.put(f"/api/vhosts/{vhost}", expect=204)
    equal(shown(), is_described("", []))
    ADMIN.get(f"/api/queues/{vhost}/q")
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def cc_and_bcc_route_and_bcc_is_not_shown():
    one, two, three = queue(), queue(), queue()
    publish("amq.default", one, properties={"headers": {"CC": [two], "BCC": [three], "x": 1}})
    for name in (one, two, three):
        [got] = fetch(name)
        equal(got["properties"]["headers"], {"CC": [two], "x": 1}, name)
    publish("amq.default", unique("none"), properties={"headers": {"BCC": [three]}})
    equal(fetch(three)[0]["properties"].get("headers", {}), {})
    for header in ("CC", "BCC"):
        publish("amq.default", one, properties={"headers": {header: three}}, expect=400)
    for name in (one, two, three):
        equal(payloads(name), [])
        ADMIN.delete(f"/api/queues/%2F/{name}")


@case
def a_message_without_properties_is_got_without_any():
    name = queue()
    publish("amq.default", name)
    [got] = fetch(name)
    equal(got["properties"], {})


@case
def a_salted_sha_512_needs_no_name():
    name, salt = unique("u"), b"salt"
    hashed = base64.b64encode(salt + hashlib.sha512(salt + b"s3cret").digest()).decode()
    ADMIN.put(f"/api/users/{name}", {"password_hash": hashed, "tags": "management"}, expect=201)
    ADMIN.delete(f"/api/users/{name}")


@case
def a_cluster_is_named_while_it_runs():
    before = ADMIN.get("/api/cluster-name")["name"]
    ADMIN.put("/api/cluster-name", {"name": "plant"}, expect=204)
    try:
        equal(ADMIN.get("/api/cluster-name"), {"name": "plant"})
        equal(ADMIN.get("/api/overview")["cluster_name"], "plant")
        assert {"name": "cluster_name", "value": "plant"} in ADMIN.get("/api/global-parameters")
        equal(ADMIN.ask("PUT", "/api/cluster-name", {}).status, 400)
    finally:
        ADMIN.put("/api/cluster-name", {"name": before}, expect=204)


@case
def limits_of_vhosts_are_parameters():
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}")
    path = f"/api/parameters/vhost-limits/{vhost}/limits"
    ADMIN.get(path, expect=404)
    ADMIN.put(path, {"value": {"max-queues": 5, "max-connections": 7}}, expect=201)
    equal(ADMIN.get(f"/api/vhost-limits/{vhost}"), [{"vhost": vhost, "value": {"max-queues": 5, "max-connections": 7}}])
    ADMIN.put(path, {"value": {"max-queues": 1}}, expect=204)
    one = {"vhost": vhost, "component": "vhost-limits", "name": "limits", "value": {"max-queues": 1}}
    equal(ADMIN.get(path), one)
    equal(ADMIN.get(f"/api/parameters/vhost-limits/{vhost}"), [one])
    assert one in ADMIN.get("/api/parameters/vhost-limits") and one in ADMIN.get("/api/parameters")
    equal(ADMIN.get(f"/api/parameters/nosuch/{vhost}"), [])
    ADMIN.put(f"/api/queues/{vhost}/q", {}, expect=201)
    equal(ADMIN.ask("PUT", f"/api/queues/{vhost}/r", {}).status, 400)
    ADMIN.delete(path)
    ADMIN.get(path, expect=404)
    ADMIN.put(f"/api/queues/{vhost}/r", {}, expect=201)
    ADMIN.delete(f"/api/vhosts/{vhost}")


@case
def rebalancing_the_queues_of_one_node_moves_nothing():
    ADMIN.post("/api/rebalance/queues", expect=204)


@case
def definitions_export_import_idempotent():
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}")
    ADMIN.put(f"/api/queues/{vhost}/q", {"durable": True, "arguments": {"x-max-length": 5, "x-overflow": "reject-publish"}})
    ADMIN.put(f"/api/exchanges/{vhost}/x", {"type": "topic", "durable": True, "internal": True})
    ADMIN.post(f"/api/bindings/{vhost}/e/x/q/q", {"routing_key": "a.#", "arguments": {"n": 1}})
    ADMIN.put(f"/api/policies/{vhost}/p", {"pattern": ".", "definition": {"max-length": 5}, "apply-to": "queues"})
    ADMIN.put(f"/api/operator-policies/{vhost}/o", {"pattern": ".", "definition": {"expires": 1000000}, "apply-to": "queues"})
    # Changes that other cases make meanwhile must not be undone.
    whole = {part: [one for one in ones if one.get("vhost") == vhost] for part, ones in exported().items()}
    ADMIN.post("/api/definitions", {**whole, "vhosts": [{"name": vhost}]}, expect=204)
    equal({part: [one for one in ones if one.get("vhost") == vhost] for part, ones in exported().items()}, whole)
    equal([len(whole[part]) for part in ("queues", "exchanges", "bindings", "policies", "parameters")], [1, 1, 1, 1, 1])
    part = ADMIN.get(f"/api/definitions/{vhost}")
    equal([one["name"] for one in part["queues"]], ["q"])
    assert not any(one["name"].startswith("amq.") for one in part["exchanges"])
    other = unique("v")
    ADMIN.put(f"/api/vhosts/{other}")
    ADMIN.put(f"/api/permissions/{other}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    ADMIN.post(f"/api/definitions/{other}", part, expect=204)
    strip = lambda document: json.loads(json.dumps(document).replace(f'"{vhost}"', '"V"').replace(f'"{other}"', '"V"'))
    equal(strip(ADMIN.get(f"/api/definitions/{other}")), strip(part))
    for name in (vhost, other):
        ADMIN.delete(f"/api/vhosts/{name}")


@case(differs="rabbitmq")
def a_hash_that_rabbitmq_cannot_read_is_exported_beside_its_own():
    name, other = unique("u"), unique("u")
    user(name, "management")
    [one] = [one for one in exported()["users"] if one["name"] == name]
    equal((one["password_hash"], one["hashing_algorithm"]), ("", "rabbit_password_hashing_sha256"))
    ADMIN.post("/api/definitions", {"users": [{**one, "name": other}]}, expect=204)
    Api(other, "s3cret").get("/api/whoami")


@case
def definitions_leave_a_queue_that_differs_as_it_is():
    name = queue(durable=True, arguments={"x-max-length": 5})
    body = {"queues": [{"name": name, "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}]}
    ADMIN.post("/api/definitions", body, expect=204)
    ADMIN.put(f"/api/queues/%2F/{name}", {"durable": True, "arguments": {"x-max-length": 5}}, expect=204)


@case(differs="rabbitmq")
def definitions_that_are_wrong_somewhere_change_nothing():
    name = unique("v")
    good = {"vhosts": [{"name": name}], "users": [{"name": name, "password": "x", "tags": ""}]}
    for wrong in (
        {"queues": [{"name": "q", "vhost": "nowhere-at-all", "durable": True}]},
        {"queues": [{"name": "q", "vhost": name, "durable": True, "arguments": {"x-max-length": "five"}}]},
        {"queues": [{"vhost": name}]},
        {"exchanges": [{"name": "x", "vhost": name, "type": "nosuch"}]},
        {"bindings": [{"source": "amq.topic", "vhost": name, "destination": "q", "destination_type": "queue"}]},
        {"policies": [{"name": "p", "vhost": name, "pattern": "(", "definition": {"max-length": 1}}]},
        {"parameters": [{"name": "p", "vhost": name, "component": "shovel", "value": {}}]},
        {"permissions": [{"user": "nobody-at-all", "vhost": name, "configure": "", "write": "", "read": ""}]},
        {"permissions": [{"user": name, "vhost": name, "configure": "(", "write": "", "read": ""}]},
        {"topic_permissions": [{"user": name, "vhost": name, "exchange": "x", "write": "^(a|b)", "read": ".*"}]},
        {"users": [{"name": "u", "password_hash": "AAAA", "hashing_algorithm": "rabbit_password_hashing_sha256"}]},
        {"vhosts": "all"},
    ):
        answer = ADMIN.ask("POST", "/api/definitions", {**good, **wrong})
        equal(answer.status, 400, wrong)
        assert isinstance(answer.reason, str) and answer.reason, wrong
        ADMIN.get(f"/api/vhosts/{name}", expect=404)
        ADMIN.get(f"/api/users/{name}", expect=404)
    answer = ADMIN.ask("POST", "/api/definitions", "{nonsense", {"content-type": "application/json"})
    equal(answer.status, 400)


@case
def definitions_multipart_upload():
    name = unique()
    document = json.dumps({"queues": [{"name": name, "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}]})
    form = (
        '--b0\r\nContent-Disposition: form-data; name="file"; filename="d.json"\r\n'
        f"Content-Type: application/json\r\n\r\n{document}\r\n--b0--\r\n"
    )
    answer = ADMIN.ask("POST", "/api/definitions", form, {"content-type": "multipart/form-data; boundary=b0"})
    equal(answer.status, 204)
    ADMIN.put(f"/api/queues/%2F/{name}", {"durable": True}, expect=204)
    answer = ADMIN.ask("GET", "/api/definitions?download=mine.json")
    assert "mine.json" in answer.headers["content-disposition"]


@case
def definitions_are_for_administrators():
    monitor = user(unique("u"), "monitoring", ["/"])
    for method in ("GET", "POST"):
        equal(monitor.ask(method, "/api/definitions", "{}").status, 401, method)


if __name__ == "__main__":
    main()
