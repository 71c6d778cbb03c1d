"""TLS with common clients: paho-mqtt, mosquitto_pub and _sub, pika and stomp.py.

Reads `tls.json` of its working directory: the ports, and the directory with `ca.pem` and, for `server` and `guest`,
certificate and key. The listeners take certificates of that CA; without one, and without a password, nobody comes in.
"""

import json
import os
import ssl
import subprocess
import threading

import paho.mqtt.client as paho
import pika
import stomp

from harness import case, equal, eventually, later, main, unique

with open("tls.json") as file:
    SETTINGS = json.load(file)
HOST = "localhost"
GUEST = ("guest", "guest")
# Larger than any TLS record and any buffer on the path.
LARGE = os.urandom(700_000)


def path(name):
    return os.path.join(SETTINGS["directory"], name)


def context(certificate=False):
    context = ssl.create_default_context(cafile=path("ca.pem"))
    if certificate:
        context.load_cert_chain(path("guest.pem"), path("guest.key"))
    return context


def mqtt(tls, version=paho.MQTTv311, login=None, transport="tcp"):
    """A paho client, and a list that gets the reason of its CONNACK."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=unique("tls"), protocol=version, transport=transport)
    answers = []
    client.on_connect = lambda c, u, flags, reason, properties: answers.append(str(reason))
    client.tls_set_context(tls)
    if login:
        client.username_pw_set(*login)
    client.connect(HOST, SETTINGS["wss" if transport == "websockets" else "mqtts"])
    client.loop_start()
    later(client.loop_stop)
    eventually(lambda: answers, "a CONNACK")
    return client, answers


def round_trip(client):
    topic = unique("tls/topic")
    inbox, subscribed = [], threading.Event()
    client.on_message = lambda c, u, message: inbox.append(message.payload)
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe(topic, qos=1)
    assert subscribed.wait(30)
    for payload in (b"small", LARGE, b""):
        client.publish(topic, payload, qos=1)
    eventually(lambda: len(inbox) == 3, "three messages")
    equal(inbox, [b"small", LARGE, b""])


@case
def paho_sends_and_receives_with_a_password():
    for version in (paho.MQTTv311, paho.MQTTv5):
        client, answers = mqtt(context(), version, GUEST)
        equal(answers, ["Success"])
        round_trip(client)


@case
def paho_logs_in_by_certificate():
    for version in (paho.MQTTv311, paho.MQTTv5):
        client, answers = mqtt(context(certificate=True), version)
        equal(answers, ["Success"])
        round_trip(client)


@case
def paho_speaks_over_websocket_and_tls_too():
    for version in (paho.MQTTv311, paho.MQTTv5):
        for login, certificate in ((GUEST, False), (None, True)):
            client, answers = mqtt(context(certificate), version, login, "websockets")
            equal(answers, ["Success"])
            round_trip(client)
    _, answers = mqtt(context(), paho.MQTTv5, transport="websockets")
    equal(answers[0], "Not authorized")


@case
def paho_without_certificate_or_password_gets_an_error():
    _, answers = mqtt(context(), paho.MQTTv5)
    equal(answers[0], "Not authorized")


@case
def clients_that_do_not_trust_the_ca_fail_the_handshake():
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.tls_set_context(ssl.create_default_context())
    try:
        client.connect(HOST, SETTINGS["mqtts"])
    except ssl.SSLCertVerificationError:
        return
    raise AssertionError("a client talks to a server that it does not know")


@case
def mosquittos_tools_send_and_receive():
    tls = ["-h", HOST, "-p", str(SETTINGS["mqtts"]), "--cafile", path("ca.pem")]
    certificate = tls + ["--cert", path("guest.pem"), "--key", path("guest.key")]
    password = tls + ["-u", "guest", "-P", "guest"]
    for subscriber, publisher in ((certificate, password), (password, certificate)):
        topic = unique("tls/tools")
        # Retained, so that it does not matter which client connects first.
        subprocess.run(["mosquitto_pub", *publisher, "-t", topic, "-m", "21.5", "-q", "1", "-r"], check=True, timeout=60)
        got = subprocess.run(
            ["mosquitto_sub", *subscriber, "-t", topic, "-C", "1"], check=True, timeout=60, capture_output=True
        )
        equal(got.stdout, b"21.5\n")
    refused = subprocess.run(["mosquitto_pub", *tls, "-t", "x", "-m", "y"], timeout=60, capture_output=True)
    assert refused.returncode != 0, refused


def amqp(tls, credentials):
    options = pika.SSLOptions(tls, HOST)
    parameters = pika.ConnectionParameters(
        HOST, SETTINGS["amqps"], credentials=credentials, ssl_options=options, connection_attempts=1
    )
    connection = pika.BlockingConnection(parameters)
    later(connection.close)
    return connection


@case
def pika_works_a_queue_with_a_password_and_by_certificate():
    plain = pika.PlainCredentials(*GUEST)
    external = pika.credentials.ExternalCredentials()
    for tls, credentials in ((context(), plain), (context(certificate=True), plain), (context(certificate=True), external)):
        channel = amqp(tls, credentials).channel()
        channel.confirm_delivery()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for body in (b"small", LARGE):
            channel.basic_publish("", queue, body)
            _, _, got = channel.basic_get(queue, auto_ack=True)
            equal(got, body)


@case
def external_is_not_offered_without_a_certificate():
    try:
        amqp(context(), pika.credentials.ExternalCredentials())
    except pika.exceptions.AMQPConnectionError:
        return
    raise AssertionError("EXTERNAL without a certificate")


class Listener(stomp.ConnectionListener):
    def __init__(self):
        self.inbox, self.errors = [], []

    def on_message(self, frame):
        self.inbox.append(frame.body)

    def on_error(self, frame):
        self.errors.append(frame)


@case
def stomp_py_sends_and_receives_with_a_password_and_by_certificate():
    host = (HOST, SETTINGS["stomps"])
    keys = {"cert_file": path("guest.pem"), "key_file": path("guest.key")}
    for login, certificate in ((GUEST, {}), ((None, None), keys)):
        connection = stomp.Connection12([host], reconnect_attempts_max=1, auto_decode=False)
        connection.set_ssl([host], ca_certs=path("ca.pem"), **certificate)
        listener = Listener()
        connection.set_listener("", listener)
        connection.connect(*login, wait=True)
        later(connection.disconnect)
        queue = "/queue/" + unique("tls")
        connection.subscribe(queue, "1")
        connection.send(queue, LARGE, content_type="application/octet-stream")
        eventually(lambda: listener.inbox, "a message")
        equal(listener.inbox, [LARGE])
        equal(listener.errors, [])


if __name__ == "__main__":
    main()
