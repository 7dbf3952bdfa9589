//! What expressions promise: an example of everything, what is refused and how, the limits, and that arithmetic is the crate's own.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::functions::FUNCTIONS;
use super::*;
use crate::event::RoomName;

fn record(data: &Json, extractor: &Extractor) -> Record {
    let room = RoomName::parse("host:cpu").unwrap();
    let mut record = Record::made(room, "sample", Some("k1".into()), 1_000, 2_000, Json::Null);
    record.seq = 5;
    record.given(data.to_string().into(), extractor)
}

fn told(failure: &Failure) -> String {
    format!("{}: {}", failure.field, failure.why)
}

/// The value for an event with this data, or why there is none. The same whether the data is as it came in or was made by an operator.
fn value_of(source: &str, data: &Json) -> Result<Json, String> {
    let (expression, extractor) = compile_alone(source)?;
    let mut record = record(data, &extractor);
    let value = expression.value(&record);
    record.set_value(data.clone());
    assert_eq!(value, expression.value(&record), "{source}");
    value.map_err(|failure| told(&failure))
}

fn data() -> Json {
    json!({
        "usage": 95.5, "n": 4, "ok": true, "nothing": null, "name": "Ärger im Büro", "text": " 12.5 ", "a.b": 7,
        "tags": ["a", "b", "c"], "list": [3, 1, 2], "nested": [[1, 2], [3]], "obj": { "x": 1, "y": null },
    })
}

fn examples() -> Vec<(&'static str, Json)> {
    vec![
        // Functions.
        ("size(data.tags)", json!(3)),
        ("data.name.size() + size(data.obj)", json!(15)),
        ("data.name.contains('im') && contains('abc', 'b')", json!(true)),
        ("data.name.startsWith('Är')", json!(true)),
        ("endsWith(data.name, 'ro')", json!(true)),
        (r"data.name.matches(r'^\w+ im')", json!(true)),
        ("'ABC'.lowerAscii()", json!("abc")),
        ("upperAscii(kind)", json!("SAMPLE")),
        ("trim(data.text)", json!("12.5")),
        ("(' a' + 'b ').trim()", json!("ab")),
        ("trim('  ')", json!("")),
        ("'a,b,,c'.split(',')", json!(["a", "b", "", "c"])),
        ("split('äb' + 'c', '')", json!(["ä", "b", "c"])),
        ("replace('a-b-c', '-', '+')", json!("a+b+c")),
        ("'Büro'.substring(1, 3) + substring('Büro', 2)", json!("ürro")),
        ("int(-2.7) + int('3.9')", json!(1)),
        ("double(data.text)", json!(12.5)),
        ("number('7')", json!(7)),
        ("string(data.n) + string(true) + string(0.1) + string('x')", json!("4true0.1x")),
        ("bool('true') && !bool('false') && bool(true)", json!(true)),
        (
            "[type(1), type(''), type(true), type(null), type(data), type([])]",
            json!(["number", "text", "flag", "null", "object", "list"]),
        ),
        ("min(3, data.n, 2.5)", json!(2.5)),
        ("max(data.list) + max(1)", json!(4)),
        ("abs(-3) + floor(2.9) + ceil(2.1)", json!(8)),
        ("[round(2.5), round(-2.5), round(2.4)]", json!([3, -3, 2])),
        ("sqrt(16) + pow(2, 10)", json!(1028)),
        ("log(exp(0))", json!(0)),
        ("coalesce(data.missing, data.nothing, data.n + data.missing, 'x')", json!("x")),
        ("coalesce(data.missing)", json!(null)),
        ("rfc3339(0) + rfc3339(86400001)", json!("1970-01-01T00:00:00.000Z1970-01-02T00:00:00.001Z")),
        ("compact({'a': null, 'b': data.n, 'c': {'d': null}})", json!({"b": 4, "c": {"d": null}})),
        ("compact([null, 1, null, 'x'])", json!([1, "x"])),
        ("size(compact(data.obj))", json!(1)),
        ("object('a' + string(data.n), [1, data.n])", json!({ "a4": [1, 4] })),
        ("object(data.n, 1)['4'] + size(object('x', 0)) + ('x' in object('x', null) ? 1 : 0)", json!(3)),
        // The event, and what lies in its data.
        ("data.usage > 90.0 && kind == \"sample\"", json!(true)),
        ("room + '/' + key + '/' + priority", json!("host:cpu/k1/normal")),
        ("seq + timestamp", json!(1005)),
        ("data[\"a.b\"] + data.list[0] + data.obj['x']", json!(11)),
        ("data.tags[data.list[1]]", json!("b")),
        ("data.obj[data.tags.map(t, 'x')[0]]", json!(1)),
        ("data.nested", json!([[1, 2], [3]])),
        ("data == data && data.list == [3, 1, 2]", json!(true)),
        ("[has(data.usage), has(data.nothing), has(data.a.b), has(data.obj.x.z)]", json!([true, true, false, false])),
        ("[data.obj].all(o, has(o.x) && !has(o.z))", json!(true)),
        // Operators.
        ("data.n * 1.5 - 7 / 2", json!(2.5)),
        ("7 % 4 + 7.5 % 2.0", json!(4.5)),
        ("-data.n + - 1 - -2", json!(-3)),
        ("'a' + 'b' < 'b' && 'b' >= 'b'", json!(true)),
        ("[1] + data.list", json!([1, 3, 1, 2])),
        ("90 < data.usage && 95.5 <= data.usage && !(96 <= data.usage)", json!(true)),
        ("[1, 2u, 0x3] == [1.0, 2, 3]", json!(true)),
        ("1 == '1' || null == false || data.list == data.tags", json!(false)),
        ("data.nothing == null && 1 != 2", json!(true)),
        ("{'y': null, 'x': 1.0} == data.obj", json!(true)),
        ("{'x': 1} != data.obj", json!(true)),
        ("[3 in data.list, 9 in data.list, 'x' in data.obj, 'im' in data.name]", json!([true, false, true, true])),
        ("kind in ['other', 'sample']", json!(true)),
        ("data.ok ? 1 : data.missing", json!(1)),
        ("false && data.missing || true || data.missing", json!(true)),
        ("{'a': data.n, 'b': [kind, null]}", json!({ "a": 4, "b": ["sample", null] })),
        // Loops.
        ("data.list.all(x, x > 0) && !data.list.all(x, x > 1)", json!(true)),
        ("data.list.exists(x, x == 2) && ![].exists(x, true)", json!(true)),
        ("data.list.exists_one(x, x > 2) && !data.list.exists_one(x, x > 1)", json!(true)),
        ("data.list.map(x, x * 2)", json!([6, 2, 4])),
        ("data.list.map(x, x > 1, x * 2)", json!([6, 4])),
        ("data.list.filter(x, x > 1)", json!([3, 2])),
        ("data.obj.map(name, name)", json!(["x", "y"])),
        ("data.obj.filter(name, data.obj[name] == 1)", json!(["x"])),
        ("data.nested.map(list, list.map(x, x + seq))", json!([[6, 7], [8]])),
        ("data.tags.map(kind, kind + 'x')", json!(["ax", "bx", "cx"])),
        ("data.list.filter(x, x > 1).map(x, x + 1)", json!([4, 3])),
    ]
}

#[test]
fn every_function_and_operator_does_what_its_example_says() {
    let examples = examples();
    for (source, expected) in &examples {
        assert_eq!(value_of(source, &data()).as_ref(), Ok(expected), "{source}");
    }
    for spec in FUNCTIONS {
        let call = format!("{}(", spec.name);
        assert!(examples.iter().any(|(source, _)| source.contains(&call)), "{} has no example", spec.name);
    }
}

#[test]
fn what_has_no_value_says_which_field_and_why() {
    // `$` is the expression.
    let failures = [
        ("data.missing > 1", "data.missing: is missing"),
        ("data.obj.z.y", "data.obj.z.y: is missing"),
        ("data.name > 1", "data.name: expected a number, found text"),
        ("data.usage > 'x'", "data.usage: expected text, found a number"),
        ("data.n + data.name", "data.name: expected a number, found text"),
        ("data.ok + 1", "data.ok: expected a number, found a flag"),
        ("data.ok < data.n", "data.ok: expected a number or text, found a flag"),
        ("data.nothing * 2", "data.nothing: expected a number, found null"),
        ("!data.n", "data.n: expected a flag, found a number"),
        ("data.missing && false", "data.missing: is missing"),
        ("size(data.n)", "data.n: expected text, a list or an object, found a number"),
        ("max(data.tags)", "data.tags: expected only numbers in the list, found text"),
        ("number(data.name)", "data.name: expected a number, or text that is one, found other text"),
        ("data.list.map(x, x.y)", "x.y: is missing"),
        ("data.tags[9]", "data.tags.9: is missing"),
        ("data.obj[kind]", "data.obj.sample: is missing"),
        ("data.tags[data.n - 5]", "data.tags.-1: is missing"),
        ("data.n.all(x, true)", "data.n: expected a list or an object, found a number"),
        ("1 / (data.n - 4)", "$: division by zero"),
        ("1 % 0", "$: division by zero"),
        ("sqrt(data.n - 5)", "$: the result is not a finite number"),
        ("min(data.list.filter(x, x > 9))", "$: the list is empty"),
        ("key.substring(1, 9)", "$: substring: the text has no such part"),
    ];
    for (source, expected) in failures {
        assert_eq!(value_of(source, &data()), Err(expected.replace('$', source)), "{source}");
    }
}

#[test]
fn what_can_be_known_to_be_wrong_is_refused_when_it_is_compiled() {
    let deep = format!("1{}", " + 1".repeat(200));
    let long = format!("'{}'", "x".repeat(SOURCE_BYTES));
    let names = format!("data{}", ".a".repeat(17));
    let refused = [
        ("usage > 5", "did you mean data.usage?"),
        ("usage.max > 5", "did you mean data.usage?"),
        ("sizee(data)", "did you mean size?"),
        ("nonsense(data)", "there are: size, "),
        ("size(1, 2)", "size takes 1 argument, not 2"),
        ("min()", "min takes 1 argument or more, not 0"),
        ("kind.substring()", "substring takes 2 to 3 arguments, not 1"),
        ("all(data.list, 1)", "data.list.all(x, …)"),
        ("1 + 'a'", "+: a number and text do not go together"),
        ("kind > 5", ">: text and a number do not go together"),
        ("data.x > true", ">: expected a number or text, found a flag"),
        ("!5", "!: expected a flag, found a number"),
        ("sqrt(kind)", "sqrt: expected a number, found text"),
        ("kind.map(x, x)", "expected a list or an object, found text"),
        ("kind.matches(data.pattern)", "written out"),
        ("kind.matches('(')", "unclosed group"),
        (r"kind.matches(r'\w{200}')", "cannot be used"),
        ("data.l.map(a, a.map(b, b.map(c, c)))", "nested 2 deep"),
        ("{1: 2}", "written out as text"),
        ("{'a': 1, 'a': 2}", "twice"),
        ("room.name", "there is no name in text"),
        ("data.list[-1]", "counted from 0"),
        ("has(key)", "has(data.usage)"),
        ("b'x'", "no bytes"),
        ("Point{x: 1}", "there are no types"),
        ("1 +", "line "),
        ("", "line "),
        (deep.as_str(), "deep"),
        (long.as_str(), "an expression may have 1024"),
        (names.as_str(), "16 names deep"),
    ];
    for (source, why) in refused {
        match compile_alone(source) {
            Ok(_) => panic!("{source} was compiled"),
            Err(said) => assert!(said.contains(why), "{source}: {said}"),
        }
    }
}

#[test]
fn a_condition_is_true_or_false_and_nothing_else() {
    let (expression, extractor) = compile_alone("data.usage > 90").unwrap();
    assert_eq!(expression.test(&record(&data(), &extractor)), Ok(true));
    let (expression, extractor) = compile_alone("data.usage").unwrap();
    let failure = expression.test(&record(&data(), &extractor)).unwrap_err();
    assert_eq!(told(&failure), "data.usage: expected a flag, found a number");
}

#[test]
fn expressions_are_shared_between_threads_and_are_the_same_if_written_the_same() {
    fn shared<T: Clone + std::fmt::Debug + Send + Sync>(_: &T) {}
    let mut paths = Paths::default();
    let one = Expression::compile("data.a + data.b", &mut paths).unwrap();
    let other = Expression::compile("data.b == 1", &mut paths).unwrap();
    shared(&one);
    assert_eq!(paths.len(), 2, "a field that two expressions read is read once");
    assert!(one == one.clone() && one != other && one.source() == "data.a + data.b");
}

#[test]
fn an_expression_that_takes_too_many_steps_is_stopped() {
    let many: Vec<u32> = (0..3_000).collect();
    let data = json!({ "many": many, "text": "x".repeat(20_000) });
    let costly = [
        "data.many.all(x, data.many.all(y, x + y >= 0))",
        "data.many.map(x, data.text + data.text)",
        "data.many.map(x, data.text)",
        "data.many.map(x, data.many)",
        "data.many.filter(x, data.many == data.many)",
        "data.many.map(x, data.text.replace('x', data.text))",
        "data.many.map(x, data.text.split(''))",
        "data.many.exists(x, data.text.matches('^(x?){40}y'))",
        "data.many.exists(x, data.text.substring(9) == '')",
        "[0, 0, 0, 0].map(x, data.many + data.many)",
    ];
    for source in costly {
        let why = format!("{source}: the expression takes more than 10000 steps");
        assert_eq!(value_of(source, &data), Err(why));
    }
    // What is handed on as it is costs nothing, however large.
    assert_eq!(value_of("data", &data), Ok(data.clone()));
}

#[test]
fn what_is_nested_or_chained_without_end_is_refused_and_nothing_overflows() {
    for (link, end) in [
        ("(", "1"),
        ("[", "1"),
        ("{'a':", "1"),
        ("!", "true"),
        ("-", "1"),
        ("1+", "1"),
        ("a.", "a"),
        ("1?1:", "1"),
        ("1<", "1"),
        ("size(", "1"),
        ("true||", "true"),
    ] {
        let source = link.repeat((SOURCE_BYTES - end.len()) / link.len()) + end;
        // Some of them are expressions after all: signs cancel out, and || is balanced.
        let _ = value_of(&source, &data());
    }
}

fn number() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        // With a point, so that they are doubles to the crate too.
        (-400..400_i32).prop_map(|eighths| format!("({:?})", f64::from(eighths) / 8.0)),
        "[abc]".prop_map(|name| format!("data.{name}")),
    ];
    leaf.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            (inner.clone(), "[-+*/]", inner.clone()).prop_map(|(left, sign, right)| format!("({left} {sign} {right})")),
            inner.clone().prop_map(|of| format!("(-{of})")),
            (inner.clone(), comparison(), inner.clone(), inner)
                .prop_map(|(left, sign, right, other)| { format!("({left} {sign} {right} ? {right} : {other})") }),
        ]
    })
}

fn comparison() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["<", "<=", ">", ">=", "==", "!="])
}

fn condition() -> impl Strategy<Value = String> {
    let leaf = (number(), comparison(), number()).prop_map(|(left, sign, right)| format!("({left} {sign} {right})"));
    leaf.prop_recursive(2, 4, 2, |inner| {
        let sign = proptest::sample::select(vec!["&&", "||"]);
        prop_oneof![
            (inner.clone(), sign, inner.clone()).prop_map(|(left, sign, right)| format!("({left} {sign} {right})")),
            inner.prop_map(|of| format!("(!{of})")),
        ]
    })
}

/// What looks like an expression, and seldom is one.
fn soup() -> impl Strategy<Value = String> {
    let words = vec![
        "data",
        "data.list",
        "data.obj",
        "x",
        "kind",
        "1",
        "2.5",
        "'a'",
        "true",
        "null",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "<",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        " in ",
        "size(",
        ".map(x, ",
        ".all(x,",
        ".filter(kind,",
        "has(",
        "min(",
        ".split(",
        ".matches(",
        "coalesce(",
        "\\",
        "\"",
        "`",
        "@",
        "b'",
        "0x",
        "é",
    ];
    proptest::collection::vec(proptest::sample::select(words), 0..24).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arithmetic_and_comparisons_give_what_the_crate_itself_gives(
        source in prop_oneof![number(), condition()],
        (a, b, c) in (-100.0..100.0_f64, -100.0..100.0_f64, -100.0..100.0_f64),
    ) {
        prop_assume!(source.len() <= SOURCE_BYTES);
        let mut context = cel::Context::default();
        for (name, value) in [("data_a", a), ("data_b", b), ("data_c", c)] {
            context.add_variable(name, value).unwrap();
        }
        let theirs = cel::Program::compile(&source.replace("data.", "data_")).unwrap().execute(&context);
        match (value_of(&source, &json!({ "a": a, "b": b, "c": c })), theirs) {
            // There a division by zero is an infinity, and so it may go on.
            (Err(why), _) => prop_assert!(why.contains("division by zero") || why.contains("finite"), "{}", why),
            (Ok(Json::Bool(ours)), Ok(cel::Value::Bool(theirs))) => prop_assert_eq!(ours, theirs),
            (Ok(ours), Ok(cel::Value::Float(theirs))) => prop_assert_eq!(ours.as_f64(), Some(theirs)),
            (ours, theirs) => return Err(TestCaseError::fail(format!("{ours:?} and {theirs:?}"))),
        }
    }

    #[test]
    fn no_text_makes_the_compiler_or_the_evaluation_panic(source in prop_oneof!["\\PC{0,40}", soup()]) {
        let _ = value_of(&source, &data());
    }
}
