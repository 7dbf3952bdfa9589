//! What can go wrong with the log, told apart by what one can do about it.

use std::path::PathBuf;

/// A fault of the log. The text names the directory and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Another process has it.
    #[error("the log directory {} is in use by another tidegate; stop that one, or set log.dir to another directory", dir.display())]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// It holds something else.
    #[error("the directory {} is not a tidegate log: it holds {found:?}; set log.dir to an empty or new directory", dir.display())]
    Foreign {
        /// The log's directory.
        dir: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// It was written by another version.
    #[error("the log in {} has format {found:?}, this tidegate reads {expected:?}; use the version that wrote it, or set log.dir to a new directory", dir.display())]
    Version {
        /// The log's directory.
        dir: PathBuf,
        /// The format it has.
        found: String,
        /// The format that is read.
        expected: &'static str,
    },
    /// Something in it is not as it was written.
    #[error("the log is damaged: {}: {reason}; restore this directory from a copy, or move it away to go on without its events", path.display())]
    Damaged {
        /// The damaged generation's directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused a file operation.
    #[error("the log cannot use {}: {reason}{}", path.display(), if *full { "; make room on this disk: writing goes on by itself then" } else { "" })]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
        /// Whether the disk is full.
        full: bool,
    },
    /// The log could not take or keep events in the time allowed.
    #[error("the log does not keep up: {0}")]
    Busy(&'static str),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    pub(super) fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        Self::Io { path: path.to_owned(), reason: error.to_string(), full }
    }
}
