// What a dashboard of the surface `buffer` does, with the real `ws` and `fetch`: figures by WebSocket, with the last twenty points for a chart, and again three seconds
// after a close; messages and health by polling every two seconds, with the tag of what it has. A line of JSON on stdout for each thing that happens.
// Run as: node stats.mjs http://HOST:PORT TOKEN
import WebSocket from "ws";

const [api, token] = process.argv.slice(2);
const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, at: Date.now(), ...more }) + "\n");

let chart = [];

const connect = () => {
  const socket = new WebSocket(`${api.replace("http", "ws")}/ws/stats?token=${token}`);
  socket.onopen = () => tell("open");
  socket.onmessage = (event) => {
    const data = JSON.parse(event.data);
    const stats = {};
    for (const name of ["total_messages", "queue_depth", "messages_per_second", "total_batches", "avg_batch_size"]) stats[name] = data[name] || 0;
    chart = [...chart, { timestamp: new Date().toISOString(), messages: stats.messages_per_second }].slice(-20);
    tell("stats", { stats, fields: Object.keys(data).sort(), points: chart.length });
  };
  socket.onerror = () => {};
  socket.onclose = () => {
    tell("close");
    setTimeout(connect, 3000);
  };
};

let tag = null;

const poll = async () => {
  try {
    const headers = { Authorization: `Bearer ${token}`, ...(tag ? { "If-None-Match": tag } : {}) };
    const messages = await fetch(`${api}/messages?limit=50`, { headers });
    tag = messages.headers.get("etag");
    const found = messages.status === 200 ? await messages.json() : null;
    const health = await (await fetch(`${api}/health`)).json();
    tell("polled", { status: messages.status, contents: found?.map((message) => message.content), health: health.status });
  } catch {
    tell("unreachable");
  }
};

connect();
poll();
setInterval(poll, 2000);
