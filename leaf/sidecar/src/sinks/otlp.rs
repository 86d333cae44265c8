//! Records as OpenTelemetry logs, in the messages of the official crate.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource as WireResource;
use prost::Message;

use crate::record::{Origin, Record, Value, level_name};

/// JSON deeper than this goes as text.
const DEPTH_MAX: usize = 16;

/// The attributes of all records' resource.
#[derive(Clone, Debug)]
pub struct Resource(Vec<KeyValue>);

impl Resource {
    /// Of names and values.
    pub fn new(attributes: &[(String, String)]) -> Self {
        Self(attributes.iter().map(|(key, value)| text(key, value)).collect())
    }
}

/// Attributes by name.
type Attributes = Vec<(String, String)>;

/// Log records, grouped by the attributes of their file.
#[derive(Debug, Default)]
pub struct Logs {
    groups: Vec<(Attributes, Vec<LogRecord>)>,
    bytes: usize,
}

impl Logs {
    /// Adds a record.
    pub fn add(&mut self, record: &Record<'_>, origin: &Origin<'_>) {
        let log = log_record(record, origin);
        self.bytes += log.encoded_len() + 4;
        match self.groups.iter_mut().find(|(resource, _)| resource == origin.resource) {
            Some((_, logs)) => logs.push(log),
            None => self.groups.push((origin.resource.to_vec(), vec![log])),
        }
    }

    /// Roughly how many bytes it makes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The encoded request; nothing is left.
    pub fn take(&mut self, resource: &Resource) -> Vec<u8> {
        self.bytes = 0;
        let group = |(own, log_records): (Vec<(String, String)>, Vec<LogRecord>)| {
            let mut attributes = resource.0.clone();
            attributes.extend(own.iter().map(|(key, value)| text(key, value)));
            let scope = InstrumentationScope { name: "trawl-sidecar".to_owned(), ..Default::default() };
            ResourceLogs {
                resource: Some(WireResource { attributes, ..Default::default() }),
                scope_logs: vec![ScopeLogs { scope: Some(scope), log_records, ..Default::default() }],
                ..Default::default()
            }
        };
        let resource_logs = std::mem::take(&mut self.groups).into_iter().map(group).collect();
        ExportLogsServiceRequest { resource_logs }.encode_to_vec()
    }
}

fn log_record(record: &Record<'_>, origin: &Origin<'_>) -> LogRecord {
    let mut attributes: Vec<KeyValue> = record.fields.iter().map(|(key, value)| field(key, value)).collect();
    attributes.push(text("log.file.name", origin.file));
    attributes.push(text("log.record.uid", &format!("{:032x}", origin.id)));
    attributes.push(pair("log.file.offset", Any::IntValue(i64::try_from(origin.offset).unwrap_or(i64::MAX))));
    let marks: Vec<AnyValue> = record.marks.names().map(|mark| any(Any::StringValue(mark.to_owned()))).collect();
    if !marks.is_empty() {
        attributes.push(pair("log.marks", Any::ArrayValue(ArrayValue { values: marks })));
    }
    LogRecord {
        time_unix_nano: record.time_ns.and_then(|time| u64::try_from(time).ok()).unwrap_or(0),
        observed_time_unix_nano: u64::try_from(origin.observed_ns).unwrap_or(0),
        severity_number: i32::from(record.severity),
        severity_text: level_name(record.severity).to_owned(),
        body: Some(any(Any::StringValue(record.message.to_string()))),
        attributes,
        trace_id: record.trace_id.as_deref().map(bytes_of).unwrap_or_default(),
        span_id: record.span_id.as_deref().map(bytes_of).unwrap_or_default(),
        ..Default::default()
    }
}

fn field(key: &str, value: &Value<'_>) -> KeyValue {
    let value = match value {
        Value::Text(value) => Any::StringValue(value.to_string()),
        Value::Integer(number) => Any::IntValue(*number),
        Value::Json(json) => match serde_json::from_str(json) {
            Ok(value) => return KeyValue { key: key.to_owned(), value: Some(of_json(value, 0)), ..Default::default() },
            Err(_) => Any::StringValue(json.to_string()),
        },
    };
    pair(key, value)
}

fn of_json(value: serde_json::Value, depth: usize) -> AnyValue {
    use serde_json::Value as Json;
    if depth >= DEPTH_MAX {
        return any(Any::StringValue(value.to_string()));
    }
    match value {
        Json::Null => AnyValue { value: None },
        Json::Bool(truth) => any(Any::BoolValue(truth)),
        Json::Number(number) => any(match number.as_i64() {
            Some(number) => Any::IntValue(number),
            None => Any::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Json::String(text) => any(Any::StringValue(text)),
        Json::Array(values) => any(Any::ArrayValue(ArrayValue {
            values: values.into_iter().map(|value| of_json(value, depth + 1)).collect(),
        })),
        Json::Object(members) => {
            let member = |(key, value)| KeyValue { key, value: Some(of_json(value, depth + 1)), ..Default::default() };
            any(Any::KvlistValue(KeyValueList { values: members.into_iter().map(member).collect() }))
        }
    }
}

fn any(value: Any) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..Default::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.to_owned()))
}

/// Bytes of hexadecimal digits; parsers let nothing else through.
fn bytes_of(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).filter_map(byte).collect()
}
