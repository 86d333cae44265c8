//! What a document is: mapping, analysis, routing, input formats, the loader.
