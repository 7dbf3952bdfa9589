//! Whole lists and objects: what is in them, whether two are the same, and how a value becomes JSON. What they cost is paid from the same budget.

use serde_json::Value as Json;

use super::Failure;
use super::evaluate::Run;
use super::node::Node;
use super::value::{Kind, SIZED, TEXT, Value};
use crate::pipelines::record::number_value;

impl<'a> Run<'a> {
    /// Whether an element is in a list, a name in an object, a text in a text.
    pub(super) fn within(&mut self, item: &'a Node, of: &'a Node) -> Result<bool, Box<Failure>> {
        let value = self.eval(item)?;
        if let Node::List(choices) = of {
            // A list that is written out need not be made for this.
            for choice in choices {
                let choice = self.eval(choice)?;
                if self.equal(&value, &choice)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let whole = self.eval(of)?;
        match (&value, &whole, whole.kind()) {
            (_, list, Kind::List) => {
                for other in list.items().into_iter().flatten() {
                    self.spend(1)?;
                    if self.equal(&value, &other)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Value::Text(name), object, Kind::Object) => Ok(object.member(name).is_some()),
            (Value::Text(part), Value::Text(text), _) => {
                self.scan(text.len())?;
                Ok(text.contains(&**part))
            }
            (_, _, Kind::Object | Kind::Text) => Err(self.wrong(item, TEXT, &value)),
            _ => Err(self.wrong(of, SIZED, &whole)),
        }
    }

    /// Whether two values are the same, to their last leaf. Values of different kinds are not.
    pub(super) fn equal(&mut self, left: &Value<'a>, right: &Value<'a>) -> Result<bool, Box<Failure>> {
        match (left, right) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Flag(left), Value::Flag(right)) => Ok(left == right),
            (Value::Number(left), Value::Number(right)) => Ok(left == right),
            (Value::Text(left), Value::Text(right)) => {
                self.scan(left.len().min(right.len()))?;
                Ok(**left == **right)
            }
            _ => self.equal_trees(left, right),
        }
    }

    fn equal_trees(&mut self, left: &Value<'a>, right: &Value<'a>) -> Result<bool, Box<Failure>> {
        if left.kind() != right.kind() || left.count() != right.count() {
            return Ok(false);
        }
        let is_list = left.kind() == Kind::List;
        for (at, item) in left.items().into_iter().flatten().enumerate() {
            self.spend(1)?;
            let pair = match &item {
                Value::Text(name) if !is_list => left.member(name).zip(right.member(name)),
                _ => right.at(at).map(|other| (item, other)),
            };
            let Some((one, other)) = pair else { return Ok(false) };
            if !self.equal(&one, &other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A value as JSON. What is copied into a list or an object is paid for as if it were made: a short expression could name all of the event thousands of times.
    pub(super) fn json(&mut self, value: &Value<'a>, inside: bool) -> Result<Json, Box<Failure>> {
        Ok(match value {
            Value::Null => Json::Null,
            Value::Flag(flag) => Json::Bool(*flag),
            Value::Number(number) => number_value(*number),
            Value::Text(text) => {
                self.making(if inside { text.len() } else { 0 })?;
                Json::from(&**text)
            }
            Value::Tree(tree) => {
                if inside {
                    self.weigh(tree)?;
                }
                (*tree).clone()
            }
            Value::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items.iter() {
                    self.spend(1)?;
                    list.push(self.json(item, true)?);
                }
                Json::Array(list)
            }
            Value::Object(fields) => {
                let mut object = serde_json::Map::new();
                for (name, value) in fields.iter() {
                    self.spend(1)?;
                    object.insert(name.to_string(), self.json(value, true)?);
                }
                Json::Object(object)
            }
        })
    }

    fn weigh(&mut self, tree: &Json) -> Result<(), Box<Failure>> {
        self.spend(1)?;
        match tree {
            Json::String(text) => self.making(text.len()),
            Json::Array(items) => items.iter().try_for_each(|item| self.weigh(item)),
            Json::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                self.making(name.len())?;
                self.weigh(value)
            }),
            _ => Ok(()),
        }
    }
}
