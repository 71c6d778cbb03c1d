// mqtt.js, @stomp/stompjs and the example page in a real browser, headless, driven over its debugging port. Where there is a
// `wss.json`, over TLS: it has the ports and the server's certificate.

import assert from "node:assert/strict";
import { X509Certificate, createHash } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { browser } from "./chromium.mjs";
import { eventually, host, later, main, ports, require, test } from "./harness.mjs";

const mqtt = require("mqtt");
const modules = process.env.GATEPOST_NODE_MODULES;

const secure = fs.existsSync("wss.json") && JSON.parse(fs.readFileSync("wss.json", "utf8"));
const url = (name, path) => `${secure ? "wss" : "ws"}://${host}:${(secure || ports)[name]}${path}`;
// The browser accepts this key and no other, as it would a certificate that its machine trusts.
const pin = () => createHash("sha256")
  .update(new X509Certificate(fs.readFileSync(secure.certificate)).publicKey.export({ type: "spki", format: "der" }))
  .digest("base64");

const open = await browser(secure ? [`--ignore-certificate-errors-spki-list=${pin()}`] : []);
const files = fs.mkdtempSync(path.join(os.tmpdir(), "gatepost-pages-"));
later(() => fs.rmSync(files, { recursive: true, force: true }));

/** A page from a file that loads a client from `node_modules`. */
async function pageWith(script) {
  const file = path.join(files, `${path.basename(script)}.html`);
  fs.writeFileSync(file, `<!doctype html><script src="${pathToFileURL(path.join(modules, script))}"></script>`);
  return open(pathToFileURL(file).href);
}

test("the example page draws what sensors publish over MQTT", async () => {
  const example = pathToFileURL(path.join(import.meta.dirname, "../../../examples/dashboard.html"));
  const page = await open(`${example}?url=${url("webStomp", "/ws")}&topic=/topic/plant.*.temp`);
  const text = (selector) => page.evaluate(`document.querySelector("${selector}")?.textContent ?? ""`);
  await eventually(async () => (await text("#state")).startsWith("/topic/plant"), `a subscription`);
  const sensors = await mqtt.connectAsync({ host, port: ports.mqtt, reconnectPeriod: 0 });
  later(() => sensors.endAsync(true));
  for (let n = 0; n < 40; n++) {
    for (const line of [1, 2, 3]) {
      await sensors.publishAsync(`plant/${line}/temp`, (20 + line + Math.sin(n / 4 + line)).toFixed(2), { qos: 1 });
    }
  }
  // A topic that the page does not show, and a value that is not a number and contains HTML markup.
  await sensors.publishAsync("plant/1/valve", "open", { qos: 1 });
  await sensors.publishAsync("plant/4/temp", "<b>f\u00fcnf</b>", { qos: 1 });
  const last = (line) => (20 + line + Math.sin(39 / 4 + line)).toFixed(2);
  const values = `[...document.querySelectorAll(".card")].map((card) => card.querySelector("h2").textContent + " " + card.querySelector("output").textContent)`;
  const expected = [...[1, 2, 3].map((line) => `plant/${line}/temp ${last(line)}`), "plant/4/temp <b>f\u00fcnf</b>"];
  await eventually(async () => JSON.stringify(await page.evaluate(values)) === JSON.stringify(expected), "the values");
  const points = await page.evaluate(`document.querySelector("polyline").getAttribute("points").split(" ").length`);
  assert.equal(points, 40);
  await page.picture(path.join(process.cwd(), "dashboard.png"));
});

test("mqtt.js and stompjs meet in the browser", async () => {
  const [device, panel] = await Promise.all([pageWith("mqtt/dist/mqtt.min.js"), pageWith("@stomp/stompjs/bundles/stomp.umd.min.js")]);
  await eventually(() => device.evaluate("typeof mqtt === 'object'"), "mqtt.js");
  await eventually(() => panel.evaluate("typeof StompJs === 'object'"), "stompjs");
  await panel.evaluate(`new Promise((done, fail) => {
    globalThis.inbox = [];
    const client = (globalThis.client = new StompJs.Client({
      brokerURL: "${url("webStomp", "/ws")}",
      connectHeaders: { login: "guest", passcode: "guest", host: "/" },
    }));
    client.onStompError = (frame) => fail(new Error(frame.headers.message));
    client.onConnect = () => {
      client.watchForReceipt("there", () => done(true));
      client.subscribe("/topic/meet.#", (message) => inbox.push(message.body), { receipt: "there" });
    };
    client.activate();
  })`);
  await device.evaluate(`(async () => {
    globalThis.inbox = [];
    globalThis.client = await mqtt.connectAsync("${url("webMqtt", "/mqtt")}", { protocolVersion: 5 });
    client.on("message", (topic, payload) => inbox.push(topic + " " + payload));
    await client.subscribeAsync("meet/back", { qos: 1 });
    await client.publishAsync("meet/there", "gr\u00fcn", { qos: 2 });
  })()`);
  await eventually(() => panel.evaluate("inbox[0] === 'gr\u00fcn'"), "the device's message");
  await panel.evaluate(`client.publish({ destination: "/topic/meet.back", body: "x".repeat(300_000) })`);
  await eventually(() => device.evaluate("inbox[0]?.length === 'meet/back '.length + 300_000"), "the panel's message");
  await panel.evaluate("client.deactivate()");
  await device.evaluate("client.endAsync()");
});

await main();
