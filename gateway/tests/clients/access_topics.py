"""Topics that a user may not have, in each version of MQTT, in every packet that can name them, as Paho's
test suites for brokers do with `test/nosubscribe`. `plant` has `plant/#` but for `plant/secret/#`; `reader` reads `plant/1/#`."""

import paho.mqtt.client as paho
from paho.mqtt.subscribeoptions import SubscribeOptions

from doors import NOT_AUTHORIZED, acknowledged, refusal
from harness import case, equal, eventually, main, unique
from mqtt import V3, V5, Client

V31 = paho.MQTTv31
PLANT, READER, GUEST = ("plant", "s3cret"), ("reader", "s3cret"), ("guest", "guest")


def each_version(function):
    """One case for each version."""
    for version, name in [(V31, "3_1"), (V3, "3_1_1"), (V5, "5")]:
        def run(version=version):
            function(version)

        run.__name__ = f"{function.__name__}_in_{name}"
        case(run)
    return function


def client(version, user=PLANT, **settings):
    # MQTT 3.1 allows client ids of 23 characters at most; these are shorter.
    return Client(version, user=user, **settings)


def no(version):
    """The code of a refused subscription. MQTT 3.1 has none and gets QoS 0, so the cases request a higher one."""
    return {V31: 0, V3: 0x80, V5: NOT_AUTHORIZED}[version]


def received(watcher):
    return [message.topic for message in watcher.inbox]


def end_of(watcher, topic):
    """Everything published before has arrived at `watcher`, once it has this: at QoS 0 and 1. What comes at QoS 2 paho shows
    later, when its PUBREL is there."""
    client(V5, GUEST).publish(topic, b"", 1)
    eventually(lambda: topic in received(watcher), "the last message")


@each_version
def a_denied_filter_gets_nothing_and_its_neighbours_in_the_packet_do(version):
    name = unique("n")
    user = client(version)
    asked = [(f"plant/{name}/#", 2), (f"other/{name}", 2), (f"plant/secret/{name}", 1), (f"plant/1/{name}", 0)]
    equal(user.subscribe(asked), [2, no(version), no(version), 0])
    publisher = client(V5, GUEST)
    for topic in (f"other/{name}", f"plant/secret/{name}", f"plant/1/{name}", f"plant/{name}/end"):
        publisher.publish(topic, b"x", 1)
    end_of(user, f"plant/{name}/end")
    assert sorted(set(received(user))) == sorted([f"plant/1/{name}", f"plant/{name}/end"]), received(user)
    # A refused subscription does not exist.
    equal(user.subscribe(f"other/{name}", 1), no(version))
    assert not user.disconnects


@each_version
def a_wildcard_that_is_partly_denied_is_refused_whole(version):
    user = client(version)
    filters = ["#", "+/#", "plant/#", "plant/+", "plant/+/x", "+/1/x", "plant/secret/#", "plant/secret", "/plant/1"]
    answers = user.subscribe([(filter, 1) for filter in filters])
    # `plant/+` meets plant/secret, which `plant/secret/#` covers.
    equal(answers, [no(version)] * len(filters))
    equal(user.subscribe([("plant/1/#", 1), ("plant/1/+/x", 2), ("plant/2/+", 0)]), [1, 2, 0])
    reader = client(version, READER)
    equal(reader.subscribe([("plant/1/#", 1), ("plant/1/+", 1), ("plant/+/1", 1), ("plant/2", 1)]),
          [1, 1, no(version), no(version)])


@each_version
def overlapping_filters_bring_what_is_permitted_and_no_more(version):
    name = unique("n")
    user = client(version)
    filters = [(f"plant/{name}/#", 2), (f"plant/{name}/+", 1), (f"plant/+/{name}", 2)]
    equal(user.subscribe(filters), [2, 1, no(version)])
    publisher = client(V5, GUEST)
    publisher.publish(f"plant/x/{name}", b"x", 1)
    publisher.publish(f"plant/{name}/a", b"x", 1)
    end_of(user, f"plant/{name}/b/end")
    equal(set(received(user)), {f"plant/{name}/a", f"plant/{name}/b/end"})


@each_version
def shared_subscriptions_are_asked_for_by_their_filter(version):
    user = client(version)
    asked = ["$share/g/plant/1/#", "$share/g/other/#", "$share/g/#", "$share/g/plant/secret/x", "$share/g/plant/+"]
    refused = no(version)
    equal(user.subscribe([(filter, 1) for filter in asked]), [1, refused, refused, refused, refused])


@each_version
def system_topics_are_for_those_who_may(version):
    equal(client(version).subscribe([("$SYS/#", 1), ("$SYS/broker/uptime", 2)]), [no(version)] * 2)


@each_version
def at_qos_0_a_refused_publish_is_dropped_and_the_client_goes_on(version):
    name = unique("n")
    watcher = client(V5, GUEST)
    watcher.subscribe([(f"other/{name}", 1), (f"plant/secret/{name}", 1), (f"plant/{name}", 1), (f"end/{name}", 1)])
    user = client(version)
    for topic in (f"other/{name}", f"plant/secret/{name}", f"plant/{name}"):
        user.publish(topic, b"x")
    eventually(lambda: f"plant/{name}" in received(watcher), "what is permitted")
    end_of(watcher, f"end/{name}")
    equal(received(watcher), [f"plant/{name}", f"end/{name}"])
    assert not user.disconnects


@each_version
def at_qos_1_and_2_a_refused_publish_is_told(version):
    for qos in (1, 2):
        name = unique("n")
        watcher = client(V5, GUEST)
        watcher.subscribe([(f"other/{name}", 1), (f"end/{name}", 1)])
        user = client(version)
        if version == V5:
            if qos == 1:
                equal(acknowledged(user, f"other/{name}", qos), NOT_AUTHORIZED)
            else:
                # The PUBREC has the error. paho sends a PUBREL all the same, which is answered with “packet identifier not found”.
                user.publish(f"other/{name}", b"x", qos)
            user.subscribe(f"plant/{name}", 1)
            assert not user.disconnects
        else:
            # MQTT 3 has no reason code for it: the connection ends.
            user.publish(f"other/{name}", b"x", qos, wait=False)
            user.gone()
        end_of(watcher, f"end/{name}")
        equal(received(watcher), [f"end/{name}"])


@each_version
def what_is_retained_at_a_denied_topic_stays_as_it_was(version):
    name = unique("n")
    kept = [f"other/{name}", f"plant/secret/{name}"]
    guest = client(V5, GUEST)
    for topic in kept:
        guest.publish(topic, b"kept", 1, retain=True)
    user = client(version)
    equal(user.subscribe([(topic, 1) for topic in kept]), [no(version)] * 2)
    # Neither replaced nor cleared.
    user.publish(kept[0], b"mine", 0, retain=True)
    user.publish(kept[1], b"", 0, retain=True)
    user.publish(f"plant/{name}", b"mine", 1, retain=True)
    watcher = client(V5, GUEST)
    watcher.subscribe([(topic, 1) for topic in [*kept, f"plant/{name}"]])
    watcher.wait(3)
    equal({message.topic: message.payload for message in watcher.inbox},
          {kept[0]: b"kept", kept[1]: b"kept", f"plant/{name}": b"mine"})
    assert not received(user), received(user)
    for topic in [*kept, f"plant/{name}"]:
        guest.publish(topic, b"", 1, retain=True)


@each_version
def a_will_at_a_denied_topic_is_refused_at_connect(version):
    for topic in ("other/will", "plant/secret/will"):
        for retain in (False, True):
            will = {"topic": topic, "payload": b"x", "qos": 1, "retain": retain}
            # Code 5 of MQTT 3, which paho reports as the reason code of MQTT 5.
            equal(refusal(version=version, user=PLANT, will=will), NOT_AUTHORIZED)


@each_version
def a_permitted_will_is_published(version):
    name = unique("n")
    watcher = client(V5, GUEST)
    watcher.subscribe(f"plant/{name}", 1)
    client(version, will={"topic": f"plant/{name}", "payload": b"gone", "qos": 1}).drop()
    watcher.wait(1)


@case
def options_of_mqtt_5_change_nothing_about_who_may():
    user = client(V5)
    name = unique("n")
    options = [SubscribeOptions(qos=1, noLocal=True), SubscribeOptions(qos=2, retainAsPublished=True, retainHandling=2)]
    equal(user.subscribe([(f"other/{name}", each) for each in options]), [NOT_AUTHORIZED] * 2)
    equal(user.subscribe([(f"plant/{name}", each) for each in options]), [1, 2])
    # Unsubscribing from what was never subscribed: 0x11 for every user.
    equal(user.unsubscribe(f"other/{name}"), [0x11])


@case
def an_alias_is_checked_by_its_topic():
    name = unique("n")
    watcher = client(V5, GUEST)
    watcher.subscribe([(f"other/{name}", 1), (f"end/{name}", 1)])
    user = client(V5)
    user.publish(f"other/{name}", b"x", 0, TopicAlias=1)
    user.publish("", b"x", 0, TopicAlias=1)
    # Answered once both have arrived.
    user.subscribe(f"plant/{name}")
    end_of(watcher, f"end/{name}")
    equal(received(watcher), [f"end/{name}"])
    assert not user.disconnects


if __name__ == "__main__":
    main()
