//! What a WebSocket client is answered, as JSON.

use std::fmt::Write as _;

use super::super::problem::Problem;
use crate::event::encode::write_json_text;
use crate::event::incoming::BodyError;
use crate::metrics::record;

/// An answer to a command.
pub(super) struct Reply(String);

impl Reply {
    /// Begins an answer with its type and the command's id.
    pub(super) fn new(kind: &str, id: Option<&str>) -> Self {
        let mut text = format!("{{\"type\":\"{kind}\"");
        if let Some(id) = id {
            // JSON as the client wrote it.
            let _ = write!(text, ",\"id\":{id}");
        }
        Self(text)
    }

    pub(super) fn field(mut self, name: &str, json: impl std::fmt::Display) -> Self {
        let _ = write!(self.0, ",\"{name}\":{json}");
        self
    }

    pub(super) fn text(mut self, name: &str, text: &str) -> Self {
        let _ = write!(self.0, ",\"{name}\":");
        write_json_text(text, &mut self.0);
        self
    }

    pub(super) fn error(id: Option<&str>, code: &str, message: &str) -> Self {
        record::websocket_error();
        Self::new("error", id).text("code", code).text("message", message)
    }

    pub(super) fn problem(id: Option<&str>, problem: &Problem) -> Self {
        let reply = Self::error(id, &problem.kind().replace('-', "_"), problem.detail());
        match problem.retry_after() {
            Some(seconds) => reply.field("retryAfter", seconds),
            None => reply,
        }
    }

    pub(super) fn into_text(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A fault of a field, in the words that HTTP would use.
pub(super) fn invalid(id: Option<&str>, problem: &Problem) -> Reply {
    Reply::error(id, "invalid_field", problem.detail())
}

pub(super) fn body_error(id: Option<&str>, error: &BodyError) -> Reply {
    match error {
        BodyError::Invalid(faults) => {
            let told = faults.iter().map(|fault| match &fault.field {
                // What the command calls event_id the event calls id.
                Some(field) if field == "id" => format!("event_id: {}", fault.message),
                Some(field) => format!("{field}: {}", fault.message),
                None => fault.message.clone(),
            });
            Reply::error(id, "invalid_field", &told.collect::<Vec<_>>().join("; "))
        }
        BodyError::EventTooLarge { .. } => Reply::error(id, "event_too_large", &error.to_string()),
        other => Reply::error(id, "invalid_json", &other.to_string()),
    }
}
