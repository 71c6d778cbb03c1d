// Chromium, headless, driven over its debugging port.

import { spawn } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { eventually, later, require } from "./harness.mjs";

const { WebSocket } = require("ws");

/** Chromium, with further arguments, and pages in it. */
export async function browser(further = []) {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "gatepost-browser-"));
  const child = spawn(
    process.env.GATEPOST_CHROMIUM ?? "chromium",
    ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
      // Background pages must not be throttled: all pages are used at once.
      "--disable-renderer-backgrounding", "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--window-size=900,600", "--remote-debugging-port=0",
      `--user-data-dir=${home}`, ...further, "about:blank"],
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
  const agreeing = new Set();
  let id = 0;
  socket.on("message", (data) => {
    const { id, result, error, method, sessionId } = JSON.parse(data);
    if (method === "Page.javascriptDialogOpening" && agreeing.has(sessionId)) ask("Page.handleJavaScriptDialog", { accept: true }, sessionId);
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
  /**
   * A page at `url`: evaluates expressions, and takes a picture. All pages share cookies, so who logs in at one is logged in
   * at all of them, except at those that are `apart`. A page behind others is hidden, unless it is to believe to be in `front`.
   */
  return async (url, { apart = false, front = false } = {}) => {
    const context = apart ? await ask("Target.createBrowserContext") : {};
    const { targetId } = await ask("Target.createTarget", { url, ...context });
    const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
    const page = (method, params) => ask(method, params, sessionId);
    if (front) await page("Emulation.setFocusEmulationEnabled", { enabled: true });
    return {
      async evaluate(expression) {
        const how = { expression, awaitPromise: true, returnByValue: true };
        // A page that was just opened has no execution context yet.
        const answer = await eventually(() => page("Runtime.evaluate", how).catch((error) => {
          if (!error.message.includes("Cannot find default execution context")) throw error;
        }), "a page to evaluate in");
        const { result, exceptionDetails } = answer;
        if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
        return result.value;
      },
      async picture(file) {
        const { data } = await page("Page.captureScreenshot", { format: "png" });
        fs.writeFileSync(file, Buffer.from(data, "base64"));
      },
      /** Sets the size of the window and the theme. */
      async looks({ width, height, dark }) {
        await page("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
        await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
      },
      /** A key, as the keyboard sends it. */
      async key(key) {
        const code = { Tab: 9, Enter: 13 }[key];
        const text = key === "Enter" ? "\r" : undefined;
        for (const type of ["keyDown", "keyUp"]) await page("Input.dispatchKeyEvent", { type, key, code: key, windowsVirtualKeyCode: code, text: type === "keyDown" ? text : undefined });
      },
      /** Text, as the keyboard sends it. */
      type: (text) => page("Input.insertText", { text }),
      close: () => ask("Target.closeTarget", { targetId }),
      /** The accessibility tree of the page: a list of { role, name }. */
      async spoken() {
        const { nodes } = await page("Accessibility.getFullAXTree");
        return nodes.filter((node) => !node.ignored).map((node) => ({ role: node.role?.value ?? "", name: node.name?.value ?? "" }));
      },
      /** Answers the page's `confirm` dialogs. */
      async agree() {
        await page("Page.enable");
        agreeing.add(sessionId);
      },
    };
  };
}
