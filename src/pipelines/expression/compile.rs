//! From text to the tree that is evaluated: names are looked up here, once, and what can be known to be wrong without an event is refused here.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, MapExpr, SelectExpr, operators};
use cel::parser::{ParseErrors, Parser};
use smallvec::SmallVec;
use smol_str::SmolStr;

use super::functions::{self, FUNCTIONS};
use super::node::{Arithmetic, Loop, LoopKind, Node, Order, Pattern};
use super::value::{ADDED, ANY, FLAG, Kind, NUMBER, ORDERED, PLACE, SIZED, TEXT, TREE, Wants};
use super::{DEPTH_MAX, LOOPS_MAX, STACK_BYTES};
use crate::pipelines::field::{Field, Paths};
use crate::pipelines::record::number_text;

/// The longest path into an event's data, in names, as for fields in settings.
const NAMES_MAX: usize = 16;
/// What is written as a method of a list, with a name for its elements.
const LOOPS: &str = "all, exists, exists_one, map and filter";

type Names = SmallVec<[SmolStr; 2]>;

/// Parses and compiles.
pub(super) fn compile(source: &str, paths: &mut Paths) -> Result<Node, String> {
    let work = move || -> Result<Node, String> {
        let parsed = Parser::new().parse(source).map_err(|errors| in_words(&errors))?;
        Compiler { paths, locals: Vec::new(), depth: 0 }.node(&parsed)
    };
    // On a thread of its own: the parser recurses deeper than a worker's stack allows, and should it panic, then only here.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("there is no thread to read it with: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("it cannot be read: the parser failed".to_owned()))
    })
}

/// What the parser found wrong, in a line.
fn in_words(errors: &ParseErrors) -> String {
    let said = |words: &str| {
        errors.errors.iter().any(|error| {
            let cause = error.source.as_ref().map(|source| format!("{source:?}")).unwrap_or_default();
            error.msg.contains(words) || cause.contains(words)
        })
    };
    if said("has() macro") {
        return "has() takes a field with a point before its name, such as has(data.usage)".to_owned();
    }
    if said("Recursion limit") {
        return "it is nested too deeply".to_owned();
    }
    let Some(first) = errors.errors.first() else { return "it is no expression".to_owned() };
    let (line, column) = first.pos;
    let what = first.msg.trim_start_matches("Syntax error: ");
    let what = what.split(" expecting").next().unwrap_or(what);
    format!("line {line}, column {column}: {what}")
}

struct Compiler<'p> {
    paths: &'p mut Paths,
    /// The names of the elements of the loops that one is in, from the outside in.
    locals: Vec<String>,
    depth: usize,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &IdedExpr) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("it is nested more than {DEPTH_MAX} deep, or adds up more than that"));
        }
        let node = self.node_of(&expr.expr)?;
        self.depth -= 1;
        Ok(node)
    }

    fn node_of(&mut self, expr: &Expr) -> Result<Node, String> {
        if let Some(names) = self.names(expr) {
            return Ok(Node::Field(self.field(names)?));
        }
        match expr {
            Expr::Literal(value) => constant(value),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                Ok(Node::List(list.elements.iter().map(|item| self.node(item)).collect::<Result<_, _>>()?))
            }
            Expr::Map(map) => self.object(map),
            Expr::Comprehension(inner) => self.looped(inner),
            Expr::Struct(_) | Expr::Unspecified => {
                Err("there are no types of one's own; an object is {\"name\": value}".to_owned())
            }
        }
    }

    /// Compiles an operand, which must be what is wanted as far as that is known already.
    fn checked(&mut self, expr: &IdedExpr, what: &str, wants: Wants) -> Result<Node, String> {
        let node = self.node(expr)?;
        match node.known() {
            Some(kind) if !wants.kinds.contains(&kind) => {
                Err(format!("{what}: expected {}, found {}", wants.words, kind.name()))
            }
            _ => Ok(node),
        }
    }

    /// Compiles two operands that must be of one kind.
    fn pair(&mut self, what: &str, wants: Wants, left: &IdedExpr, right: &IdedExpr) -> Result<[Node; 2], String> {
        let sides = [self.checked(left, what, wants)?, self.checked(right, what, wants)?];
        if let [Some(left), Some(right)] = [sides[0].known(), sides[1].known()]
            && left != right
        {
            return Err(format!("{what}: {} and {} do not go together", left.name(), right.name()));
        }
        Ok(sides)
    }

    /// The names that lead from an event's data to what is read; `None` if it is something else that is read.
    fn names(&self, expr: &Expr) -> Option<Names> {
        let mut names = Names::new();
        let mut at = expr;
        loop {
            match at {
                Expr::Ident(name) if name == "data" && !self.locals.iter().any(|local| local == name) => {
                    names.reverse();
                    return Some(names);
                }
                Expr::Select(select) if !select.test => {
                    names.push(select.field.as_str().into());
                    at = &select.operand.expr;
                }
                Expr::Call(CallExpr { func_name, args, .. }) if func_name == operators::INDEX => {
                    let [of, place] = &args[..] else { return None };
                    names.push(fixed_place(&place.expr)?);
                    at = &of.expr;
                }
                _ => return None,
            }
        }
    }

    fn field(&mut self, names: Names) -> Result<Field, String> {
        if names.len() > NAMES_MAX {
            return Err(format!("a field lies at most {NAMES_MAX} names deep in the data"));
        }
        Ok(Field::Data(self.paths.path(names)))
    }

    fn variable(&mut self, name: &str) -> Result<Node, String> {
        if let Some(slot) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local { slot, name: name.to_owned() });
        }
        Ok(Node::Field(match name {
            "room" => Field::Room,
            "seq" => Field::Seq,
            "kind" => Field::Kind,
            "key" => Field::Key,
            "priority" => Field::Priority,
            "timestamp" => Field::Timestamp,
            "arrived" => Field::Arrived,
            _ => {
                return Err(format!(
                    "there is no variable {name}; did you mean data.{name}? \
                     There are: data, room, kind, key, priority, seq, timestamp, arrived"
                ));
            }
        }))
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Node, String> {
        if let Some(mut names) = self.names(&select.operand.expr) {
            names.push(select.field.as_str().into());
            // Without `has` it was a field already.
            return Ok(Node::Has(self.field(names)?));
        }
        let of = self.node(&select.operand)?;
        if let Some(kind) = of.known().filter(|kind| *kind != Kind::Object) {
            return Err(format!("there is no {} in {}", select.field, kind.name()));
        }
        let (of, name) = (Box::new(of), select.field.as_str().into());
        Ok(if select.test { Node::HasMember { of, name } } else { Node::Member { of, name } })
    }

    fn index(&mut self, of: &IdedExpr, at: &IdedExpr) -> Result<Node, String> {
        let of = Box::new(self.checked(of, "[ ]", TREE)?);
        Ok(match self.checked(at, "[ ]", PLACE)? {
            Node::Text(name) => Node::Member { of, name: name.into() },
            Node::Number(number) => match position(number) {
                Some(name) => Node::Member { of, name },
                None => return Err("[ ]: a position is a whole number, counted from 0".to_owned()),
            },
            at => Node::Index { of, at: Box::new(at) },
        })
    }

    fn object(&mut self, map: &MapExpr) -> Result<Node, String> {
        let mut fields: Vec<(String, Node)> = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return Err("an object is {\"name\": value}".to_owned());
            };
            let Expr::Literal(LiteralValue::String(name)) = &entry.key.expr else {
                return Err("a name in an object must be written out as text: {\"name\": value}".to_owned());
            };
            let name = name.inner().to_owned();
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(format!("{name:?} stands in an object twice"));
            }
            fields.push((name, self.node(&entry.value)?));
        }
        Ok(Node::Object(fields))
    }

    fn looped(&mut self, inner: &ComprehensionExpr) -> Result<Node, String> {
        let over = self.checked(&inner.iter_range, LOOPS, TREE)?;
        let slot = self.locals.len();
        if slot == LOOPS_MAX {
            return Err(format!("{LOOPS} may be nested {LOOPS_MAX} deep"));
        }
        let Some((kind, when, make)) = parts(inner) else { return Err("it has a loop that is not known".to_owned()) };
        self.locals.push(inner.iter_var.clone());
        let when = when.map(|when| self.checked(when, "a loop's condition", FLAG)).transpose()?;
        let make = make.map(|make| self.node(make)).transpose()?;
        self.locals.pop();
        Ok(Node::Loop(Box::new(Loop { kind, slot, over, when, make })))
    }

    fn call(&mut self, call: &CallExpr) -> Result<Node, String> {
        let args: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let name = call.func_name.as_str();
        if let Some(order) = Order::of(name)
            && let [left, right] = args[..]
        {
            return self.compare(order, left, right);
        }
        match (name, &args[..]) {
            (operators::CONDITIONAL, [when, yes, no]) => {
                Ok(Node::Choose(Box::new([self.checked(when, "?:", FLAG)?, self.node(yes)?, self.node(no)?])))
            }
            (operators::LOGICAL_AND, [left, right]) => Ok(Node::And(Box::new(self.pair("&&", FLAG, left, right)?))),
            (operators::LOGICAL_OR, [left, right]) => Ok(Node::Or(Box::new(self.pair("||", FLAG, left, right)?))),
            (operators::LOGICAL_NOT, [of]) => Ok(Node::Not(Box::new(self.checked(of, "!", FLAG)?))),
            (operators::NEGATE, [of]) => Ok(match self.checked(of, "-", NUMBER)? {
                Node::Number(number) => Node::Number(-number),
                of => Node::Negate(Box::new(of)),
            }),
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => Ok(Node::Equal {
                sides: Box::new([self.node(left)?, self.node(right)?]),
                not: name == operators::NOT_EQUALS,
            }),
            (operators::ADD, [left, right]) => Ok(Node::Add(Box::new(self.pair("+", ADDED, left, right)?))),
            (operators::SUBSTRACT, [left, right]) => self.arithmetic("-", Arithmetic::Subtract, left, right),
            (operators::MULTIPLY, [left, right]) => self.arithmetic("*", Arithmetic::Multiply, left, right),
            (operators::DIVIDE, [left, right]) => self.arithmetic("/", Arithmetic::Divide, left, right),
            (operators::MODULO, [left, right]) => self.arithmetic("%", Arithmetic::Remainder, left, right),
            (operators::INDEX, [of, at]) => self.index(of, at),
            (operators::IN, [item, of]) => {
                Ok(Node::In(Box::new([self.checked(item, "in", ANY)?, self.checked(of, "in", SIZED)?])))
            }
            ("matches", [text, pattern]) => {
                let text = self.checked(text, "matches", TEXT)?;
                let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
                    return Err("matches: the pattern must be written out as text".to_owned());
                };
                Ok(Node::Matches(Box::new(text), Box::new(Pattern::read(pattern.inner())?)))
            }
            _ => self.function(name, &args),
        }
    }

    fn arithmetic(&mut self, what: &str, sign: Arithmetic, left: &IdedExpr, right: &IdedExpr) -> Result<Node, String> {
        Ok(Node::Arithmetic(sign, Box::new(self.pair(what, NUMBER, left, right)?)))
    }

    fn compare(&mut self, order: Order, left: &IdedExpr, right: &IdedExpr) -> Result<Node, String> {
        Ok(match self.pair(order.sign(), ORDERED, left, right)? {
            [Node::Field(field), Node::Number(number)] => Node::CompareNumber { field, order, number },
            [Node::Number(number), Node::Field(field)] => Node::CompareNumber { field, order: order.flipped(), number },
            sides => Node::Compare(order, Box::new(sides)),
        })
    }

    fn function(&mut self, name: &str, args: &[&IdedExpr]) -> Result<Node, String> {
        let Some(spec) = FUNCTIONS.iter().find(|spec| spec.name == name) else { return Err(unknown(name)) };
        if !(spec.least..=spec.most).contains(&args.len()) {
            return Err(format!("{name} takes {}, not {}", spec.takes(), args.len()));
        }
        let args = args.iter().enumerate().map(|(at, arg)| self.checked(arg, name, spec.wants(at)));
        Ok(Node::Call(spec, args.collect::<Result<_, _>>()?))
    }
}

/// What to say of a function that there is not.
fn unknown(name: &str) -> String {
    if ["all", "exists", "exists_one", "existsOne", "map", "filter"].contains(&name) {
        return format!(
            "{name} is written data.list.{name}(x, …), with a name for the elements and what is said of them"
        );
    }
    if name == "has" {
        return "has takes one field, such as has(data.usage)".to_owned();
    }
    let distance = |known: &str| strsim::damerau_levenshtein(known, name);
    match functions::names().filter(|known| distance(known) <= 2).min_by_key(|known| distance(known)) {
        Some(near) => format!("there is no function {name}; did you mean {near}?"),
        None => format!(
            "there is no function {name}; there are: {}, has, {LOOPS}",
            functions::names().collect::<Vec<_>>().join(", ")
        ),
    }
}

fn constant(value: &LiteralValue) -> Result<Node, String> {
    Ok(match value {
        LiteralValue::Boolean(flag) => Node::Flag(*flag.inner()),
        LiteralValue::Int(number) => Node::Number(*number.inner() as f64),
        LiteralValue::UInt(number) => Node::Number(*number.inner() as f64),
        LiteralValue::Double(number) => Node::Number(*number.inner()),
        LiteralValue::String(text) => Node::Text(text.inner().to_owned()),
        LiteralValue::Null => Node::Null,
        LiteralValue::Bytes(_) => return Err("there is text, but there are no bytes (b\"…\")".to_owned()),
    })
}

/// A position of a list, as a name in a path.
fn position(number: f64) -> Option<SmolStr> {
    (number >= 0.0 && number.fract() == 0.0).then(|| number_text(number))
}

/// A name or a position that is written out.
fn fixed_place(expr: &Expr) -> Option<SmolStr> {
    let Expr::Literal(value) = expr else { return None };
    match constant(value).ok()? {
        Node::Text(name) => Some(name.into()),
        Node::Number(number) => position(number),
        _ => None,
    }
}

type Parts<'e> = (LoopKind, Option<&'e IdedExpr>, Option<&'e IdedExpr>);

/// Takes apart again what the parser makes of a macro: its kind, which elements count, and what is made of one. `parser/macros.rs` of the crate writes these shapes and no others.
fn parts(inner: &ComprehensionExpr) -> Option<Parts<'_>> {
    let Expr::Call(step) = &inner.loop_step.expr else { return None };
    match (&inner.accu_init.expr, &step.args[..]) {
        // @result && when, @result || when
        (Expr::Literal(LiteralValue::Boolean(all)), [_, when]) => {
            Some((if *all.inner() { LoopKind::All } else { LoopKind::Exists }, Some(when), None))
        }
        // when ? @result + 1 : @result
        (Expr::Literal(LiteralValue::Int(_)), [when, _, _]) => Some((LoopKind::ExistsOne, Some(when), None)),
        // when ? @result + [make] : @result
        (Expr::List(_), [when, step, _]) => Some((LoopKind::Map, Some(when), Some(appended(&step.expr)?))),
        // @result + [make]
        (Expr::List(_), [_, _]) => Some((LoopKind::Map, None, Some(appended(&inner.loop_step.expr)?))),
        _ => None,
    }
}

fn appended(step: &Expr) -> Option<&IdedExpr> {
    let Expr::Call(CallExpr { args, .. }) = step else { return None };
    let [_, IdedExpr { expr: Expr::List(list), .. }] = &args[..] else { return None };
    list.elements.first()
}
