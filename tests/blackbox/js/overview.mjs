// A dashboard of the surface `overview` with the real `eventsource` and `ws`, driven line by line: a JSON object on stdin is a command, one on stdout what happened.
import { createInterface } from "node:readline";
import { EventSource } from "eventsource";
import WebSocket from "ws";

const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + "\n");

let source;
let socket;

// What the document's own client is given and does: an address and headers, a fresh connection `reconnectInterval` after a lost one, by the last cursor.
class MidStreamer {
  constructor({ url, headers, reconnectInterval = 3000 }) {
    const open = () => {
      const address = new URL(url, globalThis.location.origin.replace("http", "ws"));
      if (this.cursor) address.searchParams.set("last_event_id", this.cursor);
      const socket = new WebSocket(address, { headers });
      socket.on("open", () => tell("open", { type: "midstreamer" }));
      socket.on("message", (text) => {
        const message = JSON.parse(text);
        this.cursor = message.id ?? this.cursor;
        tell("message", message);
      });
      socket.on("error", (error) => tell("error", { message: error.message }));
      socket.on("close", () => setTimeout(open, reconnectInterval));
    };
    open();
  }
}

const commands = {
  eventsource({ url, token, names }) {
    source = new EventSource(url, { fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }) });
    source.onopen = () => tell("open", { type: "eventsource" });
    source.onerror = (error) => tell("error", { code: error.code });
    for (const name of names) source.addEventListener(name, (event) => tell("message", { name, ...JSON.parse(event.data), lastEventId: event.lastEventId }));
  },
  ws({ url, token }) {
    socket = new WebSocket(url, { headers: { Authorization: `Bearer ${token}` } });
    socket.on("open", () => tell("open", { type: "ws" }));
    socket.on("message", (text) => tell("message", JSON.parse(text)));
    socket.on("error", (error) => tell("error", { message: error.message }));
    socket.on("close", (code) => tell("close", { code }));
  },
  send({ text }) {
    socket.send(text);
  },
  // The document's snippet, as it stands there.
  snippet({ origin, apiKey, code }) {
    globalThis.location = { origin };
    new Function("MidStreamer", "apiKey", code)(MidStreamer, apiKey);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  await commands[command](parameters);
}
process.exit(0);
