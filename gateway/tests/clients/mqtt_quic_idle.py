"""What an idle MQTT connection over QUIC costs the gateway."""

from harness import ask, case, main
from quic_wire import opened

COUNT = 200


@case
def an_idle_connection_is_not_large():
    opened().still_works()
    before = int(ask("resident"))
    wires = [opened(keepalive=0) for _ in range(COUNT)]
    each = (int(ask("resident")) - before) / len(wires)
    print(f"{each:.0f} bytes of resident memory each")
    # This would show a window that is allocated before it is used.
    assert each < 60_000, each


if __name__ == "__main__":
    main()
