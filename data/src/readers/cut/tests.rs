//! Pieces hold together what the whole file holds, wherever it is cut and wherever reading is taken up again.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::readers::{Event, read};

/// What reading gives: (place, id or kind of fault, source), and where reading goes on.
type Found = Vec<((String, String, Vec<u8>), Mark)>;

fn read_all(inputs: Vec<Input>, options: &ReadOptions) -> Found {
    let mut reading = read(inputs, options.clone()).unwrap();
    let mut found = Found::new();
    while let Some(events) = reading.events.blocking_recv() {
        for event in events {
            found.push(match event {
                Event::Opened(_) => continue,
                Event::Record(record) => ((record.place.to_string(), record.id, record.source), record.next),
                Event::Fault(fault) => {
                    ((fault.place.to_string(), fault.kind.name().to_owned(), Vec::new()), fault.next)
                }
            });
        }
    }
    assert!(reading.ended_well());
    found
}

fn pieces_of(path: &Path, read: ReadOptions, piece_bytes: u64) -> Vec<Piece> {
    let mut cutting = cut(vec![Input::Path(path.to_owned())], CutOptions { read, piece_bytes }).unwrap();
    let mut pieces = Vec::new();
    while let Some(cut) = cutting.cuts.blocking_recv() {
        match cut {
            Cut::Piece(piece) => pieces.push(*piece),
            Cut::Opened(_) => {}
            Cut::Fault(fault) => panic!("{fault:?}"),
        }
    }
    assert!(cutting.ended_well());
    pieces
}

fn only(found: &Found) -> Vec<&(String, String, Vec<u8>)> {
    found.iter().map(|(what, _)| what).collect()
}

/// Cuts, reads every piece, and takes up each of them behind each of its documents.
fn check(format: Format, content: &[u8], piece_bytes: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, content).unwrap();
    let options = ReadOptions { format, record_bytes_max: 60, ..ReadOptions::default() };
    let whole = read_all(vec![Input::Path(path.clone())], &options);
    let pieces = pieces_of(&path, options.clone(), piece_bytes);
    // A piece travels as JSON.
    let pieces: Vec<Piece> =
        pieces.iter().map(|piece| serde_json::from_slice(&serde_json::to_vec(piece).unwrap()).unwrap()).collect();
    let mut together = Found::new();
    for piece in &pieces {
        let found = read_all(vec![Input::Piece(Box::new(piece.clone()))], &options);
        for (at, (_, next)) in found.iter().enumerate() {
            let rest = Piece { resume: *next, ..piece.clone() };
            let rest = read_all(vec![Input::Piece(Box::new(rest))], &options);
            // Before its header a table is taken up from the beginning.
            let behind = if *next == Mark::START { 0 } else { at + 1 };
            assert_eq!(only(&rest), only(&found)[behind..], "{piece:?} behind {next:?}");
        }
        together.extend(found);
    }
    assert_eq!(only(&together), only(&whole));
    pieces.len()
}

#[test]
fn formats_are_cut_between_documents() {
    let lines: String = (0..100).map(|number| format!("{{\"n\": {number}}}\n")).collect();
    assert!(check(Format::Ndjson, lines.as_bytes(), 100) >= 8);
    let rows: String = (0..50).map(|number| format!("{number},\"a\nb\"\n")).collect();
    assert!(check(Format::Csv, format!("n,text\n{rows}").as_bytes(), 50) >= 8);
    let packages: String = (0..50).map(|number| format!("Package: p{number}\nVersion: 1\n\n")).collect();
    assert!(check(Format::Debian, packages.as_bytes(), 100) >= 8);
    assert_eq!(check(Format::Json, b"[{\"a\": 1}, {\"a\": 2},\n 7, {\"a\": 3}]", 5), 1);
    assert_eq!(check(Format::Text, b"Some words.", 5), 1);
}

#[test]
fn a_compressed_file_is_one_piece() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all("{\"n\": 1}\n".repeat(50).as_bytes()).unwrap();
    assert_eq!(check(Format::Ndjson, &encoder.finish().unwrap(), 5), 1);
}

#[test]
fn a_file_that_changed_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.ndjson");
    std::fs::write(&path, "{\"n\": 1}\n{\"n\": 2}\n").unwrap();
    let pieces = pieces_of(&path, ReadOptions::default(), 8);
    assert_eq!(pieces.len(), 2);
    std::fs::write(&path, "{\"n\": 1}\n{\"n\": 2}\n{}\n").unwrap();
    let kind =
        |piece: &Piece| read_all(vec![Input::Piece(Box::new(piece.clone()))], &ReadOptions::default())[0].0.1.clone();
    assert_eq!(kind(&pieces[0]), "changed");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(&pieces[1]), "cannot_read");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_or_doubled_at_cuts(
        format in prop::sample::select(vec![Format::Ndjson, Format::Csv, Format::Debian, Format::Json]),
        start in prop::sample::select(vec!["", "\u{feff}", "a,b\n", "\n\n"]),
        parts in prop::collection::vec(prop::sample::select(vec![
            "{\"a\": 1}\n", "{\"b\": \"x\"}\r\n", "\n", " \n", "1,2\n", "1,\"two\nlines\"\n", "\"never closed\n", "\"\n",
            "Package: a\nVersion: 1\n\n", "Package: b\n", " goes on\n", "# a comment\n", "broken", "é\u{1F41F},x\n",
            "{\"long\": \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}\n",
        ]), 0..40),
        piece_bytes in 1_u64..200,
    ) {
        let content = format!("{start}{}", parts.concat());
        check(format, content.as_bytes(), piece_bytes);
    }
}
