// A dashboard's hook with the real `ws`: parses each message, and connects again three seconds after a close. A line of JSON on stdout for each thing that happens.
import WebSocket from "ws";

const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, at: Date.now(), ...more }) + "\n");

const connect = () => {
  const socket = new WebSocket(process.argv[2]);
  socket.onopen = () => tell("open");
  socket.onmessage = (event) => tell("stats", { stats: JSON.parse(event.data) });
  socket.onerror = () => {};
  socket.onclose = () => {
    tell("close");
    setTimeout(connect, 3000);
  };
};

connect();
