"""What happens to connected clients, in each protocol, when an operator changes users, rights and vhosts over the management
API."""

import pika
import pika.exceptions

from amqp import connect
from amqp import refused
from doors import NOT_AUTHORIZED, acknowledged, refusal
from harness import case, equal, eventually, main, unique
from management import ADMIN, segment, user
from mqtt import V3, V5, Client
from stomps import Client as StompClient

ADMINISTRATIVE_ACTION = 0x98
PASSWORD = "s3cret"


def person(vhost="/"):
    """A user that may do everything in a vhost; its login."""
    name = unique("u")
    user(name, permissions=[vhost])
    return name, PASSWORD


def amqp_connect(who, **settings):
    """Waits long enough for a busy machine."""
    credentials = pika.PlainCredentials(*who)
    return connect(credentials=credentials, socket_timeout=30, stack_timeout=60, **settings)


def amqp(who):
    return amqp_connect(who).channel()


def permit(name, configure=".*", write=".*", read=".*", vhost="/"):
    rights = {"configure": configure, "write": write, "read": read}
    ADMIN.put(f"/api/permissions/{segment(vhost)}/{segment(name)}", rights)


def permit_topics(name, write, read, vhost="/"):
    rights = {"exchange": "amq.topic", "write": write, "read": read}
    ADMIN.put(f"/api/topic-permissions/{segment(vhost)}/{segment(name)}", rights)


def told_by_amqp(connection):
    """The code and the text with which a connection was closed by the broker."""
    def ended():
        try:
            connection.process_data_events(0.05)
            return None
        except pika.exceptions.ConnectionClosedByBroker as error:
            return error.reply_code, error.reply_text

    return eventually(ended, "the end of the connection")


def told_by_stomp(client):
    client.until(lambda: client.errors, "an ERROR", within=30)
    error = client.errors[0]
    return f"{error.headers['message']}: {error.body.decode()}"


@case
def a_deleted_users_connections_end_with_each_protocols_error():
    who, other = person(), person()
    topic = unique("will")
    watcher = Client(V5)
    watcher.subscribe(f"{topic}/#", 1)
    will = {"topic": f"{topic}/1", "payload": b"x", "qos": 1}
    by_amqp, stays = amqp_connect(who), amqp(other)
    by_stomp = StompClient(login=who)
    old, new = Client(V3, user=who), Client(V5, user=who, will=will)
    neighbour = Client(V5, user=other)
    ADMIN.delete(f"/api/users/{who[0]}")
    code, text = told_by_amqp(by_amqp)
    equal(code, 320)
    assert "deleted" in text, text
    assert "deleted" in told_by_stomp(by_stomp)
    equal(new.gone(), ADMINISTRATIVE_ACTION)
    old.gone()
    equal(refusal(version=V5, user=who), 0x86)
    # Other clients are still served.
    stays.queue_declare("", exclusive=True)
    assert acknowledged(neighbour, f"{topic}/end", 1) == 0
    watcher.wait(1)
    equal([message.topic for message in watcher.inbox], [f"{topic}/end"], "the will of nobody")


@case
def a_vhost_s_deletion_ends_what_is_in_it_and_nothing_else():
    vhost = unique("v")
    ADMIN.put(f"/api/vhosts/{vhost}")
    who = person(vhost)
    permit(who[0])
    here = amqp_connect(who, virtual_host=vhost)
    here.channel().queue_declare("q", durable=True)
    elsewhere = amqp(who)
    by_stomp = StompClient(login=who, vhost=vhost)
    in_it = (f"{vhost}:{who[0]}", PASSWORD)
    new, old = Client(V5, user=in_it), Client(V3, user=in_it)
    outside = Client(V5, user=who)
    ADMIN.delete(f"/api/vhosts/{vhost}")
    # RabbitMQ's text.
    equal(told_by_amqp(here), (320, f"CONNECTION_FORCED - vhost '{vhost}' is down"))
    told = told_by_stomp(by_stomp)
    assert "virtual host is deleted" in told, told
    equal(new.gone(), ADMINISTRATIVE_ACTION)
    old.gone()
    elsewhere.queue_declare("", exclusive=True)
    assert acknowledged(outside, unique("t"), 1) in (0, 0x10)
    equal(refusal(version=V5, user=in_it), NOT_AUTHORIZED)
    try:
        amqp_connect(who, virtual_host=vhost)
        raise AssertionError("it is there")
    except pika.exceptions.ProbableAccessDeniedError as error:
        assert "(530)" in str(error) and f"NOT_ALLOWED - vhost {vhost} not found" in str(error), error
    # A new one of the same name is a different user.
    ADMIN.put(f"/api/vhosts/{vhost}")
    permit(who[0], vhost=vhost)
    again = amqp_connect(who, virtual_host=vhost).channel()
    refused(404, "NOT_FOUND", lambda: again.queue_declare("q", passive=True))


@case
def a_revoked_right_stops_the_next_publish_of_amqp_and_nothing_else():
    who, queue = person(), unique()
    connection = amqp_connect(who)
    writing, reading = connection.channel(), connection.channel()
    writing.confirm_delivery()
    reading.queue_declare(queue, auto_delete=True)
    reading.queue_bind(queue, "amq.topic", f"{queue}.#")
    writing.basic_publish("amq.topic", f"{queue}.1", b"before")
    permit(who[0], write="^$")
    text = f"ACCESS_REFUSED - write access to exchange 'amq.topic' in vhost '/' refused for user '{who[0]}'"
    refused(403, text, lambda: writing.basic_publish("amq.topic", f"{queue}.2", b"after"))
    equal(reading.basic_get(queue, auto_ack=True)[2], b"before")
    permit(who[0])
    permit_topics(who[0], f"{queue}/allowed", "#")
    writing = connection.channel()
    writing.confirm_delivery()
    writing.basic_publish("amq.topic", f"{queue}.allowed", b"topic")
    permit_topics(who[0], f"{queue}/other", "#")
    refused(403, "ACCESS_REFUSED", lambda: writing.basic_publish("amq.topic", f"{queue}.allowed", b"after"))
    equal(reading.basic_get(queue, auto_ack=True)[2], b"topic")
    permit(who[0], read="^$")
    refused(403, "ACCESS_REFUSED", lambda: reading.basic_get(queue))
    assert connection.is_open


@case
def a_revoked_right_stops_the_next_publish_of_mqtt_and_nothing_else():
    who, topic = person(), unique("t")
    new, old = Client(V5, user=who), Client(V3, user=who)
    for client in (new, old):
        client.subscribe(f"{topic}/in", 1)
    equal(acknowledged(new, f"{topic}/in", 1), 0)
    permit_topics(who[0], f"{topic}/elsewhere", f"{topic}/in")
    equal(acknowledged(new, f"{topic}/in", 1), NOT_AUTHORIZED)
    equal(new.subscribe(f"{topic}/x", 1), NOT_AUTHORIZED)
    equal(old.subscribe(f"{topic}/x", 1), 0x80)
    assert acknowledged(new, f"{topic}/elsewhere", 1) in (0, 0x10)
    Client(V5, user=("guest", "guest")).publish(f"{topic}/in", b"still", 1)
    for client in (new, old):
        client.wait(2)
        assert not client.disconnects
    # The whole permission.
    ADMIN.delete(f"/api/permissions/%2F/{who[0]}")
    equal(acknowledged(new, f"{topic}/elsewhere", 1), NOT_AUTHORIZED)
    assert not new.disconnects


@case
def a_revoked_right_stops_the_next_frame_of_stomp():
    who, topic = person(), unique("t")
    client = StompClient(login=who).subscribe(f"/topic/{topic}.in")
    client.send(f"/topic/{topic}.in", "before")
    client.settled(1)
    neighbour = StompClient(login=person())
    permit_topics(who[0], f"{topic}/elsewhere", "#")
    client.send(f"/topic/{topic}.in", "after", wait=False)
    assert told_by_stomp(client).startswith("access_refused: ")
    neighbour.send(f"/topic/{topic}.in", "neighbour")


@case
def a_new_password_ends_nothing_and_counts_at_once():
    who = person()
    client, connection = Client(V5, user=who), amqp(who)
    ADMIN.put(f"/api/users/{who[0]}", {"password": "another", "tags": ""})
    equal(refusal(version=V5, user=who), 0x86)
    Client(V5, user=(who[0], "another"))
    assert acknowledged(client, unique("t"), 1) in (0, 0x10)
    connection.queue_declare("", exclusive=True)


@case
def a_session_cannot_be_taken_over_by_another_user_whatever_the_version():
    first, second = person(), person()
    for version in (V3, V5):
        client = Client(version, user=first)
        for other in (V3, V5):
            equal(refusal(version=other, client_id=client.client_id, user=second), NOT_AUTHORIZED)
        assert not client.disconnects
        assert client.subscribe(unique("t"), 1) == 1
        # The same user may.
        Client(version, client_id=client.client_id, user=first)
        client.gone()


@case
def a_will_is_checked_against_the_rights_at_its_publication():
    topic = unique("w")
    watcher = Client(V5)
    watcher.subscribe(f"{topic}/#", 1)
    for version in (V3, V5):
        who = person()
        will = {"topic": f"{topic}/no", "payload": b"x", "qos": 1}
        allowed = {"topic": f"{topic}/yes", "payload": b"x", "qos": 1}
        client, other = Client(version, user=who, will=will), Client(version, user=who, will=allowed)
        permit_topics(who[0], f"{topic}/yes", "#")
        client.drop()
        other.drop()
    watcher.wait(2)
    watcher.publish(f"{topic}/end", b"", 1)
    watcher.wait(3)
    equal([message.topic for message in watcher.inbox], [f"{topic}/yes"] * 2 + [f"{topic}/end"])


@case
def a_user_at_its_limit_gets_each_protocols_error():
    who = person()
    ADMIN.put(f"/api/user-limits/{who[0]}/max-connections", {"value": 1})
    first = Client(V5, user=who)
    equal(refusal(version=V5, user=who), 0x97)
    assert refusal(version=V3, user=who) in (0x88, 0x97, 0x89), "3 of MQTT 3.1.1"
    try:
        amqp_connect(who)
        raise AssertionError("there was room")
    except pika.exceptions.ProbableAccessDeniedError as error:
        assert "(530)" in str(error) and "user connection limit (1) is reached" in str(error), error
    stomp = StompClient(connect=False)
    stomp.stomp.connect(*who, wait=False)
    assert "limit" in told_by_stomp(stomp)
    first.disconnect()

    def in_again():
        return refusal(version=V5, user=who) == 0

    eventually(in_again, "room for one")


@case
def an_impersonator_may_name_another_sender():
    who = person()
    bob = pika.BasicProperties(user_id="bob")

    def send():
        channel = amqp(who)
        channel.queue_declare("", exclusive=True)
        channel.basic_publish("", "", b"x", bob)
        channel.queue_declare("", exclusive=True)

    text = f"PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was '{who[0]}'"
    refused(406, text, send)
    ADMIN.put(f"/api/users/{who[0]}", {"password": PASSWORD, "tags": "impersonator"})
    send()
    StompClient(login=who).send("/topic/" + unique(), "x", **{"user-id": "bob"})


if __name__ == "__main__":
    main()
