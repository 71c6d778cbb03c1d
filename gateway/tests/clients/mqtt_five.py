"""What only MQTT 5 has, under paho: properties, subscription options, shared subscriptions, expiry."""

import time

from harness import case, equal, eventually, main, unique
from mqtt import V3, V5, Client, options, properties


@case
def properties_of_a_message_arrive_as_they_were_sent():
    topic = unique("t")
    subscriber, publisher = Client(V5), Client(V5)
    subscriber.subscribe(topic, 1)
    sent = {
        "PayloadFormatIndicator": 1,
        "ContentType": "text/plain",
        "ResponseTopic": "answers/here",
        "CorrelationData": bytes(range(256)),
        "UserProperty": [("b", "2"), ("a", "1"), ("b", "again"), ("", ""), ("ü", "ö")],
    }
    publisher.publish(topic, "x", qos=1, **sent)
    publisher.publish(topic, "bare", qos=1)
    got = subscriber.settled(2).inbox
    for name, value in sent.items():
        equal(getattr(got[0].properties, name), value, name)
    assert not hasattr(got[0].properties, "MessageExpiryInterval")
    assert got[1].properties.isEmpty(), got[1].properties


@case
def properties_survive_retaining_and_queueing():
    topic = unique("t")
    device = Client(V5, clean=False, expiry=60)
    device.subscribe(topic, 1)
    device.disconnect()
    Client(V5).publish(topic, "x", qos=1, retain=True, ContentType="a/b", UserProperty=[("k", "v"), ("k", "w")])
    device.connect()
    late = Client(V5)
    late.subscribe(topic, 1)
    for client, retained in [(device, False), (late, True)]:
        message = client.settled(1).inbox[0]
        equal((message.retain, message.properties.ContentType), (retained, "a/b"))
        equal(message.properties.UserProperty, [("k", "v"), ("k", "w")])


@case
def a_reply_goes_to_the_reply_to_address():
    service, asker = Client(V5), Client(V5)
    requests, answers = unique("rpc"), unique("answers")

    def answer(client, _, message):
        service.paho.publish(
            message.properties.ResponseTopic, b"re: " + message.payload, 1,
            properties=properties("PUBLISH", CorrelationData=message.properties.CorrelationData),
        )

    service.paho.on_message = answer
    service.subscribe(requests, 1)
    asker.subscribe(answers, 1)
    asker.publish(requests, "question", qos=1, ResponseTopic=answers, CorrelationData=b"\x00\x7f")
    message = asker.settled(1).inbox[0]
    equal((message.payload, message.properties.CorrelationData), (b"re: question", b"\x00\x7f"))


@case
def subscription_ids_come_back():
    topic = unique("t")
    subscriber, publisher = Client(V5), Client(V5)
    subscriber.subscribe(f"{topic}/a", 1, properties=properties("SUBSCRIBE", SubscriptionIdentifier=268_435_455))
    subscriber.subscribe(f"{topic}/b", 1)
    publisher.publish(f"{topic}/a", "x", qos=1)
    publisher.publish(f"{topic}/b", "x", qos=1)
    got = subscriber.settled(2).inbox
    equal(got[0].properties.SubscriptionIdentifier, [268_435_455])
    assert not hasattr(got[1].properties, "SubscriptionIdentifier")
    # Subscribing again replaces the id too.
    subscriber.subscribe(f"{topic}/a", 1, properties=properties("SUBSCRIBE", SubscriptionIdentifier=2))
    publisher.publish(f"{topic}/a", "x", qos=1)
    equal(subscriber.settled(3).inbox[2].properties.SubscriptionIdentifier, [2])


@case(differs="mosquitto")  # One copy for each there.
def overlapping_subscriptions_give_all_their_ids():
    topic = unique("t")
    subscriber, publisher = Client(V5), Client(V5)
    for n, pattern in enumerate([f"{topic}/#", f"{topic}/+", f"{topic}/a"], 1):
        subscriber.subscribe(pattern, 1, properties=properties("SUBSCRIBE", SubscriptionIdentifier=n))
    publisher.publish(f"{topic}/a", "x", qos=1)
    equal(sorted(subscriber.settled(1).inbox[0].properties.SubscriptionIdentifier), [1, 2, 3])


@case
def no_local_leaves_out_the_publisher():
    topic = unique("t")
    client, other = Client(V5), Client(V5)
    client.subscribe(topic, options=options(1, no_local=True))
    other.subscribe(topic, options=options(1, no_local=True))
    client.publish(topic, "own", qos=1)
    other.settled(1)
    other.publish(topic, "other's", qos=1)
    equal(client.settled(1).payloads, [b"other's"])


@case
def retain_as_published_keeps_the_flag():
    topic = unique("t")
    keeping, clearing = Client(V5), Client(V5)
    keeping.subscribe(topic, options=options(1, retain_as_published=True))
    clearing.subscribe(topic, options=options(1))
    publisher = Client(V5)
    publisher.publish(topic, "retained", qos=1, retain=True)
    publisher.publish(topic, "live", qos=1)
    equal([m.retain for m in keeping.settled(2).inbox], [True, False])
    equal([m.retain for m in clearing.settled(2).inbox], [False, False])


@case
def retain_handling_says_when_to_replay():
    topic = unique("t")
    Client(V5).publish(topic, "r", qos=1, retain=True)
    for handling, counts in [(0, (1, 2)), (1, (1, 1)), (2, (0, 0))]:
        client = Client(V5)
        client.subscribe(topic, options=options(1, retain_handling=handling))
        client.settled(counts[0])
        client.subscribe(topic, options=options(1, retain_handling=handling))
        client.settled(counts[1])


@case
def a_shared_subscription_hands_each_message_to_one_member():
    topic = unique("t")
    group = f"$share/{unique('g')}/{topic}/#"
    members = [Client(V5) for _ in range(3)]
    single = Client(V5)
    single.subscribe(f"{topic}/#", 1)
    for member in members:
        equal(member.subscribe(group, 1), 1)
    publisher = Client(V5, inflight=50)
    infos = [publisher.publish(f"{topic}/x", str(n), qos=1, wait=False) for n in range(300)]
    for info in infos:
        info.wait_for_publish(10)
    single.settled(300)
    eventually(lambda: sum(len(m.inbox) for m in members) >= 300)
    for member in members:
        # A second copy would have come before it.
        member.subscribe(f"fence/{topic}", 1)
    publisher.publish(f"fence/{topic}", "fence", qos=1)
    for member in members:
        eventually(lambda: b"fence" in member.payloads)
    shares = [[int(p) for p in member.payloads if p != b"fence"] for member in members]
    equal(sorted(sum(shares, [])), list(range(300)))
    assert all(len(share) > 30 for share in shares), [len(share) for share in shares]
    # One member has left: the others get all messages.
    members[0].unsubscribe(group)
    for member in members:
        member.inbox.clear()
    for n in range(10):
        publisher.publish(f"{topic}/x", str(n), qos=1)
    eventually(lambda: sum(len(m.inbox) for m in members[1:]) == 10)
    equal(members[0].inbox, [])


@case(differs="mosquitto")  # Retained messages there too.
def groups_are_separate_and_see_no_retained_messages():
    topic = unique("t")
    publisher = Client(V5)
    publisher.publish(topic, "retained", qos=1, retain=True)
    one, two, old = Client(V5), Client(V5), Client(V3)
    one.subscribe(f"$share/{topic}a/{topic}", 1)
    two.subscribe(f"$share/{topic}b/{topic}", 1)
    old.subscribe(f"$share/{topic}c/{topic}", 1)
    publisher.publish(topic, "x", qos=1)
    for client in (one, two, old):
        equal(client.settled(1).payloads, [b"x"])


@case(differs="mosquitto")  # It loses the messages that the member did not acknowledge.
def what_a_leaving_member_did_not_acknowledge_goes_to_another():
    topic = unique("t")
    group = f"$share/{topic}/{topic}"
    holder = Client(V5, manual_ack=True)
    holder.subscribe(group, 1)
    publisher = Client(V5)
    for n in range(5):
        publisher.publish(topic, str(n), qos=1)
    holder.wait(5)
    other = Client(V5)
    other.subscribe(group, 1)
    holder.drop()
    equal(sorted(other.settled(5).payloads), [b"%d" % n for n in range(5)])


@case
def a_message_expires_while_it_waits():
    topic = unique("t")
    device = Client(V5, clean=False, expiry=60)
    device.subscribe(topic, 1)
    device.disconnect()
    publisher = Client(V5)
    began = time.monotonic()
    publisher.publish(topic, "short", qos=1, MessageExpiryInterval=1)
    publisher.publish(topic, "long", qos=1, MessageExpiryInterval=60)
    publisher.publish(f"{topic}/r", "short", qos=1, retain=True, MessageExpiryInterval=1)
    publisher.publish(f"{topic}/s", "long", qos=1, retain=True, MessageExpiryInterval=60)
    time.sleep(2.2)

    def is_what_is_left(message):
        left = message.properties.MessageExpiryInterval
        assert 59 - (time.monotonic() - began) <= left <= 58, f"{left} s are left"

    device.connect(clean=False)
    message = device.settled(1).inbox[0]
    equal(message.payload, b"long")
    is_what_is_left(message)
    late = Client(V5)
    late.subscribe(f"{topic}/+", 1)
    message = late.settled(1).inbox[0]
    equal(message.payload, b"long")
    is_what_is_left(message)


@case
def a_3_1_1_subscriber_gets_what_a_5_publisher_sends():
    topic = unique("t")
    old, new = Client(V3), Client(V5)
    old.subscribe(topic, 1)
    new.subscribe(topic, 1)
    new.publish(topic, "from 5", qos=1, ContentType="a/b", UserProperty=("k", "v"))
    old.publish(topic, "from 3", qos=1)
    equal(old.settled(2).payloads, [b"from 5", b"from 3"])
    equal(new.settled(2).payloads, [b"from 5", b"from 3"])


@case
def a_publish_without_subscribers_may_be_answered_with_0x10():
    publisher = Client(V5)
    info = publisher.publish(unique("nobody"), "x", qos=1)
    assert info.is_published()


@case
def an_assigned_client_id_is_unique():
    ids = set()
    for _ in range(5):
        client = Client(V5, connect=False)
        client.paho._client_id = b""
        client.connect()
        equal(client.connack[0].value, 0)
        ids.add(client.connack[2].AssignedClientIdentifier)
    equal(len(ids), 5)


if __name__ == "__main__":
    main(side_by_side=16)
