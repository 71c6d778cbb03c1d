"""Sessions, subscriptions and retained messages of MQTT over the management API."""

import base64

import amqp
from harness import case, equal, eventually, main, unique
from management import ADMIN, segment, user
from mqtt import V5, Client

HOSTILE = ["<script>alert(1)</script>", "a/b c%2Fd?e=f&g#h;i", "\u2764\ufe0f\u202eabc", "x" * 255, "..x", "ü\u05d0\u05d1"]


def session(client, vhost="/"):
    return f"/api/gatepost/sessions/{segment(vhost)}/{segment(client)}"


def retained(topic):
    return f"/api/gatepost/retained/%2F/{segment(topic)}"


def text(payload):
    return {"payload": payload, "payload_encoding": "string"}


@case
def sessions_are_paged_and_one_is_shown_with_its_subscriptions():
    name = unique("paged")
    clients = [Client(V5, f"{name}-{n}", expiry=600) for n in range(5)]
    clients[3].subscribe([("plant/+/temp", 1), ("$share/g/plant/#", 0)])
    page = ADMIN.get(f"/api/gatepost/sessions/%2F?page=2&page_size=2&name={name}&columns=client_id,subscription_count")
    equal((page["filtered_count"], page["page_count"]), (5, 3))
    equal(page["items"], [
        {"client_id": f"{name}-2", "subscription_count": 0}, {"client_id": f"{name}-3", "subscription_count": 2},
    ])
    one = ADMIN.get(session(f"{name}-3"))
    equal((one["user"], one["connected"], one["expiry"], one["expires_at"]), ("anonymous", True, 600, None))
    equal(sorted((s["filter"], s["qos"]) for s in one["subscriptions"]), [("$share/g/plant/#", 0), ("plant/+/temp", 1)])
    whole = next(s for s in ADMIN.get("/api/gatepost/sessions/%2F") if s["client_id"] == f"{name}-3")
    equal(len(whole["subscriptions"]), 2)
    clients[3].drop()
    eventually(lambda: ADMIN.get(session(f"{name}-3"))["expires_at"], "the time at which it ends")


@case
def subscriptions_are_found_by_filter_and_by_topic():
    name = unique("found")
    client = Client(V5, f"{name}-client")
    client.subscribe([(f"{name}/+/temp", 1), (f"{name}/#", 0), (f"$share/g/{name}/1/+", 2), (f"{name}/2", 0)])
    found = ADMIN.get(f"/api/gatepost/subscriptions/%2F?page=1&name={name}")["items"]
    equal([s["filter"] for s in found], [f"$share/g/{name}/1/+", f"{name}/#", f"{name}/+/temp", f"{name}/2"])
    equal({s["client_id"] for s in found}, {f"{name}-client"})
    found = ADMIN.get(f"/api/gatepost/subscriptions/%2F?topic={name}%2F1%2Ftemp")
    equal([s["filter"] for s in found if name in s["filter"]], [f"$share/g/{name}/1/+", f"{name}/#", f"{name}/+/temp"])


@case
def ending_a_connected_session_disconnects_its_client_and_publishes_its_will():
    name = unique("ended")
    watcher = Client(V5)
    watcher.subscribe(f"will/{name}", 1)
    client = Client(V5, name, expiry=600, will={"topic": f"will/{name}", "payload": b"gone", "qos": 1})
    client.subscribe(f"x/{name}", 1)
    ADMIN.delete(session(name))
    # MQTT 5 3.14.2.1: session taken over.
    equal(client.gone(), 0x8E)
    equal(watcher.wait(1).payloads, [b"gone"])
    ADMIN.get(session(name), expect=404)
    again = Client(V5, name, clean=False, expiry=600)
    equal(again.present, False, "a session")


@case
def a_session_that_waits_goes_with_its_messages():
    for name in HOSTILE:
        name = (name + unique("!"))[-200:]
        client = Client(V5, name, expiry=600)
        client.subscribe(f"y/{unique('t')}/#", 1)
        client.drop()
        eventually(lambda: not ADMIN.get(session(name))["connected"], "away")
        ADMIN.delete(session(name))
        ADMIN.get(session(name), expect=404)
        queue = segment(f"mqtt-subscription-{name}")
        equal(ADMIN.ask("GET", f"/api/queues/%2F/{queue}").status, 404, "its queue")
    ADMIN.delete(session("nobody"), expect=404)
    ADMIN.delete(session("x", "nowhere"), expect=404)


@case
def only_its_user_and_administrators_end_a_session():
    name, mine, other = unique("own"), unique("mine"), unique("other")
    owner, stranger = user(mine, "management", ["/"]), user(other, "management", ["/"])
    Client(V5, name, expiry=600, user=(mine, "s3cret"))
    equal(stranger.ask("DELETE", session(name)).status, 401)
    equal(user(unique("out"), "management").ask("DELETE", session(name)).status, 401)
    ADMIN.get(session(name))
    owner.delete(session(name))
    ADMIN.get(session(name), expect=404)


@case
def a_retained_message_is_set_read_replaced_and_cleared():
    topic = f"house/{unique('r')}/temp"
    watcher = Client(V5)
    watcher.subscribe(topic, 1)
    ADMIN.get(retained(topic), expect=404)
    ADMIN.put(retained(topic), text("21.5"), expect=204)
    equal((watcher.wait(1).payloads, watcher.inbox[0].qos), ([b"21.5"], 1))
    found = ADMIN.get(retained(topic))
    equal((found["topic"], found["payload"], found["payload_encoding"]), (topic, "21.5", "string"))
    equal((found["payload_bytes"], found["expires_at"], found["published_at"] > 0), (4, None, True))
    ADMIN.put(retained(topic), {"payload": base64.b64encode(b"\xff\x00").decode(), "payload_encoding": "base64"})
    equal(ADMIN.get(retained(topic))["payload_encoding"], "base64")
    late = Client(V5)
    late.subscribe(topic, 1)
    equal((late.wait(1).payloads, late.inbox[0].retain), ([b"\xff\x00"], True))
    ADMIN.put(retained(topic), text("x" * 1000))
    found = ADMIN.get(retained(topic) + "?truncate=10")
    equal((found["payload"], found["payload_bytes"]), ("x" * 10, 1000))
    ADMIN.delete(retained(topic))
    ADMIN.get(retained(topic), expect=404)
    equal(ADMIN.get(f"/api/gatepost/retained/%2F?filter={segment(topic)}"), {"total": 0, "items": []})


def management_sessions():
    sessions = ADMIN.get("/api/gatepost/sessions/%2F")
    return {session["client_id"] for session in sessions if "management-api" in session["client_id"]}


@case
def what_a_device_retains_is_read_with_its_properties():
    topic = f"device/{unique('p')}"
    device = Client(V5)
    device.publish(topic, b"{}", 1, True, ContentType="application/json", MessageExpiryInterval=600)
    found = ADMIN.get(retained(topic))
    equal(found["properties"]["content_type"], "application/json")
    assert found["expires_at"] > found["published_at"], found
    # Each change by the API is made by a session of its own, which ends right after. Other cases make changes meanwhile.
    seen = management_sessions()
    eventually(lambda: not seen & management_sessions(), "the end of the sessions of the API")


@case
def retained_messages_are_paged():
    name = unique("many")
    for n in range(5):
        ADMIN.put(retained(f"{name}/{n}"), text("x" * (n + 1)))
    page = ADMIN.get(f"/api/gatepost/retained/%2F?filter={name}/%23&page=2&page_size=2")
    equal((page["filtered_count"], [r["topic"] for r in page["items"]]), (5, [f"{name}/2", f"{name}/3"]))
    largest = ADMIN.get(f"/api/gatepost/retained/%2F?filter={name}/%23&page=1&sort=bytes&sort_reverse=true")
    equal(largest["items"][0]["topic"], f"{name}/4")


@case
def topics_that_no_client_could_use_are_refused():
    for topic, why in (("a/#", "wildcards"), ("a/+/b", "wildcards"), ("a\0b", "control")):
        answer = ADMIN.ask("PUT", retained(topic), text("x"))
        equal(answer.status, 400, topic)
        assert why in answer.reason, answer.reason
        equal(ADMIN.ask("GET", retained(topic)).status, 400)
    answer = ADMIN.ask("PUT", retained("empty"), text(""))
    equal(answer.status, 400)
    assert "delete it instead" in answer.reason, answer.reason
    equal(ADMIN.ask("PUT", retained("nothing"), {}).status, 400)
    equal(ADMIN.ask("GET", retained("x") + "?truncate=y").status, 400)
    for topic in HOSTILE[:1] + ["\u2764\ufe0f/\u202eabc", "x" * 255, "ü/\u05d0\u05d1", "a%2Fb/c d", "//"]:
        ADMIN.put(retained(topic), text(topic))
        equal(ADMIN.get(retained(topic))["payload"], topic)
        ADMIN.delete(retained(topic))


@case
def retained_messages_are_read_and_set_with_the_callers_permissions():
    name = unique("limited")
    topic = f"open/{name}"
    limited = user(name, "management", ["/"])
    ADMIN.put(f"/api/topic-permissions/%2F/{name}", {"exchange": "amq.topic", "write": "open/#", "read": "open/#"})
    ADMIN.put(retained(f"shut/{name}"), text("secret"))
    limited.put(retained(topic), text("mine"))
    equal(limited.get(retained(topic))["payload"], "mine")
    answer = limited.ask("GET", retained(f"shut/{name}"))
    equal((answer.status, "may not read" in answer.reason), (401, True))
    equal(limited.ask("PUT", retained(f"shut/{name}"), text("x")).status, 401)
    equal(limited.ask("DELETE", retained(f"shut/{name}")).status, 401)
    equal(ADMIN.get(retained(f"shut/{name}"))["payload"], "secret")


@case
def a_reason_that_is_not_ascii_reaches_the_client():
    name = unique("reason")
    connection = amqp.connect(client_properties={"connection_name": name})
    found = next(c for c in ADMIN.get("/api/connections") if c["client_properties"].get("connection_name") == name)
    long = "geschlossen für heute: " + "ü" * 200
    answer = ADMIN.ask("DELETE", f"/api/connections/{segment(found['name'])}", headers={"x-reason": long.encode()})
    equal(answer.status, 204)
    amqp.connection_refused(320, "geschlossen für heute: ü", lambda: [connection.process_data_events(1) for _ in range(30)])


main()
