"""AMQP publishers under pika: confirms, returns, transactions, and messages that are refused."""

import pika
import pika.exceptions

from amqp import PERSISTENT, Inbox, channel, connect, connection_refused, depth, drain, get, refused
from harness import case, equal, eventually, later, main, unique


class Confirms:
    """Publishes without waiting, and collects confirms and returns in the order of their arrival."""

    def __init__(self, connection):
        self.connection = connection
        self.channel = connection.channel()
        self.events = []
        implementation = self.channel._impl
        implementation.confirm_delivery(self._confirmed, callback=lambda _: self.events.append("select-ok"))
        self.wait(1)
        self.events.clear()
        implementation.add_on_return_callback(self._returned)

    def _confirmed(self, frame):
        kind = "ack" if isinstance(frame.method, pika.spec.Basic.Ack) else "nack"
        self.events.append((kind, frame.method.delivery_tag, frame.method.multiple))

    def _returned(self, channel, method, properties, body):
        self.events.append(("return", method.reply_code, method.reply_text, method.exchange, method.routing_key, body))

    def publish(self, exchange, key, body, properties=None, mandatory=False):
        self.channel._impl.basic_publish(exchange, key, body, properties, mandatory)

    def wait(self, count):
        eventually(lambda: self.connection.process_data_events(0.02) or len(self.events) >= count)

    def covered(self, upto, within=20):
        """Waits until all publishes up to this number are confirmed; returns the numbers that were nacked."""

        def verdicts():
            self.connection.process_data_events(0.02)
            acked, nacked = set(), set()
            for event in self.events:
                if event[0] == "return":
                    continue
                kind, tag, multiple = event
                tags = set(range(1, tag + 1)) - acked - nacked if multiple else {tag}
                (acked if kind == "ack" else nacked).update(tags)
            return (acked | nacked) >= set(range(1, upto + 1)) and (acked, nacked)

        return eventually(verdicts, f"{upto} confirms", within)[1]


@case
def every_publish_is_confirmed_whatever_it_was():
    confirms = Confirms(connect())
    durable = unique()
    confirms.channel.queue_declare(durable, durable=True)
    later(lambda: channel().queue_delete(durable))
    transient = confirms.channel.queue_declare("", exclusive=True).method.queue
    for n in range(300):
        confirms.publish("", [durable, transient, "nowhere"][n % 3], b"x", PERSISTENT if n % 2 else None)
    equal(confirms.covered(300), set())
    equal((depth(confirms.channel, durable), depth(confirms.channel, transient)), (100, 100))


@case
def a_mandatory_message_without_a_queue_comes_back_before_its_confirm():
    confirms = Confirms(connect())
    confirms.publish("amq.direct", unique("nowhere"), b"body", mandatory=True)
    confirms.wait(2)
    (kind, code, text, exchange, key, body), (ack, tag, _) = confirms.events
    equal((kind, code, text, exchange, body), ("return", 312, "NO_ROUTE", "amq.direct", b"body"))
    equal((ack, tag), ("ack", 1))


@case
def a_mandatory_message_comes_back_with_its_properties_without_confirms_too():
    connection = connect()
    ch = connection.channel()
    returned = []
    ch.add_on_return_callback(lambda _, *message: returned.append(message))
    sent = pika.BasicProperties(content_type="text/plain", headers={"n": 1}, message_id="m")
    ch.basic_publish("", unique("nowhere"), b"back", sent, mandatory=True)
    eventually(lambda: connection.process_data_events(0.02) or returned)
    _, properties, body = returned[0]
    equal((properties.content_type, properties.headers, properties.message_id), ("text/plain", {"n": 1}, "m"))
    equal(body, b"back")


@case
def confirm_select_can_be_repeated_and_counts_from_the_first():
    confirms = Confirms(connect())
    confirms.publish("", "nowhere", b"x")
    confirms.covered(1)
    answers = []
    confirms.channel._impl._rpc(
        pika.spec.Confirm.Select(), lambda _: answers.append(1), [pika.spec.Confirm.SelectOk]
    )
    eventually(lambda: confirms.connection.process_data_events(0.02) or answers)
    confirms.publish("", "nowhere", b"x")
    confirms.covered(2)


@case
def pika_waits_for_each_confirm_and_reports_what_is_unroutable():
    ch = channel()
    ch.confirm_delivery()
    queue = ch.queue_declare("", exclusive=True).method.queue
    ch.basic_publish("", queue, b"x", mandatory=True)
    equal(depth(ch, queue), 1)
    try:
        ch.basic_publish("", unique("nowhere"), b"x", mandatory=True)
    except pika.exceptions.UnroutableError as unroutable:
        equal(unroutable.messages[0].body, b"x")
    else:
        raise AssertionError("no UnroutableError")


@case
def immediate_is_540():
    connection = connect()
    ch = connection.channel()

    def action():
        ch._impl._send_method(
            pika.spec.Basic.Publish(exchange="", routing_key="k", immediate=True), (pika.BasicProperties(), b"x")
        )
        for _ in range(50):
            connection.process_data_events(0.1)

    connection_refused(540, "NOT_IMPLEMENTED - immediate=true", action)


@case
def a_bad_expiration_is_406():
    connection = connect()
    for text, why in [
        ("abc", "invalid expiration 'abc': no_integer"),
        ("", "invalid expiration '': no_integer"),
        ("10x", """invalid expiration '10x': {leftover_string,"x"}"""),
        ("-1", "invalid expiration '-1': {value_negative,-1}"),
    ]:
        ch = connection.channel()
        ch.confirm_delivery()
        refused(
            406,
            "PRECONDITION_FAILED - " + why,
            lambda: ch.basic_publish("", "k", b"x", pika.BasicProperties(expiration=text)),
        )


@case
def a_user_id_must_be_ones_own():
    connection = connect()
    ch = connection.channel()
    ch.confirm_delivery()
    ch.basic_publish("", "k", b"x", pika.BasicProperties(user_id="guest"))
    refused(
        406,
        "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'",
        lambda: ch.basic_publish("", "k", b"x", pika.BasicProperties(user_id="bob")),
    )


@case
def a_transaction_is_seen_at_commit_and_not_before():
    ch, other = channel(), channel()
    name = unique()
    other.queue_declare(name)
    later(lambda: channel().queue_delete(name))
    ch.tx_select()
    ch.tx_select()
    for n in range(3):
        ch.basic_publish("", name, b"%d" % n)
    equal(drain(other, name), [])
    ch.tx_commit()
    equal([get(other, name)[2] for _ in range(3)], [b"0", b"1", b"2"])
    ch.basic_publish("", name, b"dropped")
    ch.tx_rollback()
    ch.tx_commit()
    equal(drain(other, name), [])


@case
def a_rollback_makes_acknowledged_messages_unacknowledged_again():
    connection = connect()
    ch = connection.channel()
    queue = ch.queue_declare("", exclusive=True).method.queue
    for n in range(3):
        ch.basic_publish("", queue, b"%d" % n)
    ch.tx_select()
    Inbox(ch, queue).wait(3)
    ch.basic_ack(2, multiple=True)
    ch.tx_rollback()
    ch.basic_ack(1)
    ch.tx_commit()
    ch.close()
    messages = [get(connection.channel(), queue) for _ in range(2)]
    equal([body for _, _, body in messages], [b"1", b"2"])
    assert all(method.redelivered for method, _, _ in messages)


@case
def a_transaction_settles_what_was_delivered_before_and_each_delivery_once():
    # "All" was looked up at the commit, so a message that came after the ack was lost if its consumer failed. A delivery
    # that was acknowledged twice was found at the commit, and one that was recovered meanwhile made the commit fail.
    connection, other = connect(), channel()
    name = unique()
    other.queue_declare(name)
    later(lambda: channel().queue_delete(name))
    for n in range(3):
        other.basic_publish("", name, b"%d" % n)

    def begun():
        ch = connection.channel()
        ch.tx_select()
        return ch, Inbox(ch, name)

    ch, inbox = begun()
    inbox.wait(3)
    ch.basic_ack(0, multiple=True)
    ch.queue_declare(name, passive=True)
    other.basic_publish("", name, b"3")
    inbox.wait(4)
    ch.tx_commit()
    ch.close()
    equal(depth(other, name), 1)

    ch, inbox = begun()
    other.basic_publish("", name, b"4")
    inbox.wait(2)
    ch.basic_ack(2)
    ch.basic_recover(requeue=True)
    ch.tx_commit()
    ch.close()
    equal(depth(other, name), 1)

    for tag in (7, 1):
        ch, inbox = begun()
        inbox.wait(1)
        ch.basic_ack(1)
        text = f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        refused(406, text, lambda: (ch.basic_ack(tag), ch.queue_declare(name, passive=True)))
    equal(depth(other, name), 1)


@case
def a_publish_hears_of_its_exchange_first_in_a_transaction_too():
    # A transaction said so at its commit only, and a bad property came before a missing exchange.
    connection, missing = connect(), unique("x")
    no_exchange = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    bad = pika.BasicProperties(expiration="soon")
    ch = connection.channel()
    refused(404, no_exchange, lambda: (ch.basic_publish(missing, "k", b"x", bad), ch.queue_declare("", exclusive=True)))
    ch = connection.channel()
    ch.tx_select()
    refused(404, no_exchange, lambda: (ch.basic_publish(missing, "k", b"x"), ch.queue_declare("", exclusive=True)))
    ch = connection.channel()
    text = "PRECONDITION_FAILED - invalid expiration 'soon': no_integer"
    refused(406, text, lambda: (ch.basic_publish("", "k", b"x", bad), ch.queue_declare("", exclusive=True)))


@case
def transactions_and_confirms_do_not_mix():
    connection = connect()
    refused(
        406, "PRECONDITION_FAILED - channel is not transactional", lambda: connection.channel().tx_commit()
    )
    refused(
        406, "PRECONDITION_FAILED - channel is not transactional", lambda: connection.channel().tx_rollback()
    )
    ch = connection.channel()
    ch.confirm_delivery()
    refused(406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode", ch.tx_select)
    ch = connection.channel()
    ch.tx_select()
    refused(406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode", ch.confirm_delivery)


@case
def direct_reply_to_reaches_the_requester():
    connection, service = connect(), connect()
    ask, answer = connection.channel(), service.channel()
    queue = answer.queue_declare("", exclusive=True).method.queue
    replies = Inbox(ask, "amq.rabbitmq.reply-to", auto_ack=True)
    ask.basic_publish(
        "", queue, b"question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="7")
    )
    _, properties, body = get(answer, queue)
    assert properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties.reply_to
    answer.basic_publish("", properties.reply_to, b"answer", pika.BasicProperties(correlation_id="7"))
    replies.settled(1)
    equal((replies.bodies, replies[0][1].correlation_id), ([b"answer"], "7"))


@case
def direct_reply_to_has_rules():
    connection = connect()
    refused(
        406,
        "PRECONDITION_FAILED - reply consumer cannot acknowledge",
        lambda: Inbox(connection.channel(), "amq.rabbitmq.reply-to"),
    )
    ch = connection.channel()
    ch.confirm_delivery()
    refused(
        406,
        "PRECONDITION_FAILED - fast reply consumer does not exist",
        lambda: ch.basic_publish("", "k", b"x", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")),
    )


@case(differs="rabbitmq")  # 3.10 answers some of these with 541, which closes the connection.
def declaring_a_reply_address_says_whether_its_requester_lives():
    connection, service = connect(), connect()
    ask, answer = connection.channel(), service.channel()
    queue = answer.queue_declare("", exclusive=True).method.queue
    Inbox(ask, "amq.rabbitmq.reply-to", auto_ack=True)
    ask.basic_publish("", queue, b"?", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    address = get(answer, queue)[1].reply_to
    for ch in (ask, answer):
        for flags in ({"passive": True}, {}, {"durable": True}, {"exclusive": True}):
            for name in ("amq.rabbitmq.reply-to", address):
                declared = ch.queue_declare(name, **flags).method
                equal((declared.queue, declared.message_count, declared.consumer_count), (name, 0, 1))
    connection.close()

    def gone():
        try:
            service.channel().queue_declare(address, passive=True)
        except pika.exceptions.ChannelClosedByBroker as closed:
            equal((closed.reply_code, closed.reply_text), (404, f"NOT_FOUND - no queue '{address}' in vhost '/'"))
            return True
        return False

    eventually(gone)


@case(differs="rabbitmq")  # 3.10 closes the connection with 541.
def a_reply_address_that_was_never_given_is_404():
    service = connect()
    forged = "amq.rabbitmq.reply-to.forged"
    refused(404, f"no queue '{forged}'", lambda: service.channel().queue_declare(forged))


if __name__ == "__main__":
    main()
