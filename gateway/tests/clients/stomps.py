"""stomp.py, as the cases use it. (A file called stomp.py would hide the library.)"""

import threading

import stomp

from harness import HOST, PEER, STOMP, equal, later, unique

VERSIONS = {"1.0": stomp.Connection10, "1.1": stomp.Connection11, "1.2": stomp.Connection12}


class Client(stomp.ConnectionListener):
    """A stomp.py connection; `inbox` fills with MESSAGE frames, `errors` with ERROR frames."""

    def __init__(self, version="1.2", connect=True, login=("guest", "guest"), **settings):
        self.version = version
        self.inbox, self.errors, self.receipts = [], [], []
        self.connected_headers, self.closed = None, False
        self._changed = threading.Condition()
        settings = {"auto_decode": False, **settings}
        # RabbitMQ takes the `host` that stomp.py generates for the name of a vhost.
        if PEER == "rabbitmq" and version != "1.0":
            settings.setdefault("vhost", "/")
        self.stomp = VERSIONS[version]([(HOST, STOMP)], reconnect_attempts_max=1, **settings)
        self.stomp.set_listener("", self)
        later(self.drop)
        if connect:
            self.stomp.connect(*login, wait=True)

    def on_connected(self, frame):
        self._set(lambda: setattr(self, "connected_headers", frame.headers))

    def on_message(self, frame):
        self._set(lambda: self.inbox.append(frame))

    def on_error(self, frame):
        self._set(lambda: self.errors.append(frame))

    def on_receipt(self, frame):
        self._set(lambda: self.receipts.append(frame.headers["receipt-id"]))

    def on_disconnected(self):
        self._set(lambda: setattr(self, "closed", True))

    def _set(self, change):
        with self._changed:
            change()
            self._changed.notify_all()

    def until(self, condition, what, within=10):
        with self._changed:
            if not self._changed.wait_for(condition, within):
                raise AssertionError(
                    f"{what} did not come within {within} s; got {self.bodies}, errors "
                    f"{[(e.headers, e.body) for e in self.errors]}"
                )

    def receipt(self, send):
        """Calls `send(headers)` with a receipt asked for, and waits for that."""
        name = unique("r")
        send({"receipt": name})
        self.until(lambda: name in self.receipts or self.errors, f"receipt {name}")
        assert name in self.receipts, [(e.headers, e.body) for e in self.errors]

    def subscribe(self, destination, id="1", ack="auto", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.receipt(lambda receipt: self.stomp.subscribe(destination, id, ack, {**headers, **receipt}))
        return self

    def send(self, destination, body="", wait=True, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if not wait:
            self.stomp.send(destination, body, None, headers)
        else:
            self.receipt(lambda receipt: self.stomp.send(destination, body, None, {**headers, **receipt}))

    def ack(self, frame, nack=False, wait=True, **settings):
        """Sends ACK or NACK for a MESSAGE, with the headers of the version."""
        verb = self.stomp.nack if nack else self.stomp.ack
        if self.version == "1.2":
            ids = [frame.headers["ack"]]
        elif self.version == "1.1":
            ids = [frame.headers["message-id"], frame.headers["subscription"]]
        else:
            ids = [frame.headers["message-id"]]
        if wait:
            self.receipt(lambda receipt: verb(*ids, receipt=receipt["receipt"], **settings))
        else:
            verb(*ids, **settings)

    def wait(self, count, within=10):
        self.until(lambda: len(self.inbox) >= count, f"message number {count}", within)
        return self

    def settled(self, count, quiet=0.25):
        self.wait(count)
        with self._changed:
            self._changed.wait_for(lambda: len(self.inbox) > count, quiet)
        equal(len(self.inbox), count, f"messages {self.bodies}")
        return self

    def error(self):
        """Waits for an ERROR; returns (message, body, headers)."""
        self.until(lambda: self.errors, "an ERROR")
        frame = self.errors[0]
        return frame.headers.get("message"), text(frame.body), frame.headers

    @property
    def bodies(self):
        return [text(frame.body) for frame in self.inbox]

    def close(self):
        """Sends DISCONNECT and waits for its receipt."""
        name = unique("bye")
        self.stomp.disconnect(receipt=name)
        self.until(lambda: self.closed, "the end")
        return self

    def drop(self):
        """Closes the socket without DISCONNECT, as when the network fails."""
        self.stomp.transport.disconnect_socket()
        return self


def text(body):
    return body.decode(errors="replace") if isinstance(body, bytes) else body
