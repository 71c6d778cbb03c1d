"""MQTT sessions under paho: kept and clean, offline queueing, takeover, wills, redelivery, expiry."""

import time

from harness import case, equal, eventually, main, unique
from mqtt import V3, V5, Client, both, options, properties
from mqtt_raw import PINGREQ, PINGRESP, Wire, packet

# A day; long enough for any case.
KEPT = {V3: {"clean": False}, V5: {"clean": False, "expiry": 86_400}}


@both
def a_kept_session_collects_while_its_client_is_away(version):
    topic = unique("t")
    device = Client(version, **KEPT[version])
    equal(device.present, False)
    device.subscribe([(f"{topic}/1", 1), (f"{topic}/2", 2)] if version == V3 else
                     [(f"{topic}/1", options(1)), (f"{topic}/2", options(2))])
    device.disconnect()
    publisher = Client(version)
    for n in range(50):
        publisher.publish(f"{topic}/{1 + n % 2}", str(n), qos=2)
    device.connect()
    equal(device.present, True)
    device.settled(50)
    # paho hands a QoS 2 message over at its PUBREL, so order holds within each QoS only.
    for qos in (1, 2):
        equal([int(m.payload) for m in device.inbox if m.qos == qos], list(range(qos - 1, 50, 2)))
    assert not any(m.dup for m in device.inbox)
    # The subscription is still there.
    publisher.publish(f"{topic}/1", "live", qos=1)
    equal(device.settled(51).inbox[50].payload, b"live")


@both
def a_clean_session_forgets(version):
    topic = unique("t")
    device = Client(version)
    device.subscribe(topic, 1)
    device.disconnect()
    Client(version).publish(topic, "missed", qos=1)
    device.connect()
    equal(device.present, False)
    device.nothing()


@both
def a_clean_start_destroys_the_kept_session(version):
    topic = unique("t")
    device = Client(version, **KEPT[version])
    device.subscribe(topic, 1)
    device.disconnect()
    Client(version).publish(topic, "lost", qos=1)
    other = Client(version, client_id=device.client_id, clean=True)
    equal(other.present, False)
    other.nothing()
    other.disconnect()
    device.connect()
    equal(device.present, False)
    device.nothing()


@both
def the_newest_connection_takes_the_session_over(version):
    topic = unique("t")
    old = Client(version, **KEPT[version])
    old.subscribe(topic, 1)
    new = Client(version, client_id=old.client_id, **KEPT[version])
    equal(new.present, True)
    old.gone()
    Client(version).publish(topic, "x", qos=1)
    equal(new.settled(1).payloads, [b"x"])
    equal(old.inbox, [])


@both
def what_was_not_acknowledged_comes_again_with_dup_and_in_order(version):
    topic = unique("t")
    device = Client(version, manual_ack=True, **KEPT[version])
    device.subscribe(topic, 1)
    publisher = Client(version)
    for n in range(5):
        publisher.publish(topic, str(n), qos=1)
    device.wait(5)
    device.paho.ack(device.inbox[0].mid, 1)
    device.paho.ack(device.inbox[1].mid, 1)
    # Acknowledgements have no answer, but a ping after them has.
    device.subscribe(f"{topic}/fence", 0)
    device.drop()
    again = Client(version, client_id=device.client_id, **KEPT[version])
    equal(again.present, True)
    again.settled(3)
    equal([(m.payload, m.dup) for m in again.inbox], [(b"2", True), (b"3", True), (b"4", True)])
    equal([m.mid for m in again.inbox], [m.mid for m in device.inbox[2:]])


@both
def exactly_once_survives_lost_connections_of_the_publisher(version):
    topic = unique("t")
    watcher = Client(version)
    watcher.subscribe(topic, 2)
    device = Client(version, **KEPT[version])
    infos = []
    for _ in range(10):
        infos += [device.publish(topic, str(len(infos) + n), qos=2, wait=False) for n in range(20)]
        time.sleep(0.01)
        device.drop()
        device.connect(clean=False)
    for info in infos:
        info.wait_for_publish(10)
    watcher.settled(200)
    equal(sorted(int(m.payload) for m in watcher.inbox), list(range(200)))


def is_will(version, ending, expected):
    topic = unique("will")
    watcher = Client(version)
    watcher.subscribe(f"{topic}/#", 1)
    device = Client(version, will={"topic": f"{topic}/gone", "payload": b"will", "qos": 1})
    ending(device)
    if expected:
        message = watcher.settled(1).inbox[0]
        equal((message.topic, message.payload, message.qos, message.retain), (f"{topic}/gone", b"will", 1, False))
    else:
        watcher.nothing(0.5)


@both
def a_will_is_published_when_the_connection_fails(version):
    is_will(version, lambda device: device.drop(), True)


@both
def a_goodbye_drops_the_will(version):
    is_will(version, lambda device: device.disconnect(), False)


@both
def a_takeover_publishes_the_will(version):
    is_will(version, lambda device: Client(version, client_id=device.client_id), True)


@both
def a_goodbye_counts_though_its_client_is_back_at_once(version):
    topic = unique("will")
    watcher = Client(version)
    watcher.subscribe(topic, 1)
    device = Client(version, will={"topic": topic, "payload": b"will", "qos": 1})
    for _ in range(200):
        device.disconnect()
        device.connect()
    # A message that was published wrongly would precede it.
    watcher.publish(topic, "fence", qos=1)
    equal(watcher.settled(1).inbox[0].payload, b"fence")


@case
def a_disconnect_with_will_publishes_it():
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.reasoncodes import ReasonCode

    reason = ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message")
    is_will(V5, lambda device: device.disconnect(reasoncode=reason), True)


def a_silent_client_is_dropped_after_one_and_a_half_keep_alives(version):
    topic = unique("will")
    watcher = Client(version)
    watcher.subscribe(topic, 1)
    # Its last packet is sent after this.
    began = time.monotonic()
    device = Client(version, keepalive=2, will={"topic": topic, "payload": b"will", "qos": 1})
    # Stops its loop: it sends no more pings, and the socket stays open.
    device.paho.loop_stop()
    watcher.wait(1, within=30)
    silent = time.monotonic() - began
    assert silent >= 2.9, f"after {silent:.1f} s"


# Mosquitto checks every five seconds.
both(a_silent_client_is_dropped_after_one_and_a_half_keep_alives, differs="mosquitto")


def kept_by_pings(level):
    """Whether it was, or None if this machine was too slow to ping in time."""
    gap, last = 0, time.monotonic()
    wire = Wire.opened(keepalive=1, level=level)
    for _ in range(8):
        time.sleep(0.4)
        sent = time.monotonic()
        try:
            wire.raw(packet(PINGREQ))
            answer = wire.read()
        except ConnectionError:
            answer = None
        # From before the last packet to after this one: an upper bound of the silence that the gateway saw.
        gap, last = max(gap, time.monotonic() - last), sent
        if answer is None or answer[0] != PINGRESP:
            return None if gap >= 1.4 else False
    return True


@both
def pings_keep_a_quiet_client(version):
    held = eventually(lambda: [k for k in [kept_by_pings(5 if version == V5 else 4)] if k is not None], "pings in time")
    equal(held, [True])


@both
def a_retained_will_waits_for_later_subscribers(version):
    topic = unique("will")
    device = Client(version, will={"topic": topic, "payload": b"gone", "qos": 1, "retain": True})
    device.drop()

    def late():
        subscriber = Client(version)
        subscriber.subscribe(topic, 1)
        # Retained messages come before the fence message.
        subscriber.subscribe(f"{topic}/fence", 1)
        subscriber.publish(f"{topic}/fence", "x", qos=1)
        eventually(lambda: f"{topic}/fence" in [m.topic for m in subscriber.inbox])
        return [m for m in subscriber.inbox if m.topic == topic]

    message = eventually(late)[0]
    equal((message.payload, message.retain), (b"gone", True))


@case
def a_delayed_will_waits_and_a_return_cancels_it():
    topic = unique("will")
    watcher = Client(V5)
    watcher.subscribe(f"{topic}/#", 1)
    will = lambda name, delay: {"topic": f"{topic}/{name}", "payload": b"will", "qos": 1,
                                "properties": properties("WILLMESSAGE", WillDelayInterval=delay, ContentType="text/plain")}
    away = Client(V5, will=will("away", 2), clean=False, expiry=60)
    # The session ends before its will delay is over.
    short = Client(V5, will=will("short", 3600), clean=False, expiry=1)
    began = time.monotonic()
    away.drop()
    short.drop()
    watcher.wait(2, within=30)
    waited = time.monotonic() - began
    assert waited >= 1.9, f"the delay was {waited:.1f} s"
    equal(sorted(m.topic for m in watcher.inbox), [f"{topic}/away", f"{topic}/short"])
    equal({m.properties.ContentType for m in watcher.inbox}, {"text/plain"})
    # The client must be back before the delay is over; if the machine was too slow, the case tries again.
    delay = 2
    while True:
        device = Client(V5, will=will(f"back{delay}", delay), clean=False, expiry=60)
        dropped = time.monotonic()
        device.drop()
        device.connect()
        if time.monotonic() - dropped < delay:
            break
        delay += 5
    time.sleep(delay + 0.5)
    watcher.publish(f"{topic}/fence", "x", qos=1)
    eventually(lambda: f"{topic}/fence" in [m.topic for m in watcher.inbox], within=30)
    assert f"{topic}/back{delay}" not in [m.topic for m in watcher.inbox], watcher.texts


@case
def a_session_ends_when_it_expires():
    device = Client(V5, clean=False, expiry=1)
    device.subscribe(unique("t"), 1)

    def ended():
        device.disconnect()
        time.sleep(1.5)
        device.connect(clean=False)
        return not device.present

    eventually(ended, "the end of the session", within=40)


@case
def a_session_without_expiry_ends_with_its_connection():
    device = Client(V5, clean=False)
    device.subscribe(unique("t"), 1)
    device.disconnect()
    device.connect(clean=False)
    equal(device.present, False)


@case
def a_disconnect_can_change_the_session_expiry():
    device = Client(V5, clean=False, expiry=60)
    device.subscribe(unique("t"), 1)
    device.disconnect(properties=properties("DISCONNECT", SessionExpiryInterval=0))
    device.connect(clean=False)
    equal(device.present, False)


@both
def qos_0_reaches_a_kept_session_only_while_it_is_there_or_is_queued_in_order(version):
    # Both are allowed, but the QoS 1 message must not be lost.
    topic = unique("t")
    device = Client(version, **KEPT[version])
    device.subscribe(topic, 1)
    device.disconnect()
    publisher = Client(version)
    publisher.publish(topic, "zero", qos=0)
    publisher.publish(topic, "one", qos=1)
    device.connect()
    device.wait(1)
    equal([m.payload for m in device.inbox if m.qos == 1], [b"one"])


@both
def a_backlog_of_thousands_flows_through_a_small_window(version):
    topic = unique("t")
    window = {"ReceiveMaximum": 5} if version == V5 else {}
    device = Client(version, **KEPT[version], **window)
    device.subscribe(topic, 1)
    device.disconnect()
    publisher = Client(version, inflight=100)
    infos = [publisher.publish(topic, str(n), qos=1, wait=False) for n in range(2000)]
    for info in infos:
        info.wait_for_publish(30)
    device.connect(clean=False)
    device.wait(2000, within=30)
    equal([int(m.payload) for m in device.settled(2000).inbox], list(range(2000)))


if __name__ == "__main__":
    main(side_by_side=16)
