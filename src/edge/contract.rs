//! Reading how a client wants to be served: the same fields on every transport, as query parameters and in `subscribe`.

use std::borrow::Cow;
use std::sync::Arc;

use super::params::Params;
use super::problem::Problem;
use crate::engine::connections::Contract;
use crate::engine::connections::contract::{Filter, KINDS_MAX, Mode, OnSlow, PERIOD_MAX_MS, PERIOD_MIN_MS};
use crate::engine::rooms::StartAt;
use crate::event::parse_priority;
use crate::pipelines::field::{Field, Paths};
use crate::settings::value::parse_time;

/// The names of its fields.
pub(super) const FIELDS: [&str; 9] =
    ["mode", "fn", "period", "every", "field", "filter", "kinds", "priority", "on_slow"];

/// What a client asks for, as it stands there.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    pub(super) mode: Option<Cow<'a, str>>,
    pub(super) function: Option<Cow<'a, str>>,
    pub(super) period: Option<Cow<'a, str>>,
    pub(super) every: Option<Cow<'a, str>>,
    pub(super) field: Option<Cow<'a, str>>,
    pub(super) filter: Option<Cow<'a, str>>,
    pub(super) kinds: Option<Vec<Cow<'a, str>>>,
    pub(super) priority: Option<Cow<'a, str>>,
    pub(super) on_slow: Option<Cow<'a, str>>,
}

impl<'a> Asked<'a> {
    /// What stands in a query.
    pub(super) fn of_query(params: &'a Params<'_>) -> Self {
        let get = |name: &str| params.get(name).map(Cow::Borrowed);
        let kinds = |kinds: &'a str| kinds.split(',').map(str::trim).map(Cow::Borrowed).collect();
        Self {
            mode: get("mode"),
            function: get("fn"),
            period: get("period"),
            every: get("every"),
            field: get("field"),
            filter: get("filter"),
            kinds: params.get("kinds").map(kinds),
            priority: get("priority"),
            on_slow: get("on_slow"),
        }
    }

    /// The contract, `None` if nothing is asked for.
    pub(super) fn contract(&self) -> Result<Option<Arc<Contract>>, Problem> {
        let one = |name: &str, words: String| Problem::parameter(name, format!("expected one of {words}"));
        let (mode_name, mode) = either(("mode", &self.mode), ("fn", &self.function))?;
        let mode = match mode {
            None => Mode::Every,
            Some(text) => named(&Mode::ALL, text).ok_or_else(|| one(mode_name, words(&Mode::ALL)))?,
        };
        let (period_name, period) = either(("period", &self.period), ("every", &self.every))?;
        let period_ms = match period {
            None => 0,
            Some(text) => parse_time(text)
                .and_then(|time| u64::try_from(time.as_millis()).ok())
                .filter(|ms| (PERIOD_MIN_MS..=PERIOD_MAX_MS).contains(ms))
                .ok_or_else(|| Problem::parameter(period_name, "expected a time from 10ms to 24h, such as 2s"))?,
        };
        let made = matches!(mode, Mode::Made(_));
        if made && period_ms == 0 {
            let detail = format!("{} is made of the events of a period: say which, such as period=10s", mode.name());
            return Err(Problem::parameter(mode_name, detail));
        }
        if self.field.is_some() && !made {
            return Err(Problem::parameter("field", "only mean, min, max and last are made of a field"));
        }
        let field = match &self.field {
            None => None,
            Some(text) => match Paths::default().field(text) {
                Ok(field @ Field::Data(_)) => Some(field),
                Ok(_) => return Err(Problem::parameter("field", "expected a field of the data, such as data.usage")),
                Err(error) => return Err(Problem::parameter("field", error)),
            },
        };
        let filter = self.filter.as_deref().map(Filter::of).transpose();
        let filter = filter.map_err(|error| Problem::parameter("filter", error))?;
        let kinds = self.kinds.iter().flatten().map(|kind| (&**kind).into()).collect::<smallvec::SmallVec<_>>();
        if kinds.len() > KINDS_MAX || kinds.iter().any(smol_str::SmolStr::is_empty) {
            let detail = format!("expected at most {KINDS_MAX} kinds, none of them empty");
            return Err(Problem::parameter("kinds", detail));
        }
        let priority = self
            .priority
            .as_deref()
            .map(|text| parse_priority(text).ok_or_else(|| one("priority", "critical, high, normal, low".to_owned())));
        let on_slow = self
            .on_slow
            .as_deref()
            .map(|text| named(&OnSlow::ALL, text).ok_or_else(|| one("on_slow", words(&OnSlow::ALL))));
        let (priority, on_slow) = (priority.transpose()?, on_slow.transpose()?);
        let contract = Contract { mode, field, period_ms, filter, kinds, priority, on_slow, ..Contract::default() };
        Ok((contract != Contract::default()).then(|| Arc::new(contract)))
    }
}

/// Where to begin, by the contract: what is made of whole periods begins with a whole one.
pub(super) fn aligned(start: StartAt, contract: Option<&Contract>) -> StartAt {
    match (start, contract) {
        (StartAt::Since(ms), Some(contract)) if matches!(contract.mode, Mode::Made(_)) => {
            StartAt::Since(ms - ms % contract.period_ms)
        }
        (start, _) => start,
    }
}

/// One of two names for the same thing.
fn either<'a>(
    one: (&'static str, &'a Option<Cow<'_, str>>),
    other: (&'static str, &'a Option<Cow<'_, str>>),
) -> Result<(&'static str, Option<&'a str>), Problem> {
    match (one.1.as_deref(), other.1.as_deref()) {
        (Some(_), Some(_)) => Err(Problem::parameter(other.0, format!("{} says the same; give one of the two", one.0))),
        (None, Some(text)) => Ok((other.0, Some(text))),
        (text, None) => Ok((one.0, text)),
    }
}

fn named<T: Copy>(all: &[(&str, T)], text: &str) -> Option<T> {
    all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

fn words<T>(all: &[(&str, T)]) -> String {
    all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
