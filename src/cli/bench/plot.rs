//! `tidegate bench plot`: from what `goals` has written with its sweeps, latency against load and memory against connections, as SVG.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::chart::{Axis, Chart, Scale, Series};

/// What is plotted, and where to.
#[derive(Debug, Args)]
pub(super) struct PlotArguments {
    /// What `bench goals --only sweep-latency,sweep-memory --out FILE` has written; of a later file is what is in several
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The directory for the pictures
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

/// Runs the command; which files it has written.
///
/// # Errors
/// When a file cannot be read or written, or has no sweeps in it.
pub(super) fn run(arguments: &PlotArguments) -> anyhow::Result<Vec<PathBuf>> {
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))
    };
    let documents = arguments.files.iter().map(read).collect::<anyhow::Result<Vec<Value>>>()?;
    write(&documents, &arguments.out)
}

/// Writes the pictures that there are figures for.
///
/// # Errors
/// When there are none at all, or a file cannot be written.
pub(super) fn write(documents: &[Value], directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
    let mut written = Vec::new();
    for (name, chart) in charts(documents) {
        let Some(svg) = chart.svg() else { continue };
        let file = directory.join(format!("{name}.svg"));
        fs::write(&file, svg).with_context(|| format!("{}", file.display()))?;
        written.push(file);
    }
    if written.is_empty() {
        bail!("nothing to plot: no sweeps were measured");
    }
    Ok(written)
}

fn charts(documents: &[Value]) -> [(&'static str, Chart); 4] {
    let readers = swept(documents, "latency").find_map(|line| line["readers"].as_u64()).unwrap_or_default();
    let latency = |quantile: &str, key: &str| Chart {
        title: format!("Latency against load: {quantile}, one room with {readers} WebSockets"),
        x: Axis { label: "deliveries a second that were asked for".to_owned(), scale: Scale::Log },
        y: Axis { label: format!("{quantile} from the moment an event was due, ms"), scale: Scale::Log },
        series: series(documents, "latency", |_| true, "asked_per_second", key, 1.0),
    };
    let memory = |name: &str, transport: &'static str| {
        let of = move |line: &Value| line["transport"] == transport;
        Chart {
            title: format!("Memory against connections: {name}, idle"),
            x: Axis { label: "connections".to_owned(), scale: Scale::Linear },
            y: Axis { label: "resident memory more than without connections, MiB".to_owned(), scale: Scale::Linear },
            series: series(documents, "memory", of, "connections", "bytes", 1_048_576.0),
        }
    };
    [
        ("latency-p50", latency("p50", "p50_ms")),
        ("latency-p99", latency("p99", "p99_ms")),
        ("memory-websocket", memory("WebSocket", "websocket")),
        ("memory-sse", memory("SSE", "sse")),
    ]
}

/// All lines of a sweep, in all documents.
fn swept<'d>(documents: &'d [Value], sweep: &'static str) -> impl Iterator<Item = &'d Value> {
    documents.iter().filter_map(move |document| document["sweeps"][sweep].as_array()).flatten()
}

/// Who is in any sweep, in the order in which they are first named.
fn subjects(documents: &[Value]) -> Vec<&str> {
    let mut names = Vec::new();
    for line in ["latency", "memory"].into_iter().flat_map(|sweep| swept(documents, sweep)) {
        names.extend(line["subject"].as_str().filter(|name| !names.contains(name)));
    }
    names
}

/// The lines of a sweep, each subject once.
fn series(
    documents: &[Value],
    sweep: &'static str,
    wanted: impl Fn(&Value) -> bool,
    x: &str,
    y: &str,
    unit: f64,
) -> Vec<Series> {
    let series = subjects(documents).into_iter().enumerate().filter_map(|(look, name)| {
        let line = swept(documents, sweep).filter(|line| line["subject"] == name && wanted(line)).last()?;
        let point = |point: &Value| Some((point[x].as_f64()?, point[y].as_f64()? / unit));
        let points = line["points"].as_array()?.iter().filter_map(point).collect();
        Some(Series { name: name.to_owned(), look, points })
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(subject: &str, p99_ms: f64) -> Value {
        let points =
            [10_000.0, 20_000.0].map(|asked| json!({ "asked_per_second": asked, "p50_ms": 1.0, "p99_ms": p99_ms }));
        let memory = |transport: &str| json!({ "subject": subject, "transport": transport, "points": [{ "connections": 1000, "bytes": 5_242_880 }] });
        json!({ "sweeps": {
            "latency": [{ "subject": subject, "readers": 7, "points": points }],
            "memory": [memory("websocket"), memory("sse")],
        } })
    }

    #[test]
    fn each_sweep_becomes_its_pictures() {
        let directory = tempfile::tempdir().unwrap();
        let written = write(&[document("tidegate", 3.0), document("floor", 2.0)], directory.path()).unwrap();
        assert!(fs::read_to_string(&written[0]).unwrap().contains("one room with 7 WebSockets"));
        let names: Vec<_> = written.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["latency-p50.svg", "latency-p99.svg", "memory-websocket.svg", "memory-sse.svg"]);
        for file in written {
            let svg = fs::read_to_string(&file).unwrap();
            assert!(svg.contains("tidegate</text>") && svg.contains("floor</text>"), "{}", file.display());
        }
    }

    #[test]
    fn a_later_file_replaces_what_an_earlier_one_says() {
        let all = series(
            &[document("a", 3.0), document("b", 4.0), document("a", 5.0)],
            "latency",
            |_| true,
            "asked_per_second",
            "p99_ms",
            1.0,
        );
        let read: Vec<_> = all.iter().map(|series| (series.name.as_str(), series.points[0].1)).collect();
        assert_eq!(read, [("a", 5.0), ("b", 4.0)]);
    }

    #[test]
    fn a_subject_looks_the_same_in_every_picture() {
        let mut beside = document("b", 2.0);
        // It has no latency, so in that picture there is one line less.
        beside["sweeps"]["latency"] = json!([]);
        let [(_, latency), .., (_, memory)] = charts(&[document("a", 1.0), beside, document("c", 3.0)]);
        let looks =
            |chart: &Chart| chart.series.iter().map(|series| (series.name.clone(), series.look)).collect::<Vec<_>>();
        let named =
            |names: &[(&str, usize)]| names.iter().map(|(name, look)| ((*name).to_owned(), *look)).collect::<Vec<_>>();
        assert_eq!(looks(&latency), named(&[("a", 0), ("c", 1)]));
        assert_eq!(looks(&memory), named(&[("a", 0), ("c", 1), ("b", 2)]));
    }

    #[test]
    fn memory_is_told_by_transport_and_in_mebibytes() {
        let [.., (_, chart), _] = charts(&[document("a", 1.0)]);
        assert_eq!(chart.series.len(), 1);
        assert_eq!(chart.series[0].points, [(1000.0, 5.0)]);
    }

    #[test]
    fn nothing_measured_is_said() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write(&[json!({ "rows": [] })], directory.path()).is_err());
    }
}
