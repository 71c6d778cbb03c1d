"""How each protocol refuses what a user may not do. The users and their topics are in Mosquitto's files:
`plant` has `plant/#` but for `plant/secret/#`, `reader` reads it, both may write `status/<client id>`."""

import pika
import pika.exceptions

import mqtt_raw as raw
from amqp import connect as amqp_connect
from amqp import refused
from doors import NOT_AUTHORIZED, acknowledged, amqp, refusal
from harness import ask, case, equal, eventually, main, unique
from mqtt import V3, V5, Client, both
from stomps import Client as StompClient

PLANT, READER = ("plant", "s3cret"), ("reader", "s3cret")


@case
def mqtt_5_says_0x87_in_puback_and_pubrec_and_goes_on():
    client = Client(V5, user=PLANT)
    # 0: delivered; 0x10: no matching subscribers.
    assert acknowledged(client, "plant/1/temp", 1) in (0, 0x10)
    equal(acknowledged(client, "other/1", 1), NOT_AUTHORIZED)
    equal(acknowledged(client, "plant/secret/1", 1), NOT_AUTHORIZED)
    assert acknowledged(client, f"status/{client.client_id}", 1) in (0, 0x10)
    equal(acknowledged(client, "status/somebody", 1), NOT_AUTHORIZED)


# paho sends PUBREL even after a PUBREC with an error, and so hides the error.
@case
def mqtt_5_says_0x87_in_pubrec():
    wire = raw.Wire.opened(flags=0xC2, rest=raw.text("plant") + raw.text("s3cret"))
    wire.raw(raw.publish("other/1", b"x", qos=2, mid=7))
    equal(wire.expect(raw.PUBREC)[:3], bytes([0, 7, NOT_AUTHORIZED]))


@both
def at_qos_0_the_message_is_dropped_and_nothing_is_said(version):
    seen = unique()
    watcher = Client(user=("guest", "guest"))
    watcher.subscribe("#")
    client = Client(version, user=PLANT)
    client.publish(f"other/{seen}", b"no")
    client.publish(f"plant/{seen}", b"yes")
    eventually(lambda: any(t.startswith(f"plant/{seen}") for t in watcher.texts), "what is permitted")
    assert not any(t.startswith(f"other/{seen}") for t in watcher.texts), watcher.texts
    equal(client.subscribe("plant/1/temp"), 0)


# A PUBACK of MQTT 3 has no reason code: it would confirm a message that was dropped.
@case
def mqtt_3_is_closed_where_a_publish_is_refused():
    client = Client(V3, user=PLANT)
    client.publish("other/1", b"x", 1, wait=False)
    client.gone()


@both
def a_filter_must_lie_within_what_is_permitted(version):
    client = Client(version, user=PLANT)
    no = NOT_AUTHORIZED if version == V5 else 0x80
    filters = ["plant/1/+", "plant/+/temp", "plant/secret/1", "plant/#", "#", "+/1", "other/1", "plant/1/#"]
    expected = [1, no, no, no, no, no, no, 1]
    # `plant/+/temp` would match plant/secret/temp.
    equal(client.subscribe([(filter, 1) for filter in filters]), expected)
    equal(client.subscribe("$share/group/plant/1/x", 1), 1)
    equal(client.subscribe("$share/group/other/x", 1), no)


@case
def a_will_is_asked_for_at_connect():
    for version, code in [(V3, 5), (V5, NOT_AUTHORIZED)]:
        will = {"topic": "other/will", "payload": b"x", "qos": 1}
        reason = refusal(version=version, user=PLANT, will=will)
        assert reason in (code, NOT_AUTHORIZED), (version, reason)
        Client(version, user=PLANT, will={**will, "topic": "plant/will"})


@both
def a_session_belongs_to_its_user(version):
    first = Client(version, user=PLANT, clean=False, expiry=600)
    equal(refusal(version=version, client_id=first.client_id, user=READER), NOT_AUTHORIZED)
    first.disconnect()
    # The session stays while its client is not connected.
    equal(refusal(version=version, client_id=first.client_id, user=READER), NOT_AUTHORIZED)
    again = Client(version, client_id=first.client_id, user=PLANT, clean=False, expiry=600)
    assert again.present


@case
def bad_credentials_are_told_apart_from_access_only_by_code():
    for user in [("plant", "wrong"), ("nobody", "s3cret"), ("nobody", "nothing")]:
        equal(refusal(version=V5, user=user), 0x86, user)
        # Code 4 of MQTT 3, which paho reports as the reason code of MQTT 5.
        equal(refusal(version=V3, user=user), 0x86, user)


@case
def amqp_closes_the_channel_with_403():
    by = "in vhost '/' refused for user 'plant'"
    refused(403, f"ACCESS_REFUSED - configure access to queue 'orders' {by}", lambda: amqp(PLANT).queue_declare("orders"))
    refused(403, f"ACCESS_REFUSED - configure access to exchange 'x' {by}", lambda: amqp(PLANT).exchange_declare("x"))
    refused(403, f"ACCESS_REFUSED - read access to queue 'orders' {by}", lambda: amqp(PLANT).basic_get("orders"))
    refused(403, f"ACCESS_REFUSED - read access to queue 'orders' {by}", lambda: amqp(PLANT).queue_purge("orders"))

    def publish(exchange, key):
        channel = amqp(PLANT)
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"x")

    text = f"ACCESS_REFUSED - write access to topic 'other.1' in exchange 'amq.topic' {by}"
    refused(403, text, lambda: publish("amq.topic", "other.1"))
    refused(403, f"ACCESS_REFUSED - write access to exchange 'amq.default' {by}", lambda: publish("", "orders"))
    publish("amq.topic", "plant.1.temp")
    # Placeholders that a connection has no value for permit nothing.
    refused(403, "write access to topic 'status.", lambda: publish("amq.topic", "status.x"))


@case
def amqp_binds_within_what_may_be_read():
    channel = amqp(READER)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "amq.topic", "plant.1.*")
    text = "ACCESS_REFUSED - read access to topic 'plant.#' in exchange 'amq.topic'"
    refused(403, text, lambda: channel.queue_bind(queue, "amq.topic", "plant.#"))


@case
def amqp_refuses_a_vhost_with_530_and_a_login_with_403():
    try:
        amqp_connect(credentials=pika.PlainCredentials(*PLANT), virtual_host="/none")
        raise AssertionError("a vhost that is not there")
    except pika.exceptions.ProbableAccessDeniedError as error:
        assert "(530) 'NOT_ALLOWED - vhost /none not found'" in str(error), error
    try:
        amqp_connect(credentials=pika.PlainCredentials("plant", "wrong"))
        raise AssertionError("a wrong password")
    except pika.exceptions.ProbableAuthenticationError as error:
        assert "ACCESS_REFUSED" in str(error), error


@case
def stomp_says_access_refused():
    def told(act):
        client = StompClient(login=PLANT)
        act(client)
        client.until(lambda: client.errors, "an ERROR")
        equal(client.errors[0].headers["message"], "access_refused")
        return client.errors[0].body

    told(lambda c: c.send("/topic/other.1", "x", wait=False))
    told(lambda c: c.send("/topic/plant.secret.1", "x", wait=False))
    told(lambda c: c.stomp.subscribe("/topic/other.1", "1"))
    told(lambda c: c.stomp.subscribe("/topic/plant.#", "1"))
    told(lambda c: c.send("/queue/orders", "x", wait=False))
    told(lambda c: c.stomp.subscribe("/queue/orders", "1"))
    client = StompClient(login=PLANT).subscribe("/topic/plant.1.only-here")
    client.send("/topic/plant.1.only-here", "20")
    client.settled(1)


@case
def a_topic_is_decided_alike_in_all_protocols():
    topics = ["plant/1/temp", "plant/secret/1", "other/1", "plant"]
    by_mqtt = [acknowledged(Client(V5, user=PLANT), topic, 1) != NOT_AUTHORIZED for topic in topics]

    def by_amqp(topic):
        channel = amqp(PLANT)
        channel.confirm_delivery()
        try:
            channel.basic_publish("amq.topic", topic.replace("/", "."), b"x")
            return True
        except pika.exceptions.ChannelClosedByBroker:
            return False

    def by_stomp(topic):
        client = StompClient(login=PLANT)
        name = unique("r")
        client.stomp.send("/topic/" + topic.replace("/", "."), "x", None, {"receipt": name})
        client.until(lambda: client.errors or name in client.receipts, "an answer")
        return not client.errors

    equal([by_amqp(topic) for topic in topics], by_mqtt)
    equal([by_stomp(topic) for topic in topics], by_mqtt)
    equal(by_mqtt, [True, False, False, True])


@case
def what_a_reload_takes_away_stops_the_next_publish_and_closes_nothing():
    watcher = Client(user=("guest", "guest"))
    watcher.subscribe("brief/#")
    will = {"topic": "brief/will", "payload": b"x", "qos": 1}
    brief, gone = Client(V5, user=("brief", "s3cret"), will=will), Client(V5, user=("gone", "s3cret"))
    equal(acknowledged(brief, "brief/1", 1), 0)
    equal(brief.subscribe("brief/in", 1), 1)
    with open("acl") as file:
        text = file.read()
    with open("acl", "w") as file:
        file.write(text.replace("topic readwrite brief/#", "topic read brief/#"))
    with open("passwords") as file:
        users = file.readlines()
    with open("passwords", "w") as file:
        file.writelines(line for line in users if not line.startswith("gone:"))
    ask("hangup")
    # Its user was deleted: DISCONNECT with that reason.
    equal(gone.gone(), 0x98)
    equal(acknowledged(brief, "brief/1", 1), NOT_AUTHORIZED)
    assert not brief.disconnects
    Client(user=("guest", "guest")).publish("brief/in", b"still there", 1)
    brief.wait(1)
    # The will was permitted when the connection began, and no longer is.
    brief.drop()
    done = Client(user=("guest", "guest"))
    done.publish("brief/end", b"", 1)
    eventually(lambda: any(t.startswith("brief/end") for t in watcher.texts), "the last message")
    assert not any(t.startswith("brief/will") for t in watcher.texts), watcher.texts


if __name__ == "__main__":
    main()
