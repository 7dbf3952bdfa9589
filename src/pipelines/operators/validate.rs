//! `validate`: only events whose data is as a JSON Schema says go on, unchanged; the others are dead letters, with the first fault by its place in the data and how many more there are.
//!
//! The schema stands in the step (`schema`) or in a file beside the pipeline's (`schema_file`). It is read as of draft 2020-12 unless its `$schema` says otherwise, and `format` is
//! checked. Other schemas that it refers to are not fetched: they belong into its `$defs`. Patterns are of the kind that is matched in linear time, without look-around and
//! back-references. Data is judged whole, whatever it is; late data is as good as any.

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::DeValue;

use crate::pipelines::operator::{Context, Next, Operator};
use crate::pipelines::record::Record;
use crate::pipelines::section::Section;
use crate::pipelines::why::Why;

/// The longest message of a fault, in characters: messages repeat the data that is wrong.
const MESSAGE_CHARS: usize = 300;

#[derive(Debug)]
struct Validate {
    validator: Validator,
}

/// Reads the step's settings.
pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Box<dyn Operator>> {
    let (setting, schema) = schema(section)?;
    let options = jsonschema::options().offline().should_validate_formats(true);
    match options.with_pattern_options(PatternOptions::regex()).build(&schema) {
        Ok(validator) => Some(Box::new(Validate { validator })),
        Err(error) => {
            section.fault(setting, format!("{} is no JSON Schema: {}", place("it", &error), cut(&error.to_string())));
            None
        }
    }
}

/// The schema, and the setting that it was in.
fn schema(section: &mut Section<'_, '_>) -> Option<(&'static str, Value)> {
    let inline = section.value("schema");
    if inline.is_some() && section.value("schema_file").is_some() {
        section.fault("schema_file", "not beside schema");
        return None;
    }
    let Some(inline) = inline else {
        if !section.has("schema_file") {
            section.fault("schema", "is missing; expected a JSON Schema, here or in a file that schema_file names");
        }
        let read = serde_json::from_str(&section.file("schema_file")?);
        let schema = read.map_err(|error| section.fault("schema_file", format!("the file is not JSON: {error}")));
        return Some(("schema_file", schema.ok()?));
    };
    if !inline.get_ref().is_table() {
        section.fault("schema", "expected a table, such as { type = \"object\", required = [\"usage\"] }");
        return None;
    }
    Some(("schema", to_json(inline, section)?))
}

/// A value of the schema as JSON; what JSON does not have is a fault at its place.
fn to_json(value: &Spanned<DeValue<'_>>, section: &Section<'_, '_>) -> Option<Value> {
    let found = match value.get_ref() {
        DeValue::String(text) => Some(Value::from(&**text)),
        DeValue::Boolean(flag) => Some(Value::from(*flag)),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(Value::from),
        DeValue::Float(float) => float.as_str().parse().ok().and_then(Number::from_f64).map(Value::Number),
        DeValue::Datetime(_) => None,
        // All of a list and of a table is looked at, so that every fault in it is found.
        DeValue::Array(items) => {
            let items: Vec<Option<Value>> = items.iter().map(|item| to_json(item, section)).collect();
            return items.into_iter().collect::<Option<Vec<Value>>>().map(Value::Array);
        }
        DeValue::Table(fields) => {
            let fields =
                fields.iter().map(|(name, value)| Some((name.get_ref().to_string(), to_json(value, section)?)));
            let fields: Vec<Option<(String, Value)>> = fields.collect();
            return fields.into_iter().collect::<Option<Map<String, Value>>>().map(Value::Object);
        }
    };
    if found.is_none() {
        let expected = "expected what JSON has: text, a number, a flag, a list or a table";
        section.source().fault(&value.span(), format!("{}: schema: {expected}", section.name()));
    }
    found
}

impl Operator for Validate {
    fn event(&mut self, record: &mut Record, cx: &mut Context<'_>) -> Next {
        let data = record.value();
        if self.validator.is_valid(&data) {
            return Next::Pass;
        }
        let faults = self.validator.iter_errors(&data).map(|error| (place("data", &error), cut(&error.to_string())));
        let mut faults: Vec<(String, String)> = faults.collect();
        // The order in which a schema is gone through is its crate's affair.
        faults.sort();
        let more = faults.len().saturating_sub(1);
        let (field, mut message) = faults.into_iter().next().unwrap_or_default();
        if more > 0 {
            message = format!("{message}, and {more} more");
        }
        cx.reject(record, field, Why::Other(message))
    }
}

/// Where in the data a fault is, or in the schema if that is at fault: as fields are called.
fn place(whole: &str, error: &ValidationError<'_>) -> String {
    error.instance_path().segments().fold(whole.to_owned(), |place, segment| format!("{place}.{segment}"))
}

fn cut(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::pipelines::Definition;
    use crate::pipelines::testing::Bench;
    use serde_json::json;

    const READING: &str = r#"
        op = "validate"
        [step.schema]
        type = "object"
        required = ["well", "psi"]
        properties.well = { type = "string", pattern = "^WELL-[0-9]+$" }
        properties.psi = { type = "number", minimum = 0, maximum = 1.5e4 }
        properties.at = { type = "string", format = "date-time" }
        properties.valves = { type = "array", items = { enum = ["open", "shut"] } }
    "#;

    #[test]
    fn only_what_is_as_the_schema_says_goes_on_and_it_is_not_changed() {
        let mut bench = Bench::new(READING);
        let good =
            json!({ "well": "WELL-7", "psi": 12.5, "at": "2026-11-20T06:10:00Z", "valves": ["open"], "other": null });
        assert_eq!(bench.event(0, good.clone()), [good]);
        let cases = [
            (json!({ "psi": 1 }), "data: \"well\" is a required property"),
            (json!({ "well": "WELL-7", "psi": -1 }), "data.psi: -1 is less than the minimum of 0"),
            (json!({ "well": "WELL-7", "psi": "high" }), "data.psi: \"high\" is not of type \"number\""),
            (json!({ "well": "WELL-7", "psi": 1, "at": "noon" }), "data.at: \"noon\" is not a \"date-time\""),
            (json!(7), "data: 7 is not of type \"object\""),
        ];
        for (data, expected) in cases {
            assert!(bench.event(1, data).is_empty());
            assert_eq!(bench.rejected(), [expected]);
        }
    }

    #[test]
    fn of_several_faults_the_first_in_the_data_is_told_and_the_others_are_counted() {
        let mut bench = Bench::new(READING);
        bench.event(0, json!({ "well": "X", "psi": -1, "valves": ["open", "ajar"] }));
        let rejected = bench.rejected().join("\n");
        assert!(rejected.starts_with("data.psi: -1 is less") && rejected.ends_with(", and 2 more"), "{rejected}");
        bench.event(1, json!({ "well": "WELL-1", "psi": 1, "valves": ["open", "ajar"] }));
        assert!(bench.rejected()[0].starts_with("data.valves.1: \"ajar\" is not one of"));
    }

    #[test]
    fn a_message_is_no_longer_than_can_be_read() {
        let mut bench = Bench::new(READING);
        bench.event(0, json!({ "well": "x".repeat(100_000), "psi": 1 }));
        let rejected = bench.rejected().join("\n");
        assert!(rejected.chars().count() < 320 && rejected.ends_with('…'), "{rejected}");
    }

    #[test]
    fn a_schema_that_is_none_is_a_fault_at_its_place() {
        let cases = [
            ("", "schema: is missing"),
            ("schema = 5", "schema: expected a table"),
            ("schema = { type = \"nonsense\" }", "schema: it.type is no JSON Schema: "),
            ("schema = { pattern = \"(?=x)\" }", "is no JSON Schema:"),
            ("schema = { \"$ref\" = \"https://example.com/schema.json\" }", "is no JSON Schema:"),
            ("schema = {}\nschema_file = \"a.json\"", "schema_file: not beside schema"),
            ("schema_file = \"a.json\"", "in no directory"),
        ];
        for (settings, expected) in cases {
            let faults = Bench::try_new(&format!("op = \"validate\"\n{settings}")).unwrap_err();
            assert!(faults.contains(expected) && faults.lines().count() == 1, "{settings}: {faults}");
        }
        let schema = "op = \"validate\"\n[step.schema]\nminimum = nan\nconst = [1979-05-27]";
        let faults = Bench::try_new(schema).unwrap_err();
        let places: Vec<&str> = faults.lines().filter_map(|fault| fault.split(": ").next()).collect();
        assert_eq!(places, ["test.toml:6:11", "test.toml:7:10"], "{faults}");
    }

    #[test]
    fn a_schema_is_read_from_a_file_beside_the_pipelines() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[pipeline]\nfrom = \"in\"\n[[step]]\nop = \"validate\"\nschema_file = \"s.json\"\n[[output]]\nroom = \"out\"";
        let read = |json: Option<&str>| {
            if let Some(json) = json {
                std::fs::write(directory.path().join("s.json"), json).unwrap();
            }
            let read = Definition::read("test", "test.toml", text, Some(directory.path()));
            read.map(drop).map_err(|faults| faults.iter().map(ToString::to_string).collect::<String>())
        };
        assert!(read(None).unwrap_err().starts_with("test.toml:5:15: step 1 (validate): schema_file: "));
        assert_eq!(read(Some(r#"{ "type": "object" }"#)), Ok(()));
        assert!(read(Some("{")).unwrap_err().contains("the file is not JSON"));
    }
}
