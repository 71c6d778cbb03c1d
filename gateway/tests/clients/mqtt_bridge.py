"""A real Mosquitto that bridges to the gateway, both ways, with its defaults, in MQTT 3.1, 3.1.1 and 5.

Its defaults are what matters: a retained will and a retained message on `$SYS/broker/connection/<id>/state`, and in MQTT 3
the bridge bit in the protocol level, which stands for no-local and retain-as-published.
"""

import os
import shutil
import signal
import socket
import subprocess

from harness import HOST, MQTT, ask, case, equal, eventually, later, main
from mqtt import V3, V5, Client

VERSIONS = {"v31": "mqttv31", "v311": "mqttv311", "v5": "mqttv50"}
# Far more than it takes on a busy machine, so that only a hang fails.
LONG = 60


def program():
    # Debian installs it in /usr/sbin, which only root has in its PATH.
    found = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    assert found, "this test needs the server mosquitto; on Debian: apt install mosquitto"
    return found


def free_port():
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


class Mosquitto:
    """One server with one bridge, whose name is also a level of all its topics."""

    def __init__(self, name):
        self.name = name
        self.port = free_port()
        self.state = f"$SYS/broker/connection/bridge.{name}/state"
        home = os.path.abspath(f"mosquitto-{name}")
        os.makedirs(home, exist_ok=True)
        self.config = os.path.join(home, "mosquitto.conf")
        self.log = os.path.join(home, "log")
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {home}/",
            "log_type all",
            f"connection {name}",
            f"address {HOST}:{MQTT}",
            f"bridge_protocol_version {VERSIONS[name]}",
            f"remote_clientid bridge.{name}",
            "cleansession false",
            "restart_timeout 1",
            f"topic {name}/out/# out 1",
            f"topic {name}/in/# in 1",
            f"topic {name}/both/# both 2",
        ]
        if os.geteuid() == 0:
            # It would change to a user that may not write to this directory.
            lines.append("user root")
        with open(self.config, "w") as file:
            file.write("\n".join(lines) + "\n")
        self.process = None
        self.start()
        later(lambda: self.process and self.stop(signal.SIGKILL))

    def start(self):
        log = open(self.log, "ab")
        self.process = subprocess.Popen([program(), "-c", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, how):
        process, self.process = self.process, None
        process.send_signal(how)
        process.wait()

    def client(self, name, **settings):
        """A client of this server, which may still be starting."""
        def connected():
            assert self.process.poll() is None, f"mosquitto ended; its log: {open(self.log).read()}"
            try:
                return Client(V3, client_id=f"{name}-{self.name}", port=self.port, **settings)
            except ConnectionRefusedError:
                return None

        return eventually(connected, "a connection to mosquitto", LONG)


def retained(topic, **settings):
    """Payload of the retained message on a topic, as a new subscriber of the gateway receives it."""
    client = Client(V5, **settings)
    client.subscribe(topic, 1)
    # Retained messages come before what is published now.
    client.subscribe("fence", 1)
    client.publish("fence", "x", qos=1)
    client._until(lambda: any(m.topic == "fence" for m in client.inbox), "the fence", LONG)
    heard = [m.payload for m in client.inbox if m.topic != "fence" and m.retain]
    client.disconnect()
    return heard


def connected(bridge, payload=b"1"):
    eventually(lambda: retained(bridge.state) == [payload], f"the state {payload} of {bridge.name}", LONG)


def bodies(client, topic):
    return [m.payload for m in client.inbox if m.topic == topic]


def comes(client, topic, *payloads):
    """Waits until the client has had exactly these on a topic, in order."""
    client._until(lambda: len(bodies(client, topic)) >= len(payloads), f"{payloads} on {topic}", LONG)
    equal(bodies(client, topic), list(payloads), topic)


def flows_both_ways(bridge):
    name = bridge.name
    local = bridge.client("local", clean=False)
    local.subscribe([(f"{name}/in/#", 1), (f"{name}/both/#", 2)])
    remote = Client(V3, client_id=f"remote-{name}", clean=False)
    remote.subscribe([(f"{name}/out/#", 1), (f"{name}/both/#", 2)])
    # Both ends have their own clients' messages once. A bridge that received its own publishes would loop them.
    local.publish(f"{name}/out/a", "1", qos=1)
    remote.publish(f"{name}/in/a", "2", qos=1)
    for n in range(20):
        local.publish(f"{name}/both/up", str(n), qos=2)
        remote.publish(f"{name}/both/down", str(n), qos=2)
    numbers = [str(n).encode() for n in range(20)]
    comes(remote, f"{name}/out/a", b"1")
    comes(local, f"{name}/in/a", b"2")
    for end in (local, remote):
        comes(end, f"{name}/both/up", *numbers)
        comes(end, f"{name}/both/down", *numbers)
    # The last message: a looped one would have arrived before it.
    local.publish(f"{name}/both/fence", "up", qos=2)
    comes(remote, f"{name}/both/fence", b"up")
    remote.publish(f"{name}/both/fence", "down", qos=2)
    comes(local, f"{name}/both/fence", b"up", b"down")
    comes(remote, f"{name}/both/fence", b"up", b"down")
    # Retained messages stay retained on the other side.
    local.publish(f"{name}/out/kept", "out", qos=1, retain=True)
    comes(remote, f"{name}/out/kept", b"out")
    equal(retained(f"{name}/out/kept"), [b"out"], "retained through the bridge, outwards")
    remote.publish(f"{name}/in/kept", "in", qos=1, retain=True)
    comes(local, f"{name}/in/kept", b"in")
    late = bridge.client("late")
    late.subscribe(f"{name}/in/kept", 1)
    comes(late, f"{name}/in/kept", b"in")
    equal([m.retain for m in late.inbox], [True], "retained through the bridge, inwards")
    late.disconnect()
    return local, remote


@case
def mosquitto_bridges_both_ways_over_restarts_of_both():
    bridges = {name: Mosquitto(name) for name in VERSIONS}
    ends = {}
    for name, bridge in bridges.items():
        connected(bridge)
        ends[name] = flows_both_ways(bridge)
    watcher = Client(V5)
    watcher.subscribe("$SYS/#", 1)
    for bridge in bridges.values():
        comes(watcher, bridge.state, b"1")

    # The gateway restarts; what the other side publishes meanwhile waits at the bridge.
    ask("terminate")
    for name, (local, remote) in ends.items():
        remote.gone(LONG)
        local.publish(f"{name}/out/while", "gateway away", qos=1)
    ask("start")
    for name, (local, remote) in ends.items():
        remote.connect()
        equal(remote.present, True)
        comes(remote, f"{name}/out/while", b"gateway away")
        connected(bridges[name])
        remote.publish(f"{name}/in/back", "gateway back", qos=1)
        comes(local, f"{name}/in/back", b"gateway back")

    # Mosquitto restarts; what is published for it meanwhile waits in its session here.
    for name, bridge in bridges.items():
        local, remote = ends[name]
        bridge.stop(signal.SIGTERM)
        connected(bridge, b"0")
        local.gone(LONG)
        # In MQTT 5 Mosquitto 2.0 asks for no session expiry, so nothing waits; a retained message is there all the same.
        remote.publish(f"{name}/in/while", "mosquitto away", qos=1, retain=name == "v5")
        # Mosquitto's bridge closes the connection at the 21st message of QoS 2 on its way. It was sent 64 at once, the same
        # ones again at every new connection, and nothing went through it any more.
        burst = [] if name == "v5" else [str(n).encode() for n in range(30)]
        for body in burst:
            remote.publish(f"{name}/both/burst", body, qos=2)
        bridge.start()
        connected(bridge)
        eventually(lambda: reconnected(local), "the local client", LONG)
        comes(local, f"{name}/in/while", b"mosquitto away")
        comes(local, f"{name}/both/burst", *burst)
        # Without DISCONNECT, its will reports that it is offline.
        bridge.stop(signal.SIGKILL)
        connected(bridge, b"0")
        bridge.start()
        connected(bridge)


def reconnected(client):
    try:
        return client.connect()
    except ConnectionRefusedError:
        return None


@case
def other_publishes_to_the_brokers_own_topics_are_dropped():
    for version in (V3, V5):
        watcher = Client(version)
        watcher.subscribe("$SYS/#", 1)
        will = {"topic": "$SYS/broker/load", "payload": b"will", "qos": 1}
        client = Client(version, will=will)
        for qos in (0, 1, 2):
            client.publish("$SYS/broker/uptime", "forged", qos=qos, retain=True)
        client.drop()
        Client(version).publish("$SYS/broker/connection/fence/state", "fence", qos=1)
        watcher._until(lambda: any(m.payload == b"fence" for m in watcher.inbox), "the fence", LONG)
        assert not {b"forged", b"will"} & set(watcher.payloads), watcher.texts


if __name__ == "__main__":
    main(side_by_side=2, limit=115)
