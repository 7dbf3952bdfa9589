//! The settings of surfaces, typed: a structure for each, and which are served.

use std::time::Duration;

use super::Fault;
use super::load::Values;

/// A set of endpoints for an existing dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "their names; docs/surfaces.md says what each is")]
pub enum Surface {
    Overview,
    Metrics,
    Wells,
    Analytics,
    Buffer,
}

impl Surface {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Overview, Self::Metrics, Self::Wells, Self::Analytics, Self::Buffer];

    /// Its name; its pipelines are called `NAME_…`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Metrics => "metrics",
            Self::Wells => "wells",
            Self::Analytics => "analytics",
            Self::Buffer => "buffer",
        }
    }
}

/// The settings of all surfaces.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Surfaces {
    pub enabled: Vec<Surface>,
    pub overview: Overview,
    pub metrics: Metrics,
    pub wells: Wells,
    pub analytics: Analytics,
    pub buffer: Buffer,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Overview {
    pub idle_timeout: Option<Duration>,
    /// 0 where `limits.per_ip_connections` is set, which counts then.
    pub per_ip_connections: usize,
    /// 0 where `limits.per_ip_connections_per_hour` is set.
    pub per_ip_connections_per_hour: u32,
    /// That of `limits.per_connection_messages_per_minute` where it is set.
    pub messages_per_minute: u32,
    pub updates_per_second: u32,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Metrics {
    pub stream_public: bool,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Wells {
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub connect_timeout: Duration,
    pub upgrade_timeout: Duration,
    pub guests_max: usize,
    pub guests_per_ip: usize,
    pub guest_message_bytes: usize,
    pub refusals_max: u32,
    pub waiting_max: usize,
    pub recovery_window: Duration,
    pub recovery_max: usize,
    pub messages_per_second: u32,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Analytics {
    pub enabled: bool,
    pub update_interval: Duration,
    pub websocket_enabled: bool,
    pub websocket_path: String,
    /// 0 where `limits.per_user_connections` is set, which counts then.
    pub per_user_connections: usize,
    /// As many lost ones are kept of one user; 0 means no limit.
    pub per_user_parked: usize,
    pub mailbox_messages: usize,
    pub parked_timeout: Duration,
    pub sweep_interval: Duration,
    pub parked_connections: usize,
    pub parked_bytes: usize,
}

#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "see Settings")]
pub struct Buffer {
    pub content_bytes: usize,
}

impl Surfaces {
    /// Whether a pipeline of this name in the program is wanted: one of a surface that is served, or of none.
    #[must_use]
    pub fn want(&self, pipeline: &str) -> bool {
        let of = Surface::ALL.into_iter().find(|surface| {
            pipeline.strip_prefix(surface.name()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        });
        of.is_none_or(|surface| self.enabled.contains(&surface))
    }
}

pub(super) fn read(v: &Values, faults: &mut Vec<Fault>) -> Surfaces {
    let mut enabled = Vec::new();
    for name in v.list("surfaces.enabled") {
        match Surface::ALL.into_iter().find(|surface| surface.name() == name) {
            Some(surface) if enabled.contains(&surface) => {}
            Some(surface) => enabled.push(surface),
            None => {
                let all = Surface::ALL.map(Surface::name).join(", ");
                faults.push(Fault::Together(format!(
                    "surfaces.enabled: there is no surface {name:?}; expected some of {all}"
                )));
            }
        }
    }
    let score = |key: &str| v.text(key).parse::<f64>().unwrap_or_default();
    if score("overview.warning_from") > score("overview.healthy_from") {
        let message = "overview.warning_from is above overview.healthy_from; expected at most that";
        faults.push(Fault::Together(message.to_owned()));
    }
    Surfaces {
        enabled,
        overview: overview(v),
        metrics: Metrics { stream_public: v.flag("metrics.stream_public") },
        wells: wells(v),
        analytics: analytics(v, faults),
        buffer: Buffer { content_bytes: v.length("buffer.content_bytes") },
    }
}

fn overview(v: &Values) -> Overview {
    let count = |key: &str| u32::try_from(v.number(key)).unwrap_or(u32::MAX);
    // What is set for all streams goes before what this surface has by default.
    let own = |key: &str, common: &str| if v.is_given(common) { 0 } else { count(key) };
    let common = "limits.per_connection_messages_per_minute";
    Overview {
        idle_timeout: Some(v.time("limits.idle_timeout")).filter(|time| !time.is_zero()),
        per_ip_connections: own("overview.per_ip_connections", "limits.per_ip_connections") as usize,
        per_ip_connections_per_hour: own("overview.per_ip_connections_per_hour", "limits.per_ip_connections_per_hour"),
        updates_per_second: count("overview.updates_per_second"),
        messages_per_minute: count(if v.is_given(common) { common } else { "overview.messages_per_minute" }),
    }
}

fn wells(v: &Values) -> Wells {
    // What is set for all streams goes before what this surface has by default.
    let common = "limits.per_connection_messages_per_second";
    let per_second = v.number(if v.is_given(common) { common } else { "wells.messages_per_second" });
    Wells {
        ping_interval: v.time("wells.ping_interval"),
        ping_timeout: v.time("wells.ping_timeout"),
        connect_timeout: v.time("wells.connect_timeout"),
        upgrade_timeout: v.time("wells.upgrade_timeout"),
        guests_max: v.length("wells.guests_max"),
        guests_per_ip: v.length("wells.guests_per_ip"),
        guest_message_bytes: v.length("wells.guest_message_bytes"),
        refusals_max: u32::try_from(v.number("wells.refusals_max")).unwrap_or(u32::MAX),
        waiting_max: v.length("wells.waiting_max"),
        recovery_window: v.time("wells.recovery_window"),
        recovery_max: v.length("wells.recovery_max"),
        messages_per_second: u32::try_from(per_second).unwrap_or(u32::MAX),
    }
}

/// Where the streams of the surface analytics are; another path must not be one of its own.
const ANALYTICS: &str = "/api/admin/analytics/";
const ANALYTICS_OWN: [&str; 8] = [
    "stream",
    "reconnect",
    "websocket-info",
    "connection-stats",
    "websocket-stats",
    "subscribe",
    "unsubscribe",
    "test-connection",
];

fn analytics(v: &Values, faults: &mut Vec<Fault>) -> Analytics {
    let websocket_path = v.text("analytics.websocket_path");
    let name = websocket_path.strip_prefix(ANALYTICS).unwrap_or_default();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if name.is_empty() || !plain || ANALYTICS_OWN.contains(&name) {
        faults.push(Fault::Together(format!(
            "analytics.websocket_path: {websocket_path:?} is not allowed; expected {ANALYTICS} and a name of letters, digits, - and _ that is none of {}",
            ANALYTICS_OWN.join(", ")
        )));
    }
    let common = v.is_given("limits.per_user_connections");
    let per_user = v.length("analytics.per_user_connections");
    Analytics {
        enabled: v.flag("analytics.enabled"),
        update_interval: v.time("analytics.update_interval"),
        websocket_enabled: v.flag("analytics.websocket_enabled"),
        websocket_path,
        // What is set for all streams goes before what this surface has by default.
        per_user_connections: if common { 0 } else { per_user },
        per_user_parked: if common { v.length("limits.per_user_connections") } else { per_user },
        mailbox_messages: v.length("analytics.mailbox_messages"),
        parked_timeout: v.time("analytics.parked_timeout"),
        sweep_interval: v.time("analytics.sweep_interval"),
        parked_connections: v.length("analytics.parked_connections"),
        parked_bytes: v.length("analytics.parked_bytes"),
    }
}
