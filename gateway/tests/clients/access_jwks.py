"""The keys of tokens by URL: over TLS, changed by the issuer, and while its server is down."""

import json
import os
import time

from backend import Server, configure
from doors import refusal
from harness import ask, case, equal, eventually, main
from mqtt import V5

BAD = 0x86
PAUSE = 5

with open("tokens.json") as file:
    TOKENS = json.load(file)


def keys(name):
    with open(f"{name}.json") as file:
        return (200, file.read())


def login(name):
    return refusal(version=V5, user=("whatever", TOKENS[name]))


@case
def the_issuer_changes_its_key_and_its_server_goes_away():
    state = {"answer": keys("first")}
    server = Server(lambda path, fields: state["answer"], tls=("server.pem", "server.key"))
    configure(f'[auth]\nbackends = ["internal", "jwt"]\n[auth.jwt]\njwks = "{server.url("/keys")}"\nca = "{os.path.abspath("ca.pem")}"\n')
    ask("start")
    began = time.monotonic()
    equal(login("first"), 0)
    equal(login("second"), BAD, "a key that is not there")
    # The issuer changes its key: the gateway fetches it without a reload.
    state["answer"] = keys("second")
    eventually(lambda: login("second") == 0, "the new key")
    equal(login("first"), BAD, "the old key")
    # Tokens that name unknown keys, however many, do not flood the server.
    for _ in range(20):
        equal(login("first"), BAD)
    most = (time.monotonic() - began) / PAUSE + 2
    assert len(server.requests) <= most, (server.requests, most)
    # An outage, and an answer that cannot be read.
    for answer in [(500, ""), (200, "<html>"), (302, "")]:
        state["answer"] = answer
        before = len(server.requests)
        ask("hangup")
        eventually(lambda: len(server.requests) > before, "another request")
        equal(login("second"), 0, "with the keys that are known")


if __name__ == "__main__":
    main()
