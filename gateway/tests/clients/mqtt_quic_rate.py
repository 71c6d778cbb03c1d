"""An address that opens QUIC connections faster than it may."""

from harness import case, eventually, main
from mqtt_raw import Wire, connect
from quic_wire import metric, stream


@case
def an_address_over_its_connection_rate_is_closed():
    def is_closed():
        # The handshake may finish before the client receives the close.
        wire = Wire(connect("c"), over=stream())
        return wire.read() is None

    eventually(is_closed, "a refusal")
    assert metric('gatepost_protection_total{rule="address_rate"}') >= 1


if __name__ == "__main__":
    main()
