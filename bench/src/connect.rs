//! Opens connections: the handshake before the load and the cleaning up after it. It is blocking code, since nothing is
//! measured here.

use crate::plan::{Endpoint, Phase, Plan, Protocol};
use crate::transport::Transport;
use crate::wire::amqp::{self, Amqp};
use crate::wire::mqtt::{self, Login, Mqtt, Version};
use crate::wire::nats::{self, Nats};
use crate::wire::stomp::{self, Stomp};
use crate::wire::{AckMode, Address, PublishStyle, Sink, WireError};
use anyhow::Context;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::Duration;

/// A connection that is ready for messages.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: Transport,
    pub(crate) wire: Wire,
    /// Bytes that arrived after the last answer.
    pub(crate) rest: Vec<u8>,
}

/// The protocol of a connection. It is matched once for each batch, not for each message.
#[derive(Debug)]
pub(crate) enum Wire {
    Amqp(Amqp),
    Mqtt(Mqtt),
    Stomp(Stomp),
    Nats(Nats),
}

/// A broker that has not answered by then counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

impl Wire {
    fn prepare(&mut self, style: &PublishStyle, body_bytes: usize) {
        match self {
            Self::Amqp(amqp) => amqp.prepare(style, body_bytes),
            Self::Mqtt(mqtt) => mqtt.prepare(style, body_bytes),
            Self::Stomp(stomp) => stomp.prepare(style, body_bytes),
            Self::Nats(nats) => nats.prepare(style, body_bytes),
        }
    }

    /// Appends one message. Returns false if the protocol has no free packet identifier.
    #[inline]
    pub(crate) fn publish(&mut self, out: &mut Vec<u8>, body: &[u8]) -> bool {
        match self {
            Self::Amqp(amqp) => amqp.publish(out, body),
            Self::Mqtt(mqtt) => return mqtt.publish(out, body),
            Self::Stomp(stomp) => stomp.publish(out, body),
            Self::Nats(nats) => nats.publish(out, body),
        }
        true
    }

    /// Parses all complete frames and acknowledges messages. Returns the bytes consumed.
    pub(crate) fn parse(&mut self, input: &[u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, WireError> {
        match self {
            Self::Amqp(amqp) => amqp.parse(input, out, sink),
            Self::Mqtt(mqtt) => mqtt.parse(input, out, sink),
            Self::Stomp(stomp) => stomp.parse(input, out, sink),
            Self::Nats(nats) => nats.parse(input, out, sink),
        }
    }

    /// Appends a keep-alive, if the protocol needs one. AMQP's and STOMP's were negotiated off.
    pub(crate) fn ping(&self, out: &mut Vec<u8>) {
        if let Self::Mqtt(_) = self {
            Mqtt::ping(out);
        }
    }

    /// Appends what ends the connection properly.
    pub(crate) fn close(&self, out: &mut Vec<u8>) {
        match self {
            Self::Amqp(_) => Amqp::close(out),
            Self::Mqtt(_) => Mqtt::disconnect(out),
            Self::Stomp(_) => Stomp::disconnect(out),
            // NATS has no such command; the stream just ends.
            Self::Nats(_) => {}
        }
    }
}

/// Connects publisher `index` of a plan.
pub(crate) fn publisher(plan: &Plan, index: usize) -> anyhow::Result<Connected> {
    let plan = &plan.of_pair(index);
    let endpoint = &plan.publish_to;
    let client_id = format!("{}-p{index}", plan.name);
    let (mut dialog, mut wire) = log_in(endpoint, &client_id, true, plan.keep_alive_s, AckMode::None)?;
    if let Wire::Amqp(amqp) = &mut wire {
        for address in plan.addresses() {
            if let Address::Queue(queue) = address {
                dialog.call(
                    |out| Amqp::queue_declare(out, &queue, is_queue_durable(plan)),
                    amqp::QUEUE_DECLARE_OK,
                )?;
            }
        }
        if plan.confirm {
            dialog.call(|out| amqp.confirm_select(out), amqp::CONFIRM_SELECT_OK)?;
        }
    }
    if let Wire::Nats(nats) = &wire
        && plan.phase == Phase::Through
    {
        make_stream(&mut dialog, nats, plan)?;
    }
    let mut addresses = plan.addresses().into_iter();
    let style = PublishStyle {
        address: addresses.next().unwrap_or_else(|| plan.address.clone()),
        further: addresses.collect(),
        qos: plan.qos,
        retain: plan.retain,
        durable: plan.durable,
        confirm: plan.confirm,
    };
    wire.prepare(&style, plan.size.max(crate::body::BODY_BYTES_MIN));
    Ok(dialog.finish(wire))
}

/// Connects consumer `index` of a plan and subscribes it.
pub(crate) fn consumer(plan: &Plan, index: usize) -> anyhow::Result<Connected> {
    let plan = &plan.of_pair(index);
    let endpoint = &plan.consume_from;
    let clean = !keeps_session(plan);
    let client_id = consumer_id(plan, index);
    let (mut dialog, mut wire) = log_in(endpoint, &client_id, clean, plan.keep_alive_s, plan.ack)?;
    match &mut wire {
        Wire::Amqp(amqp) => {
            let queues = declare(&mut dialog, plan, index)?;
            if plan.prefetch > 0 {
                dialog.call(|out| Amqp::qos(out, plan.prefetch), amqp::BASIC_QOS_OK)?;
            }
            for queue in queues {
                dialog.send(|out| amqp.consume(out, &queue))?;
                // The queues subscribed before may deliver already.
                let answer = dialog.answer(amqp::is_delivery)?;
                amqp::expect_method(&answer, amqp::BASIC_CONSUME_OK)?;
            }
        }
        // A kept session has its subscription.
        Wire::Mqtt(_) if plan.phase == Phase::Drain => {}
        Wire::Mqtt(mqtt) => subscribe(&mut dialog, mqtt, plan)?,
        Wire::Stomp(stomp) => {
            let destination = plan.address.stomp();
            dialog.send(|out| stomp.subscribe(out, &destination, plan.prefetch))?;
            let receipt = dialog.answer(|frame| Stomp::expect(frame, "MESSAGE", None).is_ok())?;
            Stomp::expect(&receipt, "RECEIPT", Some("sub"))?;
        }
        Wire::Nats(nats) => {
            if plan.phase == Phase::Through {
                make_stream(&mut dialog, nats, plan)?;
            }
            dialog.send(|out| nats.consume(out, &plan.name, plan.prefetch))?;
        }
    }
    Ok(dialog.finish(wire))
}

/// Creates the queues and sessions for a fill, without consuming.
pub(crate) fn prepare_backlog(plan: &Plan) -> anyhow::Result<()> {
    for index in 0..plan.consumers {
        let client_id = consumer_id(plan, index);
        if plan.consume_from.protocol == Protocol::Stomp {
            // The first SEND creates the queue.
            return Ok(());
        }
        // A session of an earlier fill is deleted first, with its messages.
        let (mut dialog, mut wire) = log_in(&plan.consume_from, &client_id, true, plan.keep_alive_s, plan.ack)?;
        match &wire {
            Wire::Amqp(_) => {
                for queue in queue_names(plan, index) {
                    dialog.call(|out| Amqp::queue_delete(out, &queue), amqp::QUEUE_DELETE_OK)?;
                }
                declare(&mut dialog, plan, index)?;
            }
            Wire::Nats(nats) => {
                dialog.request(nats, (format!("STREAM.DELETE.{}", plan.name), json!({})), true)?;
                make_stream(&mut dialog, nats, plan)?;
            }
            Wire::Mqtt(_) => {
                dialog.finish(wire).close();
                (dialog, wire) = log_in(&plan.consume_from, &client_id, false, plan.keep_alive_s, plan.ack)?;
                if let Wire::Mqtt(mqtt) = &wire {
                    subscribe(&mut dialog, mqtt, plan)?;
                }
            }
            Wire::Stomp(_) => {}
        }
        dialog.finish(wire).close();
    }
    Ok(())
}

/// Deletes the queues and sessions of a run. STOMP cannot.
pub(crate) fn clean_up(plan: &Plan) -> anyhow::Result<()> {
    let protocol = plan.consume_from.protocol;
    if protocol == Protocol::Stomp || (protocol.is_mqtt() && !keeps_session(plan)) {
        return Ok(());
    }
    for index in 0..plan.consumers.max(1) {
        let client_id = consumer_id(plan, index);
        let (mut dialog, wire) = log_in(&plan.consume_from, &client_id, true, plan.keep_alive_s, plan.ack)?;
        if let Wire::Amqp(_) = wire {
            for queue in queue_names(plan, index) {
                dialog.call(|out| Amqp::queue_delete(out, &queue), amqp::QUEUE_DELETE_OK)?;
            }
        }
        if let Wire::Nats(nats) = &wire {
            dialog.request(nats, (format!("STREAM.DELETE.{}", plan.name), json!({})), true)?;
        }
        dialog.finish(wire).close();
    }
    Ok(())
}

/// Purges the queues of a run; AMQP only.
pub(crate) fn purge(plan: &Plan) -> anyhow::Result<()> {
    let client_id = consumer_id(plan, 0);
    let (mut dialog, wire) = log_in(&plan.consume_from, &client_id, true, plan.keep_alive_s, plan.ack)?;
    for queue in queue_names(plan, 0) {
        dialog.call(|out| Amqp::queue_purge(out, &queue), amqp::QUEUE_PURGE_OK)?;
    }
    dialog.finish(wire).close();
    Ok(())
}

/// An idle connection.
pub(crate) fn idle(endpoint: &Endpoint, index: usize) -> anyhow::Result<Connected> {
    let client_id = format!("gatepost-bench-idle-{index}");
    let (dialog, wire) = log_in(endpoint, &client_id, true, 3600, AckMode::None)?;
    Ok(dialog.finish(wire))
}

impl Connected {
    /// Ends the connection properly, if the broker still reads.
    pub(crate) fn close(mut self) {
        let mut out = Vec::new();
        self.wire.close(&mut out);
        let said = self
            .stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.write_all(&out));
        if said.is_ok() {
            self.stream.end();
            // Reading to the end lets the broker close first, so that no port of ours stays in TIME_WAIT.
            let _ = self.stream.set_read_timeout(Some(Duration::from_millis(500)));
            let mut sink = [0; 4096];
            while matches!(self.stream.read(&mut sink), Ok(1..)) {}
        }
    }
}

/// STOMP's queues are durable by default, and both ends must declare the same.
fn is_queue_durable(plan: &Plan) -> bool {
    plan.durable || [plan.publish_to.protocol, plan.consume_from.protocol].contains(&Protocol::Stomp)
}

fn keeps_session(plan: &Plan) -> bool {
    plan.consume_from.protocol.is_mqtt() && (plan.durable || plan.phase != Phase::Through)
}

fn consumer_id(plan: &Plan, index: usize) -> String {
    format!("{}-c{index}", plan.name)
}

fn queue_names(plan: &Plan, index: usize) -> Vec<String> {
    if plan.fanout {
        return vec![format!("{}-{index}", plan.name)];
    }
    let name = |address| match address {
        Address::Queue(name) => name,
        Address::Topic(_) => plan.name.clone(),
    };
    plan.addresses().into_iter().map(name).collect()
}

/// Declares the queues of consumer `index` and binds them to the source of their messages.
fn declare(dialog: &mut Dialog, plan: &Plan, index: usize) -> anyhow::Result<Vec<String>> {
    let queues = queue_names(plan, index);
    for queue in &queues {
        dialog.call(
            |out| Amqp::queue_declare(out, queue, is_queue_durable(plan)),
            amqp::QUEUE_DECLARE_OK,
        )?;
        if let Address::Topic(_) = plan.address {
            let (exchange, key) = plan.address.amqp();
            dialog.call(|out| Amqp::queue_bind(out, queue, exchange, &key), amqp::QUEUE_BIND_OK)?;
        }
    }
    Ok(queues)
}

/// Creates JetStream's work queue and its consumer. Equal ones that exist are kept.
fn make_stream(dialog: &mut Dialog, nats: &Nats, plan: &Plan) -> anyhow::Result<()> {
    let stream = Nats::stream(&plan.name, &plan.address.nats(), plan.durable);
    dialog.request(nats, stream, false)?;
    dialog.request(nats, Nats::durable(&plan.name, plan.prefetch), false)
}

fn subscribe(dialog: &mut Dialog, mqtt: &Mqtt, plan: &Plan) -> anyhow::Result<()> {
    let mut topic = plan.address.mqtt();
    if plan.queues > 1 {
        topic += "/#";
    }
    let shared = plan.consumers > 1 && !plan.fanout;
    let filter = if shared {
        format!("$share/{}/{topic}", plan.name)
    } else {
        topic
    };
    dialog.send(|out| mqtt.subscribe(out, &filter, plan.qos))?;
    // A kept session may deliver messages before its SUBACK.
    let suback = dialog.answer(|packet| packet.first().is_some_and(|first| first >> 4 == 3))?;
    Ok(mqtt.suback(&suback, plan.qos)?)
}

fn log_in(
    endpoint: &Endpoint,
    client_id: &str,
    clean: bool,
    keep_alive_s: u16,
    ack: AckMode,
) -> anyhow::Result<(Dialog, Wire)> {
    let (path, subprotocol) = endpoint.protocol.websocket();
    let stream = Transport::connect(
        endpoint.address,
        endpoint.carrier,
        path,
        subprotocol,
        endpoint.resumes,
        ANSWER_TIMEOUT,
    )?;
    let mut dialog = Dialog {
        stream,
        input: Vec::new(),
        early: Vec::new(),
        frame_len: amqp::frame_len,
    };
    let (user, password) = endpoint.login();
    let wire = match endpoint.protocol {
        Protocol::Amqp => {
            let mut amqp = Amqp::new(ack);
            dialog.call(
                |out| out.extend_from_slice(amqp::PROTOCOL_HEADER),
                amqp::CONNECTION_START,
            )?;
            let tune = dialog.call(|out| Amqp::start_ok(out, user, password), amqp::CONNECTION_TUNE)?;
            let mut tuned = Vec::new();
            amqp.tune_ok(&mut tuned, &tune)?;
            Amqp::open(&mut tuned, &endpoint.vhost);
            dialog.call(|out| out.extend_from_slice(&tuned), amqp::CONNECTION_OPEN_OK)?;
            dialog.call(Amqp::channel_open, amqp::CHANNEL_OPEN_OK)?;
            Wire::Amqp(amqp)
        }
        Protocol::Mqtt | Protocol::Mqtt5 => {
            dialog.frame_len = mqtt::packet_len;
            let version = if endpoint.protocol == Protocol::Mqtt {
                Version::V311
            } else {
                Version::V5
            };
            let mut mqtt = Mqtt::new(version);
            let user = endpoint
                .user
                .as_ref()
                .map(|(user, password)| (user.as_str(), password.as_str()));
            let login = Login {
                client_id,
                user,
                clean,
                keep_alive_s,
            };
            dialog.send(|out| mqtt.connect(out, &login))?;
            mqtt.connack(&dialog.answer(|_| false)?)?;
            Wire::Mqtt(mqtt)
        }
        Protocol::Stomp => {
            dialog.frame_len = stomp::frame_len;
            dialog.send(|out| Stomp::connect(out, user, password, &endpoint.vhost))?;
            Stomp::expect(&dialog.answer(|_| false)?, "CONNECTED", None)?;
            Wire::Stomp(Stomp::new(ack))
        }
        Protocol::Nats => {
            dialog.frame_len = nats::frame_len;
            let nats = Nats::new(client_id);
            let user = endpoint
                .user
                .as_ref()
                .map(|(user, password)| (user.as_str(), password.as_str()));
            dialog.send(|out| nats.connect(out, user))?;
            // The server sends INFO first.
            while !Nats::is_pong(&dialog.answer(|_| false)?)? {}
            Wire::Nats(nats)
        }
    };
    Ok((dialog, wire))
}

/// Requests and answers over a blocking socket.
#[derive(Debug)]
struct Dialog {
    stream: Transport,
    input: Vec<u8>,
    /// Deliveries that came before an answer.
    early: Vec<u8>,
    frame_len: fn(&[u8]) -> Result<Option<usize>, WireError>,
}

impl Dialog {
    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<()> {
        let mut out = Vec::new();
        write(&mut out);
        self.stream.write_all(&out).context("the broker does not read")
    }

    /// The next frame that is not `early`. Early ones are kept for the load's loop.
    fn answer(&mut self, early: impl Fn(&[u8]) -> bool) -> anyhow::Result<Vec<u8>> {
        loop {
            while let Some(len) = (self.frame_len)(&self.input)? {
                let frame: Vec<u8> = self.input.drain(..len).collect();
                if !early(&frame) {
                    return Ok(frame);
                }
                self.early.extend_from_slice(&frame);
            }
            let mut buffer = [0; 16 * 1024];
            let read = self.stream.read(&mut buffer).context("the broker does not answer")?;
            anyhow::ensure!(read > 0, "the broker closed the connection instead of answering");
            self.input.extend_from_slice(&buffer[..read]);
        }
    }

    /// Sends an AMQP method and returns the arguments of its answer.
    fn call(&mut self, write: impl FnOnce(&mut Vec<u8>), due: amqp::Method) -> anyhow::Result<Vec<u8>> {
        self.send(write)?;
        let frame = self.answer(|_| false)?;
        Ok(amqp::expect_method(&frame, due)?.to_vec())
    }

    /// Sends a request to JetStream. With `missing_is_fine` it may find nothing.
    fn request(&mut self, nats: &Nats, (subject, body): (String, Value), missing_is_fine: bool) -> anyhow::Result<()> {
        self.send(|out| nats.request(out, &subject, &body))?;
        while !Nats::is_answer(&self.answer(|_| false)?, missing_is_fine)? {}
        Ok(())
    }

    fn finish(mut self, wire: Wire) -> Connected {
        self.early.append(&mut self.input);
        Connected {
            stream: self.stream,
            wire,
            rest: self.early,
        }
    }
}
