//! A search's whole way through the root.

mod aggregate;
mod query;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use trawl_cluster::view::View;
use trawl_proto::NodeName;
use trawl_proto::v1;

use self::query::QueryPhase;
use crate::catalog;
use crate::error::Error;
use crate::fetch::{self, Winners};
use crate::gather::{self, Ranked};
use crate::limits::Limit;
use crate::plan::{Planner, Preference, Target};
use crate::request::*;
use crate::root::Root;
use crate::scatter::{Answer, Scatter, Scattered, load_of};
use crate::statistics::{self, Numbers, Terms, scoring_terms};

/// Of the time given, what is kept for the fetch phase: a tenth, but not more than this.
const FETCH_TIME_MAX: Duration = Duration::from_millis(200);

/// Up to this many documents are fetched along with the query when one leaf has all shards.
const FETCH_ALONG_MAX: usize = 64;

/// Most time that asking for dynamic fields may take of a search.
const FIELDS_TIME_MAX: Duration = Duration::from_secs(1);

/// Searches.
///
/// 1. Resolve: the records and mappings of the indices, on one view of the cluster.
/// 2. Lower: the request in wire form, per index, with that index's mapping.
/// 3. Plan: for every shard its replicas, in the order to ask.
/// 4. Statistics: one set of numbers for all shards, from the cache or asked for.
/// 5. Scatter: the query phase on all shards.
/// 6. If an answer shows that the numbers or the known fields were too old, 2 to 5 once more.
/// 7. Gather: one ranked list, the totals, the aggregations.
/// 8. Fetch: the winners' documents.
pub(crate) async fn search(root: &Root, request: SearchRequest) -> Result<SearchResponse, Error> {
    let start = Instant::now();
    let search = Search::new(root, &request, start)?;
    let mut parts = search.parts(false).await?;
    let mut phase = search.query_phase(&parts).await?;
    let wanted = search.repeat(&parts, &phase);
    if wanted != Repeat::No && search.time_left() > request.timeout / 4 {
        root.metrics.searches_repeated.inc();
        if wanted == Repeat::WithFields {
            parts = search.parts(true).await?;
        }
        let again = search.query_phase(&parts).await?;
        if again.scattered.summary().failed <= phase.scattered.summary().failed {
            phase = again;
        }
    }
    let mut response = search.answer(&parts, phase).await?;
    response.took = start.elapsed();
    Ok(response)
}

/// Counts matches: the same way without ranking, statistics and documents.
pub(crate) async fn count(root: &Root, indices: &[String], lower: &Lower) -> Result<(u64, ShardsSummary), Error> {
    let request = SearchRequest::new(indices.to_vec(), lower.clone());
    let search = Search::new(root, &request, Instant::now())?;
    let mut parts = search.parts(false).await?;
    if parts.iter().any(|part| part.lowered.uses_dynamic) {
        // A count tells no field versions, so what is known is made sure of beforehand.
        parts = search.parts(true).await?;
    }
    let targets = search.targets(&parts);
    let scattered = query::count(&search.scatter(search.deadline), &parts, &targets).await;
    search.check(&scattered)?;
    let matched = scattered.answers().map(|(_, answer)| answer.value.matched).sum();
    Ok((matched, scattered.summary()))
}

/// One index's part of a search.
pub(crate) struct Part {
    /// The index as the query was planned on it.
    pub view: IndexView,
    /// What to do there.
    pub lowered: Lowered,
    /// What is scored; empty when no score is wanted.
    pub terms: Terms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    No,
    WithStatistics,
    WithFields,
}

/// What stays the same through all phases.
struct Search<'a> {
    root: &'a Root,
    request: &'a SearchRequest,
    preference: Preference,
    view: Arc<View>,
    /// When the answer has to be there.
    deadline: Instant,
    /// When the query phase has to be over.
    query_deadline: Instant,
    turn: u64,
}

impl<'a> Search<'a> {
    fn new(root: &'a Root, request: &'a SearchRequest, start: Instant) -> Result<Self, Error> {
        let window = u64::from(request.from) + u64::from(request.size);
        let window_max = root.config.search.window_max;
        if window > u64::from(window_max) {
            root.metrics.refusals.count(Limit::ResultWindow);
            return Err(Error::illegal_argument(format!(
                "Result window is too large, from + size must be less than or equal to: [{window_max}] but was \
                 [{window}]. Use [search_after] with a sort that ends in [_doc] to page through more."
            )));
        }
        let deadline = start + request.timeout;
        let for_fetch = if request.size == 0 { Duration::ZERO } else { FETCH_TIME_MAX.min(request.timeout / 10) };
        Ok(Self {
            root,
            request,
            preference: Preference::parse(request.preference.as_deref())?,
            view: root.viewer.view(),
            deadline,
            query_deadline: deadline - for_fetch,
            turn: root.turn.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn time_left(&self) -> Duration {
        self.query_deadline.saturating_duration_since(Instant::now())
    }

    fn scatter(&'a self, deadline: Instant) -> Scatter<'a> {
        Scatter {
            leaves: &self.root.leaves,
            viewer: &self.root.viewer,
            preference: &self.preference,
            deadline,
            margin: self.root.config.search.margin,
            attempts_max: self.root.config.search.attempts_max,
            hedging: &self.root.hedging,
            metrics: &self.root.metrics,
        }
    }

    /// The request per index, in the order of names. Dynamic fields are asked for when they have never
    /// been, when an error may come from not knowing them, or when told to.
    async fn parts(&self, ask_fields: bool) -> Result<Vec<Part>, Error> {
        let mut names = self.request.indices.clone();
        names.sort();
        let mut parts = Vec::with_capacity(names.len());
        for name in names {
            let record = catalog::record(&self.view, &name)?;
            let mut view = self.root.view_of(&self.view, &record)?;
            if ask_fields {
                view = self.with_latest_fields(view).await?;
            }
            let mut lowered = (self.request.lower)(&view);
            let unsure = match &lowered {
                Ok(lowered) => lowered.uses_dynamic && self.root.fields.unknown(&record.uid),
                Err(_) => true,
            };
            if unsure && !ask_fields {
                view = self.with_latest_fields(view).await?;
                lowered = (self.request.lower)(&view);
            }
            let lowered = lowered?;
            let terms = if self.scores_wanted(&lowered) { scoring_terms(&lowered.query) } else { Terms::default() };
            parts.push(Part { view, lowered, terms });
        }
        Ok(parts)
    }

    async fn with_latest_fields(&self, view: IndexView) -> Result<IndexView, Error> {
        let timeout = FIELDS_TIME_MAX.min(self.time_left() / 2);
        self.root.fields.refresh(&self.root.leaves, &self.view, &view.record, timeout).await;
        self.root.view_of(&self.view, &view.record)
    }

    fn scores_wanted(&self, lowered: &Lowered) -> bool {
        let by_score = |key: &v1::SortKey| matches!(key.by, Some(v1::sort_key::By::Score(_)));
        let ranks = self.request.size > 0 && (lowered.sort.is_empty() || lowered.sort.iter().any(by_score));
        ranks || self.request.track_scores || self.request.min_score.is_some()
    }

    fn targets(&self, parts: &[Part]) -> Vec<Target> {
        let load = load_of(&self.root.leaves, &self.view);
        let mut planner = Planner::new(&self.view, &self.preference, &load, self.turn);
        let records: Vec<_> = parts.iter().map(|part| part.view.record.clone()).collect();
        planner.targets(&records)
    }

    /// Plan, statistics, scatter.
    async fn query_phase(&self, parts: &[Part]) -> Result<QueryPhase, Error> {
        let targets = self.targets(parts);
        let part_of = part_of(parts, &targets);
        let scatter = self.scatter(self.query_deadline);
        let numbers = self.numbers(&scatter, parts, &targets, &part_of).await;
        let statistics: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(part, Part { terms, .. })| statistics::total(terms, &numbers, |at| part_of[at] == part))
            .collect();
        let along = self.fetch_along(&targets);
        let scattered =
            query::search(&scatter, self.request, parts, &targets, &part_of, &numbers, &statistics, along).await;
        self.learn(&targets, &scattered);
        self.check(&scattered)?;
        Ok(QueryPhase { targets, part_of, numbers, scattered })
    }

    /// Each shard's numbers: from the cache, and for shards that it does not know asked for, all in one
    /// wave.
    async fn numbers(&self, scatter: &Scatter<'_>, parts: &[Part], targets: &[Target], part_of: &[usize]) -> Numbers {
        let cache = &self.root.statistics;
        let now = Instant::now();
        let scored = |at: usize| !parts[part_of[at]].terms.is_empty();
        let cached = |at: usize| {
            let known = scored(at) && !self.request.fresh_statistics;
            known.then(|| cache.lookup(&targets[at].shard, &parts[part_of[at]].terms, now)).flatten()
        };
        let mut numbers: Numbers = (0..targets.len()).map(cached).collect();
        let missing: Vec<_> = (0..targets.len()).filter(|at| scored(*at) && numbers[*at].is_none()).collect();
        if !missing.is_empty() {
            self.root.metrics.statistics_asked.inc();
            let terms_of = |at: usize| parts[part_of[at]].terms.clone();
            statistics::ask(scatter, cache, targets, &missing, &terms_of, &mut numbers).await;
        }
        numbers
    }

    /// Whether to fetch with the query: one leaf has all shards, and few documents are wasted.
    fn fetch_along(&self, targets: &[Target]) -> bool {
        let mut leaves = targets.iter().filter_map(|target| target.replicas.first());
        let first = leaves.next();
        let window = (self.request.from + self.request.size) as usize;
        self.request.size > 0 && window * targets.len() <= FETCH_ALONG_MAX && leaves.all(|leaf| Some(leaf) == first)
    }

    /// Keeps what the answers say about generations and terms.
    fn learn(&self, targets: &[Target], scattered: &Scattered<v1::ShardSearchResult>) {
        let now = Instant::now();
        for (at, Answer { value, .. }) in scattered.answers() {
            let generation = value.generation.unwrap_or_default().into();
            match &value.fresh_statistics {
                Some(fresh) => self.root.statistics.learn(&targets[at].shard, generation, fresh, now),
                None => self.root.statistics.seen(&targets[at].shard, generation, now),
            }
        }
    }

    fn repeat(&self, parts: &[Part], phase: &QueryPhase) -> Repeat {
        let mut repeat = Repeat::No;
        for (at, Answer { value, .. }) in phase.scattered.answers() {
            let (part, target) = (&parts[phase.part_of[at]], &phase.targets[at]);
            if part.lowered.uses_dynamic
                && self.root.fields.behind(&target.index.uid, target.shard.number, value.fields_version)
            {
                return Repeat::WithFields;
            }
            let generation = value.generation.unwrap_or_default().into();
            let outdated = phase.numbers[at]
                .as_ref()
                .is_some_and(|used| self.root.statistics.outdated(&target.shard, used, generation, Instant::now()));
            if outdated && !self.request.fresh_statistics {
                repeat = Repeat::WithStatistics;
            }
        }
        repeat
    }

    /// Nothing at all, or less than was asked for where partial answers are not wanted, is an error.
    fn check<A>(&self, scattered: &Scattered<A>) -> Result<(), Error> {
        let summary = scattered.summary();
        let nothing = summary.failed > 0 && summary.successful == 0 && !scattered.timed_out();
        if nothing || (summary.failed > 0 && !self.request.allow_partial) {
            return Err(Error::SearchFailed { failures: summary.failures });
        }
        Ok(())
    }

    /// Gather and fetch.
    async fn answer(&self, parts: &[Part], mut phase: QueryPhase) -> Result<SearchResponse, Error> {
        let sort = parts.first().map_or(&[][..], |part| &part.lowered.sort);
        let mut shards = phase.scattered.summary();
        let results = || phase.scattered.answers().map(|(_, answer)| &answer.value);
        let mut timed_out = phase.scattered.timed_out() || results().any(|result| result.timed_out);
        let total = gather::total(results(), self.request.track_total);
        let max_score =
            if self.request.size > 0 || self.request.track_scores { gather::max_score(results()) } else { None };
        let (aggregations, in_time) =
            aggregate::aggregate(self.root, self.query_deadline, parts, &mut phase.scattered).await?;
        timed_out |= !in_time;
        let ranked = self.merge(sort, &mut phase.scattered);
        let (hits, missing) = self.fetch(parts, &phase, ranked).await;
        timed_out |= missing.iter().any(|missing| missing.failure.kind() == v1::failure::Kind::Deadline);
        for failure in missing {
            shards.successful -= 1;
            shards.failed += 1;
            shards.failures.push(failure);
        }
        if shards.failed > 0 && !self.request.allow_partial {
            return Err(Error::SearchFailed { failures: shards.failures });
        }
        Ok(SearchResponse { took: Duration::ZERO, timed_out, shards, total, max_score, hits, aggregations })
    }

    fn merge(&self, sort: &[v1::SortKey], scattered: &mut Scattered<v1::ShardSearchResult>) -> Vec<Ranked> {
        let lists = scattered.shards.iter_mut().map(|shard| match shard {
            Ok(answer) => std::mem::take(&mut answer.value.hits),
            Err(_) => Vec::new(),
        });
        gather::merge(sort, lists.collect(), self.request.from as usize, self.request.size as usize)
    }

    /// The winners with their documents, and the shards that could not give theirs.
    async fn fetch(
        &self,
        parts: &[Part],
        phase: &QueryPhase,
        mut ranked: Vec<Ranked>,
    ) -> (Vec<FoundHit>, Vec<ShardFailure>) {
        let mut documents: Vec<_> = ranked.iter_mut().map(|ranked| ranked.hit.document.take()).collect();
        let mut missing = Vec::new();
        let winners = self.winners(parts, phase, &documents, &ranked);
        if let Some(first) = parts.first()
            && !winners.is_empty()
        {
            let scatter = self.scatter(self.deadline);
            let (fetched, scattered) = fetch::documents(&scatter, &winners, &ranked, &first.lowered.fetch).await;
            documents.iter_mut().zip(fetched).for_each(|(document, fetched)| *document = document.take().or(fetched));
            missing = scattered.summary().failures;
        }
        let hits = ranked.into_iter().zip(documents);
        let hits = hits.filter_map(|(Ranked { list, hit }, document)| {
            Some(fetch::found(&phase.targets[list].index.name, hit, document?))
        });
        (hits.collect(), missing)
    }

    fn winners<'b>(
        &self,
        parts: &'b [Part],
        phase: &'b QueryPhase,
        documents: &[Option<v1::Document>],
        ranked: &[Ranked],
    ) -> Vec<Winners<'b>> {
        let mut winners: Vec<Option<Winners<'b>>> = phase.targets.iter().map(|_| None).collect();
        for (place, Ranked { list, .. }) in ranked.iter().enumerate().filter(|(place, _)| documents[*place].is_none()) {
            let Ok(Answer { leaf, value }) = &phase.scattered.shards[*list] else { continue };
            let entry = winners[*list].get_or_insert_with(|| {
                let part = &parts[phase.part_of[*list]];
                let mut target = phase.targets[*list].clone();
                target.replicas = first_then(leaf, &target.replicas);
                let query = part.lowered.fetch.highlight.is_some().then_some(&part.lowered.query);
                Winners { target, leaf: leaf.clone(), searcher: value.searcher, query, places: Vec::new() }
            });
            entry.places.push(place);
        }
        winners.into_iter().flatten().collect()
    }
}

fn first_then(first: &NodeName, others: &[NodeName]) -> Vec<NodeName> {
    std::iter::once(first).chain(others.iter().filter(|name| *name != first)).cloned().collect()
}

/// The position in the parts of each target's index.
fn part_of(parts: &[Part], targets: &[Target]) -> Vec<usize> {
    let part_of = |target: &Target| parts.iter().position(|part| part.view.record.uid == target.index.uid);
    targets.iter().map(|target| part_of(target).unwrap_or_default()).collect()
}
