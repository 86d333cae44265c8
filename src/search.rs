//! `trawl search`: ranked hits, for a person.

use std::{
    collections::BTreeSet,
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use trawl_data::load::Client;

const EXAMPLES: &str = "\
Examples:
  trawl search herring
  trawl search --index catches 'title:storm AND year:[1990 TO *]'
  trawl search --index catches --sort year:desc herring
  trawl search --index catches --size 3 --json '\"grey seal\"'";

/// Marks around highlighted words: characters that no text contains.
const MARK_START: char = '\u{e000}';
const MARK_END: char = '\u{e001}';
/// What is searched unless an index is named: the words of every query are in the query logs.
const ALL_BUT_LOGS: &str = "*,-logs-trawl-*";
/// Fields that name a document, best first.
const TITLE_FIELDS: [&str; 7] = ["title", "name", "subject", "headline", "package", "path", "message"];
/// Fields that tell what is in it, best first.
const BODY_FIELDS: [&str; 6] = ["body", "description", "text", "content", "abstract", "summary"];
const SNIPPET_CHARS_MAX: usize = 240;
const MADE_TITLE_CHARS_MAX: usize = 80;
/// The server's own limit of time is below this.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Searches all text fields and prints ranked hits.
///
/// The query is in Lucene's query string syntax: words, "phrases", field:value, AND, OR, NOT, prefix*, fuzzy~, [a TO b].
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A root's address
    #[arg(long, env = "TRAWL_ENDPOINT", default_value = "http://127.0.0.1:9200", value_name = "URL")]
    pub endpoint: String,

    /// The index to search (names, wildcards, commas); default: all but the leaves' logs (logs-trawl-*)
    #[arg(long, env = "TRAWL_INDEX", default_value = "_all", value_name = "NAME")]
    pub index: String,

    /// Hits to show
    #[arg(long, env = "TRAWL_SIZE", default_value_t = 10, value_name = "N")]
    pub size: u32,

    /// Sort by a field instead of by relevance: FIELD or FIELD:desc; may be given several times
    #[arg(long, env = "TRAWL_SORT", value_delimiter = ',', value_name = "FIELD[:desc]")]
    pub sort: Vec<String>,

    /// Print the raw answer
    #[arg(long, env = "TRAWL_JSON")]
    pub json: bool,

    /// Also say where the time went
    #[arg(long, env = "TRAWL_EXPLAIN_TIME")]
    pub explain_time: bool,

    /// What to search for: words, "phrases", field:value, AND, OR, NOT, prefix*, fuzzy~, `[a TO b]`
    #[arg(required = true, value_name = "QUERY")]
    pub query: Vec<String>,
}

/// Exit code 0 when the cluster answered, also with no hit; 1 when it could not.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.endpoint, TIMEOUT)?;
    let mut body = json!({
        "query": { "query_string": { "query": args.query.join(" ") } },
        "size": args.size,
    });
    if !args.sort.is_empty() {
        body["sort"] = args.sort.iter().map(|key| sort_key(key)).collect();
    }
    if !args.json {
        body["highlight"] = json!({
            "pre_tags": [MARK_START.to_string()], "post_tags": [MARK_END.to_string()],
            "fields": { "*": { "number_of_fragments": 1, "fragment_size": 160 } },
        });
    }
    let started = Instant::now();
    let index = if args.index == "_all" { ALL_BUT_LOGS } else { args.index.as_str() };
    let path = [index, "_search"];
    let reply = client.send_json(reqwest::Method::POST, &path, &body).await.map_err(|error| {
        let hint = if error.is_connect() { " (is a cluster running there? `trawl up` starts one)" } else { "" };
        anyhow::anyhow!("no answer from {}: {error}{hint}", client.endpoint())
    })?;
    let round_trip = started.elapsed();
    let mut out = std::io::stdout().lock();
    if args.json {
        out.write_all(&reply.body)?;
        if !reply.body.ends_with(b"\n") {
            writeln!(out)?;
        }
        return Ok(if reply.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    anyhow::ensure!(reply.is_success(), "the search was refused (status {}): {}", reply.status, reply.error_reason());
    let answer = reply.json();
    anyhow::ensure!(answer["hits"].is_object(), "{} does not answer searches", client.endpoint());
    let style = Style { bold: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    write!(out, "{}", render(&answer, index.contains(['*', ',']), style))?;
    if answer["hits"]["total"]["value"] == 0 {
        for hint in hints(&client, index, &args.query.join(" ")).await {
            writeln!(out, "{}", style.text(&hint))?;
        }
    }
    if args.explain_time {
        let took = Duration::from_millis(answer["took"].as_u64().unwrap_or(0));
        let around = round_trip.saturating_sub(took).as_secs_f64() * 1e3;
        let total = round_trip.as_secs_f64() * 1e3;
        writeln!(out, "time: {} ms in the cluster, {around:.1} ms around it, {total:.1} ms in all", took.as_millis())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A key of the search's `sort`. A field that an index does not have sorts last in it.
fn sort_key(key: &str) -> Value {
    let (field, order) =
        key.rsplit_once(':').filter(|(_, order)| matches!(*order, "asc" | "desc")).unwrap_or((key, "asc"));
    json!({ field: { "order": order, "unmapped_type": "long" } })
}

/// What may help when nothing was found; nothing when the cluster does not say.
async fn hints(client: &Client, index: &str, query: &str) -> Vec<String> {
    let mut hints = Vec::new();
    if let Ok(reply) = client.get(&[index, "_count"]).await
        && let Some(count) = reply.json()["count"].as_u64()
    {
        hints.push(match (count, index) {
            (0, ALL_BUT_LOGS) => "there are no documents yet: `trawl load --index NAME FILE` loads some".to_owned(),
            (0, _) => format!("there are no documents in {index} (yet: a write is found after about a second)"),
            (1, _) => "nothing matches, of 1 document".to_owned(),
            (count, _) => format!("nothing matches, of {count} documents"),
        });
    }
    let Ok(reply) = client.get(&[index, "_mapping"]).await else { return hints };
    let mut known = BTreeSet::new();
    for mapping in reply.json().as_object().into_iter().flatten().map(|(_, mapping)| mapping) {
        fields_of(&mapping["mappings"], "", &mut known);
    }
    hints.extend(unknown_fields(query, &known));
    hints
}

/// The dotted names of all fields of a mapping.
fn fields_of(mapping: &Value, path: &str, known: &mut BTreeSet<String>) {
    for key in ["properties", "fields"] {
        for (name, field) in mapping[key].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields_of(field, &path, known);
            known.insert(path);
        }
    }
}

/// A line for each `field:` in the query that no index has.
fn unknown_fields(query: &str, known: &BTreeSet<String>) -> Vec<String> {
    let is_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '@');
    let before_colon = query.match_indices(':').filter_map(|(at, _)| query[..at].rsplit(|c| !is_name(c)).next());
    let unknown = before_colon
        .filter(|name| !name.is_empty() && !matches!(*name, "_id" | "_index" | "_exists_") && !known.contains(*name));
    let line = |name: &str| {
        let like = known.iter().min_by_key(|field| distance(field, name)).filter(|field| distance(field, name) <= 2);
        match like {
            Some(field) => format!("there is no field {name}; did you mean {field}?"),
            None => format!("there is no field {name}"),
        }
    };
    unknown.map(line).collect()
}

/// How many letters differ (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (place, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], place + 1);
        for (at, found) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *found);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// How to show what is highlighted.
#[derive(Clone, Copy)]
struct Style {
    bold: bool,
}

impl Style {
    /// The text with its marks shown, and nothing in it that a terminal would obey.
    fn text(self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len() + 16);
        let mut space = true;
        for character in text.chars() {
            match character {
                MARK_START if self.bold => shown.push_str("\x1b[1m"),
                MARK_END if self.bold => shown.push_str("\x1b[0m"),
                MARK_START | MARK_END => {}
                _ if character.is_whitespace() || character.is_control() => {
                    if !space {
                        shown.push(' ');
                    }
                    space = true;
                }
                _ => {
                    shown.push(character);
                    space = false;
                }
            }
        }
        shown.truncate(shown.trim_end().len());
        shown
    }

    fn bold(self, text: &str) -> String {
        let text = self.text(&text.replace([MARK_START, MARK_END], ""));
        if self.bold { format!("\x1b[1m{text}\x1b[0m") } else { text }
    }
}

/// The whole answer: hits, then counts, then what is missing from it.
fn render(answer: &Value, several_indices: bool, style: Style) -> String {
    let mut lines = Vec::new();
    let hits = answer["hits"]["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (position, hit) in hits.iter().enumerate() {
        render_hit(&mut lines, position + 1, hit, several_indices, style);
    }
    lines.push(summary(answer));
    if answer["timed_out"] == true {
        lines.push("the time was up: the answer is partial".to_owned());
    }
    for failure in answer["_shards"]["failures"].as_array().into_iter().flatten() {
        let (index, reason) = (failure["index"].as_str().unwrap_or("?"), failure["reason"]["reason"].as_str());
        let line = format!("shard {} of {index} is missing: {}", failure["shard"], reason.unwrap_or("no reason given"));
        lines.push(style.text(&line));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn render_hit(lines: &mut Vec<String>, rank: usize, hit: &Value, several_indices: bool, style: Style) {
    let score = hit["_score"].as_f64().map(|score| format!("score {score:.3}, "));
    let sort = || Some(format!("sorted by {}, ", hit["sort"].as_array()?.first()?));
    let score = score.or_else(sort).unwrap_or_default();
    let id = hit["_id"].as_str().unwrap_or("?");
    let place = match hit["_index"].as_str().filter(|_| several_indices) {
        Some(index) => format!("{index}/{id}"),
        None => id.to_owned(),
    };
    let (title_field, title) = title(hit, id);
    let title = match title_field {
        Some(_) => shorten(&title, SNIPPET_CHARS_MAX),
        // The beginning of some text, which may well be the snippet too.
        None => shorten(&title, MADE_TITLE_CHARS_MAX),
    };
    lines.push(format!("{rank:>3}. {}  ({score}{})", style.bold(&title), style.text(&place)));
    let unmarked = |text: &str| text.replace([MARK_START, MARK_END], "");
    if let Some(snippet) = snippet(hit, title_field).filter(|snippet| unmarked(snippet).trim() != title.trim()) {
        lines.push(format!("     {}", style.text(&snippet)));
    }
}

/// What names the document: one of the usual fields (returned with it), else the text that matched, else the first text.
fn title<'h>(hit: &'h Value, id: &str) -> (Option<&'h str>, String) {
    let source = &hit["_source"];
    let text_of = |field: &str| source[field].as_str().filter(|text| !text.trim().is_empty());
    if let Some((field, text)) = TITLE_FIELDS.iter().find_map(|field| Some((*field, text_of(field)?))) {
        return (Some(field), text.to_owned());
    }
    let matched = || hit["highlight"].as_object()?.keys().find_map(|field| text_of(field));
    let first = || source.as_object()?.keys().find_map(|field| text_of(field).filter(|text| *text != id));
    (None, matched().or_else(first).unwrap_or(id).to_owned())
}

/// The highlighted passage with the most marks, not of the title where there is another; else the beginning of the body.
fn snippet(hit: &Value, title_field: Option<&str>) -> Option<String> {
    let fragments = hit["highlight"].as_object().into_iter().flatten().flat_map(|(field, fragments)| {
        let fragments = fragments.as_array().into_iter().flatten().filter_map(Value::as_str);
        fragments.map(move |fragment| (field.as_str(), fragment))
    });
    let is_title =
        |field: &str| title_field.is_some_and(|title| field == title || field.starts_with(&format!("{title}.")));
    let marks = |fragment: &str| fragment.matches(MARK_START).count();
    let best = fragments.max_by_key(|(field, fragment)| (!is_title(field), marks(fragment), !field.contains('.')));
    if let Some((_, fragment)) = best.filter(|(field, _)| !is_title(field)) {
        return Some(shorten(fragment, SNIPPET_CHARS_MAX));
    }
    let body = BODY_FIELDS.iter().find_map(|field| hit["_source"][field].as_str());
    match (body, best) {
        (Some(body), _) => Some(shorten(body, SNIPPET_CHARS_MAX)),
        (None, Some((_, fragment))) => Some(shorten(fragment, SNIPPET_CHARS_MAX)),
        (None, None) => None,
    }
}

/// At most so many characters, ending at a word, with every mark closed.
fn shorten(text: &str, chars_max: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(chars_max) else { return text.to_owned() };
    let cut = &text[..end];
    let cut = cut.rsplit_once(char::is_whitespace).map_or(cut, |(words, _)| words);
    let open = cut.matches(MARK_START).count() > cut.matches(MARK_END).count();
    format!("{cut}{}…", if open { MARK_END.to_string() } else { String::new() })
}

fn summary(answer: &Value) -> String {
    let total = &answer["hits"]["total"];
    let hits = match (total["value"].as_u64(), total["relation"].as_str()) {
        (Some(1), Some("eq")) => "1 hit".to_owned(),
        (Some(value), Some("gte")) => format!("at least {value} hits"),
        (Some(value), _) => format!("{value} hits"),
        (None, _) => "hits".to_owned(),
    };
    let shards = &answer["_shards"];
    format!("{hits} in {} ms, shards answered {}/{}", answer["took"], shards["successful"], shards["total"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Value {
        json!({
            "took": 3, "timed_out": false,
            "_shards": { "total": 4, "successful": 3, "skipped": 0, "failed": 1, "failures": [
                { "shard": 2, "index": "catches", "reason": { "type": "x", "reason": "no serving replica" } },
            ] },
            "hits": { "total": { "value": 10_000, "relation": "gte" }, "max_score": 2.5, "hits": [
                {
                    "_index": "catches", "_id": "a\u{1b}[2J", "_score": 2.5,
                    "_source": { "title": "Grey seals", "body": "long" },
                    "highlight": {
                        "body": ["seen: a \u{e000}seal\u{e001}\nnear \u{e000}seal\u{e001} rock"],
                        "title": ["Grey \u{e000}seals\u{e001}"],
                    },
                },
                { "_index": "catches", "_id": "b", "_score": null, "_source": { "n": 1 } },
            ] },
        })
    }

    #[test]
    fn plain_and_bold() {
        let plain = render(&answer(), false, Style { bold: false });
        let expected = "  1. Grey seals  (score 2.500, a [2J)\n     seen: a seal near seal rock\n  2. b  (b)\n\
                        at least 10000 hits in 3 ms, shards answered 3/4\nshard 2 of catches is missing: no serving replica\n";
        assert_eq!(plain, expected);
        let bold = render(&answer(), true, Style { bold: true });
        assert!(bold.contains("\x1b[1mGrey seals\x1b[0m  (score 2.500, catches/a [2J)"));
        assert!(bold.contains("a \x1b[1mseal\x1b[0m near"));
    }

    #[test]
    fn documents_without_a_title_are_named_by_their_text() {
        let body = "a word magnetic core memory ".repeat(8);
        let hit = json!({ "_id": "7", "_source": { "id": "7", "title": "", "body": body },
            "highlight": { "body": ["core \u{e000}memory\u{e001}"] } });
        let mut lines = Vec::new();
        render_hit(&mut lines, 1, &hit, false, Style { bold: false });
        assert!(
            lines[0].starts_with("  1. a word magnetic core memory") && lines[0].contains("…  (7)"),
            "{}",
            lines[0]
        );
        assert_eq!(lines[1], "     core memory");
    }

    #[test]
    fn misspelt_fields_are_named() {
        let mapping = json!({"properties": {
            "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
            "at": {"properties": {"year": {"type": "long"}}},
        }});
        let mut known = BTreeSet::new();
        fields_of(&mapping, "", &mut known);
        assert_eq!(known.iter().map(String::as_str).collect::<Vec<_>>(), ["at", "at.year", "title", "title.raw"]);
        assert_eq!(
            unknown_fields("titel:seal AND (at.year:3 year:4) place:\"x:y\"", &known)[..2],
            ["there is no field titel; did you mean title?", "there is no field year"]
        );
        assert_eq!(unknown_fields("title:a _id:b plain", &known), Vec::<String>::new());
        assert_eq!((distance("", "abc"), distance("title", "titel"), distance("a", "a")), (3, 2, 0));
    }

    #[test]
    fn snippets_are_short_and_closed() {
        let long = format!("\u{e000}{}", "word ".repeat(100));
        let short = shorten(&long, SNIPPET_CHARS_MAX);
        assert!(short.chars().count() <= SNIPPET_CHARS_MAX + 2 && short.ends_with("word\u{e001}…"));
        assert_eq!(shorten("short", 5), "short");
    }
}
