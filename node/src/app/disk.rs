//! What the node keeps on disk besides the log: its incarnation, and the last configuration for a start without quorum.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::key_file;

/// A file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log beside it has gone beyond what this version knows.
    #[error(
        "{path}: the log here is of format level {level}, and this node takes part in {knows}: upgrade it, or let go of `format_level` in [cluster]"
    )]
    NewerLevel {
        /// Which file says so.
        path: PathBuf,
        /// The log's level.
        level: u32,
        /// The newest that this node takes part in.
        knows: u32,
    },
    /// Its content is not what it must be.
    #[error("{path}: {what}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it must be.
        what: &'static str,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, source }
}

/// Reads 32 octets written as 64 hexadecimal digits.
pub(super) fn read_key(path: &Path) -> Result<[u8; 32], DiskError> {
    let text = key_file::read_to_string(path).map_err(io_error(path))?;
    let bad = || DiskError::Content { path: path.to_owned(), what: "must hold 32 octets as 64 hexadecimal digits" };
    let octets = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map_err(|_| bad())?;
    octets.try_into().map_err(|_| bad())
}

/// Takes the next incarnation, and makes sure that no later start takes the same.
///
/// It is the time, `now_s` in seconds since the Unix epoch, or one more than the last, whichever is higher: so a wiped disk, and one
/// that cannot be written, begin above all that has been. It is written in place, where a full disk has the room that it has had.
pub(super) fn next_incarnation(data_dir: &Path, now_s: u32) -> Result<u32, DiskError> {
    let path = data_dir.join("incarnation");
    let last = match fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().parse::<u32>().map_err(|_| DiskError::Content { path: path.clone(), what: "must hold a number" })?
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(io_error(&path)(e)),
    };
    let next = last.checked_add(1).ok_or_else(|| DiskError::Content {
        path: path.clone(),
        what: "has run out of numbers; wipe the disk and take a new id",
    })?;
    let next = next.max(now_s);
    match fs::create_dir_all(data_dir).and_then(|()| write_in_place(&path, &format!("{next:010}\n"))) {
        Ok(()) => Ok(next),
        // A full or broken disk keeps no node from serving. The next start is at a later second.
        Err(error) if last < now_s => {
            tracing::error!(path = %path.display(), %error, "the incarnation is not kept: it is taken from the clock");
            std::thread::sleep(Duration::from_secs(1));
            Ok(next)
        }
        Err(error) => Err(io_error(&path)(error)),
    }
}

/// Overwrites a short file, always of the same length, without asking the disk for room. What lies within one sector is written
/// whole or not at all.
fn write_in_place(path: &Path, content: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes a file whole, durably, or not at all.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sbc-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn incarnations_rise() {
        let d = dir("inc");
        assert_eq!(next_incarnation(&d, 70).unwrap(), 70);
        assert_eq!(next_incarnation(&d, 70).unwrap(), 71);
        assert_eq!(next_incarnation(&d, 3).unwrap(), 72, "whatever the clock does");
        // As earlier versions wrote it.
        fs::write(d.join("incarnation"), "80").unwrap();
        assert_eq!(next_incarnation(&d, 3).unwrap(), 81);
        assert_eq!(next_incarnation(&d, 90).unwrap(), 90);
        fs::write(d.join("incarnation"), "x").unwrap();
        assert!(next_incarnation(&d, 90).is_err(), "a damaged file must not start again from 1");
        fs::remove_dir_all(&d).unwrap();
        // Where nothing can be written it is the clock's.
        assert_eq!(next_incarnation(Path::new("/proc/no-such-directory"), 90).unwrap(), 90);
    }

    #[test]
    fn keys() {
        let d = dir("key");
        fs::create_dir_all(&d).unwrap();
        let f = d.join("k");
        key_file::write(&f, format!("{}\n", "0f".repeat(32)));
        assert_eq!(read_key(&f).unwrap(), [15; 32]);
        for bad in ["", "0f", &"zz".repeat(32), &"0f".repeat(33)] {
            fs::write(&f, bad).unwrap();
            assert!(read_key(&f).is_err(), "{bad}");
        }
        fs::remove_dir_all(d).unwrap();
    }
}
