"""Monitoring tools made for RabbitMQ's management API: the requests that each sends, and the fields that it reads, with their
types. The tables follow the tools' sources: what is missing here is a gap in somebody's charts."""

import amqp
from harness import case, equal, main, unique
from management import ADMIN, segment, user

INT, NUMBER, FLAG, TEXT, LIST, OBJECT = "int", "number", "flag", "text", "list", "object"

KINDS = {
    INT: lambda v: type(v) is int,
    NUMBER: lambda v: type(v) in (int, float),
    FLAG: lambda v: type(v) is bool,
    TEXT: lambda v: type(v) is str,
    LIST: lambda v: type(v) is list,
    OBJECT: lambda v: type(v) is dict,
}


def with_rates(*keys, within="message_stats"):
    """A counter or gauge, and its rate."""
    found = {}
    for key in keys:
        found[f"{within}.{key}" if within else key] = INT
        found[f"{within}.{key}_details.rate" if within else f"{key}_details.rate"] = NUMBER
    return found


def all_of(kind, *paths):
    return {path: kind for path in paths}


TOTALS = all_of(INT, *(f"object_totals.{key}" for key in "consumers queues exchanges connections channels".split()))
LENGTHS = "messages messages_ready messages_unacknowledged".split()
ALARMS = all_of(FLAG, "running", "mem_alarm", "disk_free_alarm")

# Datadog's check `rabbitmq` (const.py). Of exchanges it takes what is there.
DATADOG = {
    "/api/vhosts": {"name": TEXT},
    "/api/overview": {
        "rabbitmq_version": TEXT, "cluster_name": TEXT, **TOTALS, **with_rates(*LENGTHS, within="queue_totals"),
        **with_rates("ack", "confirm", "deliver_get", "publish", "drop_unroutable", "return_unroutable", "redeliver"),
    },
    "/api/exchanges": {"name": TEXT, "vhost": TEXT, **with_rates("publish_in", "publish_out")},
    "/api/queues": {
        "node": TEXT, "name": TEXT, "vhost": TEXT, **all_of(INT, "consumers", "memory", "message_bytes"), "consumer_utilisation": NUMBER,
        **with_rates(*LENGTHS, within=""), **with_rates("ack", "deliver", "deliver_get", "publish", "redeliver"),
    },
    "/api/nodes": {"name": TEXT, "partitions": LIST, **ALARMS, **all_of(INT, "fd_used", "disk_free", "mem_used", "mem_limit", "run_queue", "sockets_used")},
    "/api/connections": {"vhost": TEXT, "state": TEXT},
    "/api/vhosts/%2F/connections": {"vhost": TEXT, "state": TEXT},
    "/api/aliveness-test/%2F": {"status": TEXT},
}

# Zabbix' templates "RabbitMQ cluster by HTTP" and "RabbitMQ node by HTTP".
ZABBIX = {
    "/api/overview": {
        "management_version": TEXT, "rabbitmq_version": TEXT, **TOTALS, **all_of(INT, *(f"queue_totals.{key}" for key in LENGTHS)),
        **with_rates("ack", "confirm", "deliver_get", "publish", "return_unroutable", "redeliver"),
    },
    "/api/exchanges": {"name": TEXT, "vhost": TEXT, "type": TEXT, **with_rates("publish_in", "publish_out")},
    "/api/nodes": {
        "name": TEXT, "partitions": LIST, **ALARMS,
        **all_of(INT, *"fd_used disk_free disk_free_limit mem_used mem_limit run_queue sockets_used sockets_total uptime".split()),
    },
    "/api/queues": {
        "name": TEXT, "vhost": TEXT, **all_of(INT, *LENGTHS, "consumers", "memory"),
        **with_rates("ack", "deliver", "deliver_get", "publish", "redeliver"),
    },
    "/api/healthchecks/node": {"status": TEXT},
    **{
        f"/api/health/checks/{check}": {"status": TEXT}
        for check in "alarms local-alarms certificate-expiration/1/months virtual-hosts node-is-mirror-sync-critical node-is-quorum-critical".split()
    },
}

COUNTED = "ack publish confirm deliver deliver_no_ack get get_empty get_no_ack deliver_get redeliver return_unroutable".split()

# Netdata's collector go.d/rabbitmq (restapi.go). Go fails on an int64 that is 5.0.
NETDATA = {
    "/api/definitions": {"rabbitmq_version": TEXT, "global_parameters": LIST},
    "/api/overview": {
        **TOTALS, **all_of(INT, *(f"queue_totals.{key}" for key in LENGTHS)), **all_of(INT, *(f"message_stats.{key}" for key in COUNTED)),
        **all_of(INT, *(f"churn_rates.{key}" for key in "channel_closed channel_created connection_closed connection_created queue_created queue_declared queue_deleted".split())),
    },
    "/api/nodes": {
        "name": TEXT, "os_pid": TEXT, "cluster_links": LIST, "being_drained": FLAG, **ALARMS,
        **all_of(INT, *"fd_total fd_used mem_limit mem_used sockets_total sockets_used proc_total proc_used disk_free run_queue uptime".split()),
    },
    "/api/vhosts": {"name": TEXT, "cluster_state": OBJECT, **all_of(INT, *LENGTHS), **all_of(INT, *(f"message_stats.{key}" for key in COUNTED))},
    "/api/queues": {
        **all_of(TEXT, "name", "node", "vhost", "type", "state"), **all_of(INT, *LENGTHS, "messages_paged_out", "messages_persistent"),
        **all_of(INT, *(f"message_stats.{key}" for key in COUNTED if key not in ("confirm", "return_unroutable"))),
    },
}

# kbudde/rabbitmq_exporter. It asks with `?sort=`, and for Erlang's own format first.
EXPORTER = {
    "/api/overview?sort=": {
        "node": TEXT, "erlang_version": TEXT, "rabbitmq_version": TEXT, "cluster_name": TEXT, **TOTALS,
        **all_of(INT, *(f"queue_totals.{key}" for key in LENGTHS)), **with_rates("publish", "deliver_no_ack", "deliver"),
    },
    "/api/queues?sort=": {
        **all_of(TEXT, "vhost", "name", "state", "node"), "durable": FLAG, "consumer_utilisation": NUMBER, "effective_policy_definition": OBJECT, "arguments": OBJECT,
        **all_of(INT, *LENGTHS, *"messages_ready_ram messages_unacknowledged_ram messages_ram messages_persistent message_bytes message_bytes_ready".split()),
        **all_of(INT, *"message_bytes_unacknowledged message_bytes_ram message_bytes_persistent consumers memory".split()),
        **with_rates("publish", "deliver_no_ack", "deliver", "get", "get_no_ack", "redeliver", "ack"),
    },
    "/api/exchanges?sort=": {"vhost": TEXT, "name": TEXT, **with_rates("publish_in", "publish_out")},
    "/api/nodes?sort=": {
        "name": TEXT, "partitions": LIST, **ALARMS,
        **all_of(INT, *"uptime mem_used mem_limit disk_free disk_free_limit fd_used fd_total sockets_used sockets_total".split()),
    },
    "/api/connections?sort=": {
        **all_of(TEXT, "vhost", "node", "peer_host", "user", "state"), **all_of(INT, *"channels recv_oct recv_cnt send_oct send_cnt send_pend".split()),
    },
    "/api/aliveness-test/%2F": {"status": TEXT},
    "/api/federation-links": {}, "/api/shovels": {},
}
MEMORY = all_of(
    INT,
    *(f"memory.{key}" for key in "allocated_unused atom binary code connection_channels connection_other connection_readers connection_writers metrics".split()),
    *(f"memory.{key}" for key in "mgmt_db mnesia msg_index other_ets other_proc other_system plugins queue_procs queue_slave_procs".split()),
    *(f"memory.{key}" for key in "reserved_unallocated total.allocated total.rss total.erlang".split()),
)

# What Telegraf's later releases ask beyond what is in api_tools.py.
TELEGRAF = {
    "/api/queues": {"auto_delete": FLAG, **with_rates("ack", "deliver", "deliver_get", "publish", "redeliver")},
    "/api/nodes": {
        **all_of(INT, *"uptime proc_used run_queue".split()),
        **all_of(NUMBER, "fd_used_details.rate", "mem_used_details.rate", "sockets_used_details.rate", "disk_free_details.rate"),
    },
    "/api/federation-links": {},
}

TOOLS = {"datadog": DATADOG, "zabbix": ZABBIX, "netdata": NETDATA, "rabbitmq_exporter": EXPORTER, "telegraf": TELEGRAF}


def at(value, path):
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return "is missing"
        value = value[step]
    return value


def wrong(found, fields):
    return {path: at(found, path) for path, kind in fields.items() if not KINDS[kind](at(found, path))}


@case
def each_tool_finds_what_it_reads_in_the_type_that_it_wants():
    channel, name = amqp.channel(), unique("monitored")
    channel.queue_declare(name)
    channel.basic_publish("", name, b"x")
    channel.basic_get(name, auto_ack=True)
    # The rights that their manuals ask for. Netdata reads the definitions, which only administrators may.
    monitor = user(unique("monitor"), "monitoring", ["/"])
    accept = {"accept": "application/bert, application/json;q=0.1"}
    for tool, requests in TOOLS.items():
        for path, fields in requests.items():
            answer = (ADMIN if path == "/api/definitions" else monitor).ask("GET", path, headers=accept)
            equal((answer.status, answer.headers["content-type"]), (200, "application/json"), f"{tool}: {path}: {answer.body[:200]}")
            found = answer.json
            objects = found if isinstance(found, list) else [found]
            assert objects or not fields, (tool, path)
            for one in objects:
                equal(wrong(one, fields), {}, f"{tool}: {path}: {one}")
    node = monitor.get("/api/nodes")[0]["name"]
    equal(wrong(monitor.get(f"/api/nodes/{segment(node)}/memory"), MEMORY), {})
    # Datadog counts each queue's bindings.
    equal(len(monitor.get(f"/api/queues/%2F/{name}/bindings")), 1)


if __name__ == "__main__":
    main()
