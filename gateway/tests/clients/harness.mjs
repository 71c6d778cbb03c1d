// The Node side of harness.py: cases, their time limits, and where the gateway listens.

import { createRequire } from "node:module";
import path from "node:path";

export const host = "127.0.0.1";
export const ports = {
  amqp: Number(process.env.GATEPOST_AMQP ?? 5672),
  mqtt: Number(process.env.GATEPOST_MQTT ?? 1883),
  stomp: Number(process.env.GATEPOST_STOMP ?? 61613),
  webMqtt: Number(process.env.GATEPOST_WEB_MQTT ?? 15675),
  webStomp: Number(process.env.GATEPOST_WEB_STOMP ?? 15674),
  management: Number(process.env.GATEPOST_MANAGEMENT ?? 15672),
};
const peer = process.env.GATEPOST_PEER ?? "gatepost";

// The clients are installed outside the source tree.
export const require = createRequire(path.join(process.env.GATEPOST_NODE_MODULES ?? "node_modules", "x.js"));

const cases = [];
const cleanUp = [];
let count = 0;

/** A case; its name is a sentence. `differs` names brokers that behave differently by design, or cannot do it. */
export function test(name, body, { differs = "" } = {}) {
  if (!differs.split(" ").includes(peer)) cases.push({ name, body });
}

/** A name no other case uses. */
export const unique = (what = "q") => `${what}-node${++count}-${process.pid}`;

/** Calls `undo` when all cases are over. */
export const later = (undo) => cleanUp.push(undo);

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until `condition()` is truthy, and returns its value. */
export async function eventually(condition, what = "the condition", within = 30_000) {
  const end = Date.now() + within;
  // Polling without a pause would slow down what it waits for.
  for (let pause = 5; ; pause = Math.min(pause * 1.5, 100)) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what} did not come true within ${within} ms`);
    await sleep(pause);
  }
}

/**
 * Whether `kept(seconds)` holds for an interval: it opens a connection that has to be heard that often, and says whether it
 * is still there after four of them. A machine that is too slow for a short interval may keep a longer one.
 */
export async function keepsSome(kept) {
  for (const seconds of [1, 4, 12]) if (await kept(seconds)) return true;
  return false;
}

/** Runs one case, and prints its result. */
async function run({ name, body }, limit) {
  const began = Date.now();
  let error = null;
  const tooLate = new Promise((_, fail) => setTimeout(fail, limit, new Error(`not done after ${limit} ms`)));
  try {
    await Promise.race([body(), tooLate]);
  } catch (e) {
    error = e;
  }
  const seconds = ((Date.now() - began) / 1000).toFixed(1);
  console.log(`${error ? "FAILED" : "ok"} ${name} (${seconds} s)`);
  if (error) console.log(error);
  return error === null;
}

/** Runs the cases, at most the given number at once, and ends the process. A case's time limit starts with the case. */
export async function main(limit = 100_000, sideBySide = Infinity) {
  const wanted = cases.filter(({ name }) => process.argv.length < 3 || process.argv.slice(2).includes(name));
  const left = [...wanted];
  const verdicts = [];
  const work = async () => {
    for (let one = left.shift(); one; one = left.shift()) verdicts.push(await run(one, limit));
  };
  await Promise.all(Array.from({ length: Math.min(sideBySide, wanted.length) }, work));
  const held = verdicts.filter(Boolean).length;
  console.log(`${held} of ${wanted.length} cases held`);
  for (const undo of cleanUp.reverse()) {
    try {
      await undo();
    } catch {
      // It is gone already.
    }
  }
  process.exit(held === wanted.length && held > 0 ? 0 : 1);
}

process.on("unhandledRejection", (error) => {
  console.log("FAILED unhandled rejection", error);
  process.exit(1);
});
