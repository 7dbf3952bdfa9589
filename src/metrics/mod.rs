//! What Prometheus sees. [`names`] declares every metric with its unit and help, [`record`] is the only place that counts, [`exporter`] writes the text.

pub mod exporter;
pub mod names;
pub mod record;
