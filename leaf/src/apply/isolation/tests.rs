//! Rows with documents that panic or hang.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use trawl_data::mapping::Mapping;

use super::*;
use crate::schema::PhysicalSchema;

fn limits(faults: &[&str]) -> Limits {
    let faults = faults.iter().map(|text| text.parse().unwrap()).collect();
    Limits { abandoned_max: 2, faults, ..Limits::default() }
}

fn layout() -> Arc<Layout> {
    let mapping = Mapping::parse(&json!({"properties": {"n": {"type": "long"}}})).unwrap();
    let physical = PhysicalSchema::new(&mapping, 1, 1);
    Arc::new(Layout::new(&mapping, 1, &physical))
}

fn row(sources: &[&str]) -> Arc<Batch> {
    let operation = |source: &&str| Operation {
        kind: Kind::Index.into(),
        id: "a".to_owned(),
        source: source.as_bytes().to_vec().into(),
        ..Operation::default()
    };
    Arc::new(Batch { operations: sources.iter().map(operation).collect() })
}

/// What came of each operation: valid or not; or the place of the poison and its reason.
fn run(drafter: &mut Drafter, sources: &[&str], skip: &[usize]) -> Result<Vec<Option<bool>>, (usize, String)> {
    let ticket = drafter.begin(&layout(), &row(sources), skip.to_vec()).unwrap();
    match drafter.finish(ticket, |place| skip.contains(&place)) {
        Ok(drafts) => Ok(drafts.iter().map(|draft| draft.as_ref().map(Result::is_ok)).collect()),
        Err(Failure::Poison(place, reason)) => Err((place, reason)),
        Err(Failure::Error(error)) => panic!("{error}"),
    }
}

#[test]
fn a_row_is_drafted_in_order_and_a_bad_document_is_an_answer() {
    let mut drafter = Drafter::new(limits(&[]));
    assert_eq!(
        run(&mut drafter, &["{}", r#"{"n":"x"}"#, r#"{"n":1}"#], &[]),
        Ok(vec![Some(true), Some(false), Some(true)])
    );
    assert_eq!(run(&mut drafter, &[], &[]), Ok(vec![]));
}

#[test]
fn a_panic_that_does_not_come_again_costs_nothing() {
    let mut drafter = Drafter::new(limits(&["xyz=panic-once"]));
    let row = ["{}", r#"{"a":"xyz"}"#, r#"{"a":"xyz"}"#, "{}"];
    assert_eq!(run(&mut drafter, &row, &[]), Ok(vec![Some(true); 4]));
    assert_eq!(drafter.limits.abandoned.get(), 0);
}

#[test]
fn what_panics_twice_is_poison_and_is_left_out_when_skipped() {
    let mut drafter = Drafter::new(limits(&["xyz=panic"]));
    let row = ["{}", r#"{"a":"xyz"}"#, "{}", r#"{"b":"xyz"}"#];
    let (place, reason) = run(&mut drafter, &row, &[]).unwrap_err();
    assert_eq!((place, reason.as_str()), (1, "drafting the document panicked: the document contains xyz"));
    assert_eq!(run(&mut drafter, &row, &[1]).unwrap_err().0, 3);
    assert_eq!(run(&mut drafter, &row, &[1, 3]), Ok(vec![Some(true), None, Some(true), None]));
}

#[test]
fn what_hangs_twice_is_poison_and_too_many_threads_left_behind_stop_the_replica() {
    let mut drafter = Drafter::new(Limits { time_max: Duration::from_secs(1), ..limits(&["xyz=hang"]) });
    let row = ["{}", r#"{"a":"xyz"}"#, "{}"];
    let (place, reason) = run(&mut drafter, &row, &[]).unwrap_err();
    assert_eq!((place, reason.as_str()), (1, "drafting the document did not end within 1s"));
    assert_eq!(drafter.limits.abandoned.get(), 2);
    let Err(Error::Abandoned { count: 2 }) = drafter.begin(&layout(), &self::row(&["{}"]), vec![]).map(drop) else {
        panic!("a third thread was started");
    };
}
