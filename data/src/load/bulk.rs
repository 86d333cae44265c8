//! What the answer to a bulk request means for each of its documents: a pure function.

use serde::Deserialize;

use super::batch::Item;
use super::report::Rejection;

/// The kind of error of a write for a claim that is no longer held.
pub(super) const CLAIM_LOST: &str = "claim_lost_exception";

/// The part of a bulk answer that matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    items: Vec<AnswerItem>,
}

#[derive(Debug, Deserialize)]
struct AnswerItem {
    index: ItemResult,
}

#[derive(Debug, Deserialize)]
struct ItemResult {
    status: u16,
    result: Option<String>,
    error: Option<ItemError>,
}

#[derive(Debug, Deserialize)]
struct ItemError {
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
    caused_by: Option<Box<ItemError>>,
}

/// The documents of a request by what became of them.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) loaded: u64,
    /// Of these, how many took the place of a document with the same id.
    pub(super) replaced: u64,
    pub(super) bytes_loaded: u64,
    pub(super) rejected: Vec<Rejection>,
    /// To be sent again, in order.
    pub(super) again: Vec<Item>,
    /// Why the first of them.
    pub(super) again_reason: String,
    /// A document was refused because the claim it was sent for is no longer held.
    pub(super) claim_lost: bool,
}

/// Sorts the items of a request by its answer. An item that is refused for now is sent again, together with all later ones
/// of the same id, for else the earlier document would replace the later one.
pub(super) fn sort(items: Vec<Item>, answer: Answer) -> Result<Sorted, String> {
    if answer.items.len() != items.len() {
        return Err(format!("the answer has {} items for {} documents", answer.items.len(), items.len()));
    }
    let mut sorted = Sorted::default();
    let mut ids_again = std::collections::HashSet::new();
    for (item, AnswerItem { index: result }) in items.into_iter().zip(answer.items) {
        let superseded = item.id_hash != 0 && ids_again.contains(&item.id_hash);
        match result.status {
            _ if superseded => sorted.again.push(item),
            200..300 => {
                sorted.loaded += 1;
                sorted.replaced += u64::from(result.result.as_deref() == Some("updated"));
                sorted.bytes_loaded += item.bytes;
            }
            status if is_for_now(status) => {
                if sorted.again.is_empty() {
                    sorted.again_reason = format!("status {status}: {}", reason(result.error.as_ref()));
                }
                ids_again.insert(item.id_hash);
                sorted.again.push(item);
            }
            409 if result.error.as_ref().and_then(|error| error.kind.as_deref()) == Some(CLAIM_LOST) => {
                sorted.claim_lost = true;
            }
            status => {
                let kind = result.error.as_ref().and_then(|error| error.kind.clone());
                let kind = kind.unwrap_or_else(|| format!("status_{status}"));
                let reason = reason(result.error.as_ref());
                sorted.rejected.push(Rejection { place: item.place, kind, reason });
            }
        }
    }
    Ok(sorted)
}

/// Whether a status says "not now" rather than "never".
pub(super) fn is_for_now(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

fn reason(error: Option<&ItemError>) -> String {
    let Some(error) = error else { return "no reason given".to_owned() };
    let mut text = error.reason.clone().unwrap_or_else(|| "no reason given".to_owned());
    let cause = error.caused_by.as_ref().and_then(|cause| cause.reason.as_ref());
    if let Some(cause) = cause.filter(|cause| !text.contains(cause.as_str())) {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::readers::Place;

    fn item(line: u64, id_hash: u64) -> Item {
        Item { place: Place { file: Arc::from("f"), line, offset: None }, id_hash, lines: 0..1, bytes: 10 }
    }

    #[test]
    fn later_documents_of_an_id_wait_for_earlier_ones() {
        let answer = serde_json::json!({ "items": [
            { "index": { "status": 201 } },
            { "index": { "status": 429, "error": { "type": "es_rejected_execution_exception", "reason": "full" } } },
            { "index": { "status": 200 } },
            { "index": { "status": 400, "error": { "type": "document_parsing_exception", "reason": "bad",
                "caused_by": { "type": "x", "reason": "worse" } } } },
            { "index": { "status": 202 } },
        ] });
        let items = vec![item(1, 5), item(2, 7), item(3, 7), item(4, 0), item(5, 0)];
        let sorted = sort(items, serde_json::from_value(answer).unwrap()).unwrap();
        assert_eq!((sorted.loaded, sorted.bytes_loaded), (2, 20));
        assert_eq!(sorted.again.iter().map(|item| item.place.line).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(sorted.again_reason, "status 429: full");
        assert_eq!(sorted.rejected[0].kind, "document_parsing_exception");
        assert_eq!(sorted.rejected[0].reason, "bad: worse");
        assert!(sort(vec![item(1, 0)], serde_json::from_str(r#"{"items": []}"#).unwrap()).is_err());
    }
}
