//! Other servers beside tidegate: who they are, which of them are installed (by the scripts in `benches/peers`), and the rows of the table that they can be measured by, each
//! between runs of the floor.
//!
//! [`speech`] is how each is spoken to, [`table`] what comes out. What one of them loses, or cannot do, is shown.

mod speech;
mod table;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, bail};

use self::speech::{PeerSpeech, Wire};
use self::table::{Cell, Measured};
pub(super) use self::table::{Missing, Table};
use super::row::{Beside, Outcome};
use super::server::{Floor, Server, Subject};
use super::{Bench, fan, ingest, memory};
use crate::cli::bench::process::Process;
use crate::cli::bench::reader::Transport;
use crate::cli::bench::rows::Fanout;

/// Another server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// For `--peers`, and for the scripts.
    pub(super) name: &'static str,
    /// As people call it.
    pub(super) title: &'static str,
    /// By what it is read.
    pub(super) transports: &'static [Transport],
    wire: Wire,
}

const WEBSOCKET: &[Transport] = &[Transport::WebSocket];
const BOTH: &[Transport] = &[Transport::WebSocket, Transport::Sse];

/// All that there are scripts for.
pub(super) static PEERS: [Peer; 7] = [
    Peer { name: "socketify", title: "uWebSockets (socketify)", transports: WEBSOCKET, wire: Wire::Rooms },
    Peer { name: "nchan", title: "Nchan (nginx)", transports: BOTH, wire: Wire::Nchan },
    Peer { name: "centrifugo", title: "Centrifugo", transports: BOTH, wire: Wire::Centrifugo },
    Peer { name: "mercure", title: "Mercure (Caddy)", transports: &[Transport::Sse], wire: Wire::Mercure },
    Peer { name: "ws", title: "Node ws", transports: WEBSOCKET, wire: Wire::Rooms },
    Peer { name: "socketio", title: "Socket.IO", transports: WEBSOCKET, wire: Wire::SocketIo },
    Peer { name: "fastapi", title: "FastAPI + uvicorn", transports: BOTH, wire: Wire::Rooms },
];

/// `all`, or a name.
pub(super) fn peer_name(text: &str) -> Result<&'static str, String> {
    let names = || PEERS.iter().map(|peer| peer.name).chain(["all"]);
    names()
        .find(|name| *name == text)
        .ok_or_else(|| format!("expected one of {}", names().collect::<Vec<_>>().join(", ")))
}

/// A server that is installed.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) peer: Peer,
    pub(super) version: String,
    scripts: PathBuf,
}

impl Subject for Installed {
    fn start(&self, bench: &Bench) -> anyhow::Result<Server> {
        bench.go_on()?;
        let mut command = Command::new(self.scripts.join("run"));
        command.args([self.peer.name, &free_port()?.to_string()]);
        let process = Process::start(command, None, Some(bench.cores))?;
        let speech = PeerSpeech::new(self.peer.wire, process.address())?;
        Ok(Server::new(process, Rc::new(speech)))
    }
}

/// One that nobody listens on now.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

/// Which of these servers are installed, by what the scripts say.
///
/// # Errors
/// When the scripts are not there.
pub(super) fn find(names: &[&str], scripts: &Path) -> anyhow::Result<(Vec<Installed>, Vec<Missing>)> {
    let run = scripts.join("run");
    if !run.is_file() {
        bail!("{} is not there; --peers-dir says where benches/peers is", run.display());
    }
    let (mut installed, mut missing) = (Vec::new(), Vec::new());
    for peer in PEERS.iter().filter(|peer| names.contains(&"all") || names.contains(&peer.name)) {
        let said = Command::new(&run).args(["--version", peer.name]).output().context("benches/peers/run")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if said.status.success() {
            installed.push(Installed { peer: *peer, version: text(&said.stdout), scripts: scripts.to_owned() });
        } else {
            missing.push(Missing { peer: *peer, why: text(&said.stderr) });
        }
    }
    Ok((installed, missing))
}

/// The rows of the table that others are measured by, too.
const ROWS: [&str; 6] = ["websocket", "publishers", "sse", "rooms", "memory", "ingest"];

/// Measures a server in these rows; all without a name.
pub(super) fn measure(bench: &Bench, peer: &Installed, only: &[&str]) -> Measured {
    let mut cells = Vec::new();
    for row in ROWS.into_iter().filter(|row| only.is_empty() || only.contains(row)) {
        if bench.go_on().is_err() {
            break;
        }
        bench.bar.set_prefix(format!("{row} {}", peer.peer.name));
        for cell in measure_row(bench, peer, row) {
            cells.push((row, cell.unwrap_or_else(|error| Cell::Failed(format!("{error:#}")))));
        }
    }
    Measured { peer: peer.peer, version: peer.version.clone(), cells }
}

fn measure_row(bench: &Bench, peer: &Installed, row: &str) -> Vec<anyhow::Result<Cell>> {
    let speaks = |transport: Transport| peer.peer.transports.contains(&transport);
    let fanned = |fan: Fanout| -> anyhow::Result<Cell> {
        if !speaks(fan.transport) {
            return Ok(Cell::Cannot);
        }
        let one = |subject: &dyn Subject| fan::once(bench, subject, &fan);
        let beside = Beside::run(bench.runs, || one(&Floor::default()), || one(peer))?;
        Ok(Cell::rate(&beside, |run| run.rate, |run| run.wrong, |run| (run.p50_ms, run.p99_ms, run.cpu_us)))
    };
    match row {
        "websocket" => vec![fanned(fan::one_room(bench, Transport::WebSocket))],
        "sse" => vec![fanned(fan::one_room(bench, Transport::Sse))],
        "publishers" => {
            // Where there are no WebSockets the only way of reading is taken.
            let transport = peer.peer.transports[0];
            vec![fanned(Fanout { transport, ..fan::several_publishers(bench) })]
        }
        "rooms" => vec![fanned(Fanout { transport: peer.peer.transports[0], ..fan::many_rooms(bench) })],
        "memory" => vec![weigh(bench, peer, Transport::WebSocket), weigh(bench, peer, Transport::Sse)],
        _ => vec![single_posts(bench, peer)],
    }
}

fn weigh(bench: &Bench, peer: &Installed, transport: Transport) -> anyhow::Result<Cell> {
    if !peer.peer.transports.contains(&transport) {
        return Ok(Cell::Cannot);
    }
    let weighed = memory::weigh(bench, peer, transport)?;
    Ok(Cell::Memory { idle: weighed.idle, after: weighed.after, wrong: weighed.wrong })
}

fn single_posts(bench: &Bench, peer: &Installed) -> anyhow::Result<Cell> {
    let posts = ingest::single_posts(bench, "memory");
    let one = |subject: &dyn Subject| ingest::once(bench, subject, &posts);
    let beside = Beside::run(bench.runs, || one(&Floor::default()), || one(peer))?;
    Ok(Cell::rate(&beside, |run| run.requests, |_| 0, |run| (run.p50_ms, run.p99_ms, run.cpu_us)))
}

/// What tidegate reached in a row, as a line of the same table.
pub(super) fn cells_of_ours(row: &'static str, outcome: &Outcome) -> Vec<(&'static str, Cell)> {
    let reached = |at: usize| outcome.reached.get(at).map(|reached| reached.value);
    let wrong = outcome.wrong;
    match row {
        "memory" => [0, 2]
            .into_iter()
            .filter_map(|at| {
                let (idle, after) = reached(at).zip(reached(at + 1))?;
                Some((row, Cell::Memory { idle: idle.median, after: after.median, wrong }))
            })
            .collect(),
        _ if ROWS.contains(&row) => outcome
            .reached
            .first()
            .map(|reached| {
                let [theirs, floor] = [reached.tidegate, reached.floor].map(|side| side.unwrap_or(f64::NAN));
                (row, Cell::Rate { ratio: reached.value, theirs, floor, wrong, late: None })
            })
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_named_with_what_installs_it() {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        let (installed, missing) = find(&["ws", "centrifugo"], &scripts).unwrap();
        assert_eq!(installed.len() + missing.len(), 2);
        assert!(installed.iter().all(|peer| !peer.version.is_empty()));
        assert!(missing.iter().all(|peer| peer.why.contains(&format!("install {}", peer.peer.name))), "{missing:?}");
        assert!(find(&["all"], Path::new("/nowhere")).unwrap_err().to_string().contains("--peers-dir"));
    }

    #[test]
    fn the_scripts_know_every_name() {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        let install = std::fs::read_to_string(scripts.join("install")).unwrap();
        let all = install.lines().find_map(|line| line.strip_prefix("all=(")).unwrap().trim_end_matches(')');
        let mut theirs: Vec<&str> = all.split(' ').collect();
        let mut ours: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, theirs);
        assert!(peer_name("nobody").unwrap_err().contains("nchan"));
        assert_eq!(peer_name("all"), Ok("all"));
    }
}
