//! Files of outcomes as part of a copy of a replica.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{DIR, list};
use crate::error::Error;

/// Before their names in a copy, which lie beside those of the index.
const COPIED: &str = "outcomes-";

/// Takes a copy of a replica's files, which may be written to meanwhile, into another directory; returns
/// their names there. What they have beyond a commit goes when they are opened with it.
pub fn take(replica_dir: &Path, to: &Path) -> Result<Vec<String>, Error> {
    let paths = list(&replica_dir.join(DIR))?;
    let mut names = Vec::with_capacity(paths.len());
    for (number, path) in paths.iter().enumerate() {
        let name = format!("{COPIED}{}", path.file_name().unwrap_or_default().to_string_lossy());
        let target = to.join(&name);
        // Only the last one is still written to.
        let is_last = number + 1 == paths.len();
        let linked = !is_last && fs::hard_link(path, &target).is_ok();
        match if linked { Ok(0) } else { fs::copy(path, &target) } {
            Ok(_) => names.push(name),
            // Its time was over.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("copy", path)(error)),
        }
    }
    Ok(names)
}

/// Moves the files of a copy to their place beside a replica's index; those that were there go. A copy of a
/// replica that has none leaves everything as it is.
pub fn adopt(replica_dir: &Path, copy: &Path) -> Result<(), Error> {
    let copied: Vec<(PathBuf, String)> = list(copy)?
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_prefix(COPIED)?.to_owned();
            Some((path, name))
        })
        .collect();
    if copied.is_empty() {
        return Ok(());
    }
    let dir = replica_dir.join(DIR);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &dir)(error)),
        _ => {}
    }
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    for (path, name) in copied {
        fs::rename(&path, dir.join(name)).map_err(Error::io("move", &path))?;
    }
    File::open(&dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", &dir))
}
