//! Writes numbered lines as an application would, and rotates as logrotate would.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes so many lines at a pace of lines a second, and rotates after each `rotate_after`: by renaming, or by copying and
/// truncating, in turn. Every other rotated file is compressed while the next is written.
pub fn write(logs: &Path, lines: u64, pace: u64, rotate_after: u64) {
    let path = logs.join("app.log");
    let started = Instant::now();
    let mut file = open(&path);
    for number in 0..lines {
        writeln!(file, "{}", line(number)).unwrap();
        let due = Duration::from_secs_f64((number + 1) as f64 / pace as f64);
        if number % 100 == 0
            && let Some(early) = due.checked_sub(started.elapsed())
        {
            std::thread::sleep(early);
        }
        if (number + 1) % rotate_after != 0 || number + 1 == lines {
            continue;
        }
        let rotation = (number + 1) / rotate_after;
        let rotated = logs.join(format!("app.log.{rotation}"));
        if rotation % 2 == 1 {
            std::fs::rename(&path, &rotated).unwrap();
        } else {
            std::fs::copy(&path, &rotated).unwrap();
            OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        }
        file = open(&path);
        if rotation % 4 == 3 {
            compress(&rotated);
        }
    }
}

/// Appends a range of lines at once.
pub fn append(logs: &Path, numbers: Range<u64>) {
    let text: String = numbers.map(|number| line(number) + "\n").collect();
    open(&logs.join("app.log")).write_all(text.as_bytes()).unwrap();
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn line(number: u64) -> String {
    format!(r#"{{"level":"info","message":"request {number} was served","n":{number},"path":"/item/{}"}}"#, number % 97)
}

fn compress(path: &Path) {
    let compressed = path.with_file_name(format!("{}.gz", path.file_name().unwrap().to_str().unwrap()));
    let mut encoder = flate2::write::GzEncoder::new(File::create(compressed).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut File::open(path).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    std::fs::remove_file(path).unwrap();
}
