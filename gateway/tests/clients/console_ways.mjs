// The console by keyboard, through a proxy, and in case of errors.

import assert from "node:assert/strict";
import http from "node:http";
import { address, amqp, consoleAt, eventually, noQueue, open, test } from "./console_page.mjs";
import { host, later, main, unique } from "./harness.mjs";

test("logging in, declaring a queue and deleting it work by keyboard alone", async () => {
  const queue = unique("keys");
  const page = await open(`${address}/`, { apart: true });
  await page.agree();
  // No element has the focus in a page that was just opened.
  const focus = () => page.evaluate(`(() => { const at = document.activeElement; return at ? at.getAttribute("aria-label") ?? (at.name || at.innerText) : ""; })()`);
  /** Presses Tab until the element has the focus. */
  const tabTo = async (wanted) => {
    for (let n = 0; n < 200; n++) {
      if (String(await focus()).trim() === wanted) return;
      await page.key("Tab");
    }
    throw new Error(`no Tab leads to ${wanted}`);
  };
  await eventually(async () => (await focus()) === "user", "the login");
  await page.type("guest");
  await tabTo("password");
  await page.type("guest");
  await page.key("Enter");
  await eventually(() => page.evaluate(`Boolean(document.querySelector("nav"))`), "the console");
  await tabTo("Queues");
  await page.key("Enter");
  await eventually(() => page.evaluate(`location.hash === "#/queues" && document.querySelector("main h1")?.innerText === "Queues"`), "the page of queues");
  // The skip link and the page itself take the focus past the navigation.
  await eventually(() => page.evaluate(`document.activeElement.id === "main"`), "the focus in the page");
  await tabTo("Declare a queue");
  await page.key("Enter");
  await tabTo("name");
  await page.type(queue);
  await page.key("Enter");
  await eventually(async () => (await page.evaluate(`document.querySelector("main").innerText`)).includes(queue), "the queue");
  await page.evaluate(`document.querySelector("main").focus()`);
  await tabTo(queue);
  await page.key("Enter");
  await eventually(() => page.evaluate(`document.querySelector("main h1")?.innerText.startsWith("Queue keys")`), "its page");
  await tabTo("Purge or delete");
  await page.key("Enter");
  await tabTo(`Delete the queue \u2068${queue}\u2069 with all its messages`);
  await page.key("Enter");
  await eventually(() => page.evaluate(`location.hash === "#/queues"`), "the list again");
  await noQueue(queue);
});

test("an open form is kept over a refresh, and the list around it is not", async () => {
  const queue = unique("late");
  const page = await consoleAt(`queues?name=${queue}`, { front: true });
  await page.shows("None match");
  await page.evaluate(`(() => { const form = document.querySelector('form[aria-label="Declare a queue"]'); form.closest("details").open = true; form.elements.name.value = "half a name"; })()`);
  await (await amqp()).assertQueue(queue);
  await page.shows(queue);
  assert.deepEqual(await page.evaluate(`(() => { const form = document.querySelector('form[aria-label="Declare a queue"]'); return [form.closest("details").open, form.elements.name.value]; })()`), [true, "half a name"]);
  await page.press("Pause", "body");
  assert.equal(await page.text("#live"), "Paused.");
  assert.equal(await page.evaluate(`document.querySelector("#pause").getAttribute("aria-pressed")`), "true");
  await page.press("Pause", "body");
  await page.shows("As of", "#live");
});

test("a page is shown from its top, with the navigation above it", async () => {
  const page = await consoleAt("overview");
  await page.shows("Listeners");
  await page.looks({ width: 900, height: 300 });
  await page.evaluate("scrollTo(0, 200)");
  await eventually(() => page.evaluate("scrollY > 0"), "a page that is scrolled");
  await page.go("queues");
  await page.shows("Declare a queue");
  await eventually(() => page.evaluate(`scrollY === 0 && document.activeElement === document.querySelector("main")`), "the top of the page");
});

test("errors are shown as text", async () => {
  const page = await consoleAt(`queues/%2F/${unique("never")}`);
  await page.shows("is not there (any more).");
  await page.go("queues");
  await page.send("Declare a queue", { name: unique(), arguments: "{ x" });
  await page.says("This is no JSON");
  await page.send("Declare a queue", { name: "amq.mine", arguments: "" });
  await page.says("amq.");
  await page.press("×", "#says");
  await page.go("%E0%A4%A/%");
  await page.shows("Listeners");
  const [user, queue] = [unique("few"), unique()];
  await page.go("admin");
  await page.send("Set a user", { name: user, password: "x", tags: "management" });
  await page.shows(user);
  const theirs = await consoleAt("log", { user, password: "x", apart: true, front: true });
  await theirs.shows("Your user may not see this");
  await theirs.go("admin");
  await theirs.shows("This page is for administrators.");
  await theirs.go("overview");
  await theirs.shows("Messages a second");
  // The password changes, which ends the session. The next refresh notices it.
  await page.pressInRow(user, "Edit", '[aria-label="Users"]');
  await page.send("Set a user", { password: "y" });
  await theirs.shows("Your session has ended", "body");
  await theirs.send("Log in", { user, password: "x" });
  await theirs.shows("the user or the password is wrong", "[role=alert]");
  await theirs.send("Log in", { user, password: "y" });
  await theirs.shows("Messages a second");
  await theirs.press("Log out", "header");
  await eventually(() => theirs.evaluate(`Boolean(document.querySelector(".login"))`), "the login");
  assert.ok(!(await theirs.text("body")).includes("ended"), "who logs out knows why");
});

/** A reverse proxy that serves the gateway below /tools/gate/, and asks it under another name. */
async function proxied() {
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith("/tools/gate/")) return response.writeHead(404).end();
    const { host: asked, ...headers } = request.headers;
    const target = new URL(address);
    const onward = http.request({ host: target.hostname, port: target.port, method: request.method, path: request.url.slice("/tools/gate".length), headers: { ...headers, host: "upstream", "x-forwarded-host": asked } }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.writeHead(502).end());
    request.pipe(onward);
  });
  await new Promise((done) => server.listen(0, host, done));
  later(() => server.close());
  return `http://${host}:${server.address().port}/tools/gate`;
}

test("the console works below a path of a reverse proxy", async () => {
  const queue = unique("behind");
  const page = await consoleAt("queues", { at: await proxied(), apart: true });
  await page.send("Declare a queue", { name: queue });
  await page.shows(queue);
  await page.follow(queue);
  await page.shows("Nobody consumes from it");
  assert.equal(await page.evaluate(`new URL(document.querySelector("link[rel=stylesheet]").href).pathname`), "/tools/gate/style.css");
});

// A machine with two cores is busy with four pages.
await main(100_000, 4);
