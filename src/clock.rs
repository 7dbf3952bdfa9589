//! The wall clock. Nothing else in the project asks the system for the time of day.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Microseconds since 1970.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now_us() -> u64 {
    // A clock before 1970 is as good as none.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    now_us() / 1000
}

/// Milliseconds since 1970 as of the system's last tick, a few milliseconds ago: a fifth of what the exact time costs.
#[must_use]
pub fn coarse_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

/// Milliseconds since 1970 as RFC 3339 in UTC with milliseconds, `2026-11-20T06:10:00.000Z`, appended to `out`.
pub fn write_rfc3339(ms: u64, out: &mut String) {
    thread_local! {
        // The last second that this thread has written, without its fraction: events come in the order of time, so it is nearly always the same one.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let (second, fraction) = (ms / 1000, ms % 1000);
    SECOND.with_borrow_mut(|(last, text)| {
        if *last != second || text.is_empty() {
            text.clear();
            write_second(second, text);
            *last = second;
        }
        out.push_str(text);
    });
    out.push('.');
    for unit in [100, 10, 1] {
        // A digit.
        out.push(char::from(b'0' + u8::try_from(fraction / unit % 10).unwrap_or(0)));
    }
    out.push('Z');
}

/// Seconds since 1970 as RFC 3339 in UTC up to the second, without `Z`.
fn write_second(second: u64, out: &mut String) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(0));
    let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
    // Writing into a String does not fail.
    let _ = PRINTER.print_timestamp(&time.unwrap_or(Timestamp::MAX), &mut *out);
    out.truncate(out.len() - 1);
}

/// Milliseconds since 1970 as RFC 3339, see [`write_rfc3339`].
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let mut text = String::with_capacity(24);
    write_rfc3339(ms, &mut text);
    text
}

/// Reads RFC 3339 text; milliseconds since 1970, `None` before that or if it is not a time.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds_and_z_and_read_back() {
        assert_eq!(rfc3339(1_763_619_000_005), "2025-11-20T06:10:00.005Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(parse_rfc3339("2025-11-20T07:10:00.005+01:00"), Some(1_763_619_000_005));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
