// An administrator's page with the real `eventsource` and `ws`, driven line by line: a JSON object on stdin is a command, one on stdout what happened.
import { createInterface } from "node:readline";
import { EventSource as RealEventSource } from "eventsource";
import RealWebSocket from "ws";

const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + "\n");

const sources = [];
const sockets = [];

// The page's own globals. Host and token are all that is put in: an address without a host gets one, one without a token of its own the user's.
const page = (origin, token) => ({
  EventSource: class extends RealEventSource {
    constructor(url) {
      const address = new URL(url, origin);
      if (!address.searchParams.has("token")) address.searchParams.set("access_token", token);
      super(address);
      sources.push(this);
      tell("source", { path: address.pathname });
      this.addEventListener("message", (event) => tell("message", { ...JSON.parse(event.data), lastEventId: event.lastEventId }));
      this.addEventListener("error", (error) => tell("error", { code: error.code }));
    }
  },
  WebSocket: class extends RealWebSocket {
    constructor(url) {
      const address = new URL(url);
      address.host = new URL(origin).host;
      address.searchParams.set("token", token);
      super(address);
      sockets.push(this);
      this.on("message", (text) => tell("message", JSON.parse(text)));
      this.on("error", (error) => tell("error", { message: error.message }));
      this.on("close", (code) => tell("close", { code }));
    }
  },
  updateDashboard: (data) => tell("updateDashboard", { data }),
  showAlert: (data) => tell("showAlert", { data }),
  console: { log: (...words) => tell("log", { words }), error: () => tell("logged error") },
});

const commands = {
  // A snippet of the document as it stands there; `then` is called in it, such as a function that it declares.
  snippet({ origin, token, code, then = "" }) {
    const globals = page(origin, token);
    new Function(...Object.keys(globals), `${code}\n${then}`)(...Object.values(globals));
  },
  // What a browser tells a page whose connection breaks.
  lose() {
    const source = sources.at(-1);
    source.onerror(new Event("error"));
  },
  send({ message }) {
    sockets.at(-1).send(typeof message === "string" ? message : JSON.stringify(message));
  },
  close() {
    sockets.at(-1).terminate();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  await commands[command](parameters);
}
process.exit(0);
