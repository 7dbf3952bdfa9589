//! Which part of an event a setting means, and how it is read without parsing the rest.
//!
//! A pipeline's settings name fields. When it is compiled they are entered in [`Paths`], each with a slot; an event's data is then read once, and only what stands in a slot is
//! kept ([`Extractor`]). Data that an operator has made is a tree, in which the same path is walked.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::json;

/// The deepest path, in names.
const DEPTH_MAX: usize = 16;
/// The longest path as text, in bytes.
const PATH_BYTES: usize = 400;

/// A part of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Its room.
    Room,
    /// Its number.
    Seq,
    /// Its kind.
    Kind,
    /// Its key.
    Key,
    /// Its priority, as a word.
    Priority,
    /// When it happened, in milliseconds since 1970.
    Timestamp,
    /// When it arrived, in milliseconds since 1970; in expressions only.
    Arrived,
    /// A part of its data.
    Data(Path),
}

/// Where in an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Names from the outside in; of a list, positions. Empty for all of the data.
    pub names: SmallVec<[SmolStr; 2]>,
    /// Where its value is kept when an event's data is read.
    pub(super) slot: usize,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room => f.write_str("room"),
            Self::Seq => f.write_str("seq"),
            Self::Kind => f.write_str("kind"),
            Self::Key => f.write_str("key"),
            Self::Priority => f.write_str("priority"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Arrived => f.write_str("arrived"),
            Self::Data(path) => path.fmt(f),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("data")?;
        self.names.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

/// The paths that a pipeline reads, each with its slot.
#[derive(Debug, Clone, Default)]
pub struct Paths(Vec<SmallVec<[SmolStr; 2]>>);

impl Paths {
    /// Reads a field's name: `kind`, `key`, `room`, `seq`, `priority`, `timestamp` are the event's own, everything else is in its data, with or without `data.` before it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn field(&mut self, text: &str) -> Result<Field, String> {
        Ok(match text {
            "room" => Field::Room,
            "seq" => Field::Seq,
            "kind" => Field::Kind,
            "key" => Field::Key,
            "priority" => Field::Priority,
            "timestamp" => Field::Timestamp,
            "data" => Field::Data(self.path(SmallVec::new())),
            text => {
                let inside = text.strip_prefix("data.").unwrap_or(text);
                let names: SmallVec<[SmolStr; 2]> = inside.split('.').map(SmolStr::from).collect();
                if text.len() > PATH_BYTES || names.len() > DEPTH_MAX || names.iter().any(|name| name.is_empty()) {
                    return Err(format!(
                        "{text:?} is no field: expected names with dots between, such as usage or disk.free"
                    ));
                }
                Field::Data(self.path(names))
            }
        })
    }

    /// The path of these names.
    pub fn path(&mut self, names: SmallVec<[SmolStr; 2]>) -> Path {
        let slot = self.0.iter().position(|other| *other == names).unwrap_or_else(|| {
            self.0.push(names.clone());
            self.0.len() - 1
        });
        Path { names, slot }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What reads them all at once.
    #[must_use]
    pub fn extractor(&self) -> Extractor {
        let mut root = Node::default();
        for (slot, names) in self.0.iter().enumerate() {
            let mut node = &mut root;
            for name in names {
                let at = node.children.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
                    node.children.push((name.clone(), Node::default()));
                    node.children.len() - 1
                });
                node = &mut node.children[at].1;
            }
            node.slot = Some(slot);
        }
        Extractor { root, slots: self.0.len() }
    }
}

/// A value read from an event's data.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Scalar {
    /// There is none.
    #[default]
    Missing,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; beyond 2^53 the nearest there is.
    Number(f64),
    /// Text.
    Text(SmolStr),
    /// A list or an object.
    Tree(Box<Value>),
}

/// The slots of one event.
pub type Slots = SmallVec<[Scalar; 4]>;

#[derive(Debug, Clone, Default)]
struct Node {
    slot: Option<usize>,
    children: Vec<(SmolStr, Node)>,
}

/// Reads all wanted fields of an event's data in one pass.
#[derive(Debug, Clone, Default)]
pub struct Extractor {
    root: Node,
    slots: usize,
}

impl Extractor {
    /// The wanted fields of `json`. What is no JSON has none.
    #[must_use]
    pub fn extract(&self, json: &[u8]) -> Slots {
        let mut slots = Slots::new();
        if self.slots == 0 {
            return slots;
        }
        slots.resize(self.slots, Scalar::Missing);
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        // How deep data may be was decided when it came in.
        deserializer.disable_recursion_limit();
        // Data was checked when it came in; only a number beyond all numbers stops it here.
        if (Seed { node: &self.root, slots: &mut slots }).deserialize(&mut deserializer).is_err() {
            let tamed = json::tamed(json);
            let mut deserializer = serde_json::Deserializer::from_slice(&tamed);
            deserializer.disable_recursion_limit();
            let _ = Seed { node: &self.root, slots: &mut slots }.deserialize(&mut deserializer);
        }
        slots
    }
}

/// Takes a value of a tree, as it would have been read.
fn scalar_of(value: &Value) -> Scalar {
    match value {
        Value::Null => Scalar::Null,
        Value::Bool(flag) => Scalar::Bool(*flag),
        Value::Number(number) => Scalar::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Scalar::Text(text.as_str().into()),
        tree => Scalar::Tree(Box::new(tree.clone())),
    }
}

fn fill(node: &Node, value: &Value, slots: &mut Slots) {
    if let Some(slot) = node.slot {
        slots[slot] = scalar_of(value);
    }
    for (name, child) in &node.children {
        if let Some(inside) = step_into(value, name) {
            fill(child, inside, slots);
        }
    }
}

/// What lies under a name of an object, or at a position of a list.
#[must_use]
pub fn step_into<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    }
}

struct Seed<'n, 's> {
    node: &'n Node,
    slots: &'s mut Slots,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_, '_> {
    fn put(self, scalar: Scalar) {
        if let Some(slot) = self.node.slot {
            self.slots[slot] = scalar;
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.put(Scalar::Null);
        Ok(())
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        self.put(Scalar::Bool(flag));
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "numbers are as JavaScript has them")]
    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.put(Scalar::Number(number as f64));
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "numbers are as JavaScript has them")]
    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.put(Scalar::Number(number as f64));
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.put(Scalar::Number(number));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.put(Scalar::Text(text.into()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.node.slot.is_some() {
            let mut list = Vec::new();
            while let Some(item) = items.next_element::<Value>()? {
                list.push(item);
            }
            fill(self.node, &Value::Array(list), self.slots);
            return Ok(());
        }
        let mut at = 0_usize;
        loop {
            let child = self.node.children.iter().find(|(name, _)| name.parse() == Ok(at));
            let more = match child {
                Some((_, node)) => items.next_element_seed(Seed { node, slots: self.slots })?.is_some(),
                None => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        if self.node.slot.is_some() {
            let mut object = serde_json::Map::new();
            while let Some((name, value)) = fields.next_entry::<String, Value>()? {
                object.insert(name, value);
            }
            fill(self.node, &Value::Object(object), self.slots);
            return Ok(());
        }
        while let Some(child) = fields.next_key_seed(Name(self.node))? {
            match child {
                Some(node) => fields.next_value_seed(Seed { node, slots: self.slots })?,
                None => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Finds the node that a field's name leads to.
struct Name<'n>(&'n Node);

impl<'de, 'n> DeserializeSeed<'de> for Name<'n> {
    type Value = Option<&'n Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for Name<'n> {
    type Value = Option<&'n Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|(other, _)| other == name).map(|(_, node)| node))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(fields: &[&str], json: &str) -> Vec<Scalar> {
        let mut paths = Paths::default();
        fields.iter().for_each(|field| drop(paths.field(field).unwrap()));
        paths.extractor().extract(json.as_bytes()).into_vec()
    }

    #[test]
    fn what_is_wanted_is_read_and_what_is_not_there_is_missing() {
        let json = r#"{"a":1,"b":{"c":"x","d":[1,{"e":true}]},"n":null,"z":2.5}"#;
        let found = read(&["a", "b.c", "b.d.1.e", "n", "data.z", "q", "a.b"], json);
        let number = Scalar::Number;
        // `a` is wanted whole and looked into: it is a number, so there is nothing in it.
        assert_eq!(
            found,
            [
                number(1.0),
                Scalar::Text("x".into()),
                Scalar::Bool(true),
                Scalar::Null,
                number(2.5),
                Scalar::Missing,
                Scalar::Missing
            ]
        );
    }

    #[test]
    fn data_that_is_one_number_is_the_field_data() {
        assert_eq!(read(&["data"], "7"), [Scalar::Number(7.0)]);
    }

    #[test]
    fn a_path_that_cannot_be_is_refused() {
        for wrong in ["", "a..b", ".a", "a.", &"x.".repeat(20)] {
            assert!(Paths::default().field(wrong).is_err(), "{wrong}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            (-1.0e6..1.0e6_f64).prop_map(Value::from),
            "[ -~]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reading_in_one_pass_finds_what_a_walk_through_the_tree_finds(value in json(), paths in proptest::collection::vec("[abc01](\\.[abc01]){0,3}", 1..6)) {
            let mut wanted = Paths::default();
            let fields: Vec<Field> = paths.iter().map(|path| wanted.field(path).unwrap()).collect();
            let slots = wanted.extractor().extract(value.to_string().as_bytes());
            for field in fields {
                let Field::Data(path) = field else { unreachable!() };
                let walked = path.names.iter().try_fold(&value, |value, name| step_into(value, name));
                prop_assert_eq!(&slots[path.slot], &walked.map_or(Scalar::Missing, scalar_of));
            }
        }
    }
}
