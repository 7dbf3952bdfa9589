//! Where the daemon listens: an address, a Unix socket, or sockets that systemd hands over. Bound before anything else starts, so that a taken address is told at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// One place to accept from.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// A place that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address.
    #[error("cannot listen on {address}: {source}; set server.listen to another address, or stop what uses it")]
    Address {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The Unix socket.
    #[error("cannot listen on the Unix socket {}: {source}; set server.unix to another path, or stop what uses it", path.display())]
    Unix {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What systemd handed over.
    #[error("a socket that systemd handed over cannot be used: {0}")]
    Handed(io::Error),
}

/// Binds everything. With sockets from systemd, `server.listen` is not bound: they are in its place. The address is that of the first TCP socket.
///
/// # Errors
/// What cannot be bound.
pub fn bind(address: SocketAddr, unix: Option<&Path>) -> Result<(Vec<Listener>, SocketAddr), ListenError> {
    let mut listeners = handed_over().map_err(ListenError::Handed)?;
    if listeners.is_empty() {
        listeners.push(Listener::Tcp(tcp(address).map_err(|source| ListenError::Address { address, source })?));
    }
    if let Some(path) = unix {
        let bound = bind_unix(path).map_err(|source| ListenError::Unix { path: path.to_owned(), source })?;
        listeners.push(Listener::Unix(bound));
    }
    let bound = listeners.iter().find_map(|listener| match listener {
        Listener::Tcp(listener) => listener.local_addr().ok(),
        Listener::Unix(_) => None,
    });
    Ok((listeners, bound.unwrap_or(address)))
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // So that a daemon that was just stopped can be started again.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // A socket that nobody listens on is left from a daemon that was killed; anything else is not ours to delete.
    let stale = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if stale {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What systemd handed over by its protocol (sd_listen_fds).
fn handed_over() -> io::Result<Vec<Listener>> {
    let mut handed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        if let Ok(Some(listener)) = handed.take_tcp_listener(index) {
            listener.set_nonblocking(true)?;
            listeners.push(Listener::Tcp(listener));
        } else if let Some(listener) = handed.take_unix_listener(index)? {
            listener.set_nonblocking(true)?;
            listeners.push(Listener::Unix(listener));
        }
    }
    Ok(listeners)
}
