//! What is known now, for the first message of a stream: put together of the state that the pipeline `metrics_now` keeps, whose entries say which message of the stream each was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A message that is kept: its number in the stream, and its data.
#[derive(Deserialize)]
struct Kept<'s> {
    sequence: u64,
    #[serde(borrow)]
    data: &'s RawValue,
}

/// Its number alone.
#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

/// What a reader begins with.
#[derive(Debug, Default, Serialize)]
struct Known<'s> {
    metrics: Option<&'s RawValue>,
    models: BTreeMap<&'s str, &'s RawValue>,
    recent_requests: Vec<&'s RawValue>,
    recent_errors: Vec<&'s RawValue>,
    system: Option<&'s RawValue>,
    rate_limits: BTreeMap<&'s str, &'s RawValue>,
    costs: Option<&'s RawValue>,
    kv_cache: Option<&'s RawValue>,
}

/// The number of the newest message that a state has.
pub(super) fn newest(state: &[u8]) -> Option<u64> {
    let kept: BTreeMap<String, Numbered> = serde_json::from_slice(state).ok()?;
    kept.values().map(|kept| kept.sequence).max()
}

/// All that a state has, as JSON. Requests and errors are the newest first, and only those up to the message `up_to`: the others come by the stream.
pub(super) fn data(state: Option<&[u8]>, up_to: u64) -> String {
    // A state that its pipeline has made is one; one that somebody else has made is nothing to show.
    let kept: BTreeMap<String, Kept<'_>> =
        state.and_then(|state| serde_json::from_slice(state).ok()).unwrap_or_default();
    let (mut known, mut requests, mut errors) = (Known::default(), Vec::new(), Vec::new());
    for (key, Kept { sequence, data }) in &kept {
        let (kind, name) = key.split_once(':').unwrap_or((key, ""));
        match kind {
            "metrics_update" => known.metrics = Some(data),
            "system_update" => known.system = Some(data),
            "cost_update" => known.costs = Some(data),
            "kv_cache_update" => known.kv_cache = Some(data),
            "model_update" => known.models.extend([(name, *data)]),
            "rate_limit_update" => known.rate_limits.extend([(name, *data)]),
            "request_update" if *sequence <= up_to => requests.push((*sequence, *data)),
            "error_update" if *sequence <= up_to => errors.push((*sequence, *data)),
            _ => {}
        }
    }
    for (list, mut found) in [(&mut known.recent_requests, requests), (&mut known.recent_errors, errors)] {
        found.sort_unstable_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        list.extend(found.into_iter().map(|(_, data)| data));
    }
    // JSON that was read is written again without a fault.
    serde_json::to_string(&known).unwrap_or_else(|_| "{}".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(state: &Value, up_to: u64) -> Value {
        serde_json::from_str(&data(Some(state.to_string().as_bytes()), up_to)).unwrap()
    }

    #[test]
    fn each_message_that_is_kept_has_its_place() {
        let kept = |sequence: u64| json!({ "sequence": sequence, "data": { "n": sequence } });
        let state = json!({
            "metrics_update": kept(9), "system_update": kept(1), "cost_update": kept(2), "kv_cache_update": kept(3),
            "model_update:meta/llama:70b \"x\"": kept(4), "rate_limit_update:/v1/chat": kept(5),
            "request_update:99": kept(6), "request_update:0": kept(7), "request_update:1": kept(8), "error_update:0": kept(10), "odd": kept(11),
        });
        assert_eq!(newest(state.to_string().as_bytes()), Some(11));
        let expected = json!({
            "metrics": { "n": 9 }, "models": { "meta/llama:70b \"x\"": { "n": 4 } },
            "recent_requests": [{ "n": 7 }, { "n": 6 }], "recent_errors": [],
            "system": { "n": 1 }, "rate_limits": { "/v1/chat": { "n": 5 } }, "costs": { "n": 2 }, "kv_cache": { "n": 3 },
        });
        assert_eq!(
            read(&state, 7),
            expected,
            "what is newer comes by the stream; the newest figures are there whichever"
        );
    }

    #[test]
    fn where_nothing_is_kept_all_is_empty_and_nothing_is_missing() {
        let nothing = json!({
            "metrics": null, "models": {}, "recent_requests": [], "recent_errors": [], "system": null, "rate_limits": {}, "costs": null, "kv_cache": null,
        });
        assert_eq!(serde_json::from_str::<Value>(&data(None, 5)).unwrap(), nothing);
        assert_eq!((read(&json!({}), 5), newest(b"{}"), newest(b"[]")), (nothing.clone(), None, None));
        assert_eq!(read(&json!({ "metrics_update": 7 }), 5), nothing);
    }
}
