// SCRAM-SHA-256 under mqtt.js, which speaks MQTT 5's enhanced authentication; the mechanism by Node's cryptography.

import assert from "node:assert/strict";
import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import { eventually, host, later, main, ports, require, test, unique } from "./harness.mjs";

const mqtt = require("mqtt");
const METHOD = "SCRAM-SHA-256";

class Scram {
  constructor(user, password) {
    this.password = password;
    this.bare = `n=${user},r=${randomBytes(18).toString("base64")}`;
    this.first = Buffer.from(`n,,${this.bare}`);
  }

  answer(question) {
    const [, nonce, salt, iterations] = /^r=([^,]+),s=([^,]+),i=(\d+)$/.exec(question);
    assert.ok(nonce.startsWith(this.bare.split("r=")[1]));
    const salted = pbkdf2Sync(this.password, Buffer.from(salt, "base64"), Number(iterations), 32, "sha256");
    const sign = (key, text) => createHmac("sha256", key).update(text).digest();
    const clientKey = sign(salted, "Client Key");
    const last = `c=${Buffer.from("n,,").toString("base64")},r=${nonce}`;
    const signed = `${this.bare},${question},${last}`;
    const signature = sign(createHash("sha256").update(clientKey).digest(), signed);
    this.expected = `v=${sign(sign(salted, "Server Key"), signed).toString("base64")}`;
    return Buffer.from(`${last},p=${Buffer.from(clientKey.map((byte, n) => byte ^ signature[n])).toString("base64")}`);
  }
}

const auth = (reasonCode, authenticationData) => ({
  cmd: "auth",
  reasonCode,
  properties: { authenticationMethod: METHOD, authenticationData },
});

async function connect(password) {
  let scram = new Scram("guest", password);
  const client = mqtt.connect({
    host,
    port: ports.mqtt,
    protocolVersion: 5,
    clientId: unique("js"),
    reconnectPeriod: 0,
    connectTimeout: 30_000,
    properties: { authenticationMethod: METHOD, authenticationData: scram.first },
    manualConnect: true,
  });
  later(() => client.endAsync(true));
  client.handleAuth = (packet, done) => {
    const said = packet.properties.authenticationData.toString();
    if (packet.reasonCode === 0x18) return done(null, auth(0x18, scram.answer(said)));
    client.proved = said === scram.expected;
    done();
  };
  client.again = () => {
    scram = new Scram("guest", password);
    client._sendPacket(auth(0x19, scram.first));
  };
  client.connect();
  const connack = await new Promise((done, fail) => {
    client.once("connect", done);
    client.once("error", fail);
  });
  assert.equal(connack.properties.authenticationMethod, METHOD);
  assert.equal(connack.properties.authenticationData.toString(), scram.expected, "the gateway proves itself");
  return client;
}

test("a client logs in, and proves itself again while it receives", async () => {
  const client = await connect("guest");
  const topic = unique("t");
  const inbox = [];
  client.on("message", (_, payload) => inbox.push(payload.toString()));
  await client.subscribeAsync(topic);
  for (let n = 0; n < 100; n++) {
    client.publish(topic, String(n));
    if (n === 50) client.again();
  }
  await eventually(() => client.proved && inbox.length === 100);
  assert.deepEqual(inbox.map(Number), [...Array(100).keys()]);
});

test("a wrong password is not authorized", async () => {
  await assert.rejects(connect("wrong"), (error) => error.code === 0x87);
});

await main();
