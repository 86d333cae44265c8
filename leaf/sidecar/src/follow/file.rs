//! One generation of a file that is followed: read, cut into lines, joined into records.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::checkpoint::{FileEntry, HEAD_BYTES, hex, unhex};
use super::lines::{Cutter, Line};
use super::source::{Place, Source};
use crate::batch::Batch;
use crate::clock::{day_of, now_ns};
use crate::config::Config;
use crate::metrics::{Form, Mark, Metrics};
use crate::parse::join::{JoinLimits, Joiner};
use crate::parse::{Format, cri};
use crate::record::{Origin, Record, record_id};

/// A deleted file may still be written to; this long after the last time it is left.
const GONE_TIME: Duration = Duration::from_secs(5);
/// A record's own time decides its day only if it is within so many days of when its file was read.
const DAYS_BACK: i64 = 7;
const DAYS_AHEAD: i64 = 1;

/// A file that is followed.
#[derive(Debug)]
pub struct Followed {
    /// Random; part of its records' ids.
    pub generation: u128,
    /// Name at first sight.
    pub name: String,
    /// Where it is now; another place, or none, after the file of that place was cut off.
    pub place: Option<Place>,
    /// Its first bytes.
    pub head: Vec<u8>,
    /// Open until nothing more can come.
    pub source: Option<Source>,
    /// A copy that rotation made of it.
    pub copy: Option<PathBuf>,
    /// No longer in the directory, or a leftover: ends when it is read and nothing came for a while.
    pub gone: bool,
    /// It seems to be another file now: looked at again after the directory was.
    pub suspect: bool,
    /// Its size when last looked at.
    pub size: u64,
    /// Something was read since the last batch.
    pub touched: bool,
    cutter: Cutter,
    joiner: Joiner,
    lines: u64,
    days: Vec<(u64, i64)>,
    resource: Vec<(String, String)>,
    /// Per sink by number, what it had when reading began.
    has: Vec<u64>,
    last_data: Instant,
}

/// Where what was read goes.
pub struct Reading<'a> {
    /// The open batch.
    pub batch: &'a mut Batch,
    /// Counters.
    pub metrics: &'a Metrics,
    /// Part of records' ids.
    pub node: &'a str,
}

impl Followed {
    /// A generation that begins.
    pub fn begin(config: &Config, generation: u128, name: &str, head: Vec<u8>, place: Place, source: Source) -> Self {
        let entry = FileEntry {
            name: name.to_owned(),
            head: hex(&head),
            days: vec![(0, day_of(now_ns()))],
            ..FileEntry::default()
        };
        Self::resume(config, &entry, &[], place, source).with_generation(generation)
    }

    /// A generation that goes on where all sinks have it.
    pub fn resume(config: &Config, entry: &FileEntry, sinks: &[String], place: Place, source: Source) -> Self {
        let format = match &entry.parser {
            Some(name) => Format::named(name, &config.custom),
            None => config.format_of(&entry.name),
        };
        let limits = JoinLimits { bytes_max: config.record_bytes_max, lines_max: config.record_lines_max };
        let from = entry.safe_for_all(sinks);
        Self {
            generation: entry.generation(),
            name: entry.name.clone(),
            place: Some(place),
            head: unhex(&entry.head),
            source: Some(source),
            copy: None,
            gone: false,
            suspect: false,
            size: entry.size,
            touched: false,
            cutter: Cutter::new(from, config.line_bytes_max, entry.breaks.clone()),
            joiner: Joiner::new(format, config.custom.clone(), limits),
            lines: entry.lines,
            days: entry.days.clone(),
            resource: cri::resource_of(&entry.name),
            has: sinks.iter().map(|sink| entry.safe.get(sink).copied().unwrap_or(0)).collect(),
            last_data: Instant::now(),
        }
    }

    fn with_generation(mut self, generation: u128) -> Self {
        self.generation = generation;
        self
    }

    /// Through where it was read.
    pub fn read(&self) -> u64 {
        self.cutter.end()
    }

    /// From where on it has to be read again after a crash, when everything before has shipped.
    pub fn resume_at(&self) -> u64 {
        self.joiner.pending_from().unwrap_or_else(|| self.cutter.line_start())
    }

    /// Whether something waits for its end.
    pub fn is_waiting(&self) -> bool {
        self.joiner.pending_from().is_some()
    }

    /// For the checkpoint. Forgets what is not needed behind the positions.
    pub fn entry(&mut self, safe: BTreeMap<String, u64>) -> FileEntry {
        let least = safe.values().copied().min().unwrap_or(0);
        let before = self.days.iter().rposition(|(from, _)| *from <= least).unwrap_or(0);
        self.days.drain(..before);
        FileEntry {
            generation: format!("{:032x}", self.generation),
            name: self.name.clone(),
            device: self.place.map_or(0, |place| place.device),
            inode: self.place.map_or(0, |place| place.inode),
            head: hex(&self.head),
            size: self.size.max(self.read()),
            lines: self.lines,
            read: self.read(),
            parser: self.joiner.format().map(|format| format.name().to_owned()),
            breaks: self.cutter.breaks_from(least).to_vec(),
            days: self.days.clone(),
            done: self.source.is_none() && least >= self.resume_at(),
            safe,
        }
    }

    /// Bytes that are not read yet.
    pub fn behind(&self) -> u64 {
        if self.source.as_ref().is_some_and(|source| !source.is_packed()) {
            self.size.saturating_sub(self.read())
        } else {
            0
        }
    }

    /// Looks at the open file: its size, and whether it still is the same.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn look(&mut self) -> io::Result<bool> {
        let Some(source) = &mut self.source else { return Ok(true) };
        if source.is_packed() {
            return Ok(true);
        }
        let size = source.metadata()?.len();
        let mut head = vec![0; HEAD_BYTES];
        let length = source.read_at(0, &mut head)?;
        head.truncate(length);
        if !super::identity::goes_on(&self.head, self.cutter.end(), &head, size) {
            return Ok(false);
        }
        self.size = size;
        if head.len() > self.head.len() {
            self.head = head;
        }
        Ok(true)
    }

    /// Reads the next piece. Returns how many bytes that was, and whether something has to be durable before it ships.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_on(&mut self, buffer: &mut [u8], reading: &mut Reading<'_>) -> io::Result<(usize, bool)> {
        let Some(source) = &mut self.source else { return Ok((0, false)) };
        let length = source.read_at(self.cutter.end(), buffer)?;
        if length == 0 {
            return Ok((0, false));
        }
        reading.metrics.bytes_read.inc_by(length as u64);
        self.last_data = Instant::now();
        self.touched = true;
        let today = day_of(now_ns());
        let new_day = self.days.last().is_none_or(|(_, day)| *day != today);
        if new_day {
            self.days.push((self.cutter.end(), today));
        }
        let had_format = self.joiner.format().is_some();
        let Self { cutter, joiner, .. } = self;
        let mut out = Emitter::new(self.generation, &self.name, &self.resource, &self.days, &self.has, reading);
        let mut lines = 0;
        cutter.feed(&buffer[..length], |line: &Line<'_>| {
            lines += 1;
            joiner.line(line, &mut |record: &mut Record<'_>, start, _| out.emit(record, start));
        });
        out.end(joiner.format());
        self.lines += lines;
        reading.metrics.lines_read.inc_by(lines);
        Ok((length, new_day || had_format != self.joiner.format().is_some()))
    }

    /// Ends what waits for its end, when that was long ago. Returns whether something has to be durable before it ships.
    pub fn rest(&mut self, join_time: Duration, reading: &mut Reading<'_>) -> bool {
        let idle = self.last_data.elapsed();
        let over = self.gone && idle >= GONE_TIME.max(join_time);
        let waits = self.joiner.pending_from().is_some();
        let partial = self.cutter.line_start() < self.cutter.end();
        if over {
            self.source = None;
        }
        let is_due = (waits && idle >= join_time) || (over && partial);
        if is_due {
            self.end_lines(over, reading);
        }
        is_due
    }

    /// Ends at once: nothing more of it can be read.
    pub fn cut_off(&mut self, reading: &mut Reading<'_>) {
        self.source = None;
        self.place = None;
        self.gone = true;
        self.end_lines(true, reading);
    }

    /// Bytes that are lost with it, and roughly how many lines.
    pub fn lost(&self) -> (u64, u64) {
        let bytes = self.size.saturating_sub(self.read());
        (bytes, lines_in(bytes, self.lines, self.read()))
    }

    fn end_lines(&mut self, partial_too: bool, reading: &mut Reading<'_>) {
        let Self { cutter, joiner, .. } = self;
        let mut out = Emitter::new(self.generation, &self.name, &self.resource, &self.days, &self.has, reading);
        let mut lines = 0;
        if partial_too {
            cutter.finish(|line: &Line<'_>| {
                lines += 1;
                joiner.line(line, &mut |record: &mut Record<'_>, start, _| out.emit(record, start));
            });
        }
        joiner.flush(&mut |record: &mut Record<'_>, start, _| out.emit(record, start));
        cutter.add_break(cutter.line_start());
        out.end(joiner.format());
        self.lines += lines;
        self.touched = true;
        reading.metrics.lines_read.inc_by(lines);
    }
}

/// Roughly how many lines so many bytes are, by what was read.
pub fn lines_in(bytes: u64, lines: u64, read: u64) -> u64 {
    match (bytes, lines) {
        (0, _) => 0,
        (_, 0) => 1,
        _ => bytes.div_ceil((read / lines).max(1)),
    }
}

/// Gives records their origin and puts them into the batch.
struct Emitter<'a, 'b> {
    generation: u128,
    name: &'a str,
    resource: &'a [(String, String)],
    days: &'a [(u64, i64)],
    has: &'a [u64],
    reading: &'a mut Reading<'b>,
    observed_ns: i64,
    records: u64,
}

impl<'a, 'b> Emitter<'a, 'b> {
    fn new(
        generation: u128,
        name: &'a str,
        resource: &'a [(String, String)],
        days: &'a [(u64, i64)],
        has: &'a [u64],
        reading: &'a mut Reading<'b>,
    ) -> Self {
        Self { generation, name, resource, days, has, reading, observed_ns: now_ns(), records: 0 }
    }

    fn emit(&mut self, record: &mut Record<'_>, start: u64) {
        self.records += 1;
        for mark in record.marks.names() {
            self.reading.metrics.marked.get_or_create(&Mark { mark }).inc();
        }
        let origin = Origin {
            id: record_id(self.reading.node, self.generation, start),
            file: self.name,
            offset: start,
            observed_ns: self.observed_ns,
            day: day(self.days, start, record.time_ns),
            resource: self.resource,
        };
        self.reading.batch.add(record, &origin, |sink| self.has.get(sink).is_some_and(|has| start < *has));
    }

    fn end(self, format: Option<&Format>) {
        let format = format.map_or("unknown", Format::name).to_owned();
        self.reading.metrics.records.get_or_create(&Form { format }).inc_by(self.records);
    }
}

/// The day whose index a record belongs to: that of its own time, unless that is far off; the same at every reading.
fn day(days: &[(u64, i64)], start: u64, time_ns: Option<i64>) -> i64 {
    let known = days.iter().rev().find(|(from, _)| *from <= start).or(days.first());
    let read_on = known.map_or(0, |(_, day)| *day);
    match time_ns.map(day_of) {
        Some(own) if (read_on - DAYS_BACK..=read_on + DAYS_AHEAD).contains(&own) => own,
        _ => read_on,
    }
}
