"""AMQP consumers under pika: consume, cancel, qos, acknowledgements and redelivery."""

import pika
import pika.exceptions

from amqp import Inbox, channel, connect, connection_refused, depth, drain, get, refused
from harness import case, equal, eventually, unique


def filled(ch, count, **declare):
    """An exclusive queue holding the bodies b"0", b"1", …"""
    name = unique()
    ch.queue_declare(name, exclusive=True, **declare)
    for n in range(count):
        ch.basic_publish("", name, b"%d" % n)
    eventually(lambda: depth(ch, name) == count)
    return name


def numbers(first, end):
    return [b"%d" % n for n in range(first, end)]


@case
def deliveries_come_in_order_with_tags_from_one():
    ch = channel()
    inbox = Inbox(ch, filled(ch, 100)).settled(100)
    equal(inbox.bodies, numbers(0, 100))
    equal([method.delivery_tag for method, _, _ in inbox], list(range(1, 101)))
    assert not any(method.redelivered for method, _, _ in inbox)
    assert {method.consumer_tag for method, _, _ in inbox} == {inbox.tag}


@case
def consuming_what_is_not_there_is_404():
    refused(
        404, "NOT_FOUND - no queue 'nosuch' in vhost '/'", lambda: channel().basic_consume("nosuch", lambda *_: None)
    )


@case
def a_generated_consumer_tag_begins_with_amq_ctag():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 0)
    # pika generates tags itself; this bypasses it to get the server's.
    answers = []
    ch._impl._rpc(
        pika.spec.Basic.Consume(queue=queue, consumer_tag=""),
        lambda frame: answers.append(frame.method.consumer_tag),
        [pika.spec.Basic.ConsumeOk],
    )
    eventually(lambda: connection.process_data_events(0.05) or answers)
    assert answers[0].startswith("amq.ctag-"), answers


@case
def a_consumer_tag_used_twice_ends_the_connection_with_530():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 0)
    Inbox(ch, queue, consumer_tag="t")
    Inbox(connection.channel(), queue, consumer_tag="t")
    # pika refuses to send it, so this bypasses pika.
    def again():
        ch._impl._send_method(pika.spec.Basic.Consume(queue=queue, consumer_tag="t"))
        for _ in range(50):
            connection.process_data_events(0.1)

    connection_refused(530, "NOT_ALLOWED - attempt to reuse consumer tag 't'", again)


@case
def cancelling_an_unknown_tag_succeeds():
    connection = connect()
    ch = connection.channel()
    answers = []
    ch._impl._rpc(
        pika.spec.Basic.Cancel(consumer_tag="nobody"),
        lambda frame: answers.append(frame.method.consumer_tag),
        [pika.spec.Basic.CancelOk],
    )
    eventually(lambda: connection.process_data_events(0.05) or answers)
    equal(answers, ["nobody"])


@case
def nothing_is_delivered_after_cancel_ok_and_the_unacked_stay():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 10)
    ch.basic_qos(prefetch_count=4)
    inbox = Inbox(ch, queue).settled(4)
    ch.basic_cancel(inbox.tag)
    other = connection.channel()
    equal(depth(other, queue), 6)
    ch.basic_ack(inbox[0][0].delivery_tag)
    ch.close()
    # What was not acknowledged is requeued in its old place, marked as redelivered.
    second = Inbox(other, queue).settled(9)
    equal(second.bodies, numbers(1, 10))
    equal([method.redelivered for method, _, _ in second], [True] * 3 + [False] * 6)


@case
def automatically_acknowledged_messages_never_come_back():
    connection = connect()
    other = connection.channel()
    queue = filled(other, 10)
    inbox = Inbox(connection.channel(), queue, auto_ack=True).settled(10)
    inbox.channel.close()
    equal(drain(other, queue), [])


@case
def deleting_a_queue_cancels_its_consumers():
    connection = connect()
    ch, other = connection.channel(), connect().channel()
    name = unique()
    ch.queue_declare(name)
    inbox = Inbox(ch, name)
    cancelled = []
    ch.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    other.queue_delete(name)
    eventually(lambda: connection.process_data_events(0.05) or cancelled)
    equal(cancelled, [inbox.tag])
    ch.exchange_declare("amq.direct", passive=True)


@case
def an_exclusive_consumer_is_alone():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 0)
    text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    inbox = Inbox(ch, queue, exclusive=True)
    refused(403, text, lambda: Inbox(connection.channel(), queue))
    ch.basic_cancel(inbox.tag)
    Inbox(ch, queue)
    refused(403, text, lambda: Inbox(connection.channel(), queue, exclusive=True))


@case
def consumers_share_a_queue_by_turns():
    connection = connect()
    one, two = connection.channel(), connection.channel()
    queue = filled(one, 0)
    first, second = Inbox(one, queue), Inbox(two, queue)
    publisher = connect().channel()
    for n in range(20):
        publisher.basic_publish("", queue, b"%d" % n)
    eventually(lambda: connection.process_data_events(0.05) or len(first) + len(second) == 20)
    equal((len(first), len(second)), (10, 10))
    equal(sorted(first.bodies + second.bodies, key=int), numbers(0, 20))
    equal(first.bodies, sorted(first.bodies, key=int))


@case
def consumers_of_higher_priority_are_served_first():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 0)
    ch.basic_qos(prefetch_count=3)
    low = Inbox(ch, queue, arguments={"x-priority": -1})
    high = Inbox(ch, queue, arguments={"x-priority": 10})
    publisher = connect().channel()
    for n in range(5):
        publisher.basic_publish("", queue, b"%d" % n)
    eventually(lambda: connection.process_data_events(0.05) or len(low) + len(high) == 5)
    equal((high.bodies, low.bodies), (numbers(0, 3), numbers(3, 5)))


@case
def prefetch_counts_for_each_consumer():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 10)
    ch.basic_qos(prefetch_count=2)
    first = Inbox(ch, queue).settled(2)
    second = Inbox(ch, queue).settled(2)
    ch.basic_ack(first[0][0].delivery_tag)
    first.settled(3)
    ch.basic_ack(first[2][0].delivery_tag, multiple=True)
    first.wait(5)
    second.wait(4)
    assert len(first) + len(second) == 9, (first.bodies, second.bodies)


@case
def prefetch_does_not_hold_for_consumers_started_before_or_without_acks():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 20)
    ch.basic_qos(prefetch_count=1)
    Inbox(ch, queue, auto_ack=True).settled(20)
    other = connection.channel()
    queue = filled(other, 5)
    inbox = Inbox(other, queue)
    other.basic_qos(prefetch_count=1)
    inbox.settled(5)


@case
def global_prefetch_is_shared_by_the_channel():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 10)
    ch.basic_qos(prefetch_count=3, global_qos=True)
    first, second = Inbox(ch, queue), Inbox(ch, queue)
    eventually(lambda: connection.process_data_events(0.05) or len(first) + len(second) == 3)
    connection.process_data_events(0.25)
    equal(len(first) + len(second), 3)
    ch.basic_ack(0, multiple=True)
    eventually(lambda: connection.process_data_events(0.05) or len(first) + len(second) == 6)
    connection.process_data_events(0.25)
    equal(len(first) + len(second), 6)


@case
def get_is_not_limited_by_prefetch():
    ch = channel()
    queue = filled(ch, 5)
    ch.basic_qos(prefetch_count=1)
    equal([ch.basic_get(queue)[2] for _ in range(5)], numbers(0, 5))


@case
def ack_multiple_covers_the_lower_tags_and_zero_covers_all():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 10)
    Inbox(ch, queue).wait(10)
    ch.basic_ack(4, multiple=True)
    ch.basic_nack(6, requeue=False)
    ch.basic_ack(0, multiple=True)
    ch.basic_ack(0, multiple=True)
    ch.close()
    equal(drain(connection.channel(), queue), [])


@case
def unknown_and_repeated_tags_are_406():
    connection = connect()
    for settle in [
        lambda ch: ch.basic_ack(5),
        lambda ch: ch.basic_nack(5),
        lambda ch: ch.basic_reject(5),
        lambda ch: ch.basic_ack(5, multiple=True),
    ]:
        ch = connection.channel()

        def action():
            settle(ch)
            ch.exchange_declare("amq.direct", passive=True)

        refused(406, "PRECONDITION_FAILED - unknown delivery tag 5", action)
    ch = connection.channel()
    queue = filled(ch, 2)
    Inbox(ch, queue).wait(2)

    def twice():
        ch.basic_ack(1)
        ch.basic_ack(1)
        ch.exchange_declare("amq.direct", passive=True)

    refused(406, "PRECONDITION_FAILED - unknown delivery tag 1", twice)
    # The close of the channel requeued the second one.
    equal(get(connection.channel(), queue)[2], b"1")


@case
def a_tag_of_another_channel_is_unknown():
    connection = connect()
    one, two = connection.channel(), connection.channel()
    queue = filled(one, 1)
    Inbox(one, queue).wait(1)

    def action():
        two.basic_ack(1)
        two.exchange_declare("amq.direct", passive=True)

    refused(406, "unknown delivery tag 1", action)


@case
def nack_multiple_with_requeue_keeps_the_order():
    ch = channel()
    queue = filled(ch, 10)
    tags = [ch.basic_get(queue)[0].delivery_tag for _ in range(6)]
    ch.basic_nack(tags[4], multiple=True, requeue=True)
    ch.basic_nack(tags[5], requeue=True)
    messages = [get(ch, queue) for _ in range(10)]
    equal([body for _, _, body in messages], numbers(0, 10))
    equal([method.redelivered for method, _, _ in messages], [True] * 6 + [False] * 4)


@case
def requeued_messages_find_their_old_places_in_whatever_order():
    ch = channel()
    queue = filled(ch, 6)
    tags = [ch.basic_get(queue)[0].delivery_tag for _ in range(4)]
    for n in (2, 0, 3, 1):
        ch.basic_reject(tags[n], requeue=True)
    equal(drain(ch, queue), numbers(0, 6))


@case
def reject_drops_and_reject_with_requeue_marks():
    ch = channel()
    queue = filled(ch, 2)
    ch.basic_reject(ch.basic_get(queue)[0].delivery_tag, requeue=False)
    ch.basic_reject(ch.basic_get(queue)[0].delivery_tag, requeue=True)
    method, _, body = get(ch, queue)
    equal((body, method.redelivered), (b"1", True))
    equal(drain(ch, queue), [])


@case
def recover_gives_back_everything_and_is_refused_without_requeue():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 3)
    inbox = Inbox(ch, queue).wait(3)
    ch.basic_recover(requeue=True)
    inbox.settled(6)
    equal(inbox.bodies, numbers(0, 3) * 2)
    equal([method.redelivered for method, _, _ in inbox], [False] * 3 + [True] * 3)
    connection_refused(540, "NOT_IMPLEMENTED - requeue=false", lambda: ch.basic_recover(requeue=False))


@case
def qos_with_a_size_is_540():
    connection_refused(
        540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", lambda: channel().basic_qos(prefetch_size=10)
    )


@case
def flow_true_is_echoed():
    connection = connect()
    ch = connection.channel()
    equal(ch.flow(True), True)
    connection_refused(540, "NOT_IMPLEMENTED - active=false", lambda: ch.flow(False))


@case
def a_single_active_consumer_is_followed_by_the_next():
    connection = connect()
    one, two = connection.channel(), connection.channel()
    queue = filled(one, 0, arguments={"x-single-active-consumer": True})
    first, second = Inbox(one, queue), Inbox(two, queue)
    publisher = connect().channel()
    publisher.basic_publish("", queue, b"0")
    publisher.basic_publish("", queue, b"1")
    first.settled(2)
    equal(len(second), 0)
    one.basic_cancel(first.tag)
    publisher.basic_publish("", queue, b"2")
    second.settled(1)
    equal(second.bodies, [b"2"])


@case
def ten_thousand_messages_through_one_consumer_with_prefetch():
    connection = connect()
    ch = connection.channel()
    queue = filled(ch, 0)
    publisher = connect().channel()
    for n in range(10_000):
        publisher.basic_publish("", queue, b"%d" % n)
    ch.basic_qos(prefetch_count=50)
    bodies = []

    def one(ch, method, _, body):
        bodies.append(body)
        if method.delivery_tag % 25 == 0:
            ch.basic_ack(method.delivery_tag, multiple=True)

    ch.basic_consume(queue, one)
    eventually(lambda: connection.process_data_events(0.1) or len(bodies) == 10_000, within=30)
    equal(bodies, numbers(0, 10_000))
    equal(depth(ch, queue), 0)


if __name__ == "__main__":
    from harness import main

    main()
