// What the page does: it follows the host rooms and one more of the reader's choice over Server-Sent Events, and asks for the list of rooms. It speaks only
// the public API of docs/api.md; whatever cannot be done through that does not belong here.

const $ = (id) => document.getElementById(id);
const token = readToken();
const WINDOW_MS = 120_000;
const HOST_TAIL = 120;
const FOLLOW_TAIL = 20;
const FOLLOW_SHOWN = 100;
const NOTICES_SHOWN = 5;
const ROOMS_LIMIT = 500;
const ROOMS_EVERY_MS = 2_000;

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

// `on.state(name, text)`, `on.event(event, live)`, and, where a refusal should end the stream, `on.refused(text)`.
function openStream(rooms, tail, on) {
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
    const query = new URLSearchParams({ rooms });
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
    for (const type of ['welcome', 'heartbeat', 'gap', 'dropped']) {
      mine.addEventListener(type, (message) => {
        heard('live');
        const body = parse(message.data);
        if (!body) return;
        if (type === 'welcome') {
          attempt = 0;
          heartbeatMs = body.heartbeat_ms > 0 ? body.heartbeat_ms : heartbeatMs;
          welcomeAt = performance.now();
          welcomeTime = millis(body.timestamp);
        }
        if (type === 'heartbeat' && body.cursor) cursor = String(body.cursor);
        streamNotice(type, body);
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
        else if (ours && on.refused) return on.refused(text);
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
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const colours = { line: [colour('accent'), colour('second'), colour('second')], fill: colour('accent-soft'), grid: colour('grid'), axis: colour('line'), text: colour('quiet') };
  for (const card of cards.values()) {
    if (!card.last) continue;
    showParts(card.value, card.parts(card.last));
    const detail = card.detail(card.last);
    setText(card.detailNode, detail);
    card.detailNode.title = detail;
    drawChart(card, colours);
  }
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

function drawChart(card, colours) {
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
    const words = lane.bars ? lane.name : drawLines(pen, lane, points, last, y, tall, width, colours);
    if (lane.bars) drawBars(pen, lane.bars(last) ?? [], y, tall, width, colours);
    pen.fillStyle = colours.text;
    pen.fillText(words, 0, y - 4);
    y += tall;
  }
}

// Answers the words for its strip: the name and what the top of the scale means.
function drawLines(pen, lane, points, last, y, tall, width, colours) {
  const start = newestTime - WINDOW_MS;
  let most = lane.least ?? 0;
  if (!lane.top) for (const p of points) for (const s of lane.series) if (p[s + 1] > most) most = p[s + 1];
  const top = lane.top ? lane.top(last) : roundUp(most, lane.binary);
  const x = (time) => ((time - start) / WINDOW_MS) * (width - 2);
  const level = (n) => y + tall - Math.min(1, Math.max(0, n / top)) * (tall - 1);
  pen.lineWidth = 1;
  for (const [part, colour] of tall > 50 ? [[0, colours.axis], [0.5, colours.grid], [1, colours.grid]] : [[0, colours.axis]]) {
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(0, Math.round(level(top * part)) + 0.5);
    pen.lineTo(width, Math.round(level(top * part)) + 0.5);
    pen.stroke();
  }
  pen.lineJoin = 'round';
  for (const s of [...lane.series].reverse()) {
    const first = s === lane.series[0];
    // Where events are missing the line is broken: a bridge would claim to know what was there.
    const runs = [];
    let before = -Infinity;
    for (const p of points) {
      if (!Number.isFinite(p[s + 1])) continue;
      if (p[0] - before > 3500) runs.push([]);
      runs.at(-1).push([x(p[0]), level(p[s + 1])]);
      before = p[0];
    }
    for (const run of runs) {
      if (run.length === 1) run.push([run[0][0] + 1.5, run[0][1]]);
      const path = new Path2D();
      run.forEach(([px, py], i) => (i ? path.lineTo(px, py) : path.moveTo(px, py)));
      pen.strokeStyle = first ? colours.line[0] : colours.line[s];
      pen.lineWidth = first ? 1.6 : 1.3;
      pen.setLineDash(first ? [] : [[], [5, 3], [1.5, 3]][s] ?? []);
      pen.stroke(path);
      pen.setLineDash([]);
      if (first) {
        path.lineTo(run.at(-1)[0], y + tall);
        path.lineTo(run[0][0], y + tall);
        pen.fillStyle = colours.fill;
        pen.fill(path);
      }
    }
  }
  return [lane.name, lane.label(top)].filter(Boolean).join(' · ');
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
let flushTimer = 0;
let flushedAt = 0;

function follow(rooms) {
  stopFollowing();
  if (!rooms) return followState('Name a room, such as well:WELL-001, or a pattern, such as well:*', true);
  followed = rooms;
  followCount = 0;
  $('follow-events').replaceChildren();
  $('follow-stop').disabled = false;
  markFollowed();
  following = openStream(rooms, FOLLOW_TAIL, {
    state: showFollowState,
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
  if (name === 'live' && followCount > 0) followState(followedText());
}
const followedText = () => `Following ${followed}, live; the newest ${FOLLOW_SHOWN} events are kept here.`;

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
  if (!following || pending.length === 0) return;
  const list = $('follow-events');
  list.prepend(...pending.reverse().map(eventLine));
  pending = [];
  while (list.children.length > FOLLOW_SHOWN) list.lastElementChild.remove();
  followState(followedText());
}

function eventLine(event) {
  const line = element('li', 'event');
  line.dataset.seq = event.seq;
  line.dataset.room = event.room;
  const time = millis(event.timestamp);
  const priority = String(event.priority ?? 'normal');
  const badge = element('span', 'badge', priority);
  if (priority === 'high' || priority === 'critical') badge.classList.add(priority);
  const data = JSON.stringify(event.data) ?? '';
  line.append(
    element('time', '', Number.isFinite(time) ? clockMs.format(time) : '–'), element('span', 'room', event.room), element('span', 'seq', `#${event.seq}`),
    element('span', 'kind', event.kind), badge,
    element('span', 'data', data.length > 1000 ? `${data.slice(0, 1000)}… (${count(data.length)} characters)` : data),
  );
  return line;
}

function showExample() {
  const wanted = $('follow-room').value.trim().split(',')[0].replace(/\*$/, '1');
  // The line is meant for a shell: only what can be a room's name may stand in it.
  const room = /^[\p{L}\p{N}_.:/@-]{1,200}$/u.test(wanted) ? wanted : 'demo:1';
  setText($('example-text'), `curl ${location.origin}/v1/rooms/${room}/events -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"kind":"hello","data":{"n":1}}'`);
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
  scheduleFlush();
  if (roomsTimer !== -1) readRooms();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', changed);
window.addEventListener('resize', changed);

const samples = [];
setInterval(() => {
  const now = performance.now();
  for (const stream of streams) stream.check(now);
  samples.push([now, received]);
  if (samples.length > 6) samples.shift();
  const [then, before] = samples[0];
  if (samples.length > 2) setText($('received'), `${fixed(((received - before) * 1000) / (now - then), 1)}/s`);
}, 1000);

openStream('host:*', HOST_TAIL, {
  state: (name) => {
    $('state').dataset.state = name;
    setText($('state'), name);
  },
  event: hostEvent,
});
showExample();
readRooms();
