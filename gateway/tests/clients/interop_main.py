"""The gateway's main purpose: a device on MQTT, a backend on AMQP and a page on STOMP exchange messages."""

import pika

from amqp import connect
from harness import case, equal, eventually, later, main, unique
from mqtt import V3, V5, Client as Mqtt
from stomps import Client as Stomp

READINGS = 500


def carries_readings_and_commands(version):
    plant = unique("plant")
    backend = connect()
    ch = backend.channel()
    queue = unique("readings")
    ch.queue_declare(queue, durable=True)
    later(lambda: connect().channel().queue_delete(queue))
    ch.queue_bind(queue, "amq.topic", f"{plant}.*.temp")
    page = Stomp().subscribe(f"/topic/{plant}.#")
    device = Mqtt(version, inflight=50)
    device.subscribe(f"{plant}/1/command", 1)

    readings = []

    def reading(ch, method, properties, body):
        equal((method.exchange, method.routing_key), ("amq.topic", f"{plant}.1.temp"))
        equal((properties.delivery_mode, method.redelivered), (2, False))
        readings.append(int(body))
        ch.basic_ack(method.delivery_tag)

    ch.basic_qos(prefetch_count=100)
    ch.basic_consume(queue, reading)
    infos = [device.publish(f"{plant}/1/temp", f"{n}", qos=1, wait=False) for n in range(READINGS)]
    eventually(lambda: backend.process_data_events(0.05) or len(readings) >= READINGS, within=30)
    for info in infos:
        info.wait_for_publish(10)
    ch.confirm_delivery()
    ch.basic_publish("amq.topic", f"{plant}.1.command", b"cool down", pika.BasicProperties(delivery_mode=2))
    backend.process_data_events(0.2)

    equal(readings, list(range(READINGS)), "each once, in order")
    equal(ch.queue_declare(queue, passive=True).method.message_count, 0)
    command = device.settled(1).inbox[0]
    equal((command.topic, command.payload, command.qos), (f"{plant}/1/command", b"cool down", 1))
    page.settled(READINGS + 1)
    equal(page.bodies, [str(n) for n in range(READINGS)] + ["cool down"])
    equal(
        {frame.headers["destination"] for frame in page.inbox},
        {f"/topic/{plant}.1.temp", f"/topic/{plant}.1.command"},
    )


@case
def readings_reach_the_backend_and_the_page_and_commands_the_device():
    carries_readings_and_commands(V3)


@case(differs="rabbitmq")
def the_same_with_mqtt_5():
    carries_readings_and_commands(V5)


if __name__ == "__main__":
    main()
