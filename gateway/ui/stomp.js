// The part of STOMP 1.2 that the page “Try it” needs.

const escape = (value) => value.replace(/\\/g, "\\\\").replace(/:/g, "\\c").replace(/\n/g, "\\n").replace(/\r/g, "\\r");
const unescape = (value) => value.replace(/\\([\\cnr])/g, (_, c) => ({ "\\": "\\", c: ":", n: "\n", r: "\r" })[c]);

const frame = (command, headers, body = "") =>
  `${command}\n${Object.entries(headers).map(([name, value]) => `${name}:${command === "CONNECT" ? value : escape(value)}\n`).join("")}\n${body}\0`;

export function connect(address, user, password, { message, closed }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(address, ["v12.stomp"]);
    socket.binaryType = "arraybuffer";
    const waiting = new Map();
    let [count, buffer, why, beat] = [0, "", "", 0];
    const ask = (command, headers, body) => new Promise((done, failed) => { const receipt = `r${++count}`; waiting.set(receipt, { done, failed }); socket.send(frame(command, { ...headers, receipt }, body)); });
    const client = {
      subscribe: (destination) => ask("SUBSCRIBE", { id: `s${++count}`, destination, ack: "auto" }),
      publish: (destination, body) => ask("SEND", { destination, persistent: "true", "content-type": "text/plain" }, body),
      close: () => { socket.send(frame("DISCONNECT", {})); socket.close(); },
    };
    const take = (part) => {
      const [head, ...rest] = part.replace(/^[\r\n]+/, "").split(/\r?\n\r?\n/);
      const [command, ...lines] = head.split(/\r?\n/);
      const body = rest.join("\n\n");
      const headers = Object.fromEntries(lines.map((line) => { const colon = line.indexOf(":"); return [unescape(line.slice(0, colon)), unescape(line.slice(colon + 1))]; }).reverse());
      if (command === "CONNECTED") { beat = setInterval(() => socket.send("\n"), 20000); resolve(client); }
      else if (command === "MESSAGE") message(headers.destination, body);
      else if (command === "RECEIPT") { waiting.get(headers["receipt-id"])?.done(); waiting.delete(headers["receipt-id"]); }
      else if (command === "ERROR") why = `${headers.message}${body ? `: ${body.trim()}` : ""}`;
    };
    socket.onopen = () => socket.send(frame("CONNECT", { "accept-version": "1.2", host: "/", "heart-beat": "30000,0", ...(user ? { login: user, passcode: password } : {}) }));
    socket.onmessage = ({ data }) => {
      buffer += typeof data === "string" ? data : new TextDecoder().decode(data);
      const parts = buffer.split("\0");
      buffer = parts.pop();
      parts.forEach(take);
    };
    socket.onclose = (event) => {
      clearInterval(beat);
      why ||= event.reason || (event.code === 1000 ? "" : "the connection broke");
      waiting.forEach(({ failed }) => failed(new Error(why || "closed")));
      reject(new Error(why || "refused"));
      closed(why);
    };
  });
}
