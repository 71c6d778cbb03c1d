// The part of MQTT 3.1.1 that the page “Try it” needs: CONNECT, SUBSCRIBE at QoS 1, PUBLISH at QoS 1.

const utf8 = new TextEncoder();
const text = new TextDecoder();

const string = (value) => { const bytes = utf8.encode(value); return [bytes.length >> 8, bytes.length & 255, ...bytes]; };

function packet(first, body) {
  const length = [];
  let rest = body.length;
  do { length.push((rest & 127) | (rest > 127 ? 128 : 0)); rest >>= 7; } while (rest);
  return new Uint8Array([first, ...length, ...body]);
}

/** The complete packets at the start of `bytes`, and the rest. */
function split(bytes) {
  const packets = [];
  for (;;) {
    let [length, shift, at] = [0, 0, 1];
    for (;;) {
      if (at >= bytes.length) return [packets, bytes];
      const byte = bytes[at++];
      length |= (byte & 127) << shift;
      if (byte < 128) break;
      shift += 7;
    }
    if (bytes.length < at + length) return [packets, bytes];
    packets.push({ first: bytes[0], body: bytes.subarray(at, at + length) });
    bytes = bytes.subarray(at + length);
  }
}

const REFUSED = ["", "unacceptable protocol version", "client id refused", "server unavailable", "bad user name or password", "not authorized"];

export function connect(address, user, password, { message, closed }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(address, ["mqtt"]);
    socket.binaryType = "arraybuffer";
    const waiting = new Map();
    let [id, buffer, ping] = [0, new Uint8Array(0), 0];
    const ask = (first, body) => new Promise((done, failed) => { id = (id % 65535) + 1; waiting.set(id, { done, failed }); socket.send(packet(first, body([id >> 8, id & 255]))); });
    const client = {
      subscribe: (filter) => ask(0x82, (n) => [...n, ...string(filter), 1]),
      publish: (topic, body) => ask(0x32, (n) => [...string(topic), ...n, ...utf8.encode(body)]),
      close: () => { socket.send(packet(0xe0, [])); socket.close(); },
    };
    const take = ({ first, body }) => {
      const number = (body[0] << 8) | body[1];
      const settle = (problem) => { const asked = waiting.get(number); waiting.delete(number); problem ? asked?.failed(new Error(problem)) : asked?.done(); };
      switch (first >> 4) {
        case 2:
          if (body[1]) return reject(new Error(REFUSED[body[1]] ?? `refused with ${body[1]}`));
          ping = setInterval(() => socket.send(packet(0xc0, [])), 30000);
          return resolve(client);
        case 3: {
          const end = 2 + number;
          const qos = (first >> 1) & 3;
          if (qos) socket.send(packet(0x40, [body[end], body[end + 1]]));
          return message(text.decode(body.subarray(2, end)), text.decode(body.subarray(end + (qos ? 2 : 0))));
        }
        case 4: return settle();
        case 9: return settle(body[2] === 0x80 && "the subscription was refused");
      }
    };
    socket.onopen = () => socket.send(packet(0x10, [...string("MQTT"), 4, user ? 0xc2 : 2, 0, 60, ...string(`try-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`), ...(user ? [...string(user), ...string(password)] : [])]));
    socket.onmessage = ({ data }) => {
      const more = new Uint8Array(data);
      const joined = new Uint8Array(buffer.length + more.length);
      joined.set(buffer);
      joined.set(more, buffer.length);
      const [packets, rest] = split(joined);
      buffer = rest;
      packets.forEach(take);
    };
    socket.onclose = (event) => {
      clearInterval(ping);
      const why = event.reason || (event.code === 1000 ? "" : "the connection broke");
      waiting.forEach(({ failed }) => failed(new Error(why || "closed")));
      reject(new Error(why || "refused"));
      closed(why);
    };
  });
}
