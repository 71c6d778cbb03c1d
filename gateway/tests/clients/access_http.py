"""The back end `http`, with RabbitMQ's requests. The server is part of the script; the gateway asks it over TLS.

What it says: `Server` below. Users: `anna` may do everything but with what is called `secret`; `mina` is an MQTT client;
`stina` speaks STOMP; `slow` is never answered about what is called `slow`; `nonsense` is answered with it."""

import os
import threading

import pika
import pika.exceptions

from amqp import connect as amqp_connect
from amqp import refused
from backend import Server, configure
from doors import NOT_AUTHORIZED, acknowledged, refusal
from harness import case, equal, eventually, main, unique
from harness import ask as ask_test
from management import Api
from mqtt import V3, V5, Client
from stomps import Client as StompClient

BUSY = {V3: 0x88, V5: 0x89}
held = threading.Event()


def decide(path, fields):
    user = fields["username"]
    if user == "down" or (user == "later" and path != "/user"):
        raise ConnectionError
    if path == "/user":
        if user == "nonsense":
            return 200, "<html>allow</html>"
        if user == "moved":
            return 302, "allow"
        if user == "hangs":
            held.wait(30)
        if fields.get("password") != "s3cret":
            return 200, "deny wrong password"
        return 200, "allow monitoring administrator" if user in ("anna", "asta") else "allow"
    if path == "/vhost":
        return 200, "deny" if user == "nowhere" else "allow"
    texts = [fields["name"], fields.get("routing_key", "")]
    if user == "slow" and any("slow" in text for text in texts):
        held.wait(30)
    if any("nonsense" in text for text in texts):
        return 200, "perhaps"
    return 200, "deny it is secret" if any("secret" in text for text in texts) else "allow"


server = Server(decide, tls=("server.pem", "server.key"))
configure(f"""
[auth]
backends = ["internal", "http"]
cache_ttl = "3s"
[auth.http]
user_url = "{server.url("/user")}"
vhost_url = "{server.url("/vhost")}"
resource_url = "{server.url("/resource")}"
topic_url = "{server.url("/topic")}"
ca = "{os.path.abspath("ca.pem")}"
""")
ask_test("start")


def asked(user, path=None):
    """What the server was asked about a user."""
    return [fields for where, fields in list(server.requests) if fields["username"] == user and path in (None, where)]


def amqp(user):
    return amqp_connect(credentials=pika.PlainCredentials(user, "s3cret")).channel()


@case
def amqp_asks_what_rabbitmq_asks():
    # A user of this case only, because other cases cause requests about the other users.
    name = unique()
    channel = amqp("asta")
    channel.queue_declare(name)
    channel.queue_bind(name, "amq.topic", "a.*")
    channel.confirm_delivery()
    channel.basic_publish("amq.topic", "a.b", b"x")
    equal(channel.basic_get(name, True)[2], b"x")
    equal(asked("asta", "/user")[0], {"username": "asta", "password": "s3cret"})
    tags = {"tags": "monitoring administrator"}
    who = {"username": "asta", "vhost": "/", **tags}
    equal(asked("asta", "/vhost")[0], {**who, "ip": "127.0.0.1"})
    about = {"resource": "queue", "name": name}
    assert {**who, **about, "permission": "configure"} in asked("asta", "/resource")
    assert {**who, **about, "permission": "write"} in asked("asta", "/resource")
    topic = {"resource": "topic", "name": "amq.topic", "variable_map.username": "asta", "variable_map.vhost": "/"}
    assert {**who, **topic, "permission": "read", "routing_key": "a.*"} in asked("asta", "/topic")
    assert {**who, **topic, "permission": "write", "routing_key": "a.b"} in asked("asta", "/topic")


@case
def amqp_is_refused_with_its_error():
    by = "in vhost '/' refused for user 'anna'"
    refused(403, f"configure access to queue 'secret' {by}", lambda: amqp("anna").queue_declare("secret"))

    def publish(exchange, key):
        channel = amqp("anna")
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"x")

    refused(403, f"write access to topic 'a.secret' in exchange 'amq.topic' {by}", lambda: publish("amq.topic", "a.secret"))
    # An answer that cannot be read counts as a refusal.
    refused(403, "write access to topic 'nonsense'", lambda: publish("amq.topic", "nonsense"))
    made_up = amqp("anna").queue_declare("").method.queue
    assert made_up.startswith("amq.gen-"), made_up
    channel = amqp("anna")
    channel.tx_select()
    channel.basic_publish("amq.topic", "a.b", b"x")
    channel.basic_publish("amq.topic", "a.secret", b"x")
    refused(403, "topic 'a.secret'", channel.tx_commit)


@case
def who_may_log_in():
    for version in (V3, V5):
        equal(refusal(version=version, user=("mina", "wrong")), 0x86)
        equal(refusal(version=version, user=("mina", "")), 0x86)
        # An outage does not count as a wrong password: the client may retry, and its address is not banned.
        for user in ("down", "nonsense", "moved"):
            reason = refusal(version=version, user=(user, "s3cret"))
            assert reason in (BUSY[version], 0x88, 0x89), (version, user, reason)
        equal(refusal(version=version, user=("nowhere", "s3cret")), NOT_AUTHORIZED)
    try:
        amqp("nowhere")
        raise AssertionError("it was let in")
    except pika.exceptions.ProbableAccessDeniedError as error:
        assert "(530)" in str(error) and "access to vhost '/' refused for user 'nowhere'" in str(error), error
    # The server is not asked about users that the gateway knows itself.
    Client(user=("guest", "guest"))
    equal(asked("guest"), [])


@case
def mqtt_is_asked_with_its_client_id():
    client = Client(V5, user=("mina", "s3cret"))
    said = {"username": "mina", "vhost": "/", "client_id": client.client_id}
    assert {**said, "password": "s3cret"} in asked("mina", "/user")
    assert {**said, "ip": "127.0.0.1", "tags": ""} in asked("mina", "/vhost")
    assert acknowledged(client, "t/1", 1) in (0, 0x10)
    equal(acknowledged(client, "t/secret", 1), NOT_AUTHORIZED)
    no = NOT_AUTHORIZED
    equal(client.subscribe([("t/+", 1), ("secret/#", 1), ("u/#", 1)]), [1, no, 1])
    topic = {"username": "mina", "vhost": "/", "resource": "topic", "name": "amq.topic", "tags": "",
             "variable_map.username": "mina", "variable_map.vhost": "/", "variable_map.client_id": client.client_id}
    assert {**topic, "permission": "write", "routing_key": "t.1"} in asked("mina", "/topic")
    assert {**topic, "permission": "read", "routing_key": "t.*"} in asked("mina", "/topic")
    will = {"topic": "secret", "payload": b"x", "qos": 1}
    equal(refusal(version=V5, user=("mina", "s3cret"), will=will), NOT_AUTHORIZED)


@case
def what_a_client_sends_before_it_leaves_is_asked_for_and_done():
    seen = unique()
    watcher = Client(user=("guest", "guest"))
    watcher.subscribe("#")
    client = Client(V3, user=("mina", "s3cret"))
    client.publish(f"last/{seen}", b"words")
    client.disconnect()
    eventually(lambda: any(seen in text for text in watcher.texts), "what was published last")
    # A will is published for a user whose connection has ended.
    client = Client(V3, user=("mina", "s3cret"), will={"topic": f"will/{seen}", "payload": b"x", "qos": 1})
    client.drop()
    eventually(lambda: any(text.startswith(f"will/{seen}") for text in watcher.texts), "the will")


@case
def stomp_is_asked_too():
    client = StompClient(login=("stina", "s3cret")).subscribe("/topic/s.1")
    client.send("/topic/s.1", "x")
    client.settled(1)
    refused_client = StompClient(login=("stina", "s3cret"))
    refused_client.send("/topic/secret", "x", wait=False)
    refused_client.until(lambda: refused_client.errors, "an ERROR")
    assert refused_client.errors[0].headers["message"] == "access_refused", refused_client.errors[0].headers


def over_the_api(method, name, body):
    return Api("anna", "s3cret").ask("POST", f"/api/{method.format(name)}", body)


@case
def the_management_api_asks_too():
    name = unique()
    channel = amqp_connect().channel()
    for queue in (name, f"secret-{name}"):
        channel.queue_declare(queue)
        channel.queue_bind(queue, "amq.topic", f"{name}.#")
    message = {"properties": {}, "payload": "x", "payload_encoding": "string"}

    def publish(key):
        return over_the_api("exchanges/%2F/{}/publish", "amq.topic", {**message, "routing_key": key})

    def get(queue):
        body = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
        return over_the_api("queues/%2F/{}/get", queue, body)

    answer = publish(f"{name}.a")
    equal((answer.status, answer.json), (200, {"routed": True}))
    assert any(fields.get("routing_key") == f"{name}.a" for fields in asked("anna", "/topic"))
    answer = publish(f"{name}.secret")
    equal((answer.status, answer.json["error"]), (401, "not_authorised"))
    assert f"topic '{name}.secret'" in answer.reason, answer.reason
    answer = get(name)
    equal((answer.status, [m["payload"] for m in answer.json]), (200, ["x"]))
    answer = get(f"secret-{name}")
    equal((answer.status, answer.json["error"]), (401, "not_authorised"))


@case
def a_slow_answer_delays_no_other_client_and_counts_as_a_refusal():
    slow = Client(V5, user=("slow", "s3cret"))
    fast = Client(V5, user=("slow", "s3cret"))
    guest = Client(V5, user=("guest", "guest"))
    reasons = []
    slow.paho.on_publish = lambda c, u, mid, reason, props: reasons.append(reason.value)
    slow.publish("is/slow", b"x", 1, wait=False)
    slow.publish("is/fast", b"x", 1, wait=False)
    eventually(lambda: any("is.slow" == f.get("routing_key") for f in asked("slow")), "the question")
    for n in range(50):
        assert acknowledged(guest, f"g/{n}", 1) in (0, 0x10)
    assert acknowledged(fast, "f/1", 1) in (0, 0x10)
    # The first is refused after its timeout; then the second is asked about.
    eventually(lambda: len(reasons) == 2, "both answers")
    equal(reasons[0], NOT_AUTHORIZED)
    assert reasons[1] in (0, 0x10), reasons


@case
def many_topics_are_asked_once_each_and_not_kept_for_ever():
    client = Client(V5, user=("anna", "s3cret"))
    before = int(ask_test("resident"))
    name = unique()
    for n in range(1_000):
        client.publish(f"{name}/{n}", b"x")
    assert acknowledged(client, f"{name}/last", 1) in (0, 0x10)
    keys = [fields["routing_key"] for fields in asked("anna", "/topic") if name in fields["routing_key"]]
    equal(len(keys), len(set(keys)), "each is asked once")
    equal(len(keys), 1_001)
    assert int(ask_test("resident")) - before < 64 << 20


@case
def answers_count_for_a_while_only():
    client = Client(V5, user=("anna", "s3cret"))
    name = unique()

    def questions():
        assert acknowledged(client, f"{name}/1", 1) in (0, 0x10)
        return len([f for f in asked("anna", "/topic") if name in f["routing_key"]])

    equal(questions(), 1)
    eventually(lambda: questions() > 1, "another question about the same")


if __name__ == "__main__":
    main()
