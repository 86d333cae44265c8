//! Damages index files on disk.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::Rng;

/// The directory of the index in use of the one index that a leaf holds.
pub fn index_dir(data_dir: &Path, shard: u64) -> Option<PathBuf> {
    let index = std::fs::read_dir(data_dir.join("shards")).ok()?.flatten().next()?.path();
    let replica = index.join(shard.to_string());
    let current = std::fs::read_to_string(replica.join("CURRENT")).ok()?;
    Some(replica.join(current.trim()))
}

/// The files of that index, by name.
pub fn files(data_dir: &Path, shard: u64) -> Vec<PathBuf> {
    let index = index_dir(data_dir, shard).and_then(|index| std::fs::read_dir(index).ok());
    let mut files: Vec<_> = index.into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    files
}

/// Flips bytes here and there in the largest file of this kind, in place; returns which.
pub fn damage(index: &Path, part: &str) -> PathBuf {
    let files = std::fs::read_dir(index).unwrap().flatten().map(|file| file.path());
    let of_part = files.filter(|path| path.extension().is_some_and(|extension| extension == part));
    let path = of_part.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // Not in the last bytes, which hold the checksum: that would be easy.
    let length = file.metadata().unwrap().len().saturating_sub(150).max(1);
    let mut random = rand::rng();
    for _ in 0..(length / 64).clamp(1, 200) {
        let (at, mut byte) = (random.random_range(0..length), [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ random.random_range(1..=255)], at).unwrap();
    }
    println!("damaged {} of {length} bytes", path.display());
    path
}
