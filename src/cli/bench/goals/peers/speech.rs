//! How each other server is spoken to: what opens a stream of a room, what publishes to it, and how an event is known in what comes. Where a server gives events no numbers, they
//! are the publisher's.

use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::cli::bench::daemon::Mint;
use crate::cli::bench::http::{Marks, Numbers, PublishRequest, Speech, StreamRequest, UPGRADE, masked_text};
use crate::cli::bench::reader::Transport;

/// What `benches/peers/run` gives to servers that check tokens and keys. They live for a measurement.
const SECRET: &str = "a-secret-that-only-the-bench-uses-0123456789";

/// What a server's own way of speaking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// `/rooms/NAME` for both, the body as it is: the servers in `benches/peers` that are our own around a library.
    Rooms,
    /// As that, with another path for publishing.
    Nchan,
    /// Engine.IO's packets within WebSocket's, and an event's name in front of it.
    SocketIo,
    /// Its unidirectional transports, which need no protocol of a client's, with a token that names the channel.
    Centrifugo,
    /// A topic in the query, forms, tokens.
    Mercure,
}

/// A server that runs, and how it is spoken to.
#[derive(Debug)]
pub(super) struct PeerSpeech {
    wire: Wire,
    address: SocketAddr,
    mint: Mint,
    /// Made once; they allow every topic.
    subscriber: String,
    publisher: String,
}

/// What the publisher wrote, which most hand on as it is.
const PLAIN: Marks = Marks { event: b"{\"due\":", seq: b"\"n\":", due: b"\"due\":", numbers: Numbers::Publisher };
const SOCKET_IO: Marks = Marks { event: b"42[\"event\",{\"due\":", ..PLAIN };
const CENTRIFUGO: Marks = Marks { event: b"{\"channel\":", ..PLAIN };

impl PeerSpeech {
    /// # Errors
    /// When no token can be signed.
    pub(super) fn new(wire: Wire, address: SocketAddr) -> anyhow::Result<Self> {
        let mint = Mint::new(SECRET.to_owned())?;
        let (subscriber, publisher) = (
            mint.sign(&json!({ "mercure": { "subscribe": ["*"] } }))?,
            mint.sign(&json!({ "mercure": { "publish": ["*"] } }))?,
        );
        Ok(Self { wire, address, mint, subscriber, publisher })
    }

    /// What a Centrifugo client says first. A channel's name has no colon, which would begin a namespace.
    fn connect(&self, room: &str) -> Value {
        let claims = json!({ "sub": "bench", "channels": [channel(room)] });
        // It could be signed with this secret when this began.
        json!({ "token": self.mint.sign(&claims).unwrap_or_default() })
    }
}

fn channel(room: &str) -> String {
    room.replace(':', "_")
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n")
}

impl Speech for PeerSpeech {
    fn address(&self) -> SocketAddr {
        self.address
    }

    // Nothing of the history is asked for, so `after` is none.
    fn stream(&self, room: &str, transport: Transport, _after: Option<u64>) -> StreamRequest {
        let headers = match transport {
            Transport::WebSocket => UPGRADE,
            Transport::Sse => "Accept: text/event-stream\r\n",
        };
        let plain = StreamRequest {
            transport,
            head: get(&format!("/rooms/{room}"), headers),
            hello: Vec::new(),
            opened: None,
            ping: None,
            stride: 1,
            marks: PLAIN,
        };
        match (self.wire, transport) {
            (Wire::Rooms | Wire::Nchan, _) => plain,
            (Wire::SocketIo, _) => StreamRequest {
                head: get("/socket.io/?EIO=4&transport=websocket", headers),
                hello: masked_text(format!("40{}", json!({ "room": room })).as_bytes()),
                opened: Some(b"40{\"sid\""),
                ping: Some((b"2", b"3")),
                marks: SOCKET_IO,
                ..plain
            },
            (Wire::Centrifugo, Transport::WebSocket) => StreamRequest {
                head: get("/connection/uni_websocket", headers),
                hello: masked_text(self.connect(room).to_string().as_bytes()),
                opened: Some(CONNECTED),
                marks: CENTRIFUGO,
                ..plain
            },
            (Wire::Centrifugo, Transport::Sse) => {
                let connect = escaped(&self.connect(room).to_string());
                let head = get(&format!("/connection/uni_sse?cf_connect={connect}"), headers);
                StreamRequest { head, opened: Some(CONNECTED), marks: CENTRIFUGO, ..plain }
            }
            (Wire::Mercure, _) => {
                let headers = format!("{headers}Authorization: Bearer {}\r\n", self.subscriber);
                let head = get(&format!("/.well-known/mercure?topic={}", escaped(room)), &headers);
                StreamRequest { head, ..plain }
            }
        }
    }

    // None of them can be asked how far an answer waits.
    fn publish(&self, room: &str, _ack: &str) -> PublishRequest {
        let post =
            |path: &str, headers: &str| format!("POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: ");
        let json = "Content-Type: application/json\r\n";
        let plain = |path: String| PublishRequest { head: post(&path, json), before: String::new(), behind: "" };
        match self.wire {
            Wire::Rooms | Wire::SocketIo => plain(format!("/rooms/{room}")),
            Wire::Nchan => plain(format!("/publish/{room}")),
            Wire::Centrifugo => PublishRequest {
                // With the error mode a refusal is an answer of HTTP, too.
                head: post(
                    "/api/publish",
                    &format!("{json}X-API-Key: {SECRET}\r\nX-Centrifugo-Error-Mode: transport\r\n"),
                ),
                before: format!("{{\"channel\":{},\"data\":", json!(channel(room))),
                behind: "}",
            },
            Wire::Mercure => {
                let headers = format!(
                    "Content-Type: application/x-www-form-urlencoded\r\nAuthorization: Bearer {}\r\n",
                    self.publisher
                );
                // The event's data has no byte that a form would read as something else, so it goes as it is.
                let before = format!("topic={}&data=", escaped(room));
                PublishRequest { head: post("/.well-known/mercure", &headers), before, behind: "" }
            }
        }
    }
}

/// The first message of a Centrifugo client.
const CONNECTED: &[u8] = b"\"connect\":{";

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cli::bench::reader::{Reader, Tally};

    fn speech(wire: Wire) -> PeerSpeech {
        PeerSpeech::new(wire, SocketAddr::from(([127, 0, 0, 1], 1))).unwrap()
    }

    /// A text frame as a server sends it.
    fn frame(text: &str) -> Vec<u8> {
        let mut frame = vec![0x81, 126];
        frame.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    /// A reader that is told this: what opens its stream, then events. What it sent beside its request, and what it counted.
    async fn hear(request: StreamRequest, opening: Vec<u8>, events: Vec<u8>, count: u64) -> (Vec<u8>, u64, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let head = request.head.len();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = Vec::new();
            while said.len() < head + request.hello.len() {
                // The hello comes behind the answer.
                assert!(stream.read_buf(&mut said).await.unwrap() > 0);
                if said.len() == head {
                    let answer = match request.transport {
                        Transport::WebSocket => "HTTP/1.1 101 Switching Protocols\r\n\r\n",
                        Transport::Sse => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
            stream.write_all(&opening).await.unwrap();
            stream.write_all(&events).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut said).await.unwrap();
            said.split_off(head + request.hello.len())
        };
        let client = async {
            let reader = Reader::connect(address, &request).await.unwrap();
            let tally = Tally::new().unwrap();
            reader.count(Rc::clone(&tally), u64::MAX).await;
            let tally = tally.borrow();
            (tally.delivered, tally.wrong(count))
        };
        let (said, (delivered, wrong)) = tokio::join!(server, client);
        (said, delivered, wrong)
    }

    async fn check(wire: Wire, transport: Transport, opening: Vec<u8>, message: impl Fn(&str) -> Vec<u8>) {
        let speech = speech(wire);
        let data = |number: u64| {
            String::from_utf8(
                PublishRequest { head: String::new(), before: String::new(), behind: "" }.body(5, number, 60),
            )
            .unwrap()
        };
        let events = |numbers: &[u64]| numbers.iter().flat_map(|number| message(&data(*number))).collect::<Vec<u8>>();
        let request = || speech.stream("bench:one", transport, None);
        let (_, delivered, wrong) = hear(request(), opening.clone(), events(&[1, 2, 3]), 3).await;
        assert_eq!((delivered, wrong), (3, 0), "{wire:?} {transport:?}");
        let (_, delivered, wrong) = hear(request(), opening.clone(), events(&[1, 2, 4]), 4).await;
        assert_eq!((delivered, wrong), (3, 1), "{wire:?} {transport:?}");
        // Two publishers at once, each in its own order.
        let two = StreamRequest { stride: 2, ..request() };
        let (_, delivered, wrong) = hear(two, opening, events(&[2, 1, 4, 6, 3, 5]), 6).await;
        assert_eq!((delivered, wrong), (6, 0), "{wire:?} {transport:?}");
    }

    #[tokio::test]
    async fn plain_bodies_are_known_over_websockets() {
        for wire in [Wire::Rooms, Wire::Nchan] {
            check(wire, Transport::WebSocket, Vec::new(), frame).await;
        }
    }

    // As each of them was recorded.
    #[tokio::test]
    async fn nchan_s_events_have_ids() {
        let hi = b": hi\n\n".to_vec();
        check(Wire::Nchan, Transport::Sse, hi, |data| format!("id: 1795201692:2\ndata: {data}\n\n").into_bytes()).await;
    }

    fn chunk(text: &str) -> Vec<u8> {
        format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
    }

    #[tokio::test]
    async fn fastapi_s_events_are_in_chunks() {
        check(Wire::Rooms, Transport::Sse, Vec::new(), |data| chunk(&format!("data: {data}\n\n"))).await;
    }

    #[tokio::test]
    async fn socket_io_s_events_have_a_name() {
        let open = r#"0{"sid":"FOtRZlvHoynOMJcZAAAA","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
        let opening = [frame(open), frame(r#"40{"sid":"8BwCs1hjUGnz_Zs_AAAA"}"#)].concat();
        check(Wire::SocketIo, Transport::WebSocket, opening, |data| frame(&format!("42[\"event\",{data}]"))).await;
    }

    #[tokio::test]
    async fn centrifugo_s_events_are_publications() {
        let connect = concat!(
            r#"{"connect":{"client":"c4c7c2c8-12f7-45b1-b3c0-d18c0485b8e9","version":"0.0.0","#,
            r#""subs":{"r1":{}},"ping":25,"session":"2131c138-c7f2-4487-807f-a44158699844"}}"#
        );
        let event = |data: &str| format!(r#"{{"channel":"bench_one","pub":{{"data":{data},"offset":1}}}}"#);
        check(Wire::Centrifugo, Transport::WebSocket, frame(connect), |data| frame(&event(data))).await;
        let opening = [chunk("\r\n"), chunk(&format!("data: {connect}\n\n"))].concat();
        check(Wire::Centrifugo, Transport::Sse, opening, |data| chunk(&format!("data: {}\n\n", event(data)))).await;
    }

    #[tokio::test]
    async fn mercure_s_events_have_ids() {
        let id = "urn:uuid:0190a3a5-6d1c-7b1e-9d3a-2f6b4c8d0e1f";
        check(Wire::Mercure, Transport::Sse, chunk(":\n"), |data| chunk(&format!("id: {id}\ndata: {data}\n\n"))).await;
    }

    #[tokio::test]
    async fn pings_are_answered() {
        let opening = frame(r#"40{"sid":"8BwCs1hjUGnz_Zs_AAAA"}"#);
        let request = speech(Wire::SocketIo).stream("r", Transport::WebSocket, None);
        let (said, ..) = hear(request, opening, vec![0x81, 1, b'2'], 0).await;
        assert_eq!(said, masked_text(b"3"));
        let request = speech(Wire::Rooms).stream("r", Transport::WebSocket, None);
        let (said, ..) = hear(request, Vec::new(), vec![0x89, 2, b'h', b'i'], 0).await;
        assert_eq!(said, [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
    }

    #[test]
    fn bodies_are_what_each_of_them_reads() {
        let body = |wire| String::from_utf8(speech(wire).publish("bench:one", "memory").body(5, 7, 40)).unwrap();
        assert_eq!(body(Wire::Nchan), format!(r#"{{"due":5,"n":7,"fill":"{}"}}"#, "x".repeat(15)));
        let centrifugo: Value = serde_json::from_str(&body(Wire::Centrifugo)).unwrap();
        assert_eq!((&centrifugo["channel"], &centrifugo["data"]["n"]), (&json!("bench_one"), &json!(7)));
        let form: Vec<_> = form_urlencoded::parse(body(Wire::Mercure).as_bytes()).into_owned().collect();
        assert_eq!(form[0], ("topic".to_owned(), "bench:one".to_owned()));
        assert_eq!(form[1].1, body(Wire::Nchan));
    }
}
