//! The sample corpus that the program carries, for `trawl demo`.

/// Returns the body for creating the index (`settings` and `mappings`, JSON) and the documents (NDJSON, gzip).
pub fn samples() -> (&'static str, &'static [u8]) {
    (include_str!("../samples/mapping.json"), include_bytes!("../samples/catches.ndjson.gz"))
}
