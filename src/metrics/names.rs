//! Every metric: name, kind, labels, help. `docs/metrics.md` is this table, and a test keeps the two equal.

/// A counter or a gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with the unit last.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels; all of few values.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $labels:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// All metrics.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, labels: $labels, help: $help }),*];
    };
}

metrics! {
    PUBLISHED = "tidegate_events_published_total", Counter, "namespace", "Events that rooms have numbered.";
    DUPLICATES = "tidegate_events_duplicate_total", Counter, "namespace", "Events not published because their id was seen before.";
    REFUSED = "tidegate_publishes_refused_total", Counter, "reason", "Publishes that were refused.";
    DUE = "tidegate_deliveries_due_total", Counter, "namespace", "Events that rooms had for their readers: each counts once for each reader.";
    REPLAYED = "tidegate_events_replayed_total", Counter, "transport", "Events from before a reader joined, read for it from the history; they are due to it too.";
    DELIVERED = "tidegate_events_delivered_total", Counter, "transport", "Events handed to connections' sockets.";
    FILTERED = "tidegate_events_filtered_total", Counter, "transport", "Due events that their reader did not want.";
    MISSED = "tidegate_events_missed_total", Counter, "transport", "Due events that were not held any more; their reader was told.";
    ABANDONED = "tidegate_events_abandoned_total", Counter, "", "Due events whose reader left before they came to it.";
    WAITING = "tidegate_events_waiting", Gauge, "", "Events in connections' mailboxes.";
    MAILBOXES_BYTES = "tidegate_mailboxes_bytes", Gauge, "", "Their bytes, as counted for limits.mailboxes_bytes: mailboxes that hold less than 4 KiB are not in it.";
    SLOW = "tidegate_slow_connections", Gauge, "", "Connections whose mailbox is more than half full, or that read the history because they fell behind.";
    DELIVERY_SECONDS = "tidegate_delivery_seconds", Histogram, "transport", "Time from an event's number to its writing; of live events one in sixteen is measured.";
    REPLAY_SECONDS = "tidegate_replay_seconds", Histogram, "", "Time of one read of the history from the disk.";
    SHED = "tidegate_events_shed_total", Counter, "namespace, lane, reason", "Events given up for one reader, who was told.";
    CONFLATED = "tidegate_events_conflated_total", Counter, "transport", "Waiting events that gave way to a newer one of their key.";
    CAUGHT_UP = "tidegate_catch_ups_total", Counter, "transport", "Times a reader fell behind and read on from the history.";
    GAPS = "tidegate_gaps_total", Counter, "transport", "Times a reader was told that events are not held any more.";
    CONNECTIONS = "tidegate_connections", Gauge, "transport", "Streams open now.";
    CONNECTIONS_REFUSED = "tidegate_connections_refused_total", Counter, "reason", "Connections refused when they were opened.";
    REQUESTS_REFUSED = "tidegate_requests_refused_total", Counter, "reason", "Requests refused: no or a wrong credential, no right, a limit.";
    LOGINS = "tidegate_logins_total", Counter, "outcome", "Logins by what came of them.";
    AUDIT_DROPPED = "tidegate_audit_dropped_total", Counter, "", "Lines of the audit log that could not be written.";
    RELOADS = "tidegate_settings_reloads_total", Counter, "outcome", "Times the settings were read again.";
    CONNECTIONS_CUT = "tidegate_connections_cut_total", Counter, "reason", "Connections ended by the daemon.";
    READY = "tidegate_ready", Gauge, "", "1 where the daemon takes and serves events, 0 where /readyz says no.";
    STARTED = "tidegate_start_time_seconds", Gauge, "", "When the daemon started, in seconds since 1970.";
    SOCKETS = "tidegate_sockets", Gauge, "", "TCP connections open now.";
    ROOMS = "tidegate_rooms", Gauge, "", "Rooms in memory.";
    TAIL_BYTES = "tidegate_tails_bytes", Gauge, "", "Events held in memory for replay.";
    ACTORS = "tidegate_actors", Gauge, "", "Actors that live now.";
    ACTORS_FAILED = "tidegate_actors_failed_total", Counter, "", "Actors that failed or panicked.";
    ACTORS_RESTARTED = "tidegate_actors_restarted_total", Counter, "", "Actors started again.";
    LOG_EVENTS = "tidegate_log_events_total", Counter, "", "Events written to the log.";
    LOG_COMMIT = "tidegate_log_commit_seconds", Histogram, "", "Time of one group commit.";
    LOG_FAULTS = "tidegate_log_faults_total", Counter, "", "Tries to write that failed.";
    LOG_EXPIRED = "tidegate_log_events_expired_total", Counter, "namespace", "Events that retention let go.";
    LOG_EXPELLED = "tidegate_log_events_expelled_total", Counter, "", "Events that log.bytes_max let go before their retention ended.";
    LOG_BYTES = "tidegate_log_bytes", Gauge, "", "Bytes of events in the log's generations.";
    LOG_GENERATIONS = "tidegate_log_generations", Gauge, "", "Generations of the log.";
    PIPELINE_IN = "tidegate_pipeline_events_in_total", Counter, "pipeline", "Events that a pipeline has worked on.";
    PIPELINE_OUT = "tidegate_pipeline_events_out_total", Counter, "pipeline", "Events that a pipeline has published.";
    PIPELINE_REJECTED = "tidegate_pipeline_events_rejected_total", Counter, "pipeline, step, reason", "Events that a pipeline could not work on; they are in its dead letters.";
    PIPELINE_MISSED = "tidegate_pipeline_gaps_total", Counter, "pipeline", "Times that events were not held any more when a pipeline came to them.";
    PIPELINE_LOST = "tidegate_pipeline_events_lost_total", Counter, "pipeline", "Events of a pipeline that no room could take, because there were as many rooms as there may be.";
    PIPELINE_WORKS = "tidegate_pipeline_works", Gauge, "pipeline", "1 where a pipeline works, 0 where it cannot.";
    PIPELINE_KEYS = "tidegate_pipeline_keys", Gauge, "pipeline", "Keys that a pipeline keeps, in its steps and in rooms' states.";
    PIPELINE_WAITING = "tidegate_pipeline_events_waiting", Gauge, "pipeline", "Events that wait for a pipeline: in its mailbox, and in the history that it is behind in.";
    PIPELINE_STATE_BYTES = "tidegate_pipeline_state_bytes", Gauge, "pipeline", "A pipeline's state when it was last written down.";
    PIPELINE_BEHIND = "tidegate_pipeline_behind_seconds", Gauge, "pipeline", "How far the clock of a pipeline that has events waiting is behind the time of day.";
    SINK_EVENTS = "tidegate_sink_events_total", Counter, "sink", "Events that a sink has stored; those that were there already do not count.";
    SINK_BATCHES = "tidegate_sink_batches_total", Counter, "sink", "Batches of which a sink has stored something.";
    SINK_REFUSED = "tidegate_sink_rows_refused_total", Counter, "sink", "Events that the database refused; they are in the sink's dead letters.";
    SINK_FAILURES = "tidegate_sink_failures_total", Counter, "sink", "Tries to write that failed; they are made again until they succeed.";
    SINK_WAITING = "tidegate_sink_waiting", Gauge, "sink", "Events in a sink's rooms that it has not stored yet.";
    SINK_WRITE_SECONDS = "tidegate_sink_write_duration_seconds", Histogram, "sink", "Time of one batch's writing.";
    SINK_LOST = "tidegate_sink_lost_total", Counter, "sink", "Events that retention let go before a sink had stored them.";
    WEBSOCKETS = "websocket_connections", Gauge, "", "WebSocket and Socket.IO connections open now; as tidegate_connections, under the name that dashboards of wells ask for.";
    SSES = "sse_connections", Gauge, "", "SSE connections open now.";
    WEBSOCKET_MESSAGES = "websocket_messages_total", Counter, "", "Messages sent to WebSocket and Socket.IO clients.";
    WEBSOCKET_ERRORS = "websocket_errors_total", Counter, "", "Error messages sent to WebSocket and Socket.IO clients.";
    PUBLISHES = "realtime_publishes_total", Counter, "", "Publish requests that were taken.";
    PUBLISHES_SECONDS = "realtime_publish_duration_seconds", Histogram, "", "Time of a publish request that was taken, whatever its ack.";
    PUBLISH_SECONDS = "tidegate_publish_seconds", Histogram, "ack", "Time from a publish body's last byte to its answer.";
}
