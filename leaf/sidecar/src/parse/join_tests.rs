//! Joining: what belongs together, nothing dropped, and the same again from any record on.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::follow::lines::Cutter;

#[derive(Clone, Debug, PartialEq)]
struct Got {
    start: u64,
    end: u64,
    message: String,
    severity: u8,
    stream: Option<String>,
    unparsed: bool,
}

fn limits() -> JoinLimits {
    JoinLimits { bytes_max: 2_000, lines_max: 50 }
}

/// The records of a file's content from an offset on, read in pieces of so many bytes.
fn records(content: &str, from: u64, format: Option<Format>, piece: usize, breaks: &[u64]) -> Vec<Got> {
    let mut joiner = Joiner::new(format, Vec::new(), limits());
    let mut cutter = Cutter::new(from, 500, breaks.to_vec());
    let mut got = Vec::new();
    let mut emit = |record: &mut Record<'_>, start: u64, end: u64| {
        let stream = record.fields.iter().find(|(key, _)| key == "log.iostream");
        got.push(Got {
            start,
            end,
            message: record.message.to_string(),
            severity: record.severity,
            stream: stream.map(|(_, value)| format!("{value:?}")),
            unparsed: record.marks.unparsed,
        });
    };
    for bytes in content.as_bytes()[usize::try_from(from).unwrap()..].chunks(piece) {
        cutter.feed(bytes, |line| joiner.line(line, &mut emit));
    }
    cutter.finish(|line| joiner.line(line, &mut emit));
    joiner.flush(&mut emit);
    got
}

fn messages(content: &str, format: Option<Format>) -> Vec<String> {
    records(content, 0, format, 7, &[]).into_iter().map(|got| got.message).collect()
}

#[test]
fn a_stack_trace_of_java_is_one_record() {
    let content = "2026-11-23 03:01:41,123 ERROR [main] App - boom\njava.lang.IllegalStateException: x\n\tat a.B.c(B.java:1)\nCaused \
                   by: java.io.IOException: y\n\t... 3 more\n2026-11-23 03:01:42,000 INFO  [main] App - on\n";
    let got = records(content, 0, None, 11, &[]);
    assert_eq!(got.len(), 2);
    assert!(got[0].message.ends_with("... 3 more"));
    assert_eq!((got[0].severity, got[1].severity), (17, 9));
}

#[test]
fn traces_without_times_are_one_record() {
    let python = "starting\nTraceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    f()\nValueError: no\nnext\n";
    let got = messages(python, None);
    assert_eq!(got.len(), 3, "{got:?}");
    assert!(got[1].starts_with("Traceback") && got[1].ends_with("ValueError: no"));
    let rust = "thread 'main' panicked at src/main.rs:2:5:\nboom\nstack backtrace:\n   0: a\n   1: b\nnote: run with `X`\nnext\n";
    let got = messages(rust, None);
    assert_eq!(got.len(), 2, "{got:?}");
    let go = "goroutine 1 [running]:\n\tmain.go:4\nnext\n";
    assert_eq!(messages(go, None).len(), 2);
}

#[test]
fn a_panic_among_json_lines_is_text_and_marked() {
    let content = "{\"msg\":\"a\"}\nthread 'x' panicked at y:\nboom\n{\"msg\":\"b\"}\n";
    let got = records(content, 0, None, 5, &[]);
    let shown: Vec<_> = got.iter().map(|got| (got.message.as_str(), got.unparsed)).collect();
    assert_eq!(shown, [("a", false), ("thread 'x' panicked at y:\nboom", true), ("b", false)]);
}

#[test]
fn container_logs_are_unwrapped_and_their_pieces_joined() {
    let content = "2016-10-06T00:17:09.669794202Z stdout P {\"msg\":\"long\n\
                   2016-10-06T00:17:09.669794203Z stdout F  line\",\"level\":\"warn\"}\n\
                   2016-10-06T00:17:10.000000000Z stderr F panic: x\n\
                   2016-10-06T00:17:10.000000001Z stderr F \tat y\n\
                   2016-10-06T00:17:11.000000000Z stdout F level=info msg=\"ok\"\n";
    let got = records(content, 0, None, 13, &[]);
    let shown: Vec<_> = got.iter().map(|got| (got.message.as_str(), got.severity)).collect();
    assert_eq!(shown, [("long line", 13), ("panic: x\n\tat y", 21), ("ok", 9)]);
    assert!(got[1].stream.as_ref().unwrap().contains("stderr"));
}

#[test]
fn records_have_a_limit() {
    let content: String = std::iter::once("head\n".to_owned()).chain((0..120).map(|n| format!("  {n}\n"))).collect();
    let got = messages(&content, None);
    assert_eq!(got.len(), 3);
    assert_eq!(got.iter().map(|message| message.lines().count()).sum::<usize>(), 121);
}

/// Lines as programs write them, and others.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{\"level\":\"warn\",\"msg\":\"m\"}".to_owned()),
        Just("2026-11-23T03:01:41Z INFO x".to_owned()),
        Just("  at a.b(c)".to_owned()),
        Just("Caused by: x".to_owned()),
        Just("Traceback (most recent call last):".to_owned()),
        Just("thread 'a' panicked at b".to_owned()),
        Just("2016-10-06T00:17:09.669794202Z stdout P part ".to_owned()),
        Just("2016-10-06T00:17:09.669794202Z stdout F end".to_owned()),
        Just("2016-10-06T00:17:09.669794202Z stderr F other".to_owned()),
        Just("a=1 b=\"2\"".to_owned()),
        Just("<34>1 2003-10-11T22:14:15.003Z h a - - - m".to_owned()),
        Just("127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.0\" 200 1".to_owned()),
        Just(String::new()),
        "[ -~\t]{0,40}",
        "<[0-9]{1,3}>[ -~]{0,60}",
        "\\PC{0,30}",
    ]
}

proptest! {
    #[test]
    fn every_byte_is_in_one_record_and_reading_again_from_any_of_them_gives_the_same(
        lines in prop::collection::vec(line(), 1..30),
        piece in 1_usize..60,
        format in prop::sample::select(vec!["json", "logfmt", "cri", "syslog", "access", "plain"]),
        detect in any::<bool>(),
        breaks in prop::collection::btree_set(0_u64..400, 0..3),
    ) {
        let content = lines.join("\n") + "\n";
        let breaks: Vec<u64> = breaks.into_iter().filter(|at| *at > 0 && *at < content.len() as u64 && content.is_char_boundary(*at as usize)).collect();
        let first = lines[0].clone();
        let first_line: String = match breaks.first() {
            Some(at) if *at < first.len() as u64 => first[..*at as usize].to_owned(),
            _ => first,
        };
        let format = if detect { Format::detect(&first_line, &[]) } else { Format::named(format, &[]).unwrap() };
        let got = records(&content, 0, Some(format.clone()), piece, &breaks);
        let mut at = 0;
        for record in &got {
            prop_assert_eq!(record.start, at);
            prop_assert!(record.end > record.start);
            at = record.end;
        }
        prop_assert_eq!(at, content.len() as u64);
        for (number, record) in got.iter().enumerate() {
            let again = records(&content, record.start, Some(format.clone()), 1_000, &breaks);
            prop_assert_eq!(&again[..], &got[number..]);
        }
    }
}
