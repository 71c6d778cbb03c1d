"""paho-mqtt, as the cases use it."""

import os
import socket
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from harness import HOST, MQTT, WEB_MQTT, case, equal, later, unique

# The same cases run over WebSocket, too.
TRANSPORT = os.environ.get("GATEPOST_TRANSPORT", "tcp")
PORT = WEB_MQTT if TRANSPORT == "websockets" else MQTT

V3, V5 = paho.MQTTv311, paho.MQTTv5


def properties(kind, **values):
    """MQTT 5 properties of a packet type: `properties("PUBLISH", ContentType="text/plain")`."""
    result = Properties(getattr(PacketTypes, kind))
    for name, value in values.items():
        setattr(result, name, value)
    return result


class Client:
    """A paho client with its loop running; `inbox` fills with what it receives."""

    def __init__(self, version=V3, client_id=None, clean=True, expiry=0, will=None, keepalive=60, connect=True,
                 manual_ack=False, user=None, inflight=20, port=PORT, **connect_properties):
        self.version = version
        self.port = port
        self.client_id = client_id or unique("c")
        self.inbox = []
        self.disconnects = []
        self.connack = None
        self._changed = threading.Condition()
        self._answers = {}
        settings = {} if version == V5 else {"clean_session": clean}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self.client_id, protocol=version, manual_ack=manual_ack,
            reconnect_on_failure=False, transport=TRANSPORT, **settings,
        )
        self.paho.max_inflight_messages_set(inflight)
        if user:
            self.paho.username_pw_set(*user)
        if will:
            self.paho.will_set(**will)
        self.paho.on_connect = self._connected
        self.paho.on_disconnect = self._disconnected
        self.paho.on_message = self._message
        self.paho.on_subscribe = self.paho.on_unsubscribe = self._answered
        self.keepalive = keepalive
        self.clean, self.expiry, self.connect_properties = clean, expiry, connect_properties
        if connect:
            self.connect()
            equal(self.connack[0].value, 0, "CONNACK")

    def connect(self, clean=None):
        self.connack = None
        if self.version == V5:
            sent = dict(self.connect_properties)
            if self.expiry:
                sent["SessionExpiryInterval"] = self.expiry
            clean = self.clean if clean is None else clean
            settings = {"clean_start": clean, "properties": properties("CONNECT", **sent)}
        else:
            settings = {}
        self.paho.connect(HOST, self.port, self.keepalive, **settings)
        self.paho.loop_start()
        later(self.drop)
        self._until(lambda: self.connack, "a CONNACK")
        return self

    def _connected(self, client, _, flags, reason, props):
        with self._changed:
            self.connack = (reason, flags.session_present, props)
            self._changed.notify_all()

    def _disconnected(self, client, _, flags, reason, props):
        with self._changed:
            self.disconnects.append((reason, props))
            self._changed.notify_all()

    def _message(self, client, _, message):
        with self._changed:
            self.inbox.append(message)
            self._changed.notify_all()

    def _answered(self, client, _, mid, reasons, props):
        with self._changed:
            self._answers[mid] = reasons
            self._changed.notify_all()

    def _until(self, condition, what, within=30):
        with self._changed:
            if not self._changed.wait_for(condition, within):
                raise AssertionError(f"{self.client_id}: {what} did not come within {within} s; got {self.texts}")

    @property
    def present(self):
        return self.connack[1]

    def subscribe(self, filter, qos=0, **settings):
        """Subscribes and waits for the answer: one reason code, or a list of them."""
        result, mid = self.paho.subscribe(filter, qos, **settings)
        equal(result, 0, "subscribe")
        self._until(lambda: mid in self._answers, "a SUBACK")
        codes = [reason.value for reason in self._answers.pop(mid)]
        return codes if isinstance(filter, list) else codes[0]

    def unsubscribe(self, filter, **settings):
        result, mid = self.paho.unsubscribe(filter, **settings)
        equal(result, 0, "unsubscribe")
        self._until(lambda: mid in self._answers, "an UNSUBACK")
        return [reason.value for reason in self._answers.pop(mid)]

    def publish(self, topic, payload=b"", qos=0, retain=False, wait=True, **values):
        props = properties("PUBLISH", **values) if values else None
        info = self.paho.publish(topic, payload, qos, retain, props)
        if wait:
            info.wait_for_publish(30)
            assert info.is_published(), f"{self.client_id}: {topic} was not acknowledged"
        return info

    def wait(self, count, within=30):
        """Waits for `count` messages in all."""
        self._until(lambda: len(self.inbox) >= count, f"message number {count}", within)
        return self

    def settled(self, count, quiet=0.25):
        """Waits for `count` messages, and that no more follow."""
        self.wait(count)
        with self._changed:
            self._changed.wait_for(lambda: len(self.inbox) > count, quiet)
        assert len(self.inbox) == count, f"{self.client_id}: expected {count} messages, got {self.texts}"
        return self

    def nothing(self, quiet=0.25):
        return self.settled(0, quiet)

    @property
    def texts(self):
        return [f"{m.topic}={m.payload[:40].decode(errors='replace')}" for m in self.inbox]

    @property
    def payloads(self):
        return [m.payload for m in self.inbox]

    def gone(self, within=30):
        """Waits until the gateway ends the connection; returns its reason code, 0 if none was given."""
        self._until(lambda: self.disconnects, "the end of the connection", within)
        return getattr(self.disconnects[0][0], "value", 0)

    def disconnect(self, **settings):
        """Sends DISCONNECT and closes the connection."""
        self.paho.disconnect(**settings)
        self._until(lambda: self.disconnects, "its own end")
        self.paho.loop_stop()
        self.disconnects.clear()
        return self

    def drop(self):
        """Closes the socket without DISCONNECT, as when the network fails."""
        sock = self.paho.socket()
        if sock:
            try:
                # Wakes the loop, which would otherwise wait in its select for a second.
                getattr(sock, "_socket", sock).shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.paho.loop_stop()
        return self


def options(qos=0, no_local=False, retain_as_published=False, retain_handling=0):
    return SubscribeOptions(qos, no_local, retain_as_published, retain_handling)


def both(function, differs=""):
    """The same case for both versions."""
    for version, name in [(V3, "v3"), (V5, "v5")]:

        def one(version=version):
            function(version)

        one.__name__ = f"{function.__name__}_{name}"
        case(one, differs=differs)
    return function
