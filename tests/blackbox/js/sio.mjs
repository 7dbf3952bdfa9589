// The real socket.io-client, driven line by line: a JSON object on stdin is a command, one on stdout what happened.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + "\n");
let socket;

const commands = {
  connect({ url, options: { wells = [], ...options } }) {
    socket = io(url, { reconnectionDelay: 50, reconnectionDelayMax: 200, ...options });
    socket.on("connect", () => {
      const engine = socket.io.engine;
      tell("connect", { id: socket.id, recovered: socket.recovered, transport: engine.transport.name });
      wells.forEach((well_id) => socket.emit("subscribe", { well_id }));
      engine.on("upgrade", (transport) => tell("upgrade", { transport: transport.name }));
    });
    socket.on("disconnect", (reason) => tell("disconnect", { reason }));
    socket.on("connect_error", (error) => tell("connect_error", { message: error.message, data: error.data }));
    socket.onAny((name, ...args) => tell("event", { name, args }));
  },
  emit({ name, args }) {
    socket.emit(name, ...args);
  },
  binary({ name, bytes }) {
    socket.emit(name, Buffer.from(bytes));
  },
  async ask({ name, args }) {
    tell("ack", { name, args: [await socket.timeout(10000).emitWithAck(name, ...args)] });
  },
  // The engine's own end, as when the network breaks.
  cut() {
    socket.io.engine.close();
  },
  disconnect() {
    socket.disconnect();
  },
  reconnect() {
    socket.connect();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  await commands[command](parameters);
}
process.exit(0);
