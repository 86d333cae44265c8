//! Merged aggregations, neutral of any wire form: made by `gather/aggregation.rs`, rendered by `http`.

/// The result of one aggregation.
#[derive(Clone, Debug, PartialEq)]
pub enum AggregationResult {
    /// A bucket aggregation.
    Buckets {
        /// In the order asked for.
        buckets: Vec<Bucket>,
        /// Documents in buckets that were left out; terms only.
        sum_other_doc_count: Option<u64>,
    },
    /// A metric with a single figure; `None` without any value.
    Value(Option<f64>),
    /// `stats` and `extended_stats`.
    Stats {
        /// Number of values.
        count: u64,
        /// Least value.
        min: Option<f64>,
        /// Greatest value.
        max: Option<f64>,
        /// Mean.
        avg: Option<f64>,
        /// Sum.
        sum: f64,
        /// The rest, for `extended_stats`.
        extended: Option<ExtendedStats>,
    },
}

/// What `extended_stats` has more than `stats`; `None` without any value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExtendedStats {
    /// Sum of the squares.
    pub sum_of_squares: Option<f64>,
    /// Population variance.
    pub variance: Option<f64>,
    /// Population variance.
    pub variance_population: Option<f64>,
    /// Sampling variance.
    pub variance_sampling: Option<f64>,
    /// Population standard deviation.
    pub std_deviation: Option<f64>,
    /// Population standard deviation.
    pub std_deviation_population: Option<f64>,
    /// Sampling standard deviation.
    pub std_deviation_sampling: Option<f64>,
}

/// One bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// What its documents share.
    pub key: BucketKey,
    /// The key of a range, as named or as made of its bounds.
    pub range_key: Option<String>,
    /// Lower bound of a range, inside.
    pub from: Option<f64>,
    /// Upper bound of a range, outside.
    pub to: Option<f64>,
    /// Number of documents.
    pub doc_count: u64,
    /// Sub-aggregations, in the order asked for.
    pub aggregations: Vec<(String, AggregationResult)>,
}

/// A bucket's key.
#[derive(Clone, Debug, PartialEq)]
pub enum BucketKey {
    /// Keyword or range.
    String(String),
    /// Integer.
    Long(i64),
    /// Floating point, histogram.
    Double(f64),
    /// Boolean.
    Boolean(bool),
    /// Milliseconds since the epoch.
    DateMs(i64),
}
