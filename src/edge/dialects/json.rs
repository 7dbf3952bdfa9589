//! Notices as JSON: the same on every native transport.

use std::fmt::Write as _;
use std::time::Duration;

use crate::clock;
use crate::edge::problem::whole_seconds;
use crate::engine::connections::Notice;
use crate::engine::connections::dialect::Position;
use crate::engine::rooms::Gap;
use crate::event::RoomName;
use crate::event::encode::write_json_text;

/// The name of a notice, its `type`.
pub(in crate::edge) fn name(notice: &Notice<'_>) -> &'static str {
    match notice {
        Notice::Welcome { .. } => "welcome",
        Notice::Heartbeat => "heartbeat",
        Notice::Snapshot { .. } => "snapshot",
        Notice::Gap { .. } => "gap",
        Notice::Dropped { .. } => "dropped",
        Notice::Error { .. } => "error",
        Notice::Expiring { .. } => "expiring",
    }
}

/// A gap notice.
pub(in crate::edge) fn gap(room: &RoomName, gap: Gap) -> String {
    // After a cursor that no number can be, `after` is what a client may still read.
    format!("{{\"type\":\"gap\",\"room\":\"{room}\",\"after\":{},\"first_seq\":{}}}", gap.after, gap.first_seq)
}

/// A notice as JSON.
pub(in crate::edge) fn notice(notice: &Notice<'_>, position: &dyn Position, heartbeat: Duration) -> String {
    let mut out = String::with_capacity(160);
    // Writing into a String does not fail.
    match notice {
        Notice::Welcome { connection, rooms, granted } => {
            let _ = write!(out, "{{\"type\":\"welcome\",\"connection_id\":\"{connection}\",\"rooms\":[");
            for (index, room) in rooms.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let _ = write!(out, "{comma}\"{room}\"");
            }
            out.push_str("],");
            cursor_and_time(position, &mut out);
            let _ = write!(out, ",\"heartbeat_ms\":{}", heartbeat.as_millis());
            if let Some(granted) = granted {
                let _ = write!(out, ",\"granted\":{granted}");
            }
            out.push('}');
        }
        Notice::Snapshot { room, snapshot } => {
            // The cursor is the seq up to which every change is in it: of the changes after it none is missing.
            let _ = write!(
                out,
                "{{\"type\":\"snapshot\",\"room\":\"{room}\",\"cursor\":\"{}\",\"keys\":{},\"data\":",
                snapshot.seq, snapshot.keys
            );
            // Its values were JSON and its keys were written as such.
            out.push_str(&String::from_utf8_lossy(&snapshot.json));
            out.push('}');
        }
        Notice::Heartbeat => {
            out.push_str("{\"type\":\"heartbeat\",");
            cursor_and_time(position, &mut out);
            out.push('}');
        }
        Notice::Gap { room, gap: which } => return gap(room, *which),
        Notice::Dropped { room, from_seq, to_seq, count, reason } => {
            let _ = write!(
                out,
                "{{\"type\":\"dropped\",\"room\":\"{room}\",\"from_seq\":{from_seq},\"to_seq\":{to_seq},\"count\":{count},\"reason\":\"{reason}\"}}"
            );
        }
        Notice::Error { code, message, retry } => {
            let _ = write!(out, "{{\"type\":\"error\",\"code\":\"{code}\",\"message\":");
            write_json_text(message, &mut out);
            if let Some(retry) = retry {
                let _ = write!(out, ",\"retryAfter\":{}", whole_seconds(*retry));
            }
            out.push('}');
        }
        Notice::Expiring { at_ms } => {
            let seconds = at_ms.saturating_sub(clock::now_ms()).div_ceil(1000);
            out.push_str("{\"type\":\"expiring\",\"expires_at\":\"");
            clock::write_rfc3339(*at_ms, &mut out);
            let _ = write!(out, "\",\"seconds\":{seconds}}}");
        }
    }
    out
}

/// A cursor's letters need no escape.
fn cursor_and_time(position: &dyn Position, out: &mut String) {
    out.push_str("\"cursor\":\"");
    position.write(out);
    out.push_str("\",\"timestamp\":\"");
    clock::write_rfc3339(clock::now_ms(), out);
    out.push('"');
}
