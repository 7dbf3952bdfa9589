// The stream of the surface metrics in Node, driven line by line: a JSON object on stdin is a command, one on stdout what happened. `ws` and `eventsource` are the real packages.
import { createInterface } from "node:readline";
import { EventSource } from "eventsource";
import WebSocket from "ws";
import { createWebSocketService, MessageType, realtimeMetrics } from "./services.mjs";

const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + "\n");
let socket, source, service, state;

const commands = {
  ws({ url }) {
    socket = new WebSocket(url);
    socket.on("message", (data) => tell("message", { message: JSON.parse(data) }));
    socket.on("close", (code) => tell("close", { code }));
    socket.on("error", (error) => tell("error", { message: error.message }));
  },
  send({ message }) {
    socket.send(JSON.stringify(message));
  },
  events({ url }) {
    source = new EventSource(url);
    source.onmessage = (event) => tell("message", { message: JSON.parse(event.data), id: event.lastEventId });
    source.onerror = (event) => tell("error", { code: event.code });
  },
  // The document's own lines, apart from the address.
  snippet({ url }) {
    const log = (...words) => tell("log", { words });
    const console = { log, error: log };
    // ---
    service = createWebSocketService(
      {
        url,
        debug: true,
      },
      {
        onConnect: () => console.log("Connected"),
        onError: (error) => console.error("Error:", error),
      },
    );

    // Subscribe to messages
    const subscription = service.subscribe(
      MessageType.METRICS_UPDATE,
      (data, message) => {
        console.log("Metrics:", data);
      },
    );

    // Connect
    service.connect();

    // Send message
    service.send({ type: "custom", data: { foo: "bar" } });
    // ---
    service.handlers.onMessage = (message) => tell("message", { message });
    commands.endSnippet = () => {
      // Disconnect
      service.disconnect();

      // Cleanup
      subscription.unsubscribe();
      service.destroy();
      tell("done", { latency: service.latency, repeated: service.repeated });
    };
  },
  // The document's component, as what its hooks know.
  dashboard({ url }) {
    service = createWebSocketService({ url, reconnectInterval: 100, heartbeatInterval: 200 }, {
      onReconnected: () => tell("reconnected"),
      onDisconnect: () => tell("disconnected"),
    });
    state = realtimeMetrics(service);
    service.subscribe(MessageType.INIT, () => tell("init"));
    service.connect();
  },
  state() {
    const shown = { ...state, models: Object.fromEntries(state.models), rateLimits: Object.fromEntries(state.rateLimits) };
    tell("state", { state: shown, latency: service.latency, repeated: service.repeated });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  await commands[command](parameters);
}
process.exit(0);
