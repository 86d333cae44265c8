//! Every format in every compression, and every kind of damage.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use serde_json::{Value, json};

use super::*;

/// What reading some bytes gives: documents (line, id, source) and faults (line, kind).
struct Found {
    opened: Vec<Opened>,
    documents: Vec<(u64, String, Value)>,
    faults: Vec<(u64, FaultKind)>,
}

fn read_inputs(inputs: Vec<Input>, options: ReadOptions) -> Found {
    let mut reading = read(inputs, options).unwrap();
    let mut found = Found { opened: Vec::new(), documents: Vec::new(), faults: Vec::new() };
    while let Some(events) = reading.events.blocking_recv() {
        for event in events {
            match event {
                Event::Opened(opened) => found.opened.push(*opened),
                Event::Record(record) => {
                    assert!(!record.source.contains(&b'\n'), "one line");
                    let source = serde_json::from_slice(&record.source).unwrap();
                    found.documents.push((record.place.line, record.id, source));
                }
                Event::Fault(fault) => {
                    assert!(!fault.reason.is_empty());
                    found.faults.push((fault.place.line, fault.kind));
                }
            }
        }
    }
    assert!(reading.ended_well());
    found
}

fn read_bytes(bytes: impl Into<Vec<u8>>, options: ReadOptions) -> Found {
    read_named("input", bytes, options)
}

fn read_named(name: &str, bytes: impl Into<Vec<u8>>, options: ReadOptions) -> Found {
    let bytes = Bytes::from(bytes.into());
    read_inputs(vec![Input::Bytes { name: name.to_owned(), bytes }], options)
}

fn small() -> ReadOptions {
    ReadOptions { record_bytes_max: 1_000, ..ReadOptions::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => gzip(bytes),
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

const COMPRESSIONS: [Compression; 5] =
    [Compression::Gzip, Compression::Zstd, Compression::Lz4, Compression::Xz, Compression::Bzip2];

/// Lines that compress badly, so that a cut in the stored bytes is a cut in the middle of the content.
fn many_lines(lines: u64) -> Vec<u8> {
    let line = |number: u64| {
        let noise = xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes());
        format!("{{\"number\": {number}, \"noise\": \"{noise:032x}\"}}\n")
    };
    (1..=lines).map(line).collect::<String>().into_bytes()
}

#[test]
fn every_compression_reads_alike() {
    let text = many_lines(20_000);
    for compression in COMPRESSIONS.into_iter().chain([Compression::Plain]) {
        let mut bytes = compressed(compression, &text[..text.len() / 2]);
        // A second member or frame behind the first, as `cat a.gz b.gz` makes it.
        bytes.extend(compressed(compression, &text[text.len() / 2..]));
        let found = read_bytes(bytes, ReadOptions::default());
        assert_eq!(found.opened[0].compression, compression);
        assert_eq!(found.opened[0].format, Format::Ndjson);
        assert_eq!(found.faults, []);
        assert_eq!(found.documents.len(), 20_000, "{compression}");
        let (line, _, last) = &found.documents[19_999];
        assert_eq!((*line, last["number"].as_u64()), (20_000, Some(20_000)));
    }
}

#[test]
fn a_truncated_stream_keeps_what_came_before() {
    let text = many_lines(20_000);
    for compression in COMPRESSIONS {
        let bytes = compressed(compression, &text);
        for cut in [bytes.len() - 1, bytes.len() - 7, bytes.len() * 2 / 3] {
            let found = read_bytes(&bytes[..cut], ReadOptions::default());
            let kinds: Vec<FaultKind> = found.faults.iter().map(|(_, kind)| *kind).collect();
            assert_eq!(kinds, [FaultKind::Truncated], "{compression} cut at {cut}");
            let documents = found.documents.len();
            assert!(documents > 5_000, "{compression} cut at {cut}: {documents}");
            assert!(found.documents.iter().zip(1..).all(|((line, ..), number)| *line == number));
        }
    }
}

#[test]
fn damage_inside_a_stream_is_reported() {
    let text = many_lines(20_000);
    for compression in COMPRESSIONS {
        let mut bytes = compressed(compression, &text);
        let middle = bytes.len() / 2;
        for byte in &mut bytes[middle..middle + 64] {
            *byte ^= 0x5a;
        }
        let found = read_bytes(bytes, ReadOptions::default());
        assert!(found.documents.len() <= 20_000);
        // LZ4 frames without checksums may only show it as lines that are no JSON.
        assert!(!found.faults.is_empty(), "{compression}");
    }
}

#[test]
fn bad_lines_cost_only_themselves() {
    let mut text = b"\xef\xbb\xbf{\"a\": 1}\r\n\n[1]\n{\"a\": \n{\"b\": \"\xff\"}\n".to_vec();
    text.extend(format!("{{\"long\": \"{}\"}}\n", "x".repeat(2_000)).bytes());
    text.extend(b"{\"a\": 2}");
    let found = read_bytes(text, small());
    assert_eq!(found.opened[0].format, Format::Ndjson);
    let expected = [
        (3, FaultKind::NotAnObject),
        (4, FaultKind::InvalidJson),
        (5, FaultKind::InvalidUtf8),
        (6, FaultKind::TooLong),
    ];
    assert_eq!(found.faults, expected);
    assert_eq!(found.documents.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [1, 7]);
}

#[test]
fn a_line_of_fifty_megabytes_is_skipped_without_holding_it() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(b"{\"a\": 1}\n{\"a\": \"").unwrap();
    for _ in 0..50 {
        encoder.write_all(&vec![b'x'; 1_000_000]).unwrap();
    }
    encoder.write_all(b"\"}\n{\"a\": 2}\n").unwrap();
    let found = read_bytes(encoder.finish().unwrap(), ReadOptions::default());
    assert_eq!(found.faults, [(2, FaultKind::TooLong)]);
    assert_eq!(found.documents.len(), 2);
}

#[test]
fn json_elements_are_cut_out() {
    let text = r#"[ {"a": "]}\"",
   "b": [1, {"c": {}}]}, 17, "text", {"a" 5}, {},
 {"a": 3}] "#;
    let found = read_bytes(text, ReadOptions { format: Format::Json, ..ReadOptions::default() });
    let sources: Vec<Value> = found.documents.iter().map(|(.., source)| source.clone()).collect();
    assert_eq!(sources, [json!({ "a": "]}\"", "b": [1, { "c": {} }] }), json!({}), json!({ "a": 3 })]);
    let expected = [(2, FaultKind::NotAnObject), (2, FaultKind::NotAnObject), (2, FaultKind::InvalidJson)];
    assert_eq!(found.faults, expected);
    let ids: std::collections::HashSet<&str> = found.documents.iter().map(|(_, id, _)| id.as_str()).collect();
    assert_eq!(ids.len(), 3, "elements on one line have ids of their own");

    let found = read_bytes("{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n{\"a\": \"x", small());
    assert_eq!(found.opened[0].format, Format::Json);
    assert_eq!(found.documents.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(found.faults, [(7, FaultKind::InvalidJson)]);

    let long = format!("[{{\"a\": \"{}\"}}, {{\"a\": 1}}", "x".repeat(2_000));
    let found = read_bytes(long, small());
    assert_eq!(found.faults, [(1, FaultKind::TooLong), (1, FaultKind::InvalidJson)]);
    assert_eq!(found.documents.len(), 1);
}

#[test]
fn tables_become_typed_documents() {
    let text =
        "name,year,price,open\n\"Cod, fresh\",1999,1.10,true\nHake,,n/a,\nSole,2001\n\"Two\nlines\",2002,3,FALSE\n";
    let found = read_named("fish.csv", text, ReadOptions::default());
    // `price` holds a word, so it is text from the beginning; what is not there is left out.
    let expected = [
        (2, json!({ "name": "Cod, fresh", "year": 1999, "price": "1.10", "open": true })),
        (3, json!({ "name": "Hake", "price": "n/a" })),
        (5, json!({ "name": "Two\nlines", "year": 2002, "price": "3", "open": false })),
    ];
    let documents: Vec<(u64, Value)> = found.documents.into_iter().map(|(line, _, source)| (line, source)).collect();
    assert_eq!(documents, expected);
    assert_eq!(found.faults, [(4, FaultKind::WrongColumns)]);
    let mapping = &found.opened[0].mapping["properties"];
    assert_eq!((&mapping["year"]["type"], &mapping["price"]["type"]), (&json!("long"), &json!("text")));
}

#[test]
fn a_quote_that_is_never_closed_costs_one_row() {
    let mut text = "a,b\n1,\"open\n".to_owned();
    for number in 0..200 {
        text.push_str(&format!("{number},x\n"));
    }
    let found = read_named("t.csv", text, small());
    assert_eq!(found.faults, [(2, FaultKind::UnclosedQuote)]);
    assert_eq!(found.documents.len(), 200);
    assert_eq!(found.documents[0].0, 3);
    let found = read_named("t.csv", "a,b\n1,2\n3,\"x", small());
    assert_eq!(found.faults, [(3, FaultKind::UnclosedQuote)]);
    let found = read_named("t.csv", b"a,b\n1,\xff\n3,4\n".to_vec(), small());
    assert_eq!((found.faults, found.documents.len()), (vec![(2, FaultKind::InvalidUtf8)], 1));
}

#[test]
fn tabs_and_ids_by_field() {
    let options = ReadOptions { id_field: Some("code".to_owned()), ..ReadOptions::default() };
    let found = read_named("-", "code\tname\nX1\tone\n\ttwo\n", options);
    assert_eq!(found.opened[0].format, Format::Csv);
    assert_eq!(found.documents[0].1, "X1");
    assert_eq!(found.faults, [(3, FaultKind::NoId)]);
}

#[test]
fn debian_paragraphs_become_documents() {
    let text = "Package: cod\nVersion: 1.0-1\nInstalled-Size: 120\nDepends: libc6 (>= 2.3), net | line\n\
                Description: a fish\n It swims.\n .\n It is cold.\nTag: role::fish,\n use::eating\n\n\n\
                Version: 2\n\nPackage: hake\nno colon here\n\nPackage: sole\nDescription: flat\n";
    let found = read_bytes(text, ReadOptions::default());
    assert_eq!(found.opened[0].format, Format::Debian);
    let (line, id, source) = &found.documents[0];
    assert_eq!((*line, id.as_str()), (1, "cod"));
    let expected = json!({
        "package": "cod", "version": "1.0-1", "installed_size": 120, "depends": ["libc6", "net", "line"],
        "title": "a fish", "body": "It swims.\nIt is cold.", "tags": ["role::fish", "use::eating"],
    });
    assert_eq!(*source, expected);
    assert_eq!(found.documents[1].1, "sole");
    assert_eq!(found.faults, [(13, FaultKind::InvalidParagraph), (16, FaultKind::InvalidParagraph)]);
}

#[test]
fn directories_of_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir_all(path("b/c")).unwrap();
    std::fs::write(path("a.md"), "intro\n\n# Whales\n\nThey sing.\n").unwrap();
    std::fs::write(path("b/c/deep.txt"), "First line\nSecond.\n").unwrap();
    std::fs::write(path("b/packed.txt.gz"), gzip(b"Packed line\n")).unwrap();
    std::fs::write(path("b/binary"), b"\x7fELF\0\0").unwrap();
    std::fs::write(path("empty.txt"), b"").unwrap();
    std::fs::write(path("latin.txt"), b"one\ncaf\xe9\n").unwrap();
    std::fs::write(path("long.txt"), vec![b'x'; 3_000]).unwrap();
    std::fs::write(path(".hidden.txt"), b"no").unwrap();
    let found = read_inputs(vec![Input::Path(directory.path().to_owned())], small());
    let titles: Vec<&str> = found.documents.iter().filter_map(|(.., source)| source["title"].as_str()).collect();
    assert_eq!(titles, ["Whales", "First line", "Packed line"]);
    let (_, id, source) = &found.documents[1];
    assert!(id.ends_with("b/c/deep.txt") && source["path"] == json!(id));
    assert_eq!(source["size"], 19);
    assert!(source["modified"].as_str().unwrap().ends_with('Z'));
    let mut kinds: Vec<FaultKind> = found.faults.iter().map(|(_, kind)| *kind).collect();
    kinds.sort();
    assert_eq!(kinds, [FaultKind::InvalidUtf8, FaultKind::TooLong, FaultKind::NotText]);

    let missing = read_inputs(vec![Input::Path(path("missing"))], small());
    assert_eq!(missing.faults, [(0, FaultKind::CannotRead)]);
    std::fs::create_dir_all(path("hollow/within")).unwrap();
    let hollow = read_inputs(vec![Input::Path(path("hollow"))], small());
    assert_eq!(hollow.faults, [(0, FaultKind::CannotRead)]);
    std::os::unix::fs::symlink(path("gone"), path("hollow/within/link")).unwrap();
    let link = read_inputs(vec![Input::Path(path("hollow"))], small());
    assert_eq!(link.faults, [(0, FaultKind::CannotRead)]);
}

#[test]
fn ids_repeat_with_the_input_and_differ_within_it() {
    let text = "{\"a\": 1}\n{\"a\": 1}\n";
    let ids = |name: &str| -> Vec<String> {
        read_named(name, text, ReadOptions::default()).documents.into_iter().map(|(_, id, _)| id).collect()
    };
    assert_eq!(ids("x"), ids("x"));
    assert_ne!(ids("x")[0], ids("y")[0]);
    assert_ne!(ids("x")[0], ids("x")[1]);
}

#[test]
fn types_of_the_index_come_first() {
    let field_types = BTreeMap::from([("code".to_owned(), "keyword".to_owned())]);
    let options = ReadOptions { field_types, ..ReadOptions::default() };
    let found = read_named("t.csv", "code,n\n7,8\n", options);
    assert_eq!(found.documents[0].2, json!({ "code": "7", "n": 8 }));
}
