//! What `top` shows, as plain data: lines made of two looks at the daemon. And the words for times, sizes and rooms, which `why` uses, too.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

const BOLD: &str = "\x1b[1m";
const REVERSE: &str = "\x1b[7m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";

/// What a line looks like in colours, and the line.
pub(super) type Line = (&'static str, String);

/// The daemon at one moment.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) health: Value,
    /// Why the log cannot be written, if it cannot.
    pub(super) fault: Option<String>,
    pub(super) connections: Vec<Value>,
    /// `None` for whoever may not read every room.
    pub(super) figures: Option<Figures>,
}

/// What is wanted of the text for Prometheus.
pub(super) struct Figures {
    published: f64,
    delivered: f64,
    waiting: Option<f64>,
    mailboxes_bytes: Option<f64>,
    slow: Option<f64>,
}

impl Figures {
    /// Reads the figures out of that text.
    pub(super) fn read(text: &str) -> Self {
        Self {
            // A counter is not there until it counts.
            published: sum(text, "tidegate_events_published_total").unwrap_or(0.0),
            delivered: sum(text, "tidegate_events_delivered_total").unwrap_or(0.0),
            waiting: sum(text, "tidegate_events_waiting"),
            mailboxes_bytes: sum(text, "tidegate_mailboxes_bytes"),
            slow: sum(text, "tidegate_slow_connections"),
        }
    }
}

/// The sum of a metric over all its labels.
fn sum(text: &str, name: &str) -> Option<f64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    samples.fold(None, |sum: Option<f64>, sample| Some(sum.unwrap_or(0.0) + sample))
}

/// The whole page, as far as it fits `size`, columns and lines.
pub(super) fn page(
    address: &str,
    before: Option<&Look>,
    now: &Look,
    trouble: Option<&str>,
    size: Option<(usize, usize)>,
) -> Vec<Line> {
    // A daemon that was started again counts from 0, and its connections from 1.
    let before = before.filter(|before| uptime(before) <= uptime(now));
    let [first, second, third] = header(address, before, now);
    let fault = now.fault.as_ref().map(|fault| format!("the log cannot be written: {}", clean(fault)));
    let notice = trouble.map(clean).or(fault).unwrap_or_default();
    let mut lines = vec![(BOLD, first), ("", second), ("", third), (RED, notice)];
    let mut rows = rows(before, now);
    if let Some((_, height)) = size {
        // One line is the table's titles.
        rows.truncate(height.saturating_sub(lines.len() + 1));
    }
    lines.extend(table(rows, size.map(|(width, _)| width)));
    if let Some((width, height)) = size {
        lines.truncate(height);
        for (_, text) in &mut lines {
            *text = cut(text, width);
        }
    }
    lines
}

fn uptime(look: &Look) -> u64 {
    seconds(&look.health["uptime_seconds"])
}

fn header(address: &str, before: Option<&Look>, now: &Look) -> [String; 3] {
    let health = &now.health;
    let per_second = |figure: fn(&Figures) -> f64| {
        let (before, elapsed) = (before?, elapsed(before, now)?);
        rate(figure(before.figures.as_ref()?), figure(now.figures.as_ref()?), elapsed)
    };
    let gauge = |figure: fn(&Figures) -> Option<f64>| now.figures.as_ref().and_then(figure);
    let whole = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.0}"));
    let mailboxes = gauge(|figures| figures.mailboxes_bytes).map_or_else(|| "-".to_owned(), byte_size);
    let log_bytes = health["log"]["bytes"].as_f64().map_or_else(|| "-".to_owned(), byte_size);
    [
        format!(
            "tidegate {} at {address}: {}, up {}",
            text(&health["version"]),
            text(&health["status"]),
            span(uptime(now))
        ),
        format!(
            "{} connections, {} slow   {} rooms   {} events/s in   {} deliveries/s out",
            number(health, "/connections"),
            whole(gauge(|figures| figures.slow)),
            number(health, "/rooms"),
            or_dash(per_second(|figures| figures.published)),
            or_dash(per_second(|figures| figures.delivered)),
        ),
        format!(
            "mailboxes {mailboxes} with {} events waiting   log {log_bytes} in {} generations",
            whole(gauge(|figures| figures.waiting)),
            number(health, "/log/generations"),
        ),
    ]
}

fn elapsed(before: Option<&Look>, now: &Look) -> Option<f64> {
    before.map(|before| now.at.duration_since(before.at).as_secs_f64())
}

/// `None` if it was counted anew in between.
fn rate(before: f64, now: f64, seconds: f64) -> Option<f64> {
    (seconds > 0.0 && now >= before).then(|| (now - before) / seconds)
}

struct Column {
    title: &'static str,
    /// The most characters it takes.
    most: usize,
    right: bool,
}

const fn left(title: &'static str, most: usize) -> Column {
    Column { title, most, right: false }
}

const fn right(title: &'static str) -> Column {
    Column { title, most: 20, right: true }
}

const COLUMNS: [Column; 11] = [
    right("id"),
    left("transport", 10),
    left("subject", 20),
    left("client", 39),
    right("age"),
    left("rooms", 40),
    right("events/s"),
    right("waiting"),
    right("behind"),
    right("shed"),
    left("answers", 7),
];
/// The column that takes what the others leave, and the least it takes.
const ROOMS: usize = 5;
const ROOMS_LEAST: usize = 8;
const GAP: &str = "  ";

/// A connection in the table; the rooms' cell is filled in when its width is known.
struct Row {
    cells: [String; COLUMNS.len()],
    rooms: Vec<String>,
    style: &'static str,
}

fn rows(before: Option<&Look>, now: &Look) -> Vec<Row> {
    let elapsed = elapsed(before, now);
    let delivered = |connection: &Value| connection.pointer("/ledger/delivered").and_then(Value::as_f64).unwrap_or(0.0);
    let listed_before = before.into_iter().flat_map(|before| &before.connections);
    let earlier: HashMap<String, f64> =
        listed_before.map(|connection| (text(&connection["id"]), delivered(connection))).collect();
    let row = |connection: &Value| {
        let id = text(&connection["id"]);
        // What was opened since then had nothing before.
        let young = || connection["age_seconds"].as_f64().zip(elapsed).filter(|(age, elapsed)| age <= elapsed);
        let had = earlier.get(&id).copied().or_else(|| young().map(|_| 0.0));
        let per_second = had.zip(elapsed).and_then(|(had, elapsed)| rate(had, delivered(connection), elapsed));
        let client = if connection["client_ip"].is_null() { &connection["peer"] } else { &connection["client_ip"] };
        let behind = number(connection, "/mailbox/behind");
        let (answers, style) = match connection["answers"].as_bool() {
            Some(false) => ("NO", RED),
            Some(true) if behind > 0 => ("yes", YELLOW),
            Some(true) => ("yes", ""),
            None => ("-", ""),
        };
        let cells = [
            id,
            text(&connection["transport"]),
            text(&connection["subject"]),
            text(client),
            span(seconds(&connection["age_seconds"])),
            String::new(),
            or_dash(per_second),
            waiting(connection).to_string(),
            behind.to_string(),
            shed(connection).to_string(),
            answers.to_owned(),
        ];
        Row { cells, rooms: rooms_of(connection), style }
    };
    now.connections.iter().map(row).collect()
}

fn table(rows: Vec<Row>, width: Option<usize>) -> Vec<Line> {
    let mut widths = COLUMNS.map(|column| column.title.len());
    for row in &rows {
        for ((width, cell), column) in widths.iter_mut().zip(&row.cells).zip(&COLUMNS) {
            *width = (*width).max(length(cell).min(column.most));
        }
    }
    let others = widths.iter().sum::<usize>() - widths[ROOMS] + GAP.len() * (widths.len() - 1);
    let room_left = width.map_or(COLUMNS[ROOMS].most, |width| width.saturating_sub(others));
    let wanted = rows.iter().map(|row| row.rooms.iter().map(|room| length(room) + 1).sum::<usize>()).max();
    widths[ROOMS] = wanted.unwrap_or(0).min(room_left).max(ROOMS_LEAST);
    let mut lines = vec![(REVERSE, line(&COLUMNS.map(|column| column.title.to_owned()), &widths))];
    for Row { mut cells, rooms, style } in rows {
        cells[ROOMS] = shorten(&rooms, widths[ROOMS]);
        lines.push((style, line(&cells, &widths)));
    }
    lines
}

fn line(cells: &[String; COLUMNS.len()], widths: &[usize; COLUMNS.len()]) -> String {
    let mut text = String::new();
    for ((cell, &width), column) in cells.iter().zip(widths).zip(&COLUMNS) {
        if !text.is_empty() {
            text.push_str(GAP);
        }
        let cell = cut(cell, width);
        let padded = if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        text.push_str(&padded);
    }
    text.truncate(text.trim_end().len());
    text
}

/// As many rooms as fit, and how many more there are.
pub(in crate::cli) fn shorten(rooms: &[String], width: usize) -> String {
    let (mut shown, mut best) = (String::new(), None);
    for (at, room) in rooms.iter().enumerate() {
        if at > 0 {
            shown.push(',');
        }
        shown.push_str(room);
        if length(&shown) > width {
            break;
        }
        let more = rooms.len() - at - 1;
        let text = if more == 0 { shown.clone() } else { format!("{shown} +{more}") };
        if length(&text) <= width {
            best = Some(text);
        }
    }
    best.unwrap_or_else(|| rooms.first().map(|room| cut(room, width)).unwrap_or_default())
}

/// What it asked for: rooms and patterns.
pub(in crate::cli) fn rooms_of(connection: &Value) -> Vec<String> {
    connection["rooms"].as_array().into_iter().flatten().map(text).collect()
}

/// Messages in its mailbox. The mailbox is looked at from outside; what the ledger says is from the connection's last answer.
pub(in crate::cli) fn waiting(connection: &Value) -> u64 {
    let messages = connection.pointer("/mailbox/messages").and_then(Value::as_u64);
    messages.unwrap_or_else(|| number(connection, "/ledger/waiting"))
}

/// Events given up for it, for whatever reason.
pub(in crate::cli) fn shed(connection: &Value) -> u64 {
    let reasons = connection["shed"].as_object().into_iter().flatten();
    let shed: u64 = reasons.filter_map(|(_, count)| count.as_u64()).sum();
    shed.max(number(connection, "/ledger/shed"))
}

/// A number; 0 where there is none.
pub(in crate::cli) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Whole seconds, however they are written; 0 where there are none.
pub(in crate::cli) fn seconds(value: &Value) -> u64 {
    let seconds = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.map_or(0, |seconds| seconds.as_secs())
}

/// Text for a terminal, `-` for none.
pub(in crate::cli) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}

/// Names come from tokens: what would steer the terminal, or turn the direction of the line, is not shown.
fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if steers(c) { '?' } else { c }).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else { return String::new() };
    text.chars().take(kept).chain(['…']).collect()
}

/// A time in its two largest units.
pub(in crate::cli) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Bytes in the unit that suits them.
pub(in crate::cli) fn byte_size(bytes: f64) -> String {
    let mut left = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if left < 1024.0 {
            return if unit == "B" { format!("{left:.0} {unit}") } else { format!("{left:.1} {unit}") };
        }
        left /= 1024.0;
    }
    format!("{left:.1} TiB")
}

fn or_dash(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 0.05 => "0".to_owned(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) if rate < 10_000.0 => format!("{rate:.0}"),
        Some(rate) if rate < 1_000_000.0 => format!("{:.0}k", rate / 1000.0),
        Some(rate) => format!("{:.1}M", rate / 1_000_000.0),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn a_look(at: Instant, uptime: u64, delivered: u64) -> Look {
        let connection = json!({
            "id": "7", "transport": "websocket", "peer": "127.0.0.1:5000", "client_ip": "10.0.0.1",
            "subject": "al\u{1b}[31mice", "age_seconds": 125, "rooms": ["well:*", "host:cpu", "host:memory"],
            "answers": false, "mailbox": {"messages": 120, "behind": 2},
            "ledger": {"delivered": delivered, "waiting": 3, "shed": 4}, "shed": {"displaced": 3, "rejected": 2},
        });
        let health = json!({
            "status": "ok", "version": "0.1.0", "uptime_seconds": uptime, "connections": 1, "rooms": 3,
            "log": {"writable": true, "bytes": 3_145_728, "generations": 2},
        });
        let metrics = format!(
            "# HELP tidegate_events_delivered_total Events.\n# TYPE tidegate_events_delivered_total counter\n\
             tidegate_events_delivered_total{{transport=\"sse\"}} 5\n\
             tidegate_events_delivered_total{{transport=\"websocket\"}} {delivered}\n\
             tidegate_events_delivered_total_more 1000\ntidegate_slow_connections 1\n"
        );
        let figures = Some(Figures::read(&metrics));
        Look { at, health, fault: None, connections: vec![connection], figures }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn rates_are_differences_over_the_time_between_the_looks() {
        let at = Instant::now();
        let (before, now) = (a_look(at, 10, 100), a_look(at + Duration::from_secs(2), 12, 300));
        let lines = page("here:8000", Some(&before), &now, None, None);
        let lines = texts(&lines);
        assert_eq!(lines[0], "tidegate 0.1.0 at here:8000: ok, up 12s");
        assert_eq!(lines[1], "1 connections, 1 slow   3 rooms   0 events/s in   100 deliveries/s out");
        assert_eq!(lines[2], "mailboxes - with - events waiting   log 3.0 MiB in 2 generations");
        assert_eq!(lines.len(), 6);
        let cells: Vec<&str> = lines[5].split_whitespace().collect();
        let rooms = "well:*,host:cpu,host:memory";
        let expected = ["7", "websocket", "al?[31mice", "10.0.0.1", "2m05s", rooms, "100", "120", "2", "5", "NO"];
        assert_eq!(cells, expected);
    }

    #[test]
    fn a_daemon_that_was_started_again_has_no_rates_yet() {
        let at = Instant::now();
        let (before, now) = (a_look(at, 1000, 100), a_look(at + Duration::from_secs(2), 1, 300));
        let lines = page("here", Some(&before), &now, None, None);
        assert!(lines[1].1.ends_with("- events/s in   - deliveries/s out"), "{}", lines[1].1);
        assert!(lines[5].1.contains(" - "), "{}", lines[5].1);
    }

    #[test]
    fn a_connection_opened_since_the_last_look_had_nothing_before() {
        let at = Instant::now();
        let (mut before, mut now) = (a_look(at, 10, 0), a_look(at + Duration::from_secs(2), 12, 50));
        before.connections.clear();
        now.connections[0]["age_seconds"] = json!(1);
        assert_eq!(rows(Some(&before), &now)[0].cells[6], "25");
        now.connections[0]["age_seconds"] = json!(100);
        assert_eq!(rows(Some(&before), &now)[0].cells[6], "-");
    }

    #[test]
    fn a_page_fits_the_terminal_and_says_what_is_wrong() {
        let mut now = a_look(Instant::now(), 10, 100);
        now.fault = Some("no space left".to_owned());
        now.connections = vec![now.connections[0].clone(); 50];
        for (width, height) in [(200, 20), (80, 24), (40, 8), (10, 3), (0, 1)] {
            let lines = page("here", None, &now, None, Some((width, height)));
            assert!(lines.len() <= height, "{width}x{height}");
            assert!(lines.iter().all(|(_, text)| length(text) <= width), "{width}x{height}: {:?}", texts(&lines));
        }
        let lines = page("here", None, &now, None, Some((80, 24)));
        assert_eq!(lines.len(), 24);
        assert_eq!(lines[3].1, "the log cannot be written: no space left");
        let lines = page("here", None, &now, Some("nobody answers"), Some((80, 24)));
        assert_eq!(lines[3].1, "nobody answers");
    }

    #[test]
    fn figures_that_may_not_be_read_are_not_made_up() {
        let mut now = a_look(Instant::now(), 10, 100);
        now.figures = None;
        let lines = page("here", None, &now, None, None);
        assert_eq!(lines[1].1, "1 connections, - slow   3 rooms   - events/s in   - deliveries/s out");
    }

    #[test]
    fn as_many_rooms_are_shown_as_fit() {
        let rooms: Vec<String> = ["well:1", "well:2", "well:3"].map(str::to_owned).into();
        assert_eq!(shorten(&rooms, 20), "well:1,well:2,well:3");
        assert_eq!(shorten(&rooms, 19), "well:1,well:2 +1");
        assert_eq!(shorten(&rooms, 9), "well:1 +2");
        assert_eq!(shorten(&rooms, 5), "well…");
        assert_eq!(shorten(&[], 5), "");
    }

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_mixed_up_with_others() {
        let text = "a_total{x=\"b c\"} 1.5\na_total{x=\"}\"} 2\na_total_more 10\n# a_total 5\nb 7\n";
        assert_eq!(sum(text, "a_total"), Some(3.5));
        assert_eq!(sum(text, "b"), Some(7.0));
        assert_eq!(sum(text, "c"), None);
    }

    #[test]
    fn times_sizes_and_rates_are_short() {
        let spans = [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (187_200, "2d04h")];
        for (seconds, expected) in spans {
            assert_eq!(span(seconds), expected);
        }
        assert_eq!(byte_size(1023.0), "1023 B");
        assert_eq!(byte_size(1536.0), "1.5 KiB");
        let rates = [(0.0, "0"), (0.23, "0.2"), (12.4, "12"), (45_000.0, "45k"), (1_200_000.0, "1.2M")];
        for (rate, expected) in rates {
            assert_eq!(or_dash(Some(rate)), expected);
        }
        assert_eq!(seconds(&json!(1.9)), 1);
        assert_eq!(seconds(&json!(-1)), 0);
        assert_eq!(seconds(&json!(null)), 0);
    }
}
