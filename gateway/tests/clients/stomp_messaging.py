"""STOMP under stomp.py: destinations, acknowledgements, transactions, receipts, heart-beats, durable subscriptions."""

import time

import stomp

from amqp import channel
from harness import HOST, PEER, STOMP, case, equal, eventually, main, unique
from stomps import VERSIONS, Client, text


def every_version(function):
    for version in VERSIONS:

        def one(version=version):
            function(version)

        one.__name__ = f"{function.__name__}_{version.replace('.', '_')}"
        case(one)
    return function


@every_version
def connected_names_version_session_and_server(version):
    headers = Client(version).connected_headers
    equal(headers["version"], version)
    equal(headers["heart-beat"], "0,0")
    assert headers["session"], headers
    assert "/" in headers["server"], headers


def default_settings(*login):
    connection = stomp.Connection([(HOST, STOMP)])
    connection.connect(*login, wait=True)
    assert connection.is_connected()
    connection.disconnect()


# It takes the `host` that stomp.py generates for the name of a vhost.
@case(differs="rabbitmq")
def default_settings_are_enough():
    default_settings("guest", "guest")


@case(differs="rabbitmq")
def default_settings_without_a_login_are_the_default_user():
    default_settings()


@every_version
def a_queue_keeps_messages_and_its_consumers_compete(version):
    queue = f"/queue/{unique()}"
    sender = Client(version)
    for n in range(10):
        sender.send(queue, str(n))
    first = Client(version).subscribe(queue)
    first.settled(10)
    equal(first.bodies, [str(n) for n in range(10)])
    equal({frame.headers["destination"] for frame in first.inbox}, {queue})
    second = Client(version).subscribe(queue)
    for n in range(10, 30):
        sender.send(queue, str(n))
    eventually(lambda: len(first.inbox) + len(second.inbox) == 30)
    equal(len(second.inbox), 10)


@every_version
def a_topic_reaches_all_and_matches_wildcards(version):
    root = unique("t")
    exact = Client(version).subscribe(f"/topic/{root}.a.b")
    star = Client(version).subscribe(f"/topic/{root}.*.b")
    hash_ = Client(version).subscribe(f"/topic/{root}.#")
    sender = Client(version)
    for key in ["a.b", "x.b", "a.b.c"]:
        sender.send(f"/topic/{root}.{key}", key)
    sender.send(f"/topic/{root}", "root")
    equal(exact.settled(1).bodies, ["a.b"])
    equal(star.settled(2).bodies, ["a.b", "x.b"])
    equal(hash_.settled(4).bodies, ["a.b", "x.b", "a.b.c", "root"])
    equal(exact.inbox[0].headers["destination"], f"/topic/{root}.a.b")


@case
def two_subscriptions_of_one_connection_get_a_copy_each():
    topic = f"/topic/{unique('t')}"
    client = Client().subscribe(topic, "one").subscribe(topic, "two")
    client.send(topic, "x")
    client.settled(2)
    equal({frame.headers["subscription"] for frame in client.inbox}, {"one", "two"})


@every_version
def client_acknowledgement_is_cumulative(version):
    queue = f"/queue/{unique()}"
    client = Client(version).subscribe(queue, ack="client")
    for n in range(5):
        client.send(queue, str(n))
    client.settled(5)
    client.ack(client.inbox[2])
    client.drop()
    again = Client(version).subscribe(queue)
    equal(again.settled(2).bodies, ["3", "4"])
    equal([frame.headers["redelivered"] for frame in again.inbox], ["true", "true"])


@case
def individual_acknowledgement_leaves_the_others():
    for version in ("1.1", "1.2"):
        queue = f"/queue/{unique()}"
        client = Client(version).subscribe(queue, ack="client-individual")
        for n in range(5):
            client.send(queue, str(n))
        client.settled(5)
        equal({frame.headers["redelivered"] for frame in client.inbox}, {"false"})
        client.ack(client.inbox[2])
        client.ack(client.inbox[4])
        client.close()
        equal(Client(version).subscribe(queue).settled(3).bodies, ["0", "1", "3"])


@case
def nack_gives_back_or_drops():
    for version in ("1.1", "1.2"):
        queue = f"/queue/{unique()}"
        client = Client(version).subscribe(queue, ack="client-individual")
        client.send(queue, "x")
        client.wait(1)
        client.ack(client.inbox[0], nack=True)
        client.settled(2)
        equal(client.inbox[1].headers["redelivered"], "true")
        client.ack(client.inbox[1], nack=True, requeue="false")
        client.settled(2)
        client.close()
        Client(version).subscribe(queue).settled(0)


@case
def prefetch_count_limits_what_is_unacknowledged():
    queue = f"/queue/{unique()}"
    client = Client().subscribe(queue, ack="client", prefetch_count="5")
    for n in range(10):
        client.send(queue, str(n))
    client.settled(5)
    client.ack(client.inbox[4])
    client.settled(10)


@every_version
def a_committed_transaction_is_delivered_and_an_aborted_one_is_not(version):
    queue = f"/queue/{unique()}"
    client = Client(version).subscribe(queue)
    client.stomp.begin("tx1")
    client.send(queue, "1", wait=False, transaction="tx1")
    client.send(queue, "2", wait=False, transaction="tx1")
    client.send(queue, "beside it")
    equal(client.settled(1).bodies, ["beside it"])
    client.receipt(lambda receipt: client.stomp.commit("tx1", headers=receipt))
    equal(client.settled(3).bodies[1:], ["1", "2"])
    client.stomp.begin("tx2")
    client.send(queue, "never", wait=False, transaction="tx2")
    client.receipt(lambda receipt: client.stomp.abort("tx2", headers=receipt))
    client.settled(3)


@case
def acknowledgements_in_a_transaction_wait_for_its_commit():
    queue = f"/queue/{unique()}"
    client = Client().subscribe(queue, ack="client-individual")
    client.send(queue, "1")
    client.send(queue, "2")
    client.wait(2)
    client.stomp.begin("tx")
    client.ack(client.inbox[0], wait=False, transaction="tx")
    client.receipt(lambda receipt: client.stomp.abort("tx", headers=receipt))
    client.stomp.begin("tx")
    client.ack(client.inbox[1], wait=False, transaction="tx")
    client.receipt(lambda receipt: client.stomp.commit("tx", headers=receipt))
    client.drop()
    equal(Client().subscribe(queue).settled(1).bodies, ["1"])


@case
def receipts_come_for_everything_that_asks():
    client = Client()
    queue = f"/queue/{unique()}"
    for n in range(100):
        client.stomp.send(queue, str(n), None, {"receipt": f"s{n}"})
    client.until(lambda: len(client.receipts) == 100, "100 receipts")
    equal(set(client.receipts), {f"s{n}" for n in range(100)})
    client.subscribe(queue)
    client.settled(100)
    client.receipt(lambda receipt: client.stomp.unsubscribe("1", receipt))
    client.send(queue, "after")
    client.settled(100)


@case
def headers_and_bodies_survive():
    queue = f"/queue/{unique()}"
    client = Client(auto_content_length=True).subscribe(queue)
    body = bytes(range(256)) * 40
    sent = {
        "content-type": "application/octet-stream",
        "colon": "a:b:c",
        "slash": "a\\b",
        "lines": "one\ntwo\rthree",
        "empty": "",
        "unicode": "grün 😀",
        "x.y_z": "odd name",
        "correlation-id": "7",
        "priority": "4",
        "persistent": "true",
        "type": "reading",
        "app-id": "app",
        "amqp-message-id": "m1",
    }
    client.receipt(lambda receipt: client.stomp.send(queue, body, None, {**sent, **receipt}))
    frame = client.settled(1).inbox[0]
    equal(frame.body if isinstance(frame.body, bytes) else frame.body.encode("latin-1"), body)
    for name, value in sent.items():
        equal(frame.headers.get(name), value, name)
    # RabbitMQ leaks it.
    assert PEER == "rabbitmq" or "receipt" not in frame.headers, frame.headers


@case
def large_bodies_arrive_whole():
    queue = f"/queue/{unique()}"
    client = Client().subscribe(queue)
    for n, size in enumerate([0, 1, 65_536, 1_000_000, 3_500_000]):
        client.send(queue, b"x" * size)
        client.wait(n + 1)
        equal(len(client.inbox[n].body or b""), size)


@case
def exchanges_and_amq_queues_are_reached_by_name():
    client = Client()
    key = unique("k")
    client.subscribe(f"/exchange/amq.direct/{key}", "direct")
    client.subscribe(f"/exchange/amq.topic/{key}.*", "topic")
    client.send(f"/exchange/amq.direct/{key}", "direct")
    client.send(f"/topic/{key}.x", "topic")
    client.settled(2)
    equal(
        {frame.headers["subscription"]: frame.headers["destination"] for frame in client.inbox},
        {"direct": f"/exchange/amq.direct/{key}", "topic": f"/topic/{key}.x"},
    )
    queue = unique()
    client.send(f"/queue/{queue}", "declared")
    client.subscribe(f"/amq/queue/{queue}", "amq")
    client.settled(3)


@case
def a_slash_in_a_name_is_written_percent_2f():
    name = f"{unique()}%2Fb c"
    client = Client().subscribe(f"/queue/{name}")
    client.send(f"/queue/{name}", "x")
    equal(client.settled(1).inbox[0].headers["destination"], f"/queue/{name}")


@case
def settling_with_all_headers_of_the_message_works():
    # PHP's clients copy them, including the content-length of a body that they do not send.
    client = Client()
    queue = f"/queue/{unique()}"
    client.subscribe(queue, ack="client-individual")
    for body in ("one", "two"):
        client.send(queue, body)
    for frame in client.settled(2).inbox:
        client.receipt(lambda receipt: client.stomp.send_frame("ACK", settled_as(frame, receipt)))
    again = Client().subscribe(queue)
    equal(again.settled(0).inbox, [])
    client.receipt(lambda receipt: client.stomp.send_frame("UNSUBSCRIBE", {"id": "1", "content-length": "9", **receipt}))


def settled_as(frame, receipt):
    return {**frame.headers, "id": frame.headers["ack"], "content-length": "3", **receipt}


@case(differs="rabbitmq")  # It keeps the connection open, and clients wait forever.
def a_cancelled_subscription_is_an_error_and_the_end():
    client = Client()
    queue = unique()
    client.subscribe(f"/queue/{queue}")
    channel().queue_delete(queue)
    client.until(lambda: client.closed, "the close")
    equal([e.headers["message"] for e in client.errors], ["Server cancelled subscription"])


@case(differs="rabbitmq")  # Written so by RabbitMQ 4; 3.10 appends a slash.
def a_message_without_a_key_comes_from_its_exchange():
    client = Client().subscribe("/exchange/amq.fanout")
    body = unique("body")
    channel().basic_publish("amq.fanout", "", body.encode())
    client.until(lambda: body in client.bodies, "the message")
    found = [f.headers["destination"] for f in client.inbox if text(f.body) == body]
    equal(found, ["/exchange/amq.fanout"])


@case
def a_temporary_queue_brings_the_answer():
    service, client = Client(), Client()
    queue = f"/queue/{unique('rpc')}"
    service.subscribe(queue)
    client.send(queue, "question", reply_to="/temp-queue/mine", correlation_id="7")
    request = service.settled(1).inbox[0]
    assert request.headers["reply-to"].startswith("/reply-queue/"), request.headers
    service.send(request.headers["reply-to"], "answer", correlation_id=request.headers["correlation-id"])
    reply = client.settled(1).inbox[0]
    equal((text(reply.body), reply.headers["correlation-id"]), ("answer", "7"))
    equal(reply.headers["subscription"], "/temp-queue/mine")
    # The same name is the same queue.
    client.send(queue, "again", reply_to="/temp-queue/mine")
    equal(service.settled(2).inbox[1].headers["reply-to"], request.headers["reply-to"])


@case
def a_durable_subscription_collects_while_its_client_is_away():
    topic = f"/topic/{unique('t')}"
    durable = {"durable": "true", "auto_delete": "false"}
    id = unique("d")
    client = Client().subscribe(topic, id, **durable)
    client.send(topic, "1")
    client.settled(1)
    client.close()
    sender = Client()
    sender.send(topic, "2")
    back = Client().subscribe(topic, id, **durable)
    equal(back.settled(1).bodies, ["2"])
    # UNSUBSCRIBE without `durable` keeps it; with `durable` it is deleted.
    back.receipt(lambda receipt: back.stomp.unsubscribe(id, receipt))
    sender.send(topic, "3")
    back.subscribe(topic, id, **durable)
    equal(back.settled(2).bodies, ["2", "3"])
    back.receipt(lambda receipt: back.stomp.unsubscribe(id, {"durable": "true", **receipt}))
    sender.send(topic, "4")
    back.subscribe(topic, id, **durable)
    back.settled(2)
    back.receipt(lambda receipt: back.stomp.unsubscribe(id, {"durable": "true", **receipt}))


@case
def heart_beats_are_agreed_and_kept():
    # If the machine is too slow for the first, one of the others may be in time.
    for interval in (1000, 6000, 20000):
        client = Client(heartbeats=(interval, interval))
        equal(client.connected_headers["heart-beat"], f"{interval},{interval}")
        time.sleep(3.5 * interval / 1000)
        if not client.closed:
            break
    assert not client.closed
    client.send(f"/topic/{unique('t')}", "x")


@case
def a_disconnect_with_receipt_loses_nothing():
    queue = f"/queue/{unique()}"
    sender = Client()
    for n in range(300):
        sender.send(queue, str(n), wait=False, persistent="true")
    sender.close()
    assert sender.receipts, "no receipt for DISCONNECT"
    equal(Client().subscribe(queue).settled(300).bodies, [str(n) for n in range(300)])


@every_version
def a_wrong_password_is_a_bad_connect(version):
    client = Client(version, connect=False)
    try:
        client.stomp.connect("guest", "wrong", wait=True)
    except Exception:
        pass
    message, body, _ = client.error()
    equal((message, body.strip()), ("Bad CONNECT", "Access refused for user 'guest'"))


@case
def queue_arguments_come_as_headers():
    queue = f"/queue/{unique()}"
    client = Client()
    for n in range(5):
        client.send(queue, str(n), x_max_length="2", auto_delete="true", durable="false")
    client.subscribe(queue, x_max_length="2", auto_delete="true", durable="false")
    equal(client.settled(2).bodies, ["3", "4"])


if __name__ == "__main__":
    main(side_by_side=16)
