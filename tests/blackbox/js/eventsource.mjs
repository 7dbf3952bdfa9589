// The real eventsource package, driven line by line: a JSON object on stdin is a command, one on stdout what happened.
import { createInterface } from "node:readline";
import { EventSource } from "eventsource";

const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + "\n");
let source;

const commands = {
  open({ url, names }) {
    source = new EventSource(url);
    source.onopen = () => tell("open");
    source.onerror = (error) => tell("error", { code: error.code ?? null, closed: source.readyState === EventSource.CLOSED });
    for (const name of names) {
      source.addEventListener(name, (event) => tell("event", { name, id: event.lastEventId, data: JSON.parse(event.data) }));
    }
  },
  close() {
    source.close();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  commands[command](parameters);
}
process.exit(0);
