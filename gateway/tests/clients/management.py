"""The management API as a client sees it: requests over http.client, so that the test controls every byte of a request."""

import base64
import http.client
import json
import os
from urllib.parse import quote

from harness import HOST

MANAGEMENT = int(os.environ.get("GATEPOST_MANAGEMENT", 15672))


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def reason(self):
        return self.json["reason"]


class Api:
    """Requests of one user; `user=None`: without credentials."""

    def __init__(self, user="guest", password="guest", port=MANAGEMENT):
        self.headers = {"authorization": basic(user, password)} if user is not None else {}
        self.port = port

    def ask(self, method, path, body=None, headers=None):
        """`body`: text or bytes as they are, anything else as JSON."""
        headers = headers or {}
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            headers = {"content-type": "application/json", **headers}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **headers})
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def get(self, path, expect=200):
        answer = self.ask("GET", path)
        assert answer.status == expect, (path, answer.status, answer.body)
        return answer.json

    def put(self, path, body=None, expect=(201, 204)):
        return self._change("PUT", path, body, expect)

    def post(self, path, body=None, expect=(200, 201, 204)):
        return self._change("POST", path, body, expect)

    def delete(self, path, expect=204):
        return self._change("DELETE", path, None, expect)

    def _change(self, method, path, body, expect):
        answer = self.ask(method, path, body)
        allowed = (expect,) if isinstance(expect, int) else expect
        assert answer.status in allowed, (method, path, answer.status, answer.body)
        return answer


def segment(name):
    return quote(name, safe="")


ADMIN = Api()


def user(name, tags="", permissions=(), password="s3cret"):
    """Makes a user that may do everything in some vhosts, and returns its requests."""
    ADMIN.put(f"/api/users/{segment(name)}", {"password": password, "tags": tags})
    for vhost in permissions:
        ADMIN.put(
            f"/api/permissions/{segment(vhost)}/{segment(name)}", {"configure": ".*", "write": ".*", "read": ".*"}
        )
    return Api(name, password)
