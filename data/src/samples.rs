//! The sample corpus that the program carries, for `trawl demo`.

/// Returns the body for creating the index (`settings` and `mappings`, JSON) and the documents (NDJSON, gzip).
pub fn samples() -> (&'static str, &'static [u8]) {
    (include_str!("../samples/mapping.json"), include_bytes!("../samples/catches.ndjson.gz"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead, BufReader};

    #[test]
    fn every_sample_fits_the_mapping() {
        let (body, documents) = super::samples();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let mapping = crate::mapping::Mapping::parse(&body["mappings"]).unwrap();
        let mut ids = std::collections::HashSet::new();
        for line in BufReader::new(flate2::read::GzDecoder::new(documents)).lines() {
            let line = line.unwrap();
            let document = mapping.parse_document(line.as_bytes()).unwrap();
            assert!(document.dynamic.is_empty(), "mapped: {line}");
            let source: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(ids.insert(source["id"].as_str().unwrap().to_owned()));
        }
        assert_eq!(ids.len(), 4_000);
    }
}
