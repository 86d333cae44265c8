//! Generates the sample corpus: `cargo run -p trawl-data --example generate_samples -- data/samples`.
//!
//! Four thousand invented entries of a maritime archive. Everything comes from the word lists beside this file and a
//! generator with a fixed seed, so a second run gives the same bytes. Harbours are real, with rounded coordinates; vessels,
//! people, catches, prices and events are not.

mod themes;
mod vocabulary;

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;

use flate2::{Compression, GzBuilder};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use themes::{THEMES, Theme};
use vocabulary::{LISTS, PLACES, Place};

const SEED: u64 = 0x7261_776c;
const DOCUMENTS: usize = 4_000;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).map_or_else(|| PathBuf::from("data/samples"), PathBuf::from);
    let path = directory.join("catches.ndjson.gz");
    // No name and no time in the gzip header: the same documents are the same bytes.
    let mut out = GzBuilder::new().mtime(0).write(File::create(&path)?, Compression::best());
    let mut random = StdRng::seed_from_u64(SEED);
    for number in 1..=DOCUMENTS {
        let document = document(number, &mut random);
        serde_json::to_writer(&mut out, &document)?;
        std::io::Write::write_all(&mut out, b"\n")?;
    }
    let file = out.finish()?;
    println!("{}: {DOCUMENTS} documents, {} bytes", path.display(), file.metadata()?.len());
    Ok(())
}

/// What stays the same throughout one entry.
struct Entry<'r> {
    random: &'r mut StdRng,
    place: &'static Place,
    year: i32,
    fixed: Vec<(&'static str, String)>,
}

fn document(number: usize, random: &mut StdRng) -> Value {
    let theme: &Theme = pick(&THEMES, random);
    let place = pick(&PLACES, random);
    // More entries from recent years than from early ones.
    let year = 2024 - (random.random::<f64>().powi(2) * 92.0) as i32;
    let mut entry = Entry { random, place, year, fixed: Vec::new() };
    // An entry speaks of one vessel, one person and one species all through.
    for list in ["vessel", "person", "species"] {
        let value = entry.word(list);
        entry.fixed.push((list, value));
    }
    let title: &&str = pick(theme.titles, entry.random);
    let title = capitalised(&entry.fill(title));
    let sentences = entry.random.random_range(2..=6);
    let chosen = theme.sentences.iter().choose_multiple(entry.random, sentences);
    let mut body: Vec<String> = chosen.into_iter().map(|template| capitalised(&entry.fill(template))).collect();
    if entry.random.random_bool(0.35) {
        let closing: &&str = pick(themes::CLOSINGS, entry.random);
        body.push(capitalised(&entry.fill(closing)));
    }
    let tags = tags(theme, &entry, &body);

    let (month, day) = (entry.random.random_range(1..=12), entry.random.random_range(1..=28));
    let (hour, minute) = (entry.random.random_range(0..24), entry.random.random_range(0..60));
    let mut document = Map::new();
    document.insert("id".to_owned(), json!(format!("{}-{number:04}", theme.category)));
    document.insert("title".to_owned(), json!(title));
    document.insert("body".to_owned(), json!(body.join(" ")));
    document.insert("category".to_owned(), json!(theme.category));
    document.insert("tags".to_owned(), json!(tags));
    document.insert("vessel".to_owned(), json!(entry.word("vessel")));
    document.insert("recorded_by".to_owned(), json!(entry.word("person")));
    document.insert("year".to_owned(), json!(year));
    document.insert("recorded".to_owned(), json!(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z")));
    // Not every entry has a depth or a price: a field without a value is ordinary.
    if entry.random.random_bool(theme.depth_share) {
        let depth = theme.depth_m * entry.random.random_range(0.1_f64..2.0).powi(2);
        document.insert("depth_m".to_owned(), json!((depth * 10.0).round() / 10.0));
    }
    if entry.random.random_bool(0.7) {
        let price = 4.0 + 120.0 * entry.random.random::<f64>().powi(3);
        document.insert("price".to_owned(), json!((price * 20.0).round() / 20.0));
    }
    document.insert("available".to_owned(), json!(entry.random.random_bool(0.8)));
    let near = |at: f64, random: &mut StdRng| ((at + random.random_range(-0.4..0.4)) * 1e4).round() / 1e4;
    let lat = near(place.lat, entry.random);
    let lon = near(place.lon, entry.random);
    let place = json!({
        "name": place.name, "country": place.country, "region": place.region, "lat": lat, "lon": lon,
    });
    document.insert("place".to_owned(), place);
    Value::Object(document)
}

impl Entry<'_> {
    /// The template with every `{list}` replaced by a word of that list.
    fn fill(&mut self, template: &str) -> String {
        let mut text = String::with_capacity(template.len() * 2);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let (slot, after) = after.split_once('}').unwrap_or((after, ""));
            let word = self.word(slot);
            // `a {word}` becomes `an eel`.
            if text.ends_with(" a ") && word.starts_with(['a', 'e', 'i', 'o', 'u'])
                || text == "a " && word.starts_with(['a', 'e', 'i', 'o'])
            {
                text.insert(text.len() - 1, 'n');
            }
            text.push_str(&word);
            rest = after;
            // `{word}s` is its plural.
            if let Some(after) = rest.strip_prefix('s').filter(|after| !after.starts_with(char::is_alphabetic)) {
                pluralise(&mut text);
                rest = after;
            }
        }
        text.push_str(rest);
        text
    }

    fn word(&mut self, slot: &str) -> String {
        if let Some((_, word)) = self.fixed.iter().find(|(name, _)| *name == slot) {
            return word.clone();
        }
        match slot {
            "species2" => return skewed(list("species"), self.random).to_owned(),
            "place" => return self.place.name.to_owned(),
            "country" => return self.place.country.to_owned(),
            "region" => return self.place.region.to_owned(),
            "year" => return self.year.to_string(),
            "past" => return (self.year - self.random.random_range(3..60)).to_string(),
            "few" => return self.random.random_range(2..=9).to_string(),
            "many" => return (self.random.random_range(2..=48) * 5).to_string(),
            "metres" => return (self.random.random_range(2..=120) * 5).to_string(),
            _ => {}
        }
        skewed(list(slot), self.random).to_owned()
    }
}

/// Makes the word at the end of the text plural.
fn pluralise(text: &mut String) {
    if text.ends_with("fish") || text.ends_with("krill") {
        return;
    }
    for (ending, plural) in [
        ("fishwife", "fishwives"),
        ("jelly", "jellies"),
        ("dory", "dories"),
        ("ss", "sses"),
        ("man o' war", "men o' war"),
    ] {
        if text.ends_with(ending) {
            text.truncate(text.len() - ending.len());
            text.push_str(plural);
            return;
        }
    }
    text.push('s');
}

fn list(name: &str) -> &'static [&'static str] {
    match LISTS.iter().find(|(list, _)| *list == name) {
        Some((_, words)) => words,
        None => unreachable!("no template names a list that is not there: `{name}`"),
    }
}

/// The theme's own tag, words of the vocabulary that the text holds, and the decade.
fn tags(theme: &Theme, entry: &Entry<'_>, body: &[String]) -> Vec<String> {
    let text = body.join(" ").to_lowercase();
    let mut tags: Vec<String> =
        theme.tags.iter().filter(|tag| text.contains(**tag)).map(|tag| (*tag).to_owned()).collect();
    tags.truncate(4);
    let species = entry.fixed.iter().find(|(name, _)| *name == "species").map(|(_, species)| species.replace(' ', "-"));
    tags.extend(species.filter(|species| text.contains(&species.replace('-', " "))));
    tags.push(format!("{}s", entry.year / 10 * 10));
    tags
}

fn pick<'l, T>(list: &'l [T], random: &mut StdRng) -> &'l T {
    match list.choose(random) {
        Some(item) => item,
        None => unreachable!("no list is empty"),
    }
}

/// Early words of a list come more often than late ones, as in any text: so some words are rare.
fn skewed<'l>(words: &[&'l str], random: &mut StdRng) -> &'l str {
    let position = (random.random::<f64>().powf(1.6) * words.len() as f64) as usize;
    words[position.min(words.len() - 1)]
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
