//! The hostile clients. Each kind is one small function, a turn: it does its mischief and returns, and its client calls it again, for ever.
//!
//! A client begins no try before [`Kind::every`] has passed since its last one, and a kept connection is given up after [`KEPT`] tries. So all of them together offer bounded
//! work, which they must, because they share their cores with the daemon: what is tried is whether the daemon is fair, not how much one process can send.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use memchr::memmem;
use tidegate::cli::bench::rows::on_one_thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Clients of each kind.
pub(crate) const EACH: u32 = 100;
/// The key of those who publish too much.
pub(crate) const FLOODER: &str = "flooder-key";
/// The key of all other hostile clients.
pub(crate) const HOSTILE: &str = "hostile-key";

/// Where the honest publisher publishes.
pub(crate) const HONEST_ROOMS: [&str; 4] = ["well:h0", "well:h1", "well:h2", "well:h3"];
/// Rooms that are only there; [`WIDE`] matches them and the honest ones.
pub(crate) const QUIET_ROOMS: [&str; 16] = [
    "well:q0", "well:q1", "well:q2", "well:q3", "well:q4", "well:q5", "well:q6", "well:q7", "well:q8", "well:q9",
    "well:qa", "well:qb", "well:qc", "well:qd", "well:qe", "well:qf",
];
const WIDE: &str = "well:*";
const FLOOD_ROOM: &str = "flood:1";
const JUNK_ROOM: &str = "junk:1";

/// The clients of a kind begin over so long, so that they do not work in step.
const SPREAD: Duration = Duration::from_secs(4);
/// Tries on one kept connection.
const KEPT: usize = 10;
/// No turn takes longer; one that hangs has come to its end.
const TURN_MAX: Duration = Duration::from_secs(20);
/// Their thread gives way to the daemon and to the honest readers: on other machines it would not take their cores either.
const NICE: i32 = 10;

/// Between two bytes of somebody slow.
const BYTE_EVERY: Duration = Duration::from_millis(500);
/// How long a client that never reads stays: what the system buffers for it is full in a second, and `limits.write_timeout` later the daemon should have cut it off. It cannot see that itself.
const UNREAD: Duration = Duration::from_secs(7);
/// What the system takes for such a client.
const UNREAD_BUFFER: u32 = 16 << 10;
/// Pings in a turn, and how many of them are sent at once: more than `limits.per_connection_messages_per_second`, and ten refusals in a row.
const PINGS: usize = 96;
const PINGS_AT_ONCE: usize = 16;
/// The length of a body that is too large, and how it is sent.
const OVERSIZED: usize = 100 << 20;
const OVERSIZED_PART: usize = 64 << 10;
const OVERSIZED_EVERY: Duration = Duration::from_millis(50);
/// Arrays in arrays.
const DEPTH: usize = 5000;
/// Publishes that a flooder sends at once, and the size of each one's data. All flooders together offer twice what `limits.per_user_publishes_per_second` allows their key.
const FLOOD_BURST: usize = 4;
const FLOOD_BYTES: usize = 4096;

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SSE: &str = "Accept: text/event-stream\r\n";

type Turn = for<'a> fn(&'a Client) -> LocalBoxFuture<'a, io::Result<()>>;

/// A kind of hostile client.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// A client begins at most one try in so many milliseconds.
    every: u64,
    /// Whether some of what it does must be refused, or cut off, so that it sees it.
    pub(crate) is_refused: bool,
    turn: Turn,
}

/// Every kind.
pub(crate) static KINDS: [Kind; 13] = [
    Kind { name: "slow headers", every: 1000, is_refused: true, turn: |client| Box::pin(slow_header(client)) },
    Kind { name: "slow bodies", every: 1000, is_refused: true, turn: |client| Box::pin(slow_body(client)) },
    Kind { name: "SSE, never reads", every: 8000, is_refused: false, turn: |client| Box::pin(unread_sse(client)) },
    Kind { name: "WebSocket, never reads", every: 8000, is_refused: false, turn: |client| Box::pin(unread_ws(client)) },
    Kind { name: "connect and vanish", every: 1000, is_refused: false, turn: |client| Box::pin(vanish(client)) },
    Kind { name: "wrong keys", every: 500, is_refused: true, turn: |client| Box::pin(wrong_keys(client)) },
    Kind { name: "WebSocket pings", every: 5000, is_refused: true, turn: |client| Box::pin(pings(client)) },
    Kind { name: "WebSocket garbage", every: 3000, is_refused: true, turn: |client| Box::pin(garbage(client)) },
    Kind { name: "oversized bodies", every: 5000, is_refused: true, turn: |client| Box::pin(oversized(client)) },
    Kind { name: "deep and broken JSON", every: 1000, is_refused: true, turn: |client| Box::pin(bad_json(client)) },
    Kind { name: "made-up cursors", every: 2000, is_refused: true, turn: |client| Box::pin(cursors(client)) },
    Kind { name: "subscribe and unsubscribe", every: 1000, is_refused: false, turn: |client| Box::pin(churn(client)) },
    Kind { name: "flood of publishes", every: 1000, is_refused: true, turn: |client| Box::pin(flood(client)) },
];

/// Sends a request's head one byte at a time, is cut off at `limits.header_timeout`, and comes back.
async fn slow_header(client: &Client) -> io::Result<()> {
    let mut stream = client.connect().await?;
    client.tried(1);
    // The second one may be HTTP/2 until its last byte.
    let heads: [&[u8]; 2] = [b"GET /v1/rooms HTTP/1.1\r\nX-Slow: aaaaaaaa", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    drip(client, &mut stream, heads[client.turn() % heads.len()]).await
}

/// Publishes one byte of the body at a time, is refused at `limits.body_timeout`, and comes back.
async fn slow_body(client: &Client) -> io::Result<()> {
    let mut stream = client.connect().await?;
    stream.write_all(publish_head(HOSTILE, JUNK_ROOM, 1000).as_bytes()).await?;
    client.tried(1);
    drip(client, &mut stream, b"{\"kind\":\"slow\",\"data\":\"aaaaaaaaaaaaaaaa").await
}

/// Follows the busiest room over SSE and never reads.
async fn unread_sse(client: &Client) -> io::Result<()> {
    unread(client, SSE, 200).await
}

/// Follows the busiest room over WebSocket and never reads.
async fn unread_ws(client: &Client) -> io::Result<()> {
    unread(client, WEBSOCKET, 101).await
}

/// Sends half of something and goes, in good order or with a reset.
async fn vanish(client: &Client) -> io::Result<()> {
    let mut stream = client.connect().await?;
    let half = match client.turn() % 4 {
        0 => "GET /v1/rooms HTTP/1.1\r\nHost: hos".to_owned(),
        1 => format!("{}{{\"kind\":\"va", publish_head(HOSTILE, JUNK_ROOM, 1000)),
        // A whole one, whose answer nobody waits for.
        2 => stream_head(&format!("rooms={}", HONEST_ROOMS[0]), SSE),
        _ => String::new(),
    };
    stream.write_all(half.as_bytes()).await?;
    client.tried(1);
    if client.turn() % 8 < 4 {
        stream.set_zero_linger()?;
    }
    Ok(())
}

/// Tries one key after the other.
async fn wrong_keys(client: &Client) -> io::Result<()> {
    let mut stream = client.connect().await?;
    for guess in 0..KEPT {
        let key = format!("guess-{}-{}-{guess}", client.number, client.turn());
        let request = format!("GET /v1/rooms HTTP/1.1\r\nHost: hostile\r\nAuthorization: Bearer {key}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        client.tried(1);
        client.judge(answer(&mut stream).await?);
        client.pace().await;
    }
    Ok(())
}

/// Pings as fast as it is answered, until it is thrown out, and comes back.
async fn pings(client: &Client) -> io::Result<()> {
    let mut stream = client.websocket("").await?;
    let pings = text_frame(b"{\"type\":\"ping\",\"id\":1}").repeat(PINGS_AT_ONCE);
    let mut buffer = vec![0; 4096];
    for _ in 0..PINGS / PINGS_AT_ONCE {
        stream.write_all(&pings).await?;
        client.tried(PINGS_AT_ONCE as u64);
        if stream.read(&mut buffer).await? == 0 {
            client.refused(1);
            return Ok(());
        }
    }
    let heard = read_for(&mut stream, Duration::from_secs(3)).await;
    client.refused(u64::from(heard.ended));
    Ok(())
}

/// Sends what is no WebSocket, is thrown out, and comes back.
async fn garbage(client: &Client) -> io::Result<()> {
    let frames: [&[u8]; 6] = [
        // An opcode that nobody has defined.
        &[0x83, 0x80, 0, 0, 0, 0],
        // Without a mask.
        b"\x81\x05hello",
        // Text that is not UTF-8.
        &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe],
        // A ping that is in parts.
        &[0x09, 0x80, 0, 0, 0, 0],
        // A bit of an extension that was not agreed upon.
        &[0xc1, 0x80, 0, 0, 0, 0],
        // The longest message that there can be.
        &[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3],
    ];
    let mut stream = client.websocket("").await?;
    stream.write_all(frames[client.turn() % frames.len()]).await?;
    client.tried(1);
    // The daemon waits two seconds for an answer to its close.
    let heard = read_for(&mut stream, Duration::from_millis(2800)).await;
    client.refused(u64::from(heard.ended));
    Ok(())
}

/// Publishes 100 MiB, until it is refused.
async fn oversized(client: &Client) -> io::Result<()> {
    let mut stream = client.connect().await?;
    stream.write_all(publish_head(HOSTILE, JUNK_ROOM, OVERSIZED).as_bytes()).await?;
    client.tried(1);
    let (part, mut buffer) = (vec![b'['; OVERSIZED_PART], vec![0; 4096]);
    let (mut answer, mut body) = stream.split();
    let sending = async {
        for _ in 0..OVERSIZED / OVERSIZED_PART {
            if body.write_all(&part).await.is_err() {
                return;
            }
            sleep(OVERSIZED_EVERY).await;
        }
    };
    // An answer, an end or a reset: whatever it is, it is not taken.
    tokio::select! {
        _ = answer.read(&mut buffer) => {}
        () = sending => {}
    }
    client.refused(1);
    Ok(())
}

/// Publishes JSON that is too deep, or none.
async fn bad_json(client: &Client) -> io::Result<()> {
    let mut stream = client.connect().await?;
    for which in 0..KEPT {
        let body = match which % 5 {
            0 => format!("{{\"kind\":\"k\",\"data\":{}{}}}", "[".repeat(DEPTH), "]".repeat(DEPTH)).into_bytes(),
            1 => format!("{{\"kind\":\"k\",\"data\":{}1{}}}", "{\"a\":".repeat(DEPTH), "}".repeat(DEPTH)).into_bytes(),
            2 => b"{\"kind\":\"k\",\"data\":".to_vec(),
            3 => b"{\"kind\":\"k\",\"data\":\"\xff\xfe\"}".to_vec(),
            _ => b"{\"kind\":7,\"data\":null,\"more\":[1,2,]}".to_vec(),
        };
        stream.write_all(publish_head(HOSTILE, JUNK_ROOM, body.len()).as_bytes()).await?;
        stream.write_all(&body).await?;
        client.tried(1);
        client.judge(answer(&mut stream).await?);
        client.pace().await;
    }
    Ok(())
}

/// Comes back to the honest rooms with cursors that were never given out, takes some of what that brings, and goes.
async fn cursors(client: &Client) -> io::Result<()> {
    let room = HONEST_ROOMS[client.number as usize % HONEST_ROOMS.len()];
    let query = match client.turn() % 5 {
        // Everything there is, behind a gap.
        0 => format!("rooms={room}&after=1"),
        1 => format!("rooms={room}&after={}", u64::MAX - 1),
        2 => format!("rooms={room}&after=yesterday"),
        3 => format!("rooms={WIDE}&after={room}=1,ghost:1=7,ghost:2=8"),
        _ => format!("rooms=ghost:{}&after=1700000000000000", client.number),
    };
    let mut stream = client.connect().await?;
    stream.write_all(stream_head(&query, SSE).as_bytes()).await?;
    client.tried(1);
    client.judge(answer(&mut stream).await?);
    read_for(&mut stream, Duration::from_millis(500)).await;
    Ok(())
}

/// Follows a wide pattern, leaves it, follows it again.
async fn churn(client: &Client) -> io::Result<()> {
    let mut stream = client.websocket("").await?;
    for _ in 0..KEPT {
        for command in ["subscribe", "unsubscribe"] {
            let command = format!("{{\"type\":\"{command}\",\"rooms\":[\"{WIDE}\"]}}");
            stream.write_all(&text_frame(command.as_bytes())).await?;
            if read_for(&mut stream, client.every / 2).await.ended {
                client.refused(1);
                return Ok(());
            }
        }
        client.tried(1);
        client.pace().await;
    }
    Ok(())
}

/// Publishes with a key that may, without waiting for answers, and more than the key may.
async fn flood(client: &Client) -> io::Result<()> {
    let body = format!("{{\"kind\":\"flood\",\"data\":\"{}\"}}", "f".repeat(FLOOD_BYTES));
    let burst = format!("{}{body}", publish_head(FLOODER, FLOOD_ROOM, body.len())).repeat(FLOOD_BURST);
    let mut stream = client.connect().await?;
    for _ in 0..KEPT {
        stream.write_all(burst.as_bytes()).await?;
        client.tried(FLOOD_BURST as u64);
        let heard = read_for(&mut stream, client.every).await;
        client.refused(memmem::find_iter(&heard.first, b"HTTP/1.1 429").count() as u64);
        if heard.ended {
            return Ok(());
        }
        client.pace().await;
    }
    Ok(())
}

/// Sends one byte after the other until there is an answer or an end.
async fn drip(client: &Client, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        let heard = read_for(stream, BYTE_EVERY).await;
        if heard.ended || !heard.first.is_empty() {
            client.refused(1);
            return Ok(());
        }
    }
    Ok(())
}

/// Opens a stream with as little room as there can be for what comes, and leaves it lying.
async fn unread(client: &Client, transport: &str, opened: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(UNREAD_BUFFER)?;
    let mut stream = socket.connect(client.address).await?;
    stream.write_all(stream_head(&format!("rooms={FLOOD_ROOM}"), transport).as_bytes()).await?;
    if answer(&mut stream).await? != opened {
        client.refused(1);
        return Ok(());
    }
    client.tried(1);
    sleep(UNREAD).await;
    Ok(())
}

fn publish_head(key: &str, room: &str, length: usize) -> String {
    format!(
        "POST /v1/rooms/{room}/events?ack=memory HTTP/1.1\r\nHost: hostile\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn stream_head(query: &str, transport: &str) -> String {
    format!("GET /v1/stream?{query} HTTP/1.1\r\nHost: hostile\r\nAuthorization: Bearer {HOSTILE}\r\n{transport}\r\n")
}

/// A short text message, with a mask that changes nothing.
fn text_frame(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).unwrap();
    [[0x81, 0x80 | length, 0, 0, 0, 0].as_slice(), text].concat()
}

/// Reads an answer to its end and returns its status; of a stream, its head.
async fn answer(stream: &mut TcpStream) -> io::Result<u16> {
    let mut bytes = Vec::with_capacity(1024);
    let end = loop {
        if let Some(end) = memmem::find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while bytes.len() < end + length.unwrap_or(0) {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What came while somebody read.
struct Heard {
    /// The beginning of it.
    first: Vec<u8>,
    /// Whether the daemon has ended the connection.
    ended: bool,
}

/// Reads for so long and throws away all but the beginning.
async fn read_for(stream: &mut TcpStream, time: Duration) -> Heard {
    let (end, mut buffer, mut first) = (Instant::now() + time, vec![0; 4096], Vec::new());
    loop {
        match timeout_at(end, stream.read(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => {
                if first.len() < buffer.len() {
                    first.extend_from_slice(&buffer[..read]);
                }
            }
            Ok(_) => return Heard { first, ended: true },
            Err(_) => return Heard { first, ended: false },
        }
    }
}

/// What the clients of a kind have done so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// What they have tried.
    pub(crate) tries: u64,
    /// What of it was refused or cut off, as far as they could see.
    pub(crate) refused: u64,
}

#[derive(Default)]
struct Score {
    /// Clients that have tried something.
    clients: AtomicU32,
    tries: AtomicU64,
    refused: AtomicU64,
}

/// One hostile client.
struct Client {
    address: SocketAddr,
    /// Which one of its kind.
    number: u32,
    every: Duration,
    /// When it may try again.
    next: Cell<Instant>,
    turns: Cell<usize>,
    has_tried: Cell<bool>,
    score: Arc<Score>,
}

impl Client {
    /// Does the same again and again, whatever comes of it.
    async fn work(self, turn: Turn) {
        loop {
            self.pace().await;
            let _ = timeout(TURN_MAX, turn(&self)).await;
            self.turns.set(self.turns.get() + 1);
        }
    }

    /// Waits until it may try again.
    async fn pace(&self) {
        sleep_until(self.next.get()).await;
        self.next.set(Instant::now() + self.every);
    }

    /// The number of its turn; clients that begin together do not do the same.
    fn turn(&self) -> usize {
        self.turns.get() + self.number as usize
    }

    fn tried(&self, tries: u64) {
        self.score.tries.fetch_add(tries, Ordering::Relaxed);
        if !self.has_tried.replace(true) {
            self.score.clients.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn refused(&self, tries: u64) {
        self.score.refused.fetch_add(tries, Ordering::Relaxed);
    }

    fn judge(&self, status: u16) {
        self.refused(u64::from(status >= 400));
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn websocket(&self, query: &str) -> io::Result<TcpStream> {
        let mut stream = self.connect().await?;
        stream.write_all(stream_head(query, WEBSOCKET).as_bytes()).await?;
        match answer(&mut stream).await? {
            101 => Ok(stream),
            status => Err(io::Error::other(format!("refused: {status}"))),
        }
    }
}

/// All hostile clients, on a thread of their own, so that honest readers in this process do not queue behind them.
pub(crate) struct Hostile {
    scores: Vec<Arc<Score>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Hostile {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let scores: Vec<Arc<Score>> = KINDS.iter().map(|_| Arc::default()).collect();
        let theirs = scores.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            // Of this thread alone; where it is not to be had, figures are worse.
            let _ = rustix::process::nice(NICE);
            on_one_thread(async move {
                let now = Instant::now();
                for (kind, score) in KINDS.iter().zip(theirs) {
                    for number in 0..EACH {
                        let client = Client {
                            address,
                            number,
                            every: Duration::from_millis(kind.every),
                            next: Cell::new(now + SPREAD * number / EACH),
                            turns: Cell::new(0),
                            has_tried: Cell::new(false),
                            score: Arc::clone(&score),
                        };
                        tokio::task::spawn_local(client.work(kind.turn));
                    }
                }
                // Until the sender is dropped; the clients go with their thread's runtime.
                let _ = stopped.await;
                Ok(())
            })
        });
        Self { scores, stop, thread }
    }

    /// A kind of which not every client has tried something yet.
    pub(crate) fn not_at_work(&self) -> Option<&'static str> {
        let mut kinds = KINDS.iter().zip(&self.scores);
        kinds.find(|(_, score)| score.clients.load(Ordering::Relaxed) < EACH).map(|(kind, _)| kind.name)
    }

    /// What each kind has done so far.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        let count = |score: &Arc<Score>| Counts {
            tries: score.tries.load(Ordering::Relaxed),
            refused: score.refused.load(Ordering::Relaxed),
        };
        self.scores.iter().map(count).collect()
    }

    pub(crate) fn stop(self) {
        drop(self.stop);
        self.thread.join().unwrap().unwrap();
    }
}
