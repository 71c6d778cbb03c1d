"""Retained messages that are in the log only, read over the management API."""

from harness import ask, case, equal, main
from management import ADMIN


@case
def retained_messages_are_read_back_from_the_log():
    topics = [f"/api/gatepost/retained/%2F/plant%2F{n}" for n in range(50)]
    for n, topic in enumerate(topics):
        ADMIN.put(topic, {"payload": str(n) * 1000, "payload_encoding": "string"})
    ask("terminate")
    ask("start")
    # Half of them twice: the second time they are in memory.
    for n, topic in [*enumerate(topics), *enumerate(topics[:25])]:
        equal(ADMIN.get(topic)["payload"], str(n) * 1000)
    ADMIN.get("/api/gatepost/retained/%2F/plant%2F50", expect=404)


main()
