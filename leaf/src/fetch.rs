//! The fetch phase: stored documents of winning hits, filtered and highlighted as asked.

use serde_json::Value;
use tantivy::columnar::DynamicColumn;
use tantivy::schema::OwnedValue;
use tantivy::{DocAddress, DocId, SegmentOrdinal, TantivyDocument, TantivyError, Term};
use trawl_proto::v1::{self, Failure, failure};

use crate::ShardSearcher;
use crate::highlight::Highlighter;
use crate::schema::{PRIMARY_TERM, ROUTING, SEQ_NO, VERSION};
use crate::search::failed;

mod filter;

pub use filter::SourceFilter;

/// Documents of hits, in their order; one that is gone has an empty id. `by_id` looks up `_id`s
/// instead of addresses (of a searcher that is gone).
///
/// # Errors
/// `INTERNAL` for an address that this searcher does not have or a damaged document.
pub fn fetch_documents(
    searcher: &ShardSearcher,
    hits: &[v1::HitAddress],
    by_id: bool,
    query: Option<&v1::Query>,
    options: &v1::FetchOptions,
) -> Result<Vec<v1::Document>, Failure> {
    let filter = SourceFilter::new(&options.source_includes, &options.source_excludes);
    let highlighter = options.highlight.as_ref().map(|highlight| Highlighter::new(searcher, query, highlight));
    hits.iter()
        .map(|hit| {
            let address = if by_id {
                find(searcher, &hit.id).map_err(|error| failed(&error))?
            } else {
                Some(DocAddress::new(hit.segment, hit.doc))
            };
            match address {
                Some(address) => document(searcher, address, hit, &filter, highlighter.as_ref(), options),
                None => Ok(v1::Document::default()),
            }
        })
        .collect()
}

/// The address of the live document with this `_id`.
pub fn find(searcher: &ShardSearcher, id: &str) -> tantivy::Result<Option<DocAddress>> {
    use tantivy::DocSet;
    let term = Term::from_field_text(searcher.physical.hidden.id, id);
    for (segment, reader) in (0..).zip(searcher.searcher.segment_readers()) {
        let Some(mut postings) =
            reader.inverted_index(term.field())?.read_postings(&term, tantivy::schema::IndexRecordOption::Basic)?
        else {
            continue;
        };
        while postings.doc() != tantivy::TERMINATED {
            if reader.alive_bitset().is_none_or(|alive| alive.is_alive(postings.doc())) {
                return Ok(Some(DocAddress::new(segment, postings.doc())));
            }
            postings.advance();
        }
    }
    Ok(None)
}

fn document(
    searcher: &ShardSearcher,
    address: DocAddress,
    hit: &v1::HitAddress,
    filter: &SourceFilter,
    highlighter: Option<&Highlighter>,
    options: &v1::FetchOptions,
) -> Result<v1::Document, Failure> {
    let internal = |reason: String| trawl_proto::failure(failure::Kind::Internal, reason);
    let (segment, doc) = (address.segment_ord, address.doc_id);
    let reader = searcher.searcher.segment_readers().get(segment as usize);
    if reader.is_none_or(|reader| doc >= reader.max_doc()) {
        return Err(internal(format!("there is no document {doc} in segment {segment}")));
    }
    let number = |name: &str| number(searcher, segment, doc, name).map_err(|error| failed(&error));
    let mut document = v1::Document {
        id: hit.id.clone(),
        routing: routing(searcher, segment, doc).map_err(|error| failed(&error))?,
        seq: number(SEQ_NO)?,
        version: number(VERSION)?,
        primary_term: number(PRIMARY_TERM)?,
        ..Default::default()
    };
    if document.id.is_empty() {
        let identities = searcher.columns.identities(&searcher.searcher).map_err(|error| failed(&error))?;
        if let Some(identity) = identities.get(segment as usize) {
            document.id = identity.id_of(doc).map_err(|error| failed(&error))?;
        }
    }
    if !options.source && highlighter.is_none() {
        return Ok(document);
    }
    let source = source(searcher, address).map_err(|error| failed(&error))?;
    let needs_json = highlighter.is_some() || (options.source && !filter.keeps_all());
    if needs_json {
        let mut json: Value = serde_json::from_slice(&source)
            .map_err(|error| internal(format!("damaged source of [{}]: {error}", hit.id)))?;
        if let Some(highlighter) = highlighter {
            document.highlights = highlighter.highlight(&json);
        }
        if options.source && !filter.keeps_all() {
            filter.apply(&mut json);
            document.source = serde_json::to_vec(&json).map_err(|error| internal(error.to_string()))?.into();
        }
    }
    if options.source && filter.keeps_all() {
        document.source = source.into();
    }
    Ok(document)
}

/// The stored `_source`, as the client sent it.
fn source(searcher: &ShardSearcher, address: DocAddress) -> tantivy::Result<Vec<u8>> {
    let stored: TantivyDocument = searcher.searcher.doc(address)?;
    let value = stored
        .get_first(searcher.physical.hidden.source)
        .map(OwnedValue::from)
        .ok_or_else(|| TantivyError::InternalError("a document has no source".to_owned()))?;
    match value {
        OwnedValue::Bytes(bytes) => Ok(bytes),
        _ => Err(TantivyError::InternalError("a document's source is not bytes".to_owned())),
    }
}

fn number(searcher: &ShardSearcher, segment: SegmentOrdinal, doc: DocId, name: &str) -> tantivy::Result<u64> {
    let columns = searcher.columns.get(&searcher.searcher, segment, name)?;
    Ok(columns
        .iter()
        .find_map(|column| match column {
            DynamicColumn::U64(column) => column.first(doc),
            _ => None,
        })
        .unwrap_or(0))
}

fn routing(searcher: &ShardSearcher, segment: SegmentOrdinal, doc: DocId) -> tantivy::Result<Option<String>> {
    for column in searcher.columns.get(&searcher.searcher, segment, ROUTING)?.iter() {
        let DynamicColumn::Str(column) = column else { continue };
        let Some(ordinal) = column.term_ords(doc).next() else { continue };
        let mut text = String::new();
        column.ord_to_str(ordinal, &mut text)?;
        return Ok(Some(text));
    }
    Ok(None)
}
