//! The floor: a bare broadcaster. It encodes an event once and makes one `send` for each socket; it parses nothing, checks nothing, keeps nothing. What tidegate costs beyond it is what tidegate does.
//!
//! It answers the same two requests, so that the same client measures both: `GET /v1/stream` as WebSocket or SSE, `POST …/events`.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Readers {
    websockets: Vec<TcpStream>,
    sse: Vec<TcpStream>,
    seq: u64,
}

/// Serves on a free port, which it prints, until it is killed.
pub(crate) fn serve() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
        let readers = Rc::new(RefCell::new(Readers::default()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A client that breaks off is not missed.
            tokio::task::spawn_local(client(stream, Rc::clone(&readers)));
        }
    })
}

async fn client(mut stream: TcpStream, readers: Rc<RefCell<Readers>>) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        if head.starts_with("GET") {
            return open(stream, &head, &readers).await;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let length = length.unwrap_or(0);
        while bytes.len() < end + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        broadcast(&bytes[end..end + length], &readers).await?;
        bytes.drain(..end + length);
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}").await?;
    }
}

async fn open(mut stream: TcpStream, head: &str, readers: &Rc<RefCell<Readers>>) -> std::io::Result<()> {
    if head.contains("websocket") {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer).await?;
        readers.borrow_mut().websockets.push(stream);
    } else {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await?;
        readers.borrow_mut().sse.push(stream);
    }
    Ok(())
}

/// The same bytes as tidegate sends, made once.
async fn broadcast(event: &[u8], readers: &Rc<RefCell<Readers>>) -> std::io::Result<()> {
    let seq = {
        let mut readers = readers.borrow_mut();
        readers.seq += 1;
        1_795_000_000_000_000 + readers.seq
    };
    let data = &event[br#"{"kind":"bench","data":"#.len()..event.len() - 1];
    let mut json = format!(
        "{{\"type\":\"event\",\"room\":\"bench:1795000000000000\",\"seq\":{seq},\"kind\":\"bench\",\"priority\":\"normal\",\"timestamp\":\"2026-11-20T00:00:00.000Z\",\"data\":"
    )
    .into_bytes();
    json.extend_from_slice(data);
    json.push(b'}');
    let mut frame = vec![0x81];
    match u16::try_from(json.len()) {
        Ok(length) if length < 126 => frame.extend(length.to_be_bytes().last()),
        Ok(length) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => return Err(std::io::Error::other("an event too large for the floor")),
    }
    frame.extend_from_slice(&json);
    let message = [format!("id: {seq}\ndata: ").as_bytes(), &json, b"\n\n"].concat();
    // Taken out while it waits for a full socket: the borrow must not be held then.
    let (mut websockets, mut sse) = {
        let mut readers = readers.borrow_mut();
        (std::mem::take(&mut readers.websockets), std::mem::take(&mut readers.sse))
    };
    for stream in &mut websockets {
        send(stream, &frame).await?;
    }
    for stream in &mut sse {
        send(stream, &message).await?;
    }
    let mut readers = readers.borrow_mut();
    readers.websockets.append(&mut websockets);
    readers.sse.append(&mut sse);
    Ok(())
}

async fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.writable().await?,
            // A reader that has gone.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
