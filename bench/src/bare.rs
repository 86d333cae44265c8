//! The baseline of indexing: the same documents into the same physical schema, by tantivy alone.
//!
//! One thread reads, parses and analyses, one indexing thread of tantivy writes; a commit every second.
//! Nothing is logged, no id is looked up, nothing is sent.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use trawl_data::mapping::Mapping;
use trawl_leaf::apply::draft::{Draft, HiddenValues};
use trawl_leaf::apply::keys::Keys;
use trawl_leaf::apply::layout::Layout;
use trawl_leaf::apply::state::State;
use trawl_leaf::apply::tokens::Analyzers;
use trawl_leaf::index::{ShardIndex, commit};
use trawl_leaf::schema::{PhysicalSchema, SPARES_DEFAULT};

use crate::index::{Measured, id_of};
use crate::processes::own_cpu;

const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Indexes a file of NDJSON into an empty directory until all of it is searchable.
pub fn run(file: &Path, id_field: &str, mapping: &Mapping, directory: &Path, bytes: usize) -> anyhow::Result<Measured> {
    let (start, cpu) = (Instant::now(), own_cpu()?);
    let physical = Arc::new(PhysicalSchema::new(mapping, 1, SPARES_DEFAULT));
    let layout = Layout::new(mapping, 1, &physical);
    let payload = State::new(1).to_payload(1, physical.spare_count());
    let index = ShardIndex::create(directory, physical.clone(), &payload).map_err(|error| anyhow!(error.reason()))?;
    let mut writer = index.writer(bytes).map_err(|error| anyhow!(error.reason()))?;
    let (mut keys, mut analyzers) = (Keys::default(), Analyzers::default());
    let mut documents = 0;
    let mut committed = Instant::now();
    for line in BufReader::with_capacity(1 << 16, File::open(file)?).lines() {
        let line = line?;
        let id = id_of(&line, id_field)?;
        let draft = Draft::parse(&layout, &id, line.as_bytes(), &mut analyzers)
            .map_err(|error| anyhow!("{id}: {}", error.reason))?;
        keys.learn(&draft.wanted());
        documents += 1;
        let values = HiddenValues {
            id: &id,
            routing: None,
            seq: documents,
            version: 1,
            primary_term: 1,
            source: line.as_bytes(),
        };
        writer.add_document(draft.finish(&physical, &layout, &keys, &values).into())?;
        if committed.elapsed() >= COMMIT_EVERY {
            commit(&mut writer, &payload).map_err(|error| anyhow!(error.reason()))?;
            committed = Instant::now();
        }
    }
    commit(&mut writer, &payload).map_err(|error| anyhow!(error.reason()))?;
    index.reader.reload()?;
    let found = index.reader.searcher().num_docs();
    anyhow::ensure!(found == documents, "{found} of {documents} documents are searchable");
    let measured = Measured { documents, seconds: start.elapsed().as_secs_f64(), cpu_seconds: own_cpu()? - cpu };
    writer.wait_merging_threads().context("merging")?;
    Ok(measured)
}
