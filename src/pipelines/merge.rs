//! JSON merge patches (RFC 7396): what changes one JSON value into another, said as JSON.
//!
//! Of an object a patch names only the members that change, and `null` takes a member away; anything else stands for itself whole. So a patch cannot give a member the value `null`: where
//! values are compared, a member that is `null` counts as not there ([`without_nulls`]). Inside lists, which a patch replaces whole, `null` is a value like any other.

use serde_json::{Map, Value};

/// Applies a patch, as RFC 7396, section 2, says.
pub fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            apply(members.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

/// The patch that makes `to` of `from`; `None` if there is nothing to change. Members of `to` that are `null` count as not there.
#[must_use]
pub fn diff(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        return (from != to).then(|| without_nulls(to.clone()));
    };
    let gone = old.keys().filter(|name| new.get(*name).is_none_or(Value::is_null));
    let mut patch: Map<String, Value> = gone.map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in new.iter().filter(|(_, value)| !value.is_null()) {
        let change = match old.get(name) {
            Some(before) => diff(before, value),
            None => Some(without_nulls(value.clone())),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// The value without the members of objects that are `null`, however deep; lists stay as they are.
#[must_use]
pub fn without_nulls(mut value: Value) -> Value {
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| {
            strip(member);
            !member.is_null()
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Any JSON, of few different values, so that parts of it are often the same.
    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3_i32).prop_map(Value::from),
            (-1.0e6..1.0e6_f64).prop_map(Value::from),
            "[xy]{0,1}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// An object of such.
    pub(crate) fn any_object() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[abc]", any_json(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    #[test]
    fn the_examples_of_rfc_7396_appendix_a_come_out_as_it_says() {
        let examples = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in examples {
            apply(&mut target, &patch);
            assert_eq!(target, expected, "by {patch}");
        }
    }

    #[test]
    fn a_patch_names_only_what_changes() {
        let from = json!({"same": {"x": 1}, "in": {"a": 1, "b": 2}, "gone": 1, "list": [1, null]});
        let to = json!({"same": {"x": 1}, "in": {"a": 1, "b": 3}, "new": {"n": null}, "list": [1, null, 2]});
        let patch = json!({"in": {"b": 3}, "gone": null, "new": {}, "list": [1, null, 2]});
        assert_eq!(diff(&from, &to), Some(patch));
        assert_eq!(diff(&without_nulls(to.clone()), &to), None);
        assert_eq!(diff(&json!({"a": 1}), &json!({"a": 1, "b": null})), None, "null is as good as nothing");
        assert_eq!(diff(&json!(1), &json!(1)), None);
    }

    proptest! {
        #[test]
        fn what_was_found_different_makes_the_one_the_other(from in any_json(), to in any_json()) {
            let mut target = from.clone();
            if let Some(patch) = diff(&from, &to) {
                apply(&mut target, &patch);
            }
            prop_assert_eq!(target, without_nulls(to));
        }

        #[test]
        fn without_nulls_is_what_the_rfc_makes_of_a_value_put_into_nothing(value in any_json()) {
            let mut target = Value::Null;
            apply(&mut target, &value);
            prop_assert_eq!(without_nulls(value), target);
        }

        #[test]
        fn nothing_is_found_different_exactly_where_nothing_is(from in any_object(), to in any_object()) {
            let (from, to) = (without_nulls(from), without_nulls(to));
            prop_assert_eq!(diff(&from, &to).is_none(), from == to);
        }
    }
}
