//! Reading the settings again while the daemon runs: what has changed, what of it takes effect at once, and what waits for a restart.

use super::load::Values;
use super::{Faults, Settings, Sources, schema};

/// The settings read again.
#[derive(Debug)]
pub struct Reloaded {
    /// The settings as they hold from now on: what cannot change while the daemon runs is as it was.
    pub settings: Settings,
    /// Keys whose new values hold now.
    pub changed: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub waiting: Vec<String>,
}

/// Remembers what the daemon runs with, so that it can be compared with what the sources say later.
#[derive(Debug, Clone)]
pub struct Running {
    sources: Sources,
    values: Values,
}

impl Running {
    /// The settings that the daemon starts with, and what is needed to read them again.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn load(sources: Sources) -> Result<(Self, Settings), Faults> {
        let (values, mut faults) = sources.gather();
        match Settings::from_values(&values, &mut faults) {
            Some(settings) if faults.is_empty() => Ok((Self { sources, values }, settings)),
            _ => Err(Faults(faults)),
        }
    }

    /// Reads the file again; the environment and the flags of a process do not change.
    ///
    /// # Errors
    /// Every fault at once; everything is as it was then.
    pub fn reload(&mut self) -> Result<Reloaded, Faults> {
        let (fresh, mut faults) = self.sources.gather();
        // The new settings are checked as a whole, also where they wait.
        let whole = Settings::from_values(&fresh, &mut faults);
        if whole.is_none() || !faults.is_empty() {
            return Err(Faults(faults));
        }
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        for key in self.values.differences(&fresh) {
            if schema::is_live(&key) { changed.push(key) } else { waiting.push(key) }
        }
        let mixed = self.values.with(&fresh, &changed);
        match Settings::from_values(&mixed, &mut faults) {
            Some(settings) if faults.is_empty() => {
                self.values = mixed;
                Ok(Reloaded { settings, changed, waiting })
            }
            _ => Err(Faults(faults)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_changes_and_what_cannot_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        std::fs::write(&file, "[limits]\nbody_events = 10\n[log]\nreaders = 2\n[auth]\napi_keys = [\"a:b\"]").unwrap();
        let (mut running, before) = Running::load(Sources { file: Some(file.clone()), ..Sources::default() }).unwrap();
        assert_eq!(before.limits.body_events, 10);
        std::fs::write(&file, "[limits]\nbody_events = 20\n[log]\nreaders = 9\n[auth.roles.crew]\nrooms = [\"*\"]")
            .unwrap();
        let now = running.reload().unwrap();
        assert_eq!((now.settings.limits.body_events, now.settings.log.readers), (20, 2));
        assert_eq!(now.changed, ["auth.api_keys", "auth.roles.crew.rooms", "limits.body_events"]);
        assert_eq!(now.waiting, ["log.readers"]);
        assert!(now.settings.auth.roles.contains_key("crew") && now.settings.auth.api_keys.is_empty());
        std::fs::write(&file, "[limits]\nbody_events = 0").unwrap();
        assert!(running.reload().unwrap_err().to_string().contains("limits.body_events"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(running.reload().unwrap().settings.limits.body_events, 50_000, "back to the default");
    }
}
