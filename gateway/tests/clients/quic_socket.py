"""QUIC as a socket: aioquic without its event loop, so that a test decides which datagrams are lost, late or forged.

`Stream` has the calls of a socket that `mqtt_raw.Wire` uses. A thread of its own looks after the connection, because a
QUIC client has to answer by itself (acknowledge, send again) while a test looks elsewhere.
"""

import random
import select
import socket
import ssl
import threading
import time

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

PATIENCE = 30


class Stream:
    """A connection with one bidirectional stream. `loss`: the share of datagrams that vanish, in both directions."""

    def __init__(self, port, cafile, alpn="mqtt", loss=0.0, certificate=None, open=True, ticket=None, idle=60.0,
                 first=b"", host="127.0.0.1"):
        self.peer = (host, port)
        self.random = random.Random(port)
        self.loss = loss
        self.udp = self.rebind = None
        configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn] if alpn else None, idle_timeout=idle)
        configuration.load_verify_locations(cafile)
        configuration.server_name = "localhost"
        if certificate:
            configuration.load_cert_chain(*certificate)
        configuration.session_ticket = ticket
        self.tickets = []
        self.quic = QuicConnection(
            configuration=configuration, session_ticket_handler=lambda ticket: self.tickets.append(ticket)
        )
        # Guards all fields below. Every change notifies it.
        self.changed = threading.Condition(threading.RLock())
        self.received, self.ended, self.terminated, self.connected = b"", False, None, None
        self.resets, self.stops, self.extra = {}, {}, {}
        self.early = False
        self.closing = False
        self.timeout = PATIENCE
        self.reset_by_stranger = False
        self.new_socket()
        self.quic.connect(self.peer, now=time.monotonic())
        self.id = None
        if open:
            self.id = self.quic.get_next_available_stream_id()
            if first:
                self.quic.send_stream_data(self.id, first)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        if open and not first:
            self.handshake()

    def new_socket(self):
        """Binds another UDP port. The server sees a change of address."""
        before, udp = self.udp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        self.udp = udp
        if before:
            before.close()

    # Called by the thread.

    def run(self):
        while True:
            with self.changed:
                self.flush()
                timer, udp = self.quic.get_timer(), self.udp
                if self.terminated or self.closing == "abruptly":
                    self.changed.notify_all()
                    udp.close()
                    return
            wait = 0.01 if timer is None else min(max(timer - time.monotonic(), 0), 0.01)
            try:
                ready = select.select([udp], [], [], wait)[0]
            except (OSError, ValueError):
                ready = []
            with self.changed:
                if ready and udp is self.udp:
                    self.receive()
                timer = self.quic.get_timer()
                if timer is not None and timer <= time.monotonic():
                    self.quic.handle_timer(now=time.monotonic())
                self.look()

    def flush(self):
        for datagram, address in self.quic.datagrams_to_send(now=time.monotonic()):
            if self.random.random() >= self.loss:
                self.send_datagram(datagram)

    def send_datagram(self, datagram):
        try:
            self.udp.sendto(datagram, self.peer)
        except OSError:
            pass  # Lost, as any datagram may be.

    def receive(self):
        while True:
            try:
                datagram = self.udp.recv(65536)
            except OSError:
                return
            # aioquic does not look for stateless resets (RFC 9000 10.3.1).
            self.reset_by_stranger |= datagram[-16:] == self.quic._peer_cid.stateless_reset_token
            if self.random.random() >= self.loss:
                self.quic.receive_datagram(datagram, self.peer, now=time.monotonic())

    def look(self):
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self.connected, self.early = event, event.early_data_accepted
            elif isinstance(event, events.StreamDataReceived):
                if event.stream_id == self.id:
                    self.received += event.data
                    self.ended |= event.end_stream
                else:
                    self.extra[event.stream_id] = self.extra.get(event.stream_id, b"") + event.data
            elif isinstance(event, events.StreamReset):
                self.resets[event.stream_id] = event.error_code
            elif isinstance(event, events.StopSendingReceived):
                self.stops[event.stream_id] = event.error_code
            elif isinstance(event, events.ConnectionTerminated):
                self.terminated = event
            self.changed.notify_all()

            self.changed.notify_all()

    # Called by tests.

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE):
                raise AssertionError(f"{what} did not come true within {PATIENCE} s")

    def handshake(self):
        self.wait(lambda: self.connected or self.terminated, "a handshake")
        if self.terminated and not self.connected:
            raise ssl.SSLError(f"{self.terminated.error_code:#x} {self.terminated.reason_phrase}")
        return self.connected

    def act(self, action):
        """Applies `action` to the connection and sends the resulting datagrams."""
        with self.changed:
            result = action(self.quic)
            self.flush()
            return result

    def sendall(self, data):
        self.act(lambda quic: quic.send_stream_data(self.id, data))

    def finish(self):
        """Ends the stream (FIN)."""
        self.act(lambda quic: quic.send_stream_data(self.id, b"", end_stream=True))

    def recv(self, limit):
        self.wait(lambda: self.received or self.ended or self.terminated or self.id in self.resets, "an answer")
        with self.changed:
            data, self.received = self.received[:limit], self.received[limit:]
            return data

    def settimeout(self, seconds):
        pass

    def close(self, code=0):
        with self.changed:
            if not self.terminated:
                self.act(lambda quic: quic.close(error_code=code))

    def vanish(self):
        """Stops without closing the connection, as a client that vanishes."""
        with self.changed:
            self.closing = "abruptly"
        self.thread.join(PATIENCE)

    def wait_terminated(self):
        self.wait(lambda: self.terminated, "the end of the connection")
        return self.terminated
