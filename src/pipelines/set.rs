//! All pipelines together: those in the binary, those in the directory of the settings, which take the place of one of the same name; and whether they go round in circles.

use std::collections::BTreeMap;
use std::path::Path;

use super::definition::Definition;
use super::source::Fault;
use super::template::overlap;
use super::values::Values;

/// The longest name of a pipeline.
const NAME_MAX: usize = 60;
/// Cases stand beside a pipeline under this ending; see [`super::cases`].
pub const CASES: &str = ".test.toml";

/// The pipelines in the binary.
pub const EMBEDDED: &[(&str, &str)] = &[
    ("host_alarms", include_str!("../../config/pipelines/host_alarms.toml")),
    ("host_windows", include_str!("../../config/pipelines/host_windows.toml")),
    ("metrics_costs", include_str!("../../config/pipelines/metrics_costs.toml")),
    ("metrics_models", include_str!("../../config/pipelines/metrics_models.toml")),
    ("metrics_now", include_str!("../../config/pipelines/metrics_now.toml")),
    ("metrics_reports", include_str!("../../config/pipelines/metrics_reports.toml")),
    ("metrics_requests", include_str!("../../config/pipelines/metrics_requests.toml")),
    ("metrics_totals", include_str!("../../config/pipelines/metrics_totals.toml")),
    ("overview_anomalies", include_str!("../../config/pipelines/overview_anomalies.toml")),
    ("overview_metrics", include_str!("../../config/pipelines/overview_metrics.toml")),
    ("overview_patterns", include_str!("../../config/pipelines/overview_patterns.toml")),
    ("overview_projects", include_str!("../../config/pipelines/overview_projects.toml")),
    ("overview_telemetry", include_str!("../../config/pipelines/overview_telemetry.toml")),
    ("overview_updates", include_str!("../../config/pipelines/overview_updates.toml")),
    ("wells_alerts", include_str!("../../config/pipelines/wells_alerts.toml")),
    ("wells_diagnostics", include_str!("../../config/pipelines/wells_diagnostics.toml")),
];

/// The pipelines' files: those in the directory, and those in the binary of which the directory has none. `needed` where a directory that is not there is a fault, `embedded`
/// whether one in the binary is wanted, `values` are the settings that they may name.
///
/// # Errors
/// Every fault at once.
pub fn load(
    directory: Option<&Path>,
    needed: bool,
    embedded: impl Fn(&str) -> bool,
    values: Option<&Values>,
) -> Result<Vec<Definition>, Vec<Fault>> {
    let (mut texts, mut faults) = (BTreeMap::new(), Vec::new());
    for (name, text) in EMBEDDED.iter().filter(|(name, _)| embedded(name)) {
        texts.insert((*name).to_owned(), (format!("{name}.toml (in the program)"), (*text).to_owned(), None));
    }
    match directory.map(std::fs::read_dir) {
        Some(Ok(entries)) => {
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                let Some(name) = name.strip_suffix(".toml").filter(|_| !name.ends_with(CASES)) else { continue };
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        let beside = path.parent().map(Path::to_owned);
                        texts.insert(name.to_owned(), (path.display().to_string(), text, beside));
                    }
                    Err(error) => faults.push(whole(&path, format!("cannot be read: {error}"))),
                }
            }
        }
        Some(Err(error)) if needed => {
            let path = directory.unwrap_or(Path::new(""));
            faults.push(whole(path, format!("pipelines.dir cannot be read: {error}")));
        }
        _ => {}
    }
    let mut pipelines = Vec::new();
    for (name, (file, text, beside)) in &texts {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
            let message = format!("a pipeline's name has 1 to {NAME_MAX} letters, digits, _ and -");
            faults.push(Fault { file: file.clone(), line: 1, column: 1, message });
            continue;
        }
        match Definition::read_with(name, file, text, beside.as_deref(), values) {
            Ok(definition) if definition.enabled => pipelines.push(definition),
            Ok(_) => {}
            Err(more) => faults.extend(more),
        }
    }
    faults.extend(circles(&pipelines));
    faults.extend(shared_states(&pipelines));
    if faults.is_empty() { Ok(pipelines) } else { Err(faults) }
}

/// A fault of a file as a whole.
fn whole(path: &Path, message: String) -> Fault {
    Fault { file: path.display().to_string(), line: 1, column: 1, message }
}

/// Pipelines whose events come back to them, by one room or by several pipelines: each such circle once.
#[must_use]
pub fn circles(pipelines: &[Definition]) -> Vec<Fault> {
    let feeds = |from: &Definition, to: &Definition| from.to.iter().find(|out| to.takes(out)).map(ToString::to_string);
    let edges: Vec<Vec<(usize, String)>> = pipelines
        .iter()
        .map(|from| pipelines.iter().enumerate().filter_map(|(at, to)| Some((at, feeds(from, to)?))).collect())
        .collect();
    let mut faults = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for start in 0..pipelines.len() {
        let Some(round) = way_back(start, &edges) else { continue };
        let mut members: Vec<usize> = round.iter().map(|(at, _)| *at).collect();
        members.sort_unstable();
        if !seen.insert(members) {
            continue;
        }
        let mut words = format!("pipeline {}", pipelines[start].name);
        for (at, room) in &round {
            words.push_str(&format!(" → {room} → pipeline {}", pipelines[*at].name));
        }
        let message = format!("its events come back to it: {words}; a pipeline must not feed itself");
        faults.push(Fault { file: pipelines[start].file.clone(), line: 1, column: 1, message });
    }
    faults
}

/// The shortest way from a pipeline back to itself.
fn way_back(start: usize, edges: &[Vec<(usize, String)>]) -> Option<Vec<(usize, String)>> {
    let mut ways = std::collections::VecDeque::from([Vec::<(usize, String)>::new()]);
    let mut seen = vec![false; edges.len()];
    while let Some(way) = ways.pop_front() {
        let at = way.last().map_or(start, |(at, _)| *at);
        for (next, room) in &edges[at] {
            let mut longer = way.clone();
            longer.push((*next, room.clone()));
            if *next == start {
                return Some(longer);
            }
            if !std::mem::replace(&mut seen[*next], true) {
                ways.push_back(longer);
            }
        }
    }
    None
}

/// Rooms whose state two pipelines would keep.
fn shared_states(pipelines: &[Definition]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (at, one) in pipelines.iter().enumerate() {
        for other in &pipelines[..at] {
            let both = one.states.iter().find(|room| other.states.iter().any(|other| overlap(room, other)));
            if let Some(room) = both {
                let message = format!("the state of {room} is kept by pipeline {} already", other.name);
                faults.push(Fault { file: one.file.clone(), line: 1, column: 1, message });
            }
        }
    }
    faults
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn pipeline(name: &str, from: &str, to: &str) -> Definition {
        let text = format!("[pipeline]\nfrom = \"{from}\"\ndead_letter = \"\"\n[[output]]\nroom = \"{to}\"\n");
        Definition::read(name, name, &text, None).unwrap()
    }

    #[test]
    fn a_circle_is_found_however_long_it_is_and_told_once() {
        let straight = [pipeline("a", "in:*", "b:{kind}"), pipeline("b", "b:*", "c"), pipeline("c", "c", "d")];
        assert_eq!(circles(&straight), []);
        assert!(circles(&[pipeline("a", "x:*", "x:{kind}")])[0].message.contains("pipeline a → x:* → pipeline a"));
        let round = [pipeline("a", "in:*", "b:{kind}"), pipeline("b", "b:*", "c"), pipeline("c", "c", "in:{kind}")];
        let faults = circles(&round);
        assert_eq!(faults.len(), 1);
        assert!(
            faults[0].message.contains("a → b:* → pipeline b → c → pipeline c → in:* → pipeline a"),
            "{}",
            faults[0].message
        );
    }

    #[test]
    fn kinds_that_never_come_out_make_no_circle() {
        let read = |kinds: &str, output: &str| {
            let text = format!(
                "[pipeline]\nfrom = \"x:*\"\ndead_letter = \"\"\n{kinds}\n[[output]]\nroom = \"x:{{key}}\"\n{output}\n"
            );
            Definition::read("a", "a", &text, None)
        };
        let is_circle = |kinds: &str, output: &str| !circles(&[read(kinds, output).unwrap()]).is_empty();
        let kinds = "kinds = [\"sample\", \"other\"]";
        assert!(!is_circle(kinds, "kind = \"alert\""));
        assert!(!is_circle(kinds, "state = true"), "changes of a state are of the kind delta");
        assert!(is_circle("", "kind = \"alert\"") && is_circle(kinds, "kind = \"other\""));
        assert!(is_circle(kinds, "") && is_circle(kinds, "kind = \"{key}\""), "what its kind is nobody knows");
        assert!(is_circle("kinds = \"delta\"", "state = true"));
        let except = "except_kinds = \"alert\"";
        assert!(
            !is_circle(except, "kind = \"alert\"") && is_circle(except, "kind = \"other\"") && is_circle(except, "")
        );
        let narrow = |name: &str, kinds: &str, kind: &str| {
            let text = format!(
                "[pipeline]\nfrom = \"x\"\ndead_letter = \"\"\nkinds = \"{kinds}\"\n[[output]]\nroom = \"x\"\nkind = \"{kind}\"\n"
            );
            Definition::read(name, name, &text, None).unwrap()
        };
        assert_eq!(circles(&[narrow("a", "1", "2"), narrow("b", "2", "3")]), []);
        assert_eq!(circles(&[narrow("a", "1", "2"), narrow("b", "2", "1")]).len(), 1, "also by way of another");
        for wrong in ["kinds = []", "kinds = \"\"", "kinds = 7", "except_kinds = []"] {
            assert!(read(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_pipelines_in_the_binary_are_in_order() {
        assert_eq!(load(None, false, |_| true, None).map(|all| all.len()).unwrap_or(0), EMBEDDED.len());
    }

    #[test]
    fn a_file_takes_the_place_of_the_one_in_the_binary_and_faults_have_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let name = EMBEDDED[0].0;
        std::fs::write(
            dir.path().join(format!("{name}.toml")),
            "[pipeline]\nfrom = \"x\"\nenabled = false\n[[output]]\nroom=\"y\"",
        )
        .unwrap();
        let loaded = load(Some(dir.path()), true, |_| true, None).unwrap();
        assert!(loaded.len() == EMBEDDED.len() - 1 && loaded.iter().all(|one| one.name != name));
        std::fs::write(
            dir.path().join("bad.toml"),
            "[pipeline]\nfrom = \"x\"\n[[step]]\nop = \"filter\"\nwher = \"true\"\n",
        )
        .unwrap();
        let faults = load(Some(dir.path()), true, |_| false, None).unwrap_err();
        let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(
            text.contains("bad.toml:5:1: step 1 (filter): there is no setting wher; did you mean where?"),
            "{text}"
        );
        assert!(
            load(Some(&dir.path().join("none")), true, |_| false, None).is_err()
                && load(Some(&dir.path().join("none")), false, |_| false, None).is_ok()
        );
    }
}
