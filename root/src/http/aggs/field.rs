//! Which fields an aggregation works on, and the values given for documents without one.

use trawl_data::mapping::{Field, FieldType};
use trawl_proto::v1;

use super::super::{
    error::{illegal, parsing},
    json::Json,
    keys,
    query::{Lowering, values},
};
use crate::error::Error;

/// The `field` key.
pub(super) fn name(value: &Json) -> Result<String, Error> {
    keys::text(value, "field")
}

/// The `field` that has to be there.
pub(super) fn required(field: Option<String>, type_name: &str) -> Result<String, Error> {
    field.ok_or_else(|| {
        parsing(format!("Required one of fields [field, script], but none were specified for [{type_name}]"))
    })
}

/// Fails when the aggregation cannot work on the field. A field that the index does not have is fine:
/// it has no values.
pub(super) fn check<'a>(
    lowering: &mut Lowering<'a>,
    path: &str,
    type_name: &str,
    fits: fn(&FieldType) -> bool,
) -> Result<Option<&'a Field>, Error> {
    let index = lowering.index;
    let Some(field) = lowering.field(path) else { return Ok(None) };
    if field.field_type.is_text() {
        return Err(illegal(fielddata(path, index)));
    }
    if !fits(&field.field_type) {
        return Err(illegal(format!(
            "Field [{path}] of type [{}] is not supported for aggregation [{type_name}]",
            field.field_type.name()
        )));
    }
    Ok(Some(field))
}

/// What Elasticsearch says to sorting by a text field and aggregating it.
pub(crate) fn fielddata(path: &str, index: &str) -> String {
    format!(
        "Fielddata is disabled on [{path}] in [{index}]. Text fields are not optimised for operations that require per-document field data like aggregations and sorting, so these operations are disabled by default. Please use a keyword field instead. Alternatively, set fielddata=true on [{path}] in order to load field data by uninverting the inverted index. Note that this can use significant memory."
    )
}

/// A value for documents without one, in the field's type.
pub(super) fn missing(
    lowering: &Lowering<'_>,
    field: Option<&Field>,
    text: &Option<String>,
) -> Result<Option<v1::Value>, Error> {
    let Some(text) = text else { return Ok(None) };
    let Some(field) = field else { return Ok(Some(super::super::query::build::string(text.as_str()))) };
    Ok(values::point(lowering, field, text)?.and_then(|values| values.into_iter().next()))
}

/// Numbers, dates and switches.
pub(super) fn is_numeric(field_type: &FieldType) -> bool {
    field_type.is_numeric() || field_type.is_date() || matches!(field_type, FieldType::Boolean)
}

/// Numbers alone.
pub(super) fn is_number(field_type: &FieldType) -> bool {
    field_type.is_numeric()
}

/// Anything.
pub(super) fn is_any(_: &FieldType) -> bool {
    true
}
