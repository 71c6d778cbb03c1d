"""Tokens as passwords: `tokens.json` has one for each case."""

import json

from amqp import refused
from doors import NOT_AUTHORIZED, acknowledged, amqp, refusal
from harness import case, equal, main
from mqtt import V5, Client
from stomps import Client as StompClient

with open("tokens.json") as file:
    TOKENS = json.load(file)


def with_token(name):
    return ("whatever", TOKENS[name])


@case
def mqtt_has_the_topics_of_the_claim_acl():
    client = Client(V5, user=with_token("device"))
    assert acknowledged(client, "jwt/device/1", 1) in (0, 0x10)
    equal(acknowledged(client, "jwt/other/1", 1), NOT_AUTHORIZED)
    equal(client.subscribe("jwt/device/+", 1), 1)
    equal(client.subscribe("jwt/#", 1), NOT_AUTHORIZED)


@case
def stomp_takes_it_too():
    client = StompClient(login=with_token("device")).subscribe("/topic/jwt.device.stomp")
    client.send("/topic/jwt.device.stomp", "x")
    client.settled(1)


@case
def a_bad_token_is_bad_credentials():
    equal(refusal(version=V5, user=with_token("stranger")), 0x86)
    # A name that another back end knows belongs to that back end.
    equal(refusal(version=V5, user=with_token("guest")), 0x86)
    equal(refusal(version=V5, user=("whatever", TOKENS["device"][:-2])), 0x86)
    # The token grants nothing, so its user may not use the vhost.
    equal(refusal(version=V5, user=with_token("nothing")), NOT_AUTHORIZED)


@case
def an_expired_token_ends_the_connection():
    client = Client(V5, user=with_token("short"))
    equal(client.gone(), NOT_AUTHORIZED)
    equal(refusal(version=V5, user=with_token("short")), 0x86)


@case
def update_secret_goes_on_beyond_the_expiry():
    beside = Client(V5, user=with_token("brief"))
    channel = amqp(with_token("service"))
    connection = channel.connection
    channel.queue_declare("orders")
    channel.confirm_delivery()
    channel.basic_publish("", "orders", b"1")
    connection.update_secret(TOKENS["service-renewed"], "it expires")
    # The first token expires meanwhile.
    equal(beside.gone(), NOT_AUTHORIZED, "the expiry of a token that is as short")
    channel.basic_publish("", "orders", b"2")
    equal(channel.basic_get("orders", True)[2], b"1")
    refused(403, "configure access to queue 'other'", lambda: channel.queue_declare("other"))


if __name__ == "__main__":
    main()
