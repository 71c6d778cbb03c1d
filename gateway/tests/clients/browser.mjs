// mqtt.js, @stomp/stompjs and the example page in a real browser, headless, driven over its debugging port.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { eventually, host, later, main, ports, require, test } from "./harness.mjs";

const { WebSocket } = require("ws");
const mqtt = require("mqtt");
const modules = process.env.GATEPOST_NODE_MODULES;

/** Chromium, and pages in it. */
async function browser() {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "gatepost-browser-"));
  const child = spawn(
    process.env.GATEPOST_CHROMIUM ?? "chromium",
    ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=900,600", "--remote-debugging-port=0",
      `--user-data-dir=${home}`, "about:blank"],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  later(() => {
    child.kill("SIGKILL");
    fs.rmSync(home, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  });
  let said = "";
  child.stderr.on("data", (data) => (said += data));
  child.on("error", (error) => (said += error));
  const [, address] = await eventually(() => /DevTools listening on (ws:\S+)/.exec(said), `a browser (${said})`, 60_000);
  const socket = new WebSocket(address);
  await new Promise((done) => socket.once("open", done));
  const waiting = new Map();
  let id = 0;
  socket.on("message", (data) => {
    const { id, result, error } = JSON.parse(data);
    if (!waiting.has(id)) return;
    const [done, fail] = waiting.get(id);
    if (error) fail(new Error(JSON.stringify(error)));
    else done(result);
  });
  const ask = (method, params = {}, sessionId = undefined) =>
    new Promise((done, fail) => {
      waiting.set(++id, [done, fail]);
      socket.send(JSON.stringify({ id, method, params, sessionId }));
    });
  /** A page at `url`: evaluates expressions, and takes a picture. */
  return async (url) => {
    const { targetId } = await ask("Target.createTarget", { url });
    const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
    const page = (method, params) => ask(method, params, sessionId);
    return {
      async evaluate(expression) {
        const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
        if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
        return result.value;
      },
      async picture(file) {
        const { data } = await page("Page.captureScreenshot", { format: "png" });
        fs.writeFileSync(file, Buffer.from(data, "base64"));
      },
    };
  };
}

const open = await browser();
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
  const page = await open(`${example}?url=ws://${host}:${ports.webStomp}/ws&topic=/topic/plant.*.temp`);
  const text = (selector) => page.evaluate(`document.querySelector("${selector}")?.textContent ?? ""`);
  await eventually(async () => (await text("#state")).startsWith("/topic/plant"), `a subscription`);
  const sensors = await mqtt.connectAsync({ host, port: ports.mqtt, reconnectPeriod: 0 });
  later(() => sensors.endAsync(true));
  for (let n = 0; n < 40; n++) {
    for (const line of [1, 2, 3]) {
      await sensors.publishAsync(`plant/${line}/temp`, (20 + line + Math.sin(n / 4 + line)).toFixed(2), { qos: 1 });
    }
  }
  // Not of this page's topic, and a value that is no number, with what would be markup in HTML.
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
      brokerURL: "ws://${host}:${ports.webStomp}/ws",
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
    globalThis.client = await mqtt.connectAsync("ws://${host}:${ports.webMqtt}/mqtt", { protocolVersion: 5 });
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
