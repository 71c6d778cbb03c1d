"""Existing tools for RabbitMQ's management API. Those that can be installed here run unchanged. For the others, the test sends
their requests and checks that the answers have the members that they decode, in the types that they require."""

import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import amqp
from flower.utils.broker import Broker
from harness import HOST, case, equal, eventually, main, unique
from management import ADMIN, MANAGEMENT, segment, user
from pyrabbit2 import Client as PyRabbit
from pyrabbit2.http import HTTPError

# RabbitMQ's package has it; `.ci/run` takes it out of there.
PLACES = [str(pathlib.Path(sys.prefix).parent), *os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/sbin"]
RABBITMQADMIN = shutil.which("rabbitmqadmin", path=os.pathsep.join(PLACES))


def rabbitmqadmin(*arguments, expect=0, login=("guest", "guest")):
    assert RABBITMQADMIN, "rabbitmqadmin is not there: it is in Debian's package rabbitmq-server; .ci/run fetches it"
    command = [sys.executable, RABBITMQADMIN, "-H", HOST, "-P", str(MANAGEMENT), "-u", login[0], "-p", login[1], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    equal(done.returncode, expect, f"{arguments}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def table(*arguments):
    return json.loads(rabbitmqadmin("-f", "raw_json", *arguments))


@case
def v1_declares_lists_publishes_fetches_and_deletes():
    queue, exchange = unique("v1"), unique("v1x")
    equal(rabbitmqadmin("declare", "queue", f"name={queue}", "durable=true", 'arguments={"x-max-length":5}').strip(), "queue declared")
    rabbitmqadmin("declare", "queue", f"name={queue}", "durable=true", 'arguments={"x-max-length":5}')
    refused = rabbitmqadmin("declare", "queue", f"name={queue}", "durable=false", expect=1)
    assert "inequivalent arg 'durable'" in refused, refused
    equal(rabbitmqadmin("declare", "exchange", f"name={exchange}", "type=topic", "auto_delete=false").strip(), "exchange declared")
    rabbitmqadmin("declare", "binding", f"source={exchange}", f"destination={queue}", "routing_key=a.#")
    published = rabbitmqadmin("publish", f"exchange={exchange}", "routing_key=a.b", "payload=hello", 'properties={"delivery_mode":2}')
    equal(published.strip(), "Message published")
    assert "NOT routed" in rabbitmqadmin("publish", f"exchange={exchange}", "routing_key=b", "payload=lost")
    [message] = table("get", f"queue={queue}", "ackmode=ack_requeue_true", "count=3")
    equal((message["payload"], message["routing_key"], message["exchange"]), ("hello", "a.b", exchange))
    [found] = [q for q in table("list", "queues", "name", "messages", "durable") if q["name"] == queue]
    equal((found["messages"], found["durable"]), (1, True))
    shown = rabbitmqadmin("-f", "tsv", "-q", "list", "bindings", "source", "routing_key")
    assert f"{exchange}\ta.#" in shown, shown
    equal(rabbitmqadmin("purge", "queue", f"name={queue}").strip(), "queue purged")
    rabbitmqadmin("delete", "binding", f"source={exchange}", "destination_type=queue", f"destination={queue}", "properties_key=a.%23")
    rabbitmqadmin("delete", "exchange", f"name={exchange}")
    rabbitmqadmin("delete", "queue", f"name={queue}")
    assert "Not found" in rabbitmqadmin("delete", "queue", f"name={queue}", expect=1)


@case
def v1_manages_users_vhosts_permissions_policies_and_definitions():
    name, vhost = unique("v1user"), unique("v1vhost")
    rabbitmqadmin("declare", "vhost", f"name={vhost}")
    rabbitmqadmin("declare", "user", f"name={name}", "password=s3cret", "tags=management")
    rabbitmqadmin("declare", "permission", f"vhost={vhost}", f"user={name}", "configure=.*", "write=.*", "read=.*")
    rabbitmqadmin("-V", vhost, "declare", "policy", "name=short", "pattern=^v1", 'definition={"max-length":3}', "apply-to=queues", "priority=2")
    rabbitmqadmin("-V", vhost, "declare", "queue", "name=v1.q", "durable=true", login=(name, "s3cret"))
    [queue] = table("-V", vhost, "list", "queues", "name", "policy")
    equal((queue["name"], queue["policy"]), ("v1.q", "short"))
    assert "Access refused" in rabbitmqadmin("list", "queues", login=(name, "wrong"), expect=1)
    for what in ("channels", "nodes", "users", "permissions", "parameters"):
        assert isinstance(table("list", what), list), what
    assert "rabbitmq_version" in table("show", "overview")[0]
    path = pathlib.Path(tempfile.gettempdir()) / f"{unique('definitions')}.json"
    try:
        # Of the vhost only: a whole import would restore what other cases have just deleted.
        rabbitmqadmin("-V", vhost, "export", str(path))
        document = json.loads(path.read_text())
        equal([q["name"] for q in document["queues"]], ["v1.q"])
        rabbitmqadmin("-V", vhost, "delete", "queue", "name=v1.q")
        rabbitmqadmin("-V", vhost, "import", str(path))
        equal([q["name"] for q in table("-V", vhost, "list", "queues", "name")], ["v1.q"])
    finally:
        path.unlink(missing_ok=True)
    rabbitmqadmin("-V", vhost, "delete", "policy", "name=short")
    rabbitmqadmin("delete", "user", f"name={name}")
    rabbitmqadmin("delete", "vhost", f"name={vhost}")


@case
def v1_closes_a_connection():
    label = unique("v1close")
    connection = amqp.connect(client_properties={"connection_name": label})
    mine = lambda: [c["name"] for c in table("list", "connections", "name", "user_provided_name") if c.get("user_provided_name") == label]  # noqa: E731
    [name] = eventually(mine, "the connection")
    rabbitmqadmin("close", "connection", f"name={name}")
    eventually(lambda: not mine(), "its end")
    assert connection


@case
def pyrabbit_manages_what_there_is():
    client = PyRabbit(f"{HOST}:{MANAGEMENT}", "guest", "guest")
    vhost, queue, name = unique("pyvhost"), unique("py"), unique("pyuser")
    assert client.is_alive()
    equal(client.get_whoami()["name"], "guest")
    assert client.get_overview()["object_totals"] and client.get_nodes()
    client.create_vhost(vhost)
    assert vhost in client.get_vhost_names()
    client.create_user(name, "s3cret", "management")
    client.set_vhost_permissions(vhost, name, ".*", ".*", ".*")
    equal(client.get_user_permissions(name)[0]["vhost"], vhost)
    client.set_vhost_permissions(vhost, "guest", ".*", ".*", ".*")
    client.create_queue(vhost, queue, durable=True)
    client.create_exchange(vhost, "x", "direct")
    client.create_binding(vhost, "x", queue, "k")
    equal([b["routing_key"] for b in client.get_queue_bindings(vhost, queue) if b["source"]], ["k"])
    assert client.publish(vhost, "x", "k", "hello")
    equal(client.get_messages(vhost, queue, requeue=True)[0]["payload"], "hello")
    equal(client.get_queue_depth(vhost, queue), 1)
    client.purge_queue(vhost, queue)
    equal(client.get_queue(vhost, queue)["messages"], 0)
    assert isinstance(client.get_connections(), list) and isinstance(client.get_channels(), list)
    client.delete_binding(vhost, "x", queue, "k")
    client.delete_exchange(vhost, "x")
    client.delete_queue(vhost, queue)
    client.delete_user(name)
    client.delete_vhost(vhost)
    try:
        client.get_queue(vhost, queue)
        raise AssertionError("it is gone")
    except HTTPError as refused:
        equal(refused.status, 404)


@case
def flowers_broker_page_lists_its_queues():
    channel, name = amqp.channel(), unique("celery")
    channel.queue_declare(name)
    channel.basic_publish("", name, b"task")
    broker = Broker(f"amqp://guest:guest@{HOST}//", http_api=f"http://guest:guest@{HOST}:{MANAGEMENT}/api/")

    def shown():
        found = asyncio.run(broker.queues([name]))
        return found and found[0].get("messages") == 1 and found[0]

    found = eventually(shown, "the queue")
    # The columns of the page.
    for key in ("name", "messages", "messages_unacknowledged", "messages_ready", "consumers"):
        assert key in found, key
    assert "idle_since" not in found or isinstance(found["idle_since"], str)


@case
def keda_decodes_a_queue_and_pages_of_a_pattern():
    channel, name = amqp.channel(), unique("keda")
    channel.queue_declare(name)
    channel.basic_publish("", name, b"x")
    path = f"/api/queues/%2F/{name}"
    found = eventually(lambda: (lambda q: q if q.get("messages") == 1 else None)(ADMIN.get(path)), "the message")
    pages = f"/api/queues/%2F?page=1&use_regex=true&pagination=false&name=%5E{name}%24&page_size=100"
    listed = ADMIN.get(pages)
    equal((listed["page_count"], len(listed["items"])), (1, 1))
    for one in (found, listed["items"][0]):
        equal((one["name"], one["messages"], one["messages_ready"], one["messages_unacknowledged"]), (name, 1, 1, 0))
        for rate in ("publish_details", "deliver_get_details"):
            assert isinstance(one["message_stats"][rate]["rate"], float), one["message_stats"]


# What Telegraf's plugin decodes, by type. Its `int64` fails on 5.0, its maps on [].
TELEGRAF = {
    "/api/overview": {
        "message_stats": ["ack", "ack_details.rate", "deliver", "deliver_get", "deliver_get_details.rate", "publish", "publish_details.rate", "return_unroutable"],
        "object_totals": ["channels", "connections", "consumers", "exchanges", "queues"],
        "queue_totals": ["messages", "messages_ready", "messages_unacknowledged"],
    },
    "/api/nodes": {
        "": ["name", "disk_free", "disk_free_limit", "disk_free_alarm", "fd_total", "fd_used", "mem_limit", "mem_used", "mem_alarm",
             "proc_total", "proc_used", "run_queue", "sockets_total", "sockets_used", "running", "uptime", "partitions"],
    },
    "/api/queues": {
        "": ["name", "vhost", "node", "consumers", "consumer_utilisation", "memory", "messages", "messages_ready", "messages_unacknowledged",
             "message_bytes", "message_bytes_ready", "message_bytes_unacknowledged", "message_bytes_ram", "message_bytes_persistent",
             "head_message_timestamp", "auto_delete", "durable"],
        "message_stats": ["ack", "ack_details.rate", "deliver", "deliver_get", "publish", "publish_details.rate", "redeliver", "redeliver_details.rate"],
    },
    "/api/exchanges": {
        "": ["name", "type", "vhost", "internal", "durable", "auto_delete"],
        "message_stats": ["publish_in", "publish_in_details.rate", "publish_out", "publish_out_details.rate"],
    },
}


@case
def telegraf_finds_every_field_that_it_decodes():
    channel, name = amqp.channel(), unique("telegraf")
    channel.queue_declare(name)
    monitor = user(unique("telegraf"), "monitoring")
    for path, wanted in TELEGRAF.items():
        answer = monitor.get(path)
        objects = answer if isinstance(answer, list) else [answer]
        assert objects, path
        for found in objects:
            for part, keys in wanted.items():
                inner = found[part] if part else found
                for key in keys:
                    value = inner
                    for step in key.split("."):
                        assert step in value, (path, part, key, found)
                        value = value[step]
                    if not key.endswith("rate") and key != "consumer_utilisation":
                        assert not isinstance(value, float), (path, key, value)


# What clients in Rust and Go decode, and fail on where it is missing or of another type: rabbitmqadmin's second version
# (rabbitmq_http_client) and Terraform's provider (rabbit-hole).
STRICT = {
    "/api/nodes": {"name": str, "os_pid": str, "uptime": int, "run_queue": int, "processors": int, "being_drained": bool, "fd_total": int, "proc_total": int,
                   "mem_limit": int, "mem_alarm": bool, "disk_free_limit": int, "disk_free_alarm": bool, "rates_mode": str},
    "/api/connections": {"name": str, "node": str, "state": str, "protocol": str, "user": str, "connected_at": int, "host": str, "port": int, "peer_host": str,
                         "peer_port": int, "channel_max": int, "channels": int, "client_properties": dict, "vhost": str},
    "/api/channels": {"name": str, "number": int, "connection_details": dict, "vhost": str, "state": str, "consumer_count": int, "confirm": bool,
                      "prefetch_count": int, "messages_unacknowledged": int, "messages_unconfirmed": int},
    "/api/consumers": {"consumer_tag": str, "active": bool, "ack_required": bool, "exclusive": bool, "prefetch_count": int, "queue": dict,
                       "channel_details": dict, "consumer_timeout": int, "arguments": dict, "activity_status": str},
    "/api/queues": {"name": str, "vhost": str, "type": str, "durable": bool, "auto_delete": bool, "exclusive": bool, "arguments": dict, "node": str,
                    "state": str, "memory": int, "consumers": int, "messages": int},
    "/api/exchanges": {"name": str, "vhost": str, "type": str, "durable": bool, "auto_delete": bool, "internal": bool, "arguments": dict},
    "/api/bindings": {"source": str, "vhost": str, "destination": str, "destination_type": str, "routing_key": str, "arguments": dict, "properties_key": str},
    "/api/users": {"name": str, "tags": list, "password_hash": str},
    "/api/vhosts": {"name": str, "description": str, "tags": list, "metadata": dict, "tracing": bool},
    "/api/permissions": {"user": str, "vhost": str, "configure": str, "write": str, "read": str},
}


@case
def v2_and_terraform_find_what_they_decode_in_the_types_they_want():
    channel, name = amqp.channel(), unique("strict")
    channel.queue_declare(name)
    channel.basic_consume(name, lambda *_: None)
    for path, wanted in STRICT.items():
        found = ADMIN.get(path)
        assert found, path
        for one in found:
            wrong = {key: one.get(key) for key, kind in wanted.items() if type(one.get(key)) is not kind}
            equal(wrong, {}, f"{path}: {one}")


@case
def terraform_reads_what_it_has_just_put_and_deletes_twice():
    vhost, name = unique("tf"), unique("tfq")
    ADMIN.put(f"/api/vhosts/{vhost}")
    ADMIN.put(f"/api/permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    ADMIN.put(f"/api/queues/{vhost}/{name}", {"durable": True, "auto_delete": False, "arguments": {"x-max-length": 7}})
    found = ADMIN.get(f"/api/queues/{vhost}/{name}")
    equal((found["durable"], found["arguments"]), (True, {"x-max-length": 7}))
    ADMIN.put(f"/api/exchanges/{vhost}/x", {"type": "fanout", "durable": True, "auto_delete": False})
    equal(ADMIN.get(f"/api/exchanges/{vhost}/x")["type"], "fanout")
    made = ADMIN.post(f"/api/bindings/{vhost}/e/x/q/{name}", {"routing_key": "#", "arguments": {}})
    key = made.headers["location"].split("/")[-1]
    bindings = [b["properties_key"] for b in ADMIN.get(f"/api/bindings/{vhost}/e/x/q/{name}")]
    assert segment(bindings[0]) == key or bindings[0] == key, (bindings, key)
    ADMIN.put(f"/api/policies/{vhost}/p", {"pattern": "^tf", "definition": {"max-length": 3}, "priority": 0, "apply-to": "queues"})
    equal(ADMIN.get(f"/api/policies/{vhost}/p")["definition"], {"max-length": 3})
    for path in (f"policies/{vhost}/p", f"bindings/{vhost}/e/x/q/{name}/{segment(bindings[0])}", f"exchanges/{vhost}/x", f"queues/{vhost}/{name}", f"vhosts/{vhost}"):
        equal(ADMIN.ask("DELETE", f"/api/{path}").status, 204, path)
        answer = ADMIN.ask("DELETE", f"/api/{path}")
        equal((answer.status, isinstance(answer.reason, str)), (404, True), path)


if __name__ == "__main__":
    main()
