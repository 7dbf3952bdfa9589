//! The functions: which there are, what they take, and what they do.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::Failure;
use super::evaluate::{Answer, Run};
use super::node::Node;
use super::value::{ANY, FLAGLIKE, Kind, NUMBER, NUMBERS, NUMERIC, SCALAR, SIZED, TEXT, TREE, Text, Value, Wants};
use crate::pipelines::record::number_text;
use crate::pipelines::why::Why;

/// The last time that is written with a year of four digits.
const TIME_MAX_MS: f64 = 253_402_300_799_999.0;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    /// Compiled to a node of its own, with its pattern.
    Matches,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Replace,
    Substring,
    Int,
    Number,
    String,
    Bool,
    Type,
    Min,
    Max,
    Abs,
    Floor,
    Ceil,
    Round,
    Sqrt,
    Pow,
    Log,
    Exp,
    Coalesce,
    Rfc3339,
    Compact,
    Object,
}

/// What the compiler must know of a function.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) function: Function,
    pub(super) least: usize,
    pub(super) most: usize,
    /// What the arguments must be; the last goes for all behind it too.
    wants: &'static [Wants],
    /// The kind of what it gives, if that is always the same.
    pub(super) gives: Option<Kind>,
}

impl Spec {
    pub(super) fn wants(&self, at: usize) -> Wants {
        self.wants.get(at).or(self.wants.last()).copied().unwrap_or(ANY)
    }

    /// How many arguments it takes, in words.
    pub(super) fn takes(&self) -> String {
        match (self.least, self.most) {
            (1, 1) => "1 argument".to_owned(),
            (1, usize::MAX) => "1 argument or more".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        }
    }
}

const fn spec(
    name: &'static str,
    function: Function,
    (least, most): (usize, usize),
    wants: &'static [Wants],
    gives: Option<Kind>,
) -> Spec {
    Spec { name, function, least, most, wants, gives }
}

const MANY: usize = usize::MAX;

/// All functions.
pub(super) static FUNCTIONS: &[Spec] = &[
    spec("size", Function::Size, (1, 1), &[SIZED], Some(Kind::Number)),
    spec("contains", Function::Contains, (2, 2), &[TEXT], Some(Kind::Flag)),
    spec("startsWith", Function::StartsWith, (2, 2), &[TEXT], Some(Kind::Flag)),
    spec("endsWith", Function::EndsWith, (2, 2), &[TEXT], Some(Kind::Flag)),
    spec("matches", Function::Matches, (2, 2), &[TEXT], Some(Kind::Flag)),
    spec("lowerAscii", Function::LowerAscii, (1, 1), &[TEXT], Some(Kind::Text)),
    spec("upperAscii", Function::UpperAscii, (1, 1), &[TEXT], Some(Kind::Text)),
    spec("trim", Function::Trim, (1, 1), &[TEXT], Some(Kind::Text)),
    spec("split", Function::Split, (2, 2), &[TEXT], Some(Kind::List)),
    spec("replace", Function::Replace, (3, 3), &[TEXT], Some(Kind::Text)),
    spec("substring", Function::Substring, (2, 3), &[TEXT, NUMBER], Some(Kind::Text)),
    spec("int", Function::Int, (1, 1), &[NUMERIC], Some(Kind::Number)),
    spec("double", Function::Number, (1, 1), &[NUMERIC], Some(Kind::Number)),
    spec("number", Function::Number, (1, 1), &[NUMERIC], Some(Kind::Number)),
    spec("string", Function::String, (1, 1), &[SCALAR], Some(Kind::Text)),
    spec("bool", Function::Bool, (1, 1), &[FLAGLIKE], Some(Kind::Flag)),
    spec("type", Function::Type, (1, 1), &[ANY], Some(Kind::Text)),
    spec("min", Function::Min, (1, MANY), &[NUMBERS, NUMBER], Some(Kind::Number)),
    spec("max", Function::Max, (1, MANY), &[NUMBERS, NUMBER], Some(Kind::Number)),
    spec("abs", Function::Abs, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("floor", Function::Floor, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("ceil", Function::Ceil, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("round", Function::Round, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("sqrt", Function::Sqrt, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("pow", Function::Pow, (2, 2), &[NUMBER], Some(Kind::Number)),
    spec("log", Function::Log, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("exp", Function::Exp, (1, 1), &[NUMBER], Some(Kind::Number)),
    spec("coalesce", Function::Coalesce, (1, MANY), &[ANY], None),
    spec("rfc3339", Function::Rfc3339, (1, 1), &[NUMBER], Some(Kind::Text)),
    spec("compact", Function::Compact, (1, 1), &[TREE], None),
    spec("object", Function::Object, (2, 2), &[SCALAR, ANY], Some(Kind::Object)),
];

/// The names of all functions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|spec| spec.name)
}

/// Calls a function.
pub(super) fn call<'a>(run: &mut Run<'a>, function: Function, args: &'a [Node]) -> Answer<'a> {
    match (function, args) {
        (Function::Size, [of]) => size(run, of),
        (Function::Contains, [text, part]) => search(run, text, part, |text, part| text.contains(part)),
        (Function::StartsWith, [text, part]) => search(run, text, part, |text, part| text.starts_with(part)),
        (Function::EndsWith, [text, part]) => search(run, text, part, |text, part| text.ends_with(part)),
        (Function::LowerAscii, [text]) => letters(run, text, str::to_ascii_lowercase),
        (Function::UpperAscii, [text]) => letters(run, text, str::to_ascii_uppercase),
        (Function::Trim, [text]) => trim(run, text),
        (Function::Split, [text, by]) => split(run, text, by),
        (Function::Replace, [text, from, to]) => replace(run, text, from, to),
        (Function::Substring, [text, from]) => substring(run, text, from, None),
        (Function::Substring, [text, from, to]) => substring(run, text, from, Some(to)),
        (Function::Int, [of]) => Ok(Value::Number(number(run, of)?.trunc())),
        (Function::Number, [of]) => Ok(Value::Number(number(run, of)?)),
        (Function::String, [of]) => string(run, of),
        (Function::Bool, [of]) => flag(run, of),
        (Function::Type, [of]) => Ok(Value::Text(Text::Given(run.eval(of)?.kind().word()))),
        (Function::Min, args) => pick(run, args, f64::min),
        (Function::Max, args) => pick(run, args, f64::max),
        (Function::Abs, [of]) => math(run, of, f64::abs),
        (Function::Floor, [of]) => math(run, of, f64::floor),
        (Function::Ceil, [of]) => math(run, of, f64::ceil),
        (Function::Round, [of]) => math(run, of, f64::round),
        (Function::Sqrt, [of]) => math(run, of, f64::sqrt),
        (Function::Log, [of]) => math(run, of, f64::ln),
        (Function::Exp, [of]) => math(run, of, f64::exp),
        (Function::Pow, [base, exponent]) => {
            let (base, exponent) = (run.number(base)?, run.number(exponent)?);
            run.finite(base.powf(exponent))
        }
        (Function::Coalesce, args) => coalesce(run, args),
        (Function::Rfc3339, [of]) => rfc3339(run, of),
        (Function::Compact, [of]) => compact(run, of),
        (Function::Object, [name, value]) => object(run, name, value),
        // The compiler has counted them.
        _ => Err(run.failed("a function was given arguments that it does not take")),
    }
}

fn size<'a>(run: &mut Run<'a>, of: &'a Node) -> Answer<'a> {
    let value = run.eval(of)?;
    let count = match &value {
        Value::Text(text) => {
            run.scan(text.len())?;
            Some(text.chars().count())
        }
        tree => tree.count(),
    };
    match count {
        Some(count) => Ok(Value::Number(count as f64)),
        None => Err(run.wrong(of, SIZED, &value)),
    }
}

fn search<'a>(run: &mut Run<'a>, text: &'a Node, part: &'a Node, test: fn(&str, &str) -> bool) -> Answer<'a> {
    let (text, part) = (run.text(text)?, run.text(part)?);
    run.scan(text.len())?;
    Ok(Value::Flag(test(&text, &part)))
}

fn letters<'a>(run: &mut Run<'a>, text: &'a Node, change: fn(&str) -> String) -> Answer<'a> {
    let text = run.text(text)?;
    run.making(text.len())?;
    Ok(Value::Text(Text::made(&change(&text))))
}

fn trim<'a>(run: &mut Run<'a>, text: &'a Node) -> Answer<'a> {
    let text = run.text(text)?;
    run.scan(text.len())?;
    let start = text.len() - text.trim_start().len();
    let end = text.trim_end().len().max(start);
    Ok(Value::Text(run.part(&text, start..end)?))
}

/// By the empty text: into its characters.
fn split<'a>(run: &mut Run<'a>, text: &'a Node, by: &'a Node) -> Answer<'a> {
    let (text, by) = (run.text(text)?, run.text(by)?);
    run.scan(text.len())?;
    // Where a part ends, and where the next one begins.
    let cuts: Box<dyn Iterator<Item = (usize, usize)> + '_> = if by.is_empty() {
        Box::new(text.char_indices().skip(1).map(|(at, _)| (at, at)))
    } else {
        Box::new(text.match_indices(&*by).map(|(at, found)| (at, at + found.len())))
    };
    let (mut parts, mut from) = (Vec::new(), 0);
    for (end, next) in cuts.chain([(text.len(), text.len())]) {
        run.spend(1)?;
        parts.push(Value::Text(run.part(&text, from..end)?));
        from = next;
    }
    Ok(Value::list(parts))
}

fn replace<'a>(run: &mut Run<'a>, text: &'a Node, from: &'a Node, to: &'a Node) -> Answer<'a> {
    let (text, from, to) = (run.text(text)?, run.text(from)?, run.text(to)?);
    run.scan(text.len())?;
    let count = text.matches(&*from).count();
    run.making(text.len() - count * from.len() + count * to.len())?;
    Ok(Value::Text(Text::made(&text.replace(&*from, &to))))
}

fn substring<'a>(run: &mut Run<'a>, text: &'a Node, from: &'a Node, to: Option<&'a Node>) -> Answer<'a> {
    let (text, from) = (run.text(text)?, run.number(from)?);
    let to = match to {
        Some(to) => Some(run.number(to)?),
        None => None,
    };
    run.walk(text.len())?;
    let (start, end) = (place(&text, from), to.map_or(Some(text.len()), |to| place(&text, to)));
    match (start, end) {
        (Some(start), Some(end)) if start <= end => Ok(Value::Text(run.part(&text, start..end)?)),
        _ => Err(run.failed("substring: the text has no such part")),
    }
}

/// Where a character begins, in bytes. The text's end is a place too.
fn place(text: &str, character: f64) -> Option<usize> {
    let mut places = text.char_indices().map(|(at, _)| at).chain([text.len()]).enumerate();
    places.find(|(count, _)| *count as f64 == character).map(|(_, at)| at)
}

fn number<'a>(run: &mut Run<'a>, of: &'a Node) -> Result<f64, Box<Failure>> {
    let value = run.eval(of)?;
    match &value {
        Value::Number(number) => Ok(*number),
        Value::Text(text) => {
            let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| run.about(of, Why::Type { expected: NUMERIC.words, found: "other text" }))
        }
        _ => Err(run.wrong(of, NUMERIC, &value)),
    }
}

fn string<'a>(run: &mut Run<'a>, of: &'a Node) -> Answer<'a> {
    let value = run.eval(of)?;
    Ok(Value::Text(match &value {
        Value::Text(_) => return Ok(value),
        Value::Number(number) => Text::made(&number_text(*number)),
        Value::Flag(flag) => Text::Given(if *flag { "true" } else { "false" }),
        _ => return Err(run.wrong(of, SCALAR, &value)),
    }))
}

/// A time in milliseconds since 1970 as text.
fn rfc3339<'a>(run: &mut Run<'a>, of: &'a Node) -> Answer<'a> {
    let ms = run.number(of)?;
    if !(0.0..=TIME_MAX_MS).contains(&ms) {
        return Err(run.about(of, Why::Type { expected: "a time in milliseconds since 1970", found: "another number" }));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    let ms = ms as u64;
    run.making(crate::clock::rfc3339(ms).len())?;
    Ok(Value::Text(Text::made(&crate::clock::rfc3339(ms))))
}

fn flag<'a>(run: &mut Run<'a>, of: &'a Node) -> Answer<'a> {
    let value = run.eval(of)?;
    match &value {
        Value::Flag(_) => Ok(value),
        Value::Text(text) => match &**text {
            "true" => Ok(Value::Flag(true)),
            "false" => Ok(Value::Flag(false)),
            _ => Err(run.about(of, Why::Type { expected: FLAGLIKE.words, found: "other text" })),
        },
        _ => Err(run.wrong(of, FLAGLIKE, &value)),
    }
}

/// The least or the greatest of several numbers, or of a list's.
fn pick<'a>(run: &mut Run<'a>, args: &'a [Node], better: fn(f64, f64) -> f64) -> Answer<'a> {
    let mut best: Option<f64> = None;
    let mut take = |number: f64| best = Some(best.map_or(number, |so_far| better(so_far, number)));
    if let [only] = args {
        let value = run.eval(only)?;
        match (&value, value.kind()) {
            (Value::Number(number), _) => take(*number),
            (list, Kind::List) => {
                for item in list.items().into_iter().flatten() {
                    run.spend(1)?;
                    let Value::Number(number) = item else {
                        let (expected, found) = ("only numbers in the list", item.kind().name());
                        return Err(run.about(only, Why::Type { expected, found }));
                    };
                    take(number);
                }
            }
            (other, _) => return Err(run.wrong(only, NUMBERS, other)),
        }
    } else {
        for arg in args {
            take(run.number(arg)?);
        }
    }
    best.map(Value::Number).ok_or_else(|| run.failed("the list is empty"))
}

fn math<'a>(run: &mut Run<'a>, of: &'a Node, apply: fn(f64) -> f64) -> Answer<'a> {
    let number = run.number(of)?;
    run.finite(apply(number))
}

/// An object of one field, whose name is computed.
fn object<'a>(run: &mut Run<'a>, name: &'a Node, value: &'a Node) -> Answer<'a> {
    let Value::Text(name) = string(run, name)? else { return Ok(Value::Null) };
    run.making(name.len())?;
    let value = run.eval(value)?;
    Ok(Value::Object(Rc::new(BTreeMap::from([(Cow::Owned(name.to_string()), value)]))))
}

/// The first that is there and not null; null if none is.
fn coalesce<'a>(run: &mut Run<'a>, args: &'a [Node]) -> Answer<'a> {
    for arg in args {
        match run.eval(arg) {
            Ok(Value::Null) => {}
            Err(failure) if failure.why == Why::Missing => {}
            other => return other,
        }
    }
    Ok(Value::Null)
}

/// A list or an object without what is null in it.
fn compact<'a>(run: &mut Run<'a>, of: &'a Node) -> Answer<'a> {
    let value = run.eval(of)?;
    run.spend(value.count().unwrap_or(0))?;
    value.compact().ok_or_else(|| run.wrong(of, TREE, &value))
}
