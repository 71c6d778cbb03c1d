"""`x-gatepost-durability`: a queue sets what a confirm of its messages waits for."""

import urllib.request

from amqp import PERSISTENT, channel, get, refused
from harness import HOST, METRICS, case, equal, main, unique


def syncs():
    """How often the log was synced so far."""
    text = urllib.request.urlopen(f"http://{HOST}:{METRICS}/metrics", timeout=10).read().decode()
    return int(next(l.split()[1] for l in text.splitlines() if l.startswith("gatepost_store_fsync_seconds_count")))


def declare(ch, queue, mode):
    return ch.queue_declare(queue, durable=True, arguments={"x-gatepost-durability": mode} if mode else None)


def syncs_for(mode, count):
    """Syncs that `count` publishes cost, each confirmed before the next."""
    ch = channel()
    queue = unique()
    declare(ch, queue, mode)
    ch.confirm_delivery()
    before = syncs()
    for n in range(count):
        ch.basic_publish("", queue, str(n).encode(), PERSISTENT)
    cost = syncs() - before
    equal([get(ch, queue)[2] for _ in range(count)], [str(n).encode() for n in range(count)])
    return cost


@case
def confirms_cost_the_syncs_that_the_mode_promises():
    equal(syncs_for("os", 50), 0, "os")
    cost = syncs_for("interval", 5)
    assert 1 <= cost <= 5, f"interval: {cost}"
    equal(syncs_for("always", 20), 20, "always")
    equal(syncs_for(None, 20), 20, "the node's mode")


@case
def a_mode_is_one_of_three_words_and_does_not_change():
    ch = channel()
    queue = unique()
    declare(ch, queue, "os")
    equal(declare(ch, queue, "os").method.queue, queue)
    text = f"inequivalent arg 'x-gatepost-durability' for queue '{queue}' in vhost '/'"
    refused(406, text, lambda: declare(channel(), queue, "always"))
    refused(406, text, lambda: declare(channel(), queue, None))
    text = "invalid arg 'x-gatepost-durability' for queue"
    refused(406, text, lambda: declare(channel(), unique(), "sometimes"))
    refused(406, text, lambda: declare(channel(), unique(), 1))


if __name__ == "__main__":
    main(side_by_side=1)
