//! Statistics of the whole index for BM25, so that a ranking does not depend on how documents fell
//! into shards.
//!
//! The cache holds, per (shard, field, term), the three numbers (live documents, tokens of the
//! field, documents with the term) together with the generation that they are of. A query uses one
//! set of numbers for all its shards. What an answer says about a shard's generation decides whether
//! the set was good enough: see [`StatisticsCache::outdated`].

mod cache;
mod terms;

pub use self::cache::{ShardNumbers, StatisticsCache};
pub use self::terms::{Terms, scoring_terms};

use std::time::Duration;

use tokio::time::Instant;
use trawl_proto::v1;

use crate::hedging::Phase;
use crate::plan::Target;
use crate::scatter::{Scatter, by_position};

/// Numbers of all targets, by position; `None` for a shard that did not tell or was not asked.
pub type Numbers = Vec<Option<ShardNumbers>>;

/// The sum over all shards of one index: those whose position satisfies `of_index`.
pub fn total(terms: &Terms, numbers: &Numbers, of_index: impl Fn(usize) -> bool) -> v1::IndexStatistics {
    let mut documents = 0;
    let mut tokens = vec![0; terms.fields.len()];
    let mut frequencies = vec![0; terms.terms.len()];
    for (_, numbers) in numbers.iter().enumerate().filter(|(at, _)| of_index(*at)) {
        let Some(numbers) = numbers else { continue };
        documents += numbers.documents;
        tokens.iter_mut().zip(&numbers.tokens).for_each(|(sum, tokens)| *sum += tokens);
        frequencies.iter_mut().zip(&numbers.frequencies).for_each(|(sum, frequency)| *sum += frequency);
    }
    let fields = terms.fields.iter().zip(tokens);
    let frequencies = terms.terms.iter().zip(frequencies);
    v1::IndexStatistics {
        documents,
        fields: fields.map(|(field, tokens)| v1::FieldTokens { field: field.clone(), tokens }).collect(),
        terms: frequencies
            .map(|(term, documents)| v1::TermFrequency {
                field: term.field.clone(),
                term: term.term.clone(),
                documents,
            })
            .collect(),
    }
}

/// Asks the shards at `wanted` for their numbers and keeps them in the cache. `terms_of` gives the
/// terms of a target's index.
pub async fn ask(
    scatter: &Scatter<'_>,
    cache: &StatisticsCache,
    targets: &[Target],
    wanted: &[usize],
    terms_of: &(dyn Fn(usize) -> Terms + Sync),
    numbers: &mut Numbers,
) {
    let asked: Vec<Target> = wanted.iter().map(|at| targets[*at].clone()).collect();
    let request = |shards: &[usize]| {
        let mut indices: Vec<v1::IndexTerms> = Vec::new();
        for at in shards {
            let target = &asked[*at];
            match indices.iter_mut().find(|index| index.index_uid == target.index.uid.as_str()) {
                Some(index) => index.shards.push(target.shard.number),
                None => {
                    let Terms { fields, terms } = terms_of(wanted[*at]);
                    let index_uid = target.index.uid.0.clone();
                    indices.push(v1::IndexTerms { index_uid, shards: vec![target.shard.number], fields, terms });
                }
            }
        }
        v1::StatisticsRequest { indices }
    };
    let asked = &asked;
    let scattered = scatter
        .run(Phase::Statistics, asked, &|leaf, shards, timeout: Duration| {
            let request = request(&shards);
            Box::pin(async move {
                let response = leaf.statistics(request, timeout).await?;
                Ok(by_position(asked, &shards, response.shards))
            })
        })
        .await;
    for (at, answer) in scattered.answers() {
        let at_target = wanted[at];
        let terms = terms_of(at_target);
        let generation = answer.value.generation.unwrap_or_default().into();
        if let Some(statistics) = &answer.value.statistics {
            let now = Instant::now();
            cache.learn(&targets[at_target].shard, generation, statistics, now);
            numbers[at_target] = Some(ShardNumbers::of(generation, &terms, statistics, now));
        }
    }
}
