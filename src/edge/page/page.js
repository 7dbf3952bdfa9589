// What the page does: over Server-Sent Events it follows the host's rooms, its windows and all alarms by one stream, and rooms of the reader's choice by another;
// and it asks for the list of rooms and, where it may, of pipelines. It speaks only the public API of docs/api.md; whatever cannot be done through that does
// not belong here.

const $ = (id) => document.getElementById(id);
const token = readToken();
const WINDOW_MS = 120_000;
const HOST_TAIL = 120;
const FOLLOW_TAIL = 20;
const FOLLOW_SHOWN = 100;
const NOTICES_SHOWN = 5;
const ROOMS_LIMIT = 500;
const ROOMS_EVERY_MS = 2_000;
const PIPELINES_EVERY_MS = 5_000;
const ALARMS_KEPT = 2_000;
const ALARMS_SHOWN = 100;
const ALARMS_PAST = 10;
const ALARMS_SAID = 3;
const WINDOW_ROOMS = 'host-window:';
const WINDOWS_KEPT = 60;
const WINDOWS_SHOWN = 12;
const LANES_SHOWN = 3;
const TABLE_SHOWN = 200;

// The token stays in the address as well: a reload of a bare `/` would be answered with 401.
function readToken() {
  const asked = new URLSearchParams(location.search);
  const given = asked.get('token') ?? asked.get('access_token');
  try {
    if (given) sessionStorage.setItem('token', given);
    return given ?? sessionStorage.getItem('token') ?? '';
  } catch {
    return given ?? ''; // storage is refused in some private windows
  }
}

const authorization = token ? { Authorization: `Bearer ${token}` } : {};

async function problemText(response) {
  const problem = await response.json().catch(() => ({}));
  const fields = (problem.errors ?? []).map((e) => (e.field ? `${e.field}: ${e.message}` : e.message));
  const words = [problem.title ?? response.statusText, problem.detail, ...fields].filter(Boolean);
  if (response.status === 401) words.push('sign in again, or open the address that tidegate printed at its start');
  return `${response.status} ${words.join('; ')}`;
}

// ---- Words and numbers

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const clockMs = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 });
const clockDay = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

const millis = (timestamp) => (typeof timestamp === 'number' ? timestamp : Date.parse(timestamp));
const fixed = (n, digits) => (Number.isFinite(n) ? n.toFixed(digits) : '–');
const count = (n) => (!Number.isFinite(n) ? '–' : n < 100_000 ? plain.format(n) : compact.format(n));

function scaled(n, base, units) {
  if (!Number.isFinite(n)) return ['–', ''];
  let i = 0;
  // 999.5 rather than the base: a number that would be rounded to four digits goes to the next unit.
  while (Math.abs(n) >= 999.5 && i < units.length - 1) {
    n /= base;
    i += 1;
  }
  return [i === 0 || n >= 99.95 ? n.toFixed(0) : n.toFixed(1), units[i]];
}
const bytes = (n) => scaled(n, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']);
const rate = (n) => scaled(n, 1000, ['B/s', 'KB/s', 'MB/s', 'GB/s']);
const bytesText = (n) => bytes(n).join(' ');
const rateText = (n) => rate(n).join(' ');

function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

function ago(timestamp) {
  const age = (Date.now() - millis(timestamp)) / 1000;
  if (!Number.isFinite(age)) return '–';
  if (age < 2) return 'now';
  if (age < 3600) return duration(age);
  return age < 86_400 ? `${Math.floor(age / 3600)} h` : `${Math.floor(age / 86_400)} d`;
}

// Every piece of data reaches the page through here, as text: nothing that was published can become markup.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Puts a list's lines in order. Those that are in their place stay there, so that the focus and the reader's place survive.
function arrange(list, lines) {
  const wanted = new Set(lines);
  for (const line of [...list.children]) if (!wanted.has(line)) line.remove();
  let place = list.firstElementChild;
  for (const line of lines) {
    if (line === place) place = place.nextElementSibling;
    else list.insertBefore(line, place);
  }
}

// ---- Notices

function notice(subject, text) {
  const list = $('notices');
  // A room that drops every second must not push everything else out of sight.
  const line = [...list.children].find((l) => l.dataset.subject === subject) ?? element('li');
  const times = Number(line.dataset.times ?? 0) + 1;
  line.dataset.subject = subject;
  line.dataset.times = times;
  line.replaceChildren(element('time', '', clock.format(new Date())), times > 1 ? `${text}; notice ${count(times)} of its kind` : text);
  if (line !== list.firstElementChild) list.prepend(line);
  while (list.children.length > NOTICES_SHOWN) list.lastElementChild.remove();
}

function streamNotice(type, body) {
  if (type === 'gap') {
    const lost = Number.isFinite(body.lost) ? `${count(body.lost)} events` : 'events';
    notice(`gap ${body.room}`, `gap in ${body.room}: ${lost} before ${body.first_seq} are not held any more`);
  } else if (type === 'dropped') {
    notice(`dropped ${body.room}`, `dropped in ${body.room}: ${count(body.count)} events${body.reason ? ` (${body.reason})` : ''}`);
  }
}

// ---- A stream that does not give up

const streams = new Set();
let received = 0;

// `wish` is what is asked for: the rooms, and how they are to be served. `on.state(name)` and `on.event(event, live)` must be there. May be there: `on.begun(anew)`, at
// a welcome; `on.snapshot(body)` and `on.delta(event)` of rooms that have a state, and `on.wants(text)`, whether one of those is worth reading; `on.missing(room)`, where events of a room are missing, which answers whether that is
// worth a notice; and `on.refused(text, status)`, which answers whether the stream ends with it.
function openStream(wish, tail, on) {
  const { rooms } = wish;
  const stream = { close, check };
  let source = null;
  let retry = 0;
  let attempt = 0;
  let cursor = null;
  let closed = false;
  let state = '';
  let heartbeatMs = 15_000;
  let heardAt = performance.now();
  let welcomeAt = 0;
  let welcomeTime = Infinity;
  let waitingTold = false;

  function setState(name) {
    if (name !== state) on.state((state = name));
  }

  function address() {
    const query = new URLSearchParams(wish);
    if (cursor) query.set('last_event_id', cursor);
    else query.set('tail', tail);
    if (token) query.set('token', token);
    return `/v1/stream?${query}`;
  }

  function connect() {
    retry = 0;
    source?.close();
    const mine = (source = new EventSource(address()));
    heardAt = performance.now();
    mine.onopen = () => heard('live');
    mine.onmessage = (message) => {
      heard('live');
      if (message.lastEventId) cursor = message.lastEventId;
      const event = parse(message.data);
      if (!event) return;
      const now = performance.now();
      // The history that fills a fresh page would show as a burst.
      if (now - welcomeAt > 1000) received += 1;
      on.event(event, millis(event.timestamp) >= welcomeTime);
    };
    for (const type of ['welcome', 'heartbeat', 'gap', 'dropped', 'snapshot', 'delta']) {
      mine.addEventListener(type, (message) => {
        heard('live');
        const anew = cursor === null;
        if (message.lastEventId) cursor = message.lastEventId;
        const isState = type === 'snapshot' || type === 'delta';
        if (isState && !(on.wants?.(message.data) ?? true)) return;
        const body = parse(message.data);
        if (!body) return;
        if (isState) {
          if (type === 'delta' && performance.now() - welcomeAt > 1000) received += 1;
          on[type](body);
          return;
        }
        if (type === 'welcome') {
          attempt = 0;
          on.begun?.(anew);
          heartbeatMs = body.heartbeat_ms > 0 ? body.heartbeat_ms : heartbeatMs;
          welcomeAt = performance.now();
          welcomeTime = millis(body.timestamp);
        }
        if (type === 'heartbeat' && body.cursor) cursor = String(body.cursor);
        if ((type === 'gap' || type === 'dropped') && (on.missing?.(body.room) ?? true)) streamNotice(type, body);
      });
    }
    // A session of a login goes on: the stream ends with its token and comes back with the new cookie.
    mine.addEventListener('expiring', () => {
      if (!token) fetch('/api/v1/auth/refresh', { method: 'POST' }).catch(() => {});
    });
    // The daemon's own notice is named `error` too, as is the browser's event; only the daemon's carries data.
    mine.addEventListener('error', (event) => {
      if (mine !== source || closed) return;
      if (typeof event.data === 'string') {
        const body = parse(event.data) ?? {};
        notice(`error ${rooms}`, `${rooms}: ${body.message ?? 'error'}${body.code ? ` (${body.code})` : ''}`);
        return;
      }
      setState(state === '' || state === 'connecting' ? 'connecting' : 'reconnecting');
      heardAt = performance.now();
      if (mine.readyState === EventSource.CLOSED) explainAndRetry();
    });
  }

  function parse(text) {
    try {
      return JSON.parse(text);
    } catch {
      notice('unreadable', 'a message of the stream was not JSON');
      return null;
    }
  }

  function heard(name) {
    if (closed) return;
    heardAt = performance.now();
    waitingTold = false;
    setState(name);
  }

  // An EventSource does not tell why it was refused, so the same address is asked once more by a means that does.
  async function explainAndRetry() {
    setState('reconnecting');
    const abort = new AbortController();
    const timeout = setTimeout(() => abort.abort(), 5000);
    let least = 0;
    try {
      const response = await fetch(address(), { headers: { ...authorization, Accept: 'text/event-stream' }, signal: abort.signal, cache: 'no-store' });
      if (closed) return;
      if (!response.ok) {
        const text = await problemText(response);
        if (closed) return;
        const ours = response.status < 500 && response.status !== 429;
        if (ours && cursor && response.status !== 401) cursor = null; // perhaps it is only the cursor that is not liked
        else if (ours && on.refused?.(text, response.status)) return;
        notice(`refused ${rooms}`, `${rooms}: ${text}`);
        least = 1000 * (Number(response.headers.get('Retry-After')) || 0);
      }
    } catch {
      // Nobody answers: the state says so already.
    } finally {
      clearTimeout(timeout);
      abort.abort();
    }
    if (closed) return;
    const pause = Math.min(30_000, 1000 * 2 ** attempt) * (0.75 + Math.random() / 2);
    attempt += 1;
    retry = setTimeout(connect, Math.max(least, pause));
  }

  // A connection can be dead without either end having been told; only silence shows it.
  function check(now) {
    if (closed || retry || source.readyState === EventSource.CLOSED) return;
    const silence = now - heardAt;
    if (state === 'live' && silence > 2.5 * heartbeatMs) setState('stale');
    else if (state === 'stale' && silence > 5 * heartbeatMs) {
      setState('reconnecting');
      connect();
    } else if (state === 'connecting' && silence > 10_000 && !waitingTold) {
      waitingTold = true;
      notice('waiting', 'no answer yet; a browser keeps at most six connections to one address, so it may help to close other tabs of this page');
    }
  }

  function close() {
    closed = true;
    clearTimeout(retry);
    source.close();
    streams.delete(stream);
  }

  streams.add(stream);
  setState('connecting');
  connect();
  return stream;
}

// ---- The host's cards

const spread = (list, name, digits, unit) => (list?.length ? `${list.length} ${name}${list.length > 1 ? 's' : ''}, busiest ${fixed(Math.max(...list), digits)}${unit}` : '');

// `take` gives the numbers to keep, `parts` what is written large ([number, unit, key of the line]), `lanes` what is drawn, one below the other.
const CARDS = {
  cpu: {
    take: (d) => [d.usage],
    parts: (d) => [[fixed(d.usage, 1), '%', 0]],
    detail: (d) => spread(d.cores, 'core', 0, ' %'),
    lanes: [{ series: [0], share: 3, top: () => 100, label: (n) => `${n} %` }, { bars: (d) => d.cores, share: 1, name: 'cores' }],
  },
  memory: {
    take: (d) => [d.used],
    parts: (d) => [[...bytes(d.used), 0], [fixed((100 * d.used) / d.total, 0), `% of ${bytesText(d.total)}`]],
    detail: (d) => `${bytesText(d.available)} available · ${d.swap_total > 0 ? `swap ${bytesText(d.swap_used)} of ${bytesText(d.swap_total)}` : 'no swap'}`,
    lanes: [{ series: [0], share: 1, top: (d) => d.total, label: bytesText }],
  },
  load: {
    take: (d) => [d.one, d.five, d.fifteen],
    parts: (d) => [[fixed(d.one, 2), '1 min', 0], [fixed(d.five, 2), '5 min', 1], [fixed(d.fifteen, 2), '15 min', 2]],
    detail: () => 'processes running or waiting to run',
    lanes: [{ series: [0, 1, 2], share: 1, least: 0.5, label: String }],
  },
  network: {
    take: (d) => [d.received_bytes_per_second, d.sent_bytes_per_second],
    parts: (d) => [ratePart(d.received_bytes_per_second, 'in', 0), ratePart(d.sent_bytes_per_second, 'out', 1)],
    detail: (d) => busiest(d.interfaces, (i) => i.received_bytes_per_second + i.sent_bytes_per_second, (i, n) => `${i.name} ${rateText(n)}`),
    lanes: [{ series: [0, 1], share: 1, least: 1000, label: rateText }],
  },
  disk: {
    take: (d) => [d.read_bytes_per_second, d.written_bytes_per_second],
    parts: (d) => [ratePart(d.read_bytes_per_second, 'read', 0), ratePart(d.written_bytes_per_second, 'written', 1)],
    detail: (d) => busiest(d.disks, (k) => 1 - k.available / k.total, (k, n) => `${k.mount} ${fixed(100 * n, 0)} % full`),
    lanes: [{ series: [0, 1], share: 1, least: 1000, label: rateText }],
  },
  process: {
    take: (d) => [d.cpu, d.memory, d.open_files],
    parts: (d) => [[fixed(d.cpu, 1), '% CPU'], bytes(d.memory), [count(d.open_files), 'files']],
    detail: (d) => `pid ${d.pid ?? '–'} · ${count(d.threads)} threads · up ${duration(d.uptime_seconds)}`,
    lanes: [
      { series: [0], share: 1, least: 1, name: 'cpu of one core', label: (n) => `${n} %` },
      { series: [1], share: 1, least: 1 << 20, binary: true, name: 'memory', label: bytesText },
      { series: [2], share: 1, least: 10, name: 'open files', label: count },
    ],
  },
};

function ratePart(n, word, key) {
  const [number, unit] = rate(n);
  return [number, `${unit} ${word}`, key];
}

function busiest(list, weight, words) {
  const weighed = (list ?? []).map((item) => [item, weight(item)]).filter(([, n]) => Number.isFinite(n)).sort((a, b) => b[1] - a[1]);
  return weighed.slice(0, 3).map(([item, n]) => words(item, n)).join(' · ');
}

const cards = new Map();
let newestTime = 0;
for (const [name, card] of Object.entries(CARDS)) {
  const canvas = $(`${name}-chart`);
  cards.set(name, { ...card, canvas, value: $(`${name}-value`), detailNode: $(`${name}-detail`), points: [], last: null, seq: 0 });
  new ResizeObserver(changed).observe(canvas);
}

const latencies = [];

function hostEvent(event, live) {
  const card = cards.get(event.kind);
  // A stream that began anew without a cursor repeats what is here already.
  if (!card || event.room !== `host:${event.kind}` || !event.data || event.seq <= card.seq) return;
  const time = millis(event.timestamp);
  if (!Number.isFinite(time)) return;
  card.seq = event.seq;
  card.last = event.data;
  card.points.push([time, ...card.take(event.data)]);
  newestTime = Math.max(newestTime, time);
  while (card.points[0][0] < newestTime - WINDOW_MS - 2000) card.points.shift();
  if (live) {
    latencies.push(Date.now() - time);
    if (latencies.length > 20) latencies.shift();
  }
  changed();
}

let drawing = false;
function changed() {
  if (drawing || document.hidden) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  setText($('latency'), latencyText());
  const colours = chartColours();
  const scale = { start: newestTime - WINDOW_MS, length: WINDOW_MS, broken: 3500 };
  for (const card of cards.values()) {
    if (!card.last) continue;
    showParts(card.value, card.parts(card.last));
    const detail = card.detail(card.last);
    setText(card.detailNode, detail);
    card.detailNode.title = detail;
    drawChart(card, scale, colours);
  }
}

function chartColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return { line: [colour('accent'), colour('second'), colour('second')], fill: colour('accent-soft'), grid: colour('grid'), axis: colour('line'), text: colour('quiet') };
}

function latencyText() {
  if (latencies.length === 0) return '–';
  const median = [...latencies].sort((a, b) => a - b)[latencies.length >> 1];
  if (median < -5) return 'clocks differ';
  return median < 1 ? '< 1 ms' : `${plain.format(median)} ms`;
}

function showParts(node, parts) {
  if (node.children.length !== parts.length) {
    node.replaceChildren(...parts.map(([, , key]) => {
      const part = element('span', key === undefined ? '' : `key${key}`);
      part.append('', element('small'));
      return part;
    }));
  }
  parts.forEach(([number, unit], i) => {
    const [text, small] = node.children[i].childNodes;
    if (text.data !== number) text.data = number;
    setText(small, ` ${unit}`);
  });
}

// A round number, so that the scale does not move with every event.
function roundUp(n, binary) {
  if (binary) return 2 ** Math.ceil(Math.log2(n));
  const power = 10 ** Math.floor(Math.log10(n));
  const step = [1, 2, 5, 10].find((s) => s * power >= n * 0.999);
  return Number((step * power).toPrecision(2));
}

// `scale` says which time is drawn, and after how long a silence a line is broken.
function drawChart(card, scale, colours) {
  const { canvas, points, last } = card;
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = '10px system-ui, sans-serif';
  const shares = card.lanes.reduce((sum, lane) => sum + lane.share, 0);
  // Each lane keeps a strip for its words, which would otherwise be crossed by its lines.
  const strip = 15;
  let y = 0;
  for (const lane of card.lanes) {
    const tall = ((height - 1 - strip * card.lanes.length) * lane.share) / shares;
    y += strip;
    const words = lane.bars ? lane.name : drawLines(pen, lane, points, last, y, tall, width, scale, colours);
    if (lane.bars) drawBars(pen, lane.bars(last) ?? [], y, tall, width, colours);
    pen.fillStyle = colours.text;
    pen.fillText(words, 0, y - 4);
    y += tall;
  }
}

// Answers the words for its strip: the name and what the top of the scale means. A lane with a `band` has what lies between these two of its series filled.
function drawLines(pen, lane, points, last, y, tall, width, scale, colours) {
  let most = lane.least ?? 0;
  let least = 0;
  if (!lane.top) {
    for (const p of points) {
      for (const s of [...lane.series, ...(lane.band ?? [])]) {
        if (p[s + 1] > most) most = p[s + 1];
        if (p[s + 1] < least) least = p[s + 1];
      }
    }
  }
  const top = lane.top ? lane.top(last) : roundUp(most || 1, lane.binary);
  const bottom = least < 0 ? -roundUp(-least) : 0;
  const x = (time) => ((time - scale.start) / scale.length) * (width - 2);
  const level = (n) => y + tall - Math.min(1, Math.max(0, (n - bottom) / (top - bottom))) * (tall - 1);
  pen.lineWidth = 1;
  for (const [part, colour] of tall > 50 ? [[0, colours.axis], [0.5, colours.grid], [1, colours.grid]] : [[0, colours.axis]]) {
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(0, Math.round(level(bottom + (top - bottom) * part)) + 0.5);
    pen.lineTo(width, Math.round(level(bottom + (top - bottom) * part)) + 0.5);
    pen.stroke();
  }
  pen.lineJoin = 'round';
  if (lane.band) {
    const [low, high] = lane.band;
    pen.fillStyle = colours.fill;
    for (const run of runsOf(points, lane.band, scale.broken)) {
      const path = new Path2D();
      if (run.length === 1) run.push([run[0][0] + (1.5 * scale.length) / width, ...run[0].slice(1)]);
      run.forEach((p, i) => (i ? path.lineTo(x(p[0]), level(p[high + 1])) : path.moveTo(x(p[0]), level(p[high + 1]))));
      run.reverse().forEach((p) => path.lineTo(x(p[0]), level(p[low + 1])));
      pen.fill(path);
    }
  }
  for (const s of [...lane.series].reverse()) {
    const first = s === lane.series[0];
    for (const part of runsOf(points, [s], scale.broken)) {
      const run = part.map((p) => [x(p[0]), level(p[s + 1])]);
      if (run.length === 1) run.push([run[0][0] + 1.5, run[0][1]]);
      const path = new Path2D();
      run.forEach(([px, py], i) => (i ? path.lineTo(px, py) : path.moveTo(px, py)));
      pen.strokeStyle = first ? colours.line[0] : colours.line[s];
      pen.lineWidth = first ? 1.6 : 1.3;
      pen.setLineDash(first ? [] : [[], [5, 3], [1.5, 3]][s] ?? []);
      pen.stroke(path);
      pen.setLineDash([]);
      if (first && !lane.band) {
        path.lineTo(run.at(-1)[0], y + tall);
        path.lineTo(run[0][0], y + tall);
        pen.fillStyle = colours.fill;
        pen.fill(path);
      }
    }
  }
  return [lane.name, lane.label(top)].filter(Boolean).join(' · ');
}

// Where events are missing the line is broken: a bridge would claim to know what was there.
function runsOf(points, series, broken) {
  const runs = [];
  let before = -Infinity;
  for (const p of points) {
    if (!series.every((s) => Number.isFinite(p[s + 1]))) continue;
    if (p[0] - before > broken) runs.push([]);
    runs.at(-1).push(p);
    before = p[0];
  }
  return runs;
}

function drawBars(pen, values, y, tall, width, colours) {
  const step = width / Math.max(1, values.length);
  const gap = step > 4 ? Math.min(3, step * 0.25) : 0;
  values.forEach((value, i) => {
    const high = (Math.min(100, Math.max(0, value)) / 100) * tall;
    pen.fillStyle = colours.grid;
    pen.fillRect(i * step, y, step - gap, tall);
    pen.fillStyle = colours.line[0];
    pen.fillRect(i * step, y + tall - high, step - gap, high);
  });
}

// ---- Alarms

// By room, key and what the alarm is called: those that are on, as their events say.
const alarms = new Map();
// Where a room has a state of alarms, that knows better: it has also those of which nothing was told for long.
const alarmTables = new Map();
// Those that came last, the newest first.
let past = [];
const alarmRooms = new Set(['host-alarms']);
let alarmsTimer = 0;
let alarmsHeard = 0;
const unsaid = new Map();

function alarmEvent(event) {
  const data = event.data && typeof event.data === 'object' ? event.data : { text: event.data };
  // A dead letter has the kind of the event that it is about, and is none itself.
  if (data.pipeline !== undefined && data.event !== undefined) return;
  const told = millis(event.timestamp);
  const alarm = alarmOf(event.room, event.key ?? '', data, told, event.priority, event.kind);
  const before = alarms.get(alarm.id);
  alarmRooms.add(event.room);
  alarms.delete(alarm.id);
  if (alarm.state === 'started') {
    alarm.line = before?.line ?? null;
    alarms.set(alarm.id, alarm);
    // Whoever makes up a name for each must not fill the page's memory.
    if (alarms.size > ALARMS_KEPT) alarms.delete(alarms.keys().next().value);
  } else {
    alarm.lasted = alarm.state !== 'cleared' ? NaN : Number.isFinite(data.duration_ms) ? data.duration_ms : told - alarm.since;
    // One that tells every anomalous value has one line, not all of them.
    if (past[0]?.id === alarm.id && past[0].state === alarm.state && alarm.state !== 'cleared') {
      alarm.times = past[0].times + 1;
      alarm.line = past[0].line;
      past.shift();
    }
    past = [alarm, ...past].slice(0, ALARMS_PAST);
  }
  unsaid.set(alarm.id, alarm);
  alarmsChanged();
}

function alarmOf(room, key, data, told, priority, kind) {
  const name = String(data.alarm ?? data.anomaly ?? kind);
  const severity = String(data.severity ?? priority ?? 'normal');
  const since = Number.isFinite(millis(data.since)) ? millis(data.since) : told;
  return {
    id: JSON.stringify([room, key, kind, name, data.reason ?? '', data.field ?? '']), room, key, name, state: String(data.state ?? 'told'), severity,
    level: levelOf(severity), since, told, what: whatOf(data), times: 1, line: null,
  };
}

// The state of a room is of interest here where alarms stand in it; others may be large, and are not even read.
function wantsAlarmState(text) {
  return alarmTables.has(/"room":"([^"]*)"/.exec(text.slice(0, 400))?.[1]) || text.includes('"alarm":') || text.includes('"anomaly":');
}

function alarmSnapshot(body) {
  alarmTables.set(body.room, tableOf(body));
  alarmsChanged();
}

function alarmDelta(event) {
  if (!alarmTables.has(event.room)) alarmTables.set(event.room, tableOf({}));
  foldDelta(alarmTables.get(event.room), event);
  alarmsChanged();
}

function alarmsOn() {
  const known = [];
  for (const [room, table] of alarmTables) {
    for (const key of table.stale) {
      const data = table.keys.get(key);
      const before = table.on.get(key);
      table.on.delete(key);
      // Not every table in which the word stands is one of alarms.
      if ((data?.alarm ?? data?.anomaly) === undefined || typeof data.state !== 'string') continue;
      table.isAlarms = true;
      if (data.state !== 'started') continue;
      const alarm = alarmOf(room, key, data, NaN, undefined, 'state');
      alarm.line = before?.line ?? null;
      table.on.set(key, alarm);
    }
    table.stale.clear();
    known.push(...table.on.values());
  }
  return [...known, ...[...alarms.values()].filter((alarm) => !alarmTables.get(alarm.room)?.isAlarms)];
}

const levelOf = (severity) => (/^(critical|fatal|emergency)$/i.test(severity) ? 'critical' : /^(warning|major|high|error)$/i.test(severity) ? 'high' : 'normal');

// What is the matter, in words; the names of fields are without the `data.` that all have.
function whatOf(data) {
  const field = typeof data.field === 'string' ? data.field.replace(/^data\./, '') : '';
  const value = [field, figure(data.value)].filter(Boolean).join(' ');
  if (data.reason === 'no_data') return `nothing heard${Number.isFinite(data.silence_ms) ? ` for ${duration(data.silence_ms / 1000)}` : ''}`;
  if (data.state === 'cleared') return value;
  if (data.reason === 'above' || data.reason === 'below') return `${value}, ${data.reason} ${figure(data.threshold)}`;
  if (data.expected !== undefined) return `${value}, expected ${figure(data.expected)}`;
  const words = [data.text, data.message, data.reason].find((text) => typeof text === 'string' && text);
  return [words?.slice(0, 300), value].filter(Boolean).join(', ');
}

function figure(n) {
  if (typeof n !== 'number') return n === undefined || n === null ? '' : String(n).slice(0, 100);
  return Math.abs(n) >= 1000 ? plain.format(n) : String(Number(n.toPrecision(4)));
}

// Events of a room are missing: whether its alarms are over nobody knows. Answers whether it is a room of alarms.
function alarmsMissing(room) {
  // Where it has a state, that comes anew.
  for (const alarm of alarms.values()) if (alarm.room === room) alarm.unsure = true;
  if (alarmRooms.has(room)) alarmsChanged();
  return alarmRooms.has(room);
}

// The stream has begun, at this place of the list of what can be watched.
function alarmsBegun(at, anew) {
  if (anew) alarmTables.clear();
  setText($('alarms-part'), WATCHED[at].told ?? '');
  $('alarms-part').hidden = !WATCHED[at].told;
  // What was before the page came is no news: it is summed up when it is all there.
  alarmsHeard ||= setTimeout(() => {
    alarmsHeard = Infinity;
    unsaid.clear();
    if ($('alarms-on').children.length > 0) setText($('alarms-said'), `Alarms: ${$('alarms-count').textContent}.`);
  }, 1500);
  alarmsChanged();
}

// Also on a hidden page: its title is what is seen of it then. A little later, so that what comes at once is shown and said at once.
function alarmsChanged() {
  alarmsTimer ||= setTimeout(showAlarms, 250);
}

function showAlarms() {
  alarmsTimer = 0;
  const rank = { critical: 0, high: 1, normal: 2 };
  const on = alarmsOn().sort((a, b) => rank[a.level] - rank[b.level] || (b.since || 0) - (a.since || 0));
  const critical = on.filter((alarm) => alarm.level === 'critical').length;
  const words = on.length === 0 ? 'none on' : `${count(on.length)} on${critical > 0 ? `, ${count(critical)} critical` : ''}`;
  const shown = on.slice(0, ALARMS_SHOWN);
  setText($('alarms-count'), shown.length < on.length ? `${words}; the first ${ALARMS_SHOWN} are shown` : words);
  $('alarms').dataset.level = $('alarms-state').dataset.level = on[0]?.level ?? 'none';
  $('alarms-state').hidden = on.length === 0;
  const many = critical || on.length;
  setText($('alarms-state').firstElementChild, `${count(many)}${critical > 0 ? ' critical' : ''} alarm${many > 1 ? 's' : ''}`);
  document.title = on.length === 0 ? 'tidegate' : `${critical > 0 ? '‼ ' : ''}(${count(on.length)}) tidegate`;
  $('alarms-none').hidden = on.length > 0;
  setText($('alarms-none'), 'No alarm is on.');
  arrange($('alarms-on'), shown.map(alarmLine));
  $('alarms-past-title').hidden = past.length === 0;
  arrange($('alarms-past'), past.map(alarmLine));
  showAlarmTimes();
  if (alarmsHeard === Infinity) sayAlarms(words);
}

function alarmLine(alarm) {
  const fresh = alarm.line === null;
  const line = (alarm.line ??= element('li'));
  line.className = `alarm ${alarm.level}`;
  Object.assign(line.dataset, { room: alarm.room, key: alarm.key, state: alarm.state });
  if (fresh || line.alarm !== alarm || alarm.unsure) {
    line.alarm = alarm;
    const badge = element('span', `badge ${alarm.level}`, alarm.severity);
    const when = element('span', 'when');
    line.replaceChildren(badge, element('span', 'name', alarm.name), element('span', 'place', placeOf(alarm)), element('span', 'what', alarm.what), when);
    if (alarm.times > 1) line.insertBefore(element('span', 'times', `${count(alarm.times)} times`), when);
    if (alarm.unsure) line.append(element('span', 'unsure', 'Events of this room are missing: it may be over.'));
  }
  return line;
}

const placeOf = (alarm) => (alarm.key && alarm.key !== alarm.name ? `${alarm.key} in ${alarm.room}` : alarm.room);
const atOf = (time) => (Number.isFinite(time) ? (Date.now() - time < 72_000_000 ? clock : clockDay).format(time) : '–');

// The times that go on while nothing happens.
function showAlarmTimes() {
  for (const { lastElementChild, alarm } of [...$('alarms-on').children, ...$('alarms-past').children]) {
    const when = lastElementChild.className === 'when' ? lastElementChild : lastElementChild.previousElementSibling;
    setText(when, whenOf(alarm));
  }
}

function whenOf(alarm) {
  if (alarm.state === 'started') return `since ${atOf(alarm.since)}, for ${duration((Date.now() - alarm.since) / 1000)}`;
  const lasted = Number.isFinite(alarm.lasted) ? `, after ${duration(alarm.lasted / 1000)}` : '';
  return `${alarm.state} ${atOf(alarm.told)}${lasted}`;
}

// What has changed is read out: each change in a sentence or, where there are many, all in one. Critical ones do not wait for what is being read.
function sayAlarms(words) {
  const changes = [...unsaid.values()];
  unsaid.clear();
  const isCritical = (alarm) => alarm.level === 'critical' && alarm.state !== 'cleared';
  if (changes.length > ALARMS_SAID) return setText($(changes.some(isCritical) ? 'alarms-cried' : 'alarms-said'), `Alarms: ${words}.`);
  const sentence = (alarm) => {
    const is = `${alarm.level === 'critical' ? 'Critical alarm' : 'Alarm'} ${alarm.state === 'cleared' ? 'over' : alarm.state}`;
    return `${is}: ${[alarm.name, placeOf(alarm), alarm.what].filter(Boolean).join(', ')}.`;
  };
  for (const [id, which] of [['alarms-cried', isCritical], ['alarms-said', (alarm) => !isCritical(alarm)]]) {
    const told = changes.filter(which).map(sentence);
    if (told.length > 0) setText($(id), told.join(' '));
  }
}

// ---- Windows

// By room and key: the newest windows of each, and the card they are shown on.
const windows = new Map();
// The functions in whose names figures end, those that say most first: one is the line, two are the band around it.
const LINES = ['mean', 'p50', 'last', 'rate', 'sum', 'count', 'max', 'min'];
const LOWS = ['min'];
const HIGHS = ['max', 'p99', 'p95'];

function windowEvent(event) {
  const { data } = event;
  const [start, end] = [millis(data?.start), millis(data?.end)];
  if (event.kind !== 'window' || !Number.isFinite(end)) return;
  const id = JSON.stringify([event.room, event.key ?? '']);
  let one = windows.get(id);
  if (!one) windows.set(id, (one = makeWindow(id, event)));
  // One that is told again, because it is still open or because something came late, takes the place of what was told before.
  const at = one.told.findIndex((told) => told.start === start);
  if (at >= 0) one.told.splice(at, 1);
  one.told.push({ start, end, data });
  one.told.sort((a, b) => a.end - b.end);
  if (one.told.length > WINDOWS_KEPT) one.told.shift();
  one.stale = true;
  windowsChanged();
}

function makeWindow(id, event) {
  const [of, key] = [event.room.slice(WINDOW_ROOMS.length), event.key ?? ''];
  const card = element('article', 'card');
  card.dataset.room = event.room;
  const [value, canvas, detailNode] = [element('p', 'value'), element('canvas'), element('p', 'detail')];
  canvas.setAttribute('role', 'img');
  windowsSized.observe(canvas);
  card.append(element('h3', '', key && key !== of ? `${of} · ${key}` : of), value, canvas, detailNode);
  return { id, room: event.room, card, value, canvas, detailNode, told: [], stale: true };
}

let windowsDrawing = false;
const windowsSized = new ResizeObserver((entries) => windowsChanged(entries));
function windowsChanged(event) {
  // A change of size or colours is one of all.
  if (event) for (const one of windows.values()) one.stale = true;
  if (windowsDrawing || document.hidden || windows.size === 0) return;
  windowsDrawing = true;
  requestAnimationFrame(() => {
    windowsDrawing = false;
    drawWindows();
  });
}

function drawWindows() {
  const shown = [...windows.values()].sort((a, b) => (a.id < b.id ? -1 : 1)).slice(0, WINDOWS_SHOWN);
  $('windows').hidden = false;
  setText($('windows-count'), shown.length < windows.size ? `the first ${WINDOWS_SHOWN} of ${count(windows.size)}` : 'line: the mean; band: from the least to the greatest');
  arrange($('windows-cards'), shown.map((one) => one.card));
  const colours = chartColours();
  for (const one of shown) {
    if (one.stale) drawWindow(one, colours);
    one.stale = false;
  }
}

function drawWindow(one, colours) {
  const { start, end, data } = one.told.at(-1);
  const figures = figuresOf(one.told);
  // For each figure three series: what is the line, and from where to where the band goes.
  one.points = one.told.map((told) => [told.end, ...figures.flatMap(({ line, low, high }) => [told.data[line], told.data[low], told.data[high]])]);
  one.last = data;
  one.lanes = figures.map(({ name, line, low, high, unit }, i) => ({
    series: [3 * i], band: low === high ? undefined : [3 * i + 1, 3 * i + 2], share: 1, name: figures.length > 1 ? name : '',
    label: (n) => unit(n).join(' ').trim(), binary: unit === bytes, top: unit === percent ? () => 100 : undefined,
  }));
  const steps = one.told.slice(1).map((told, i) => told.end - one.told[i].end).sort((a, b) => a - b);
  const step = steps[steps.length >> 1] ?? end - start;
  const span = Math.max(end - one.told[0].end, 10 * step, 1);
  drawChart(one, { start: end - span, length: span, broken: 2.5 * step }, colours);
  const parts = figures.flatMap(({ name, line, high, unit }) => {
    const [number, word] = unit(data[line]);
    const told = [[number, [word, figures.length > 1 ? name.replace(/_bytes_per_second$/, '') : line.slice(name.length + 1)].join(' ').trim()]];
    if (figures.length === 1 && high !== line) told.push([...unit(data[high]).slice(0, 1), `${unit(data[high])[1]} ${high.slice(name.length + 1)}`.trim()]);
    return told;
  });
  showParts(one.value, parts);
  const detail = [
    Number.isFinite(start) ? `${duration((end - start) / 1000)} each` : '', Number.isFinite(data.count) ? `${count(data.count)} events` : '',
    `until ${atOf(end)}${data.open ? ', still open' : ''}`,
  ].filter(Boolean).join(' · ');
  setText(one.detailNode, detail);
  one.detailNode.title = detail;
  one.canvas.setAttribute('aria-label', `${one.room}, the last ${one.told.length} windows; now ${parts.map((part) => part.join(' ')).join(', ')}`);
}

// `usage_mean`, `usage_max` and so on are one figure, `usage`. Where there is none, the number of events is.
function figuresOf(told) {
  const names = new Map();
  for (const [name, value] of told.flatMap(({ data }) => Object.entries(data))) {
    const [, field, called] = /^(.+)_([a-z0-9]+)$/.exec(name) ?? [];
    // Windows of several kinds of events have figures that are null throughout: those are of the others.
    if (typeof value !== 'number' || ![...LINES, ...HIGHS].includes(called)) continue;
    names.set(field, (names.get(field) ?? new Set()).add(called));
  }
  const figures = [...names].slice(0, LANES_SHOWN).map(([name, functions]) => {
    const [line, low, high] = [LINES, LOWS, HIGHS].map((wanted) => wanted.find((one) => functions.has(one)));
    const called = line ?? high;
    return { name, line: `${name}_${called}`, low: `${name}_${low ?? called}`, high: `${name}_${high ?? called}`, unit: unitOf(name) };
  });
  return figures.length > 0 ? figures : [{ name: '', line: 'count', low: 'count', high: 'count', unit: (n) => [count(n), 'events'] }];
}

const percent = (n) => [fixed(n, 1), '%'];
function unitOf(name) {
  if (name.endsWith('bytes_per_second')) return rate;
  if (/(^|_)(used|total|available|bytes)$/.test(name)) return bytes;
  if (/(^|_)(usage|percent)$/.test(name)) return percent;
  return (n) => [Number.isFinite(n) ? figure(n) : '–', ''];
}

// ---- The table of rooms

const rows = new Map();
let roomsTimer = 0;
let roomsTotal = 0;

async function readRooms() {
  clearTimeout(roomsTimer);
  roomsTimer = -1;
  try {
    const response = await fetch(`/v1/rooms?limit=${ROOMS_LIMIT}`, { headers: authorization, signal: AbortSignal.timeout(8000), cache: 'no-store' });
    if (!response.ok) throw new Error(await problemText(response));
    const { rooms, total } = await response.json();
    roomsTotal = total ?? rooms.length;
    showRooms(rooms);
    setText($('rooms-error'), '');
  } catch (error) {
    setText($('rooms-error'), `The rooms could not be read: ${error.name === 'TypeError' ? 'no answer' : error.message}`);
  }
  roomsTimer = document.hidden ? 0 : setTimeout(readRooms, ROOMS_EVERY_MS);
}

// Rows are kept and only their text is changed, so that the focus and the reader's place survive.
function showRooms(rooms) {
  const body = $('rooms').tBodies[0];
  const present = new Set(rooms.map((r) => r.room));
  for (const [name, row] of rows) {
    if (present.has(name)) continue;
    row.remove();
    rows.delete(name);
  }
  let place = body.firstElementChild;
  for (const r of rooms) {
    let row = rows.get(r.room);
    if (!row) rows.set(r.room, (row = makeRow(r.room)));
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
    const cells = [r.events_per_second < 100 ? fixed(r.events_per_second, 1) : count(r.events_per_second), count(r.held), count(r.subscribers), ago(r.last_timestamp)];
    cells.forEach((text, i) => setText(row.cells[i + 1], text));
  }
  filterRooms();
}

function makeRow(name) {
  const row = element('tr');
  row.dataset.room = name;
  const button = element('button', '', name);
  button.type = 'button';
  button.title = `Follow ${name}`;
  button.addEventListener('click', () => {
    $('follow-room').value = name;
    follow(name);
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    $('follow').scrollIntoView({ block: 'nearest', behavior: calm ? 'auto' : 'smooth' });
  });
  row.append(element('td'), element('td'), element('td'), element('td'), element('td'));
  row.cells[0].append(button);
  row.classList.toggle('followed', name === followed);
  return row;
}

function filterRooms() {
  const wanted = $('rooms-filter').value.trim().toLowerCase();
  let shown = 0;
  for (const [name, row] of rows) {
    row.hidden = !name.toLowerCase().includes(wanted);
    if (!row.hidden) shown += 1;
  }
  setText($('rooms-count'), wanted || rows.size < roomsTotal ? `${count(shown)} of ${count(roomsTotal)}` : count(roomsTotal));
  $('rooms-empty').hidden = shown > 0;
  const cut = rows.size < roomsTotal ? `, among the first ${ROOMS_LIMIT} by name` : '';
  setText($('rooms-empty'), wanted ? `No room has “${wanted}” in its name${cut}.` : 'There is no room yet.');
}

// ---- Following any room

let following = null;
let followed = '';
let followCount = 0;
let pending = [];
let tables = new Map();
let flushTimer = 0;
let flushedAt = 0;

function follow(rooms) {
  stopFollowing();
  if (!rooms) return followState('Name a room, such as well:WELL-001, or a pattern, such as well:*', true);
  followed = rooms;
  followCount = 0;
  forgetTables();
  $('follow-events').replaceChildren();
  $('follow-stop').disabled = false;
  markFollowed();
  following = openStream({ rooms }, FOLLOW_TAIL, {
    state: showFollowState,
    // Without a cursor nothing of what is here is gone on from: where there is a state, a snapshot comes next.
    begun: (anew) => anew && forgetTables(),
    snapshot: takeSnapshot,
    delta: takeDelta,
    event: (event) => {
      pending.push(event);
      // More than can be shown need not wait: a hidden page draws nothing, and must not grow for it.
      if (pending.length > FOLLOW_SHOWN) pending.shift();
      followCount += 1;
      scheduleFlush();
    },
    refused: (text) => {
      stopFollowing();
      followState(`${rooms}: ${text}`, true);
      return true;
    },
  });
}

function stopFollowing() {
  const was = followed;
  following?.close();
  following = null;
  followed = '';
  $('follow-stop').disabled = true;
  pending = [];
  markFollowed();
  if (was) followState(`Stopped following ${was}.`);
}

function showFollowState(name) {
  followState(name === 'live' ? `Following ${followed}, live. Nothing has come yet.` : `${followed}: ${name}…`, name === 'stale');
  if (name === 'live') followedState();
}

function followedState() {
  const has = [tables.size > 0 && 'its state is in the table', followCount > 0 && `the newest ${FOLLOW_SHOWN} events are kept here`].filter(Boolean);
  if (has.length > 0) followState(`Following ${followed}, live; ${has.join('; ')}.`);
}

function followState(text, isError = false) {
  const node = $('follow-state');
  setText(node, text);
  node.classList.toggle('error', isError);
}

function markFollowed() {
  for (const [name, row] of rows) row.classList.toggle('followed', name === followed);
}

// At most ten times a second: a room of thousands of events a second must not keep the page from answering.
function scheduleFlush() {
  if (flushTimer || document.hidden) return;
  flushTimer = setTimeout(() => requestAnimationFrame(flush), Math.max(0, 100 - (performance.now() - flushedAt)));
}

function flush() {
  flushTimer = 0;
  flushedAt = performance.now();
  const stale = [...tables.values()].some((table) => table.stale.size > 0 || table.staleKeys);
  if (!following || (pending.length === 0 && !stale)) return;
  if (stale) showTables();
  const list = $('follow-events');
  list.prepend(...pending.reverse().map(eventLine));
  pending = [];
  while (list.children.length > FOLLOW_SHOWN) list.lastElementChild.remove();
  followedState();
}

function eventLine(event) {
  const line = element('li', 'event');
  line.dataset.seq = event.seq;
  line.dataset.room = event.room;
  const time = millis(event.timestamp);
  const priority = String(event.priority ?? 'normal');
  const badge = element('span', 'badge', priority);
  if (priority === 'high' || priority === 'critical') badge.classList.add(priority);
  line.append(
    element('time', '', Number.isFinite(time) ? clockMs.format(time) : '–'), element('span', 'room', event.room), element('span', 'seq', `#${event.seq}`),
    element('span', 'kind', event.kind), badge,
    element('span', 'data', dataText(event.data)),
  );
  return line;
}

function dataText(data) {
  const text = JSON.stringify(data) ?? '';
  return text.length > 1000 ? `${text.slice(0, 1000)}… (${count(text.length)} characters)` : text;
}

// ---- The states of the rooms that are followed

function forgetTables() {
  tables = new Map();
  for (const body of [...$('table').tBodies]) body.remove();
  $('table-part').hidden = true;
}

function takeSnapshot(body) {
  const { body: shown, rows = new Map() } = tables.get(body.room) ?? {};
  tables.set(body.room, Object.assign(tableOf(body), { body: shown, rows }));
  scheduleFlush();
}

function takeDelta(event) {
  // Without a snapshot before it, it is the first change of all.
  if (!tables.has(event.room)) tables.set(event.room, tableOf({}));
  foldDelta(tables.get(event.room), event);
  scheduleFlush();
}

// A room's state: its table, how far it is, and which keys are not shown yet as they are.
function tableOf({ data = {}, cursor = 0 }) {
  const keys = new Map(Object.entries(data));
  return { keys, seq: Number(cursor), stale: new Set(keys.keys()), staleKeys: true, rows: new Map(), on: new Map() };
}

// What comes once more, after a break, changes nothing.
function foldDelta(table, event) {
  if (event.seq <= table.seq) return;
  table.seq = event.seq;
  for (const [key, patch] of Object.entries(event.data ?? {})) {
    table.staleKeys ||= patch === null || !table.keys.has(key);
    table.stale.add(key);
    if (patch === null) table.keys.delete(key);
    else table.keys.set(key, merged(table.keys.get(key), patch));
  }
}

// A merge patch by RFC 7396. What is made here has no prototype, for a key may be called __proto__.
function merged(target, patch) {
  const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
  if (!isObject(patch)) return patch;
  const whole = Object.assign(Object.create(null), isObject(target) ? target : undefined);
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete whole[name];
    else whole[name] = merged(whole[name], value);
  }
  return whole;
}

// Only so many rows as somebody may read, the rooms by name, and only what has changed.
function showTables() {
  const rooms = [...tables.keys()].sort();
  let left = TABLE_SHOWN;
  let all = 0;
  for (const room of rooms) {
    const table = tables.get(room);
    all += table.keys.size;
    if (!table.body) {
      table.body = element('tbody');
      table.body.dataset.room = room;
      table.head = element('tr');
      const cell = element('th', '', room);
      cell.scope = 'rowgroup';
      cell.colSpan = 2;
      table.head.append(cell);
      table.staleKeys = true;
    }
    showTable(table, left, rooms.length > 1);
    left -= Math.min(left, table.keys.size);
  }
  const bodies = rooms.map((room) => tables.get(room).body);
  arrange($('table'), [$('table').tHead, ...bodies]);
  $('table-part').hidden = rooms.length === 0;
  const keys = `${count(all)} key${all === 1 ? '' : 's'}`;
  setText($('table-count'), [all > TABLE_SHOWN ? `${TABLE_SHOWN} of ${keys}` : keys, rooms.length > 1 ? `in ${rooms.length} rooms` : ''].filter(Boolean).join(' '));
}

function showTable(table, most, isNamed) {
  if (table.staleKeys || table.shown !== most || table.isNamed !== isNamed) {
    const keys = [...table.keys.keys()].slice(0, most).sort();
    const gone = new Set(table.rows.keys());
    for (const key of keys) {
      if (gone.delete(key)) continue;
      const row = element('tr');
      row.dataset.key = key;
      const head = element('th', '', key || '(no key)');
      head.scope = 'row';
      row.append(head, element('td'));
      table.rows.set(key, row);
      table.stale.add(key);
    }
    for (const key of gone) table.rows.delete(key);
    arrange(table.body, [...(isNamed ? [table.head] : []), ...keys.map((key) => table.rows.get(key))]);
    Object.assign(table, { staleKeys: false, shown: most, isNamed });
  }
  for (const key of table.stale) {
    const row = table.rows.get(key);
    if (row) setText(row.cells[1], dataText(table.keys.get(key)));
  }
  table.stale.clear();
}


function showExample() {
  const wanted = $('follow-room').value.trim().split(',')[0].replace(/\*$/, '1');
  // The line is meant for a shell: only what can be a room's name may stand in it.
  const room = /^[\p{L}\p{N}_.:/@-]{1,200}$/u.test(wanted) ? wanted : 'demo:1';
  setText($('example-text'), `curl ${location.origin}/v1/rooms/${room}/events -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"kind":"hello","data":{"n":1}}'`);
}

// ---- The table of pipelines

let pipelinesTimer = 0;
let isAdmin = null;

// It is for admins only. Who is none is not shown that there is such a thing, and does not ask again.
async function readPipelines() {
  clearTimeout(pipelinesTimer);
  pipelinesTimer = -1;
  const ask = async (path) => fetch(path, { headers: authorization, signal: AbortSignal.timeout(8000), cache: 'no-store' });
  try {
    if (isAdmin === null) {
      const me = await ask('/api/v1/auth/me');
      if (me.ok) isAdmin = ((await me.json()).roles ?? []).includes('admin');
    }
    if (isAdmin === false) return;
    const response = await ask('/v1/pipelines');
    if (response.status === 403) {
      isAdmin = false;
      $('pipelines-part').hidden = true;
      return;
    }
    if (!response.ok) throw new Error(await problemText(response));
    showPipelines((await response.json()).pipelines);
    setText($('pipelines-error'), '');
  } catch (error) {
    setText($('pipelines-error'), `The pipelines could not be read: ${error.name === 'TypeError' ? 'no answer' : error.message}`);
  }
  pipelinesTimer = document.hidden ? 0 : setTimeout(readPipelines, PIPELINES_EVERY_MS);
}

const pipelineRows = new Map();

function showPipelines(pipelines) {
  $('pipelines-part').hidden = false;
  const standing = pipelines.filter((one) => !one.works).length;
  setText($('pipelines-count'), pipelines.length === 0 ? '' : `${count(pipelines.length)}${standing > 0 ? `, ${count(standing)} ${standing > 1 ? 'do' : 'does'} not work` : ''}`);
  $('pipelines-empty').hidden = pipelines.length > 0;
  const names = new Set(pipelines.map((one) => one.name));
  for (const name of [...pipelineRows.keys()]) if (!names.has(name)) pipelineRows.delete(name);
  arrange($('pipelines').tBodies[0], pipelines.map(pipelineRow));
}

function pipelineRow(one) {
  let row = pipelineRows.get(one.name);
  if (!row) {
    pipelineRows.set(one.name, (row = element('tr')));
    row.dataset.pipeline = one.name;
    const head = element('th', '', one.name);
    head.scope = 'row';
    head.title = one.file ?? '';
    row.append(head, ...Array.from({ length: 7 }, () => element('td')));
  }
  row.dataset.works = one.works;
  const badge = row.cells[0].querySelector('.badge');
  if (!one.works && !badge) row.cells[0].append(element('span', 'badge critical', 'does not work'));
  else if (one.works) badge?.remove();
  const behind = one.behind_ms > 0 ? (one.behind_ms < 1000 ? `${plain.format(one.behind_ms)} ms` : duration(one.behind_ms / 1000)) : '–';
  const trouble = one.trouble ? `${ago(one.trouble.at)}: ${one.trouble.message}` : '–';
  [count(one.events_in), count(one.events_out), count(one.rejected), count(one.waiting), count(one.keys), behind, trouble].forEach((text, i) => setText(row.cells[i + 1], text));
  return row;
}

// ---- Beginning

$('follow-form').addEventListener('submit', (event) => {
  event.preventDefault();
  follow($('follow-room').value.trim());
  showExample();
});
$('follow-stop').addEventListener('click', () => {
  stopFollowing();
  $('follow-room').focus(); // the button that had the focus is disabled now
});
$('follow-room').addEventListener('input', showExample);
$('rooms').addEventListener('click', showExample);
$('rooms-filter').addEventListener('input', filterRooms);
// Without HTTPS, other than on localhost, a browser has no clipboard to offer.
$('example-copy').hidden = !navigator.clipboard;
$('example-copy').addEventListener('click', async () => {
  const done = await navigator.clipboard.writeText($('example-text').textContent).then(() => 'Copied', () => 'Not allowed');
  setText($('example-copy'), done);
  setTimeout(() => setText($('example-copy'), 'Copy'), 1500);
});

document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  changed();
  windowsChanged();
  scheduleFlush();
  showAlarmTimes();
  if (roomsTimer !== -1) readRooms();
  if (pipelinesTimer !== -1) readPipelines();
});
for (const again of [changed, windowsChanged]) {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
  window.addEventListener('resize', again);
}

const samples = [];
setInterval(() => {
  const now = performance.now();
  for (const stream of streams) stream.check(now);
  samples.push([now, received]);
  if (samples.length > 6) samples.shift();
  const [then, before] = samples[0];
  if (samples.length > 2) setText($('received'), `${fixed(((received - before) * 1000) / (now - then), 1)}/s`);
  if (!document.hidden) showAlarmTimes();
}, 1000);

// One stream for all that the page shows by itself: a browser keeps few connections to one address, and each page has one more for the room that is followed. Alarms may
// come in any room; where there are more rooms than a cursor can name, or where not all of these may be read, the next best is asked for.
const WATCHED = [
  { wish: { rooms: '*', filter: `kind in ["alarm", "anomaly"] || room.startsWith("host:") || room.startsWith("${WINDOW_ROOMS}")` } },
  { wish: { rooms: `host:*,host-alarms,${WINDOW_ROOMS}*` }, told: 'Only host-alarms is watched: there are more rooms than this page can follow.' },
  { wish: { rooms: 'host:*' }, told: 'None are watched: this page may not read the rooms that they are in.' },
];

function watch(at) {
  const stream = openStream(WATCHED[at].wish, HOST_TAIL, {
    state: (name) => {
      $('state').dataset.state = name;
      setText($('state'), name);
    },
    begun: (anew) => alarmsBegun(at, anew),
    wants: wantsAlarmState,
    snapshot: alarmSnapshot,
    delta: alarmDelta,
    event: (event, live) => {
      hostEvent(event, live);
      if (!isNew(event)) return;
      if (event.room.startsWith(WINDOW_ROOMS)) windowEvent(event);
      if (event.kind === 'alarm' || event.kind === 'anomaly') alarmEvent(event);
    },
    missing: (room) => room.startsWith('host:') || room.startsWith(WINDOW_ROOMS) || alarmsMissing(room),
    refused: (_, status) => {
      if ((status !== 400 && status !== 403) || at + 1 === WATCHED.length) return false;
      stream.close();
      watch(at + 1);
      return true;
    },
  });
}

// A stream that began anew without a cursor repeats what is here already.
const seen = new Map();
function isNew(event) {
  if (event.seq <= (seen.get(event.room) ?? 0)) return false;
  seen.set(event.room, event.seq);
  return true;
}

watch(0);
showExample();
readRooms();
readPipelines();
