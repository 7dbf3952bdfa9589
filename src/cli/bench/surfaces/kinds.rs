//! What is measured: the rows, how their clients connect, which of their messages count, and what the figures of each say.

use clap::ValueEnum;

/// The room of the native rows.
pub(super) const NATIVE_ROOM: &str = "bench:surfaces";
/// The metric of the row `analytics`.
pub(super) const METRIC: &str = "bench";

/// A surface, and over which transport its clients come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "their names; `says` has what each is")]
pub(in crate::cli::bench) enum Kind {
    NativeWebsocket,
    NativeSse,
    Overview,
    Metrics,
    WellsWebsocket,
    WellsPolling,
    WellsSse,
    Analytics,
    Buffer,
}

/// What makes a row's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    Native,
    Overview,
    Metrics,
    Wells,
    Analytics,
    Buffer,
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    WebSocket,
    Sse,
    /// Socket.IO over WebSocket.
    SocketIo,
    /// Socket.IO over HTTP long-polling.
    Polling,
}

impl Kind {
    /// All of them, in the order in which they are opened.
    pub(super) const ALL: [Self; 9] = [
        Self::NativeWebsocket,
        Self::NativeSse,
        Self::Overview,
        Self::Metrics,
        Self::WellsWebsocket,
        Self::WellsPolling,
        Self::WellsSse,
        Self::Analytics,
        Self::Buffer,
    ];

    /// Its name, as on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NativeWebsocket => "native-websocket",
            Self::NativeSse => "native-sse",
            Self::Overview => "overview",
            Self::Metrics => "metrics",
            Self::WellsWebsocket => "wells-websocket",
            Self::WellsPolling => "wells-polling",
            Self::WellsSse => "wells-sse",
            Self::Analytics => "analytics",
            Self::Buffer => "buffer",
        }
    }

    pub(super) const fn wire(self) -> Wire {
        match self {
            Self::NativeWebsocket | Self::Overview | Self::Metrics | Self::Buffer => Wire::WebSocket,
            Self::NativeSse | Self::WellsSse | Self::Analytics => Wire::Sse,
            Self::WellsWebsocket => Wire::SocketIo,
            Self::WellsPolling => Wire::Polling,
        }
    }

    pub(super) const fn feed(self) -> Feed {
        match self {
            Self::NativeWebsocket | Self::NativeSse => Feed::Native,
            Self::Overview => Feed::Overview,
            Self::Metrics => Feed::Metrics,
            Self::WellsWebsocket | Self::WellsPolling | Self::WellsSse => Feed::Wells,
            Self::Analytics => Feed::Analytics,
            Self::Buffer => Feed::Buffer,
        }
    }

    /// Where a client connects that follows this well.
    pub(super) fn path(self, well: &str) -> String {
        match self {
            Self::NativeWebsocket | Self::NativeSse => format!("/v1/stream?rooms={NATIVE_ROOM}"),
            Self::Overview => "/api/stream/overview".to_owned(),
            Self::Metrics => "/metrics/stream".to_owned(),
            Self::WellsWebsocket => "/socket.io/?EIO=4&transport=websocket".to_owned(),
            Self::WellsPolling => "/socket.io/?EIO=4&transport=polling".to_owned(),
            Self::WellsSse => format!("/api/v1/sse/stream/{well}"),
            Self::Analytics => format!("/api/admin/analytics/stream?metrics={METRIC}"),
            Self::Buffer => "/ws/stats".to_owned(),
        }
    }

    /// What a client says once it is connected.
    pub(super) const fn greeting(self) -> Option<&'static str> {
        match self {
            // Of what comes once a second, the one whose name is in the row.
            Self::Metrics => Some(r#"{"type":"subscribe","data":{"types":["metrics_update"]}}"#),
            _ => None,
        }
    }

    /// The type of the messages that count; `None` where they have none.
    pub(super) const fn counted(self) -> Option<&'static str> {
        match self {
            Self::NativeWebsocket | Self::NativeSse => Some("event"),
            Self::Overview => Some("update"),
            Self::Metrics | Self::Analytics => Some("metrics_update"),
            Self::WellsWebsocket | Self::WellsPolling | Self::WellsSse => Some("telemetry_update"),
            Self::Buffer => None,
        }
    }

    /// Whether every event that was published has to come to every client that follows it, just once.
    pub(super) const fn is_exact(self) -> bool {
        matches!(self.feed(), Feed::Native | Feed::Wells | Feed::Analytics)
    }

    /// What its figures say.
    pub(super) const fn says(self) -> &'static str {
        match self {
            Self::NativeWebsocket => {
                "one event a second, published natively; from the timestamp that its publisher gave it to its receipt over WebSocket"
            }
            Self::NativeSse => {
                "one event a second, published natively; from the timestamp that its publisher gave it to its receipt over Server-Sent Events"
            }
            Self::Overview => {
                "20 runs a second, gathered into an update every 250 ms; from the update's own timestamp to its receipt over WebSocket"
            }
            Self::Metrics => {
                "20 requests a second, one metrics_update a second; from its own timestamp, when it was computed, to its receipt over WebSocket"
            }
            Self::WellsWebsocket => {
                "telemetry of every well once a second, each client follows one; from the measurement's timestamp, so with its ingest, to its receipt over Socket.IO on WebSocket"
            }
            Self::WellsPolling => {
                "telemetry of every well once a second, each client follows one; from the measurement's timestamp, so with its ingest, to its receipt over Socket.IO on HTTP long-polling"
            }
            Self::WellsSse => {
                "telemetry of every well once a second, each client follows one; from the measurement's timestamp, so with its ingest, to its receipt over Server-Sent Events"
            }
            Self::Analytics => {
                "one update of a metric a second, published natively; from the timestamp that its publisher gave it to its receipt over Server-Sent Events"
            }
            Self::Buffer => {
                "20 messages a second, figures every 500 ms; from the figures' own timestamp to their receipt over WebSocket"
            }
        }
    }
}
