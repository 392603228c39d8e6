//! Files: errors that name them, modes, and where they belong.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Failure;

/// Largest file that a command reads; a configuration is far smaller.
const MAX_READ: u64 = 16 << 20;

/// A failure that names what was tried with which file.
pub(crate) fn failure(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {verb} {}", path.display())).cause(error)
}

/// Reads a text file; "-" is standard input.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_READ).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|f| f.take(MAX_READ).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|e| failure("read", path, &e))
}

/// Writes a file, replacing what was there.
pub(crate) fn write(path: &Path, data: &[u8]) -> Result<(), Failure> {
    write_mode(path, data, 0o644)
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, data: &[u8]) -> Result<(), Failure> {
    write_mode(path, data, 0o600)
}

/// By way of a neighbour and a rename, so that nobody reads half of it and an old file's mode does not stay.
fn write_mode(path: &Path, data: &[u8], mode: u32) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(data))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&new);
        failure("write", path, &e)
    })
}

/// Makes a directory and those above it, for its owner only.
pub(crate) fn make_dir(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failure("make the directory", path, &e))
}

/// A base directory of the XDG specification.
pub(crate) fn xdg(variable: &str, default: &str) -> Result<PathBuf, Failure> {
    let absolute = |v| Some(PathBuf::from(v)).filter(|p: &PathBuf| p.is_absolute());
    if let Some(dir) = std::env::var_os(variable).and_then(absolute) {
        return Ok(dir);
    }
    std::env::var_os("HOME")
        .and_then(absolute)
        .map(|home| home.join(default))
        .ok_or_else(|| Failure::failed(format!("neither {variable} nor HOME names a directory")))
}

/// Random octets from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Failure::failed(format!("the kernel gives no random octets: {e}")))?;
    Ok(bytes)
}

/// Octets in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The last `lines` lines of a file, for an error message; nothing when it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A directory of its own for a test, removed with the value.
#[cfg(test)]
pub(crate) struct TempDir(pub(crate) PathBuf);

#[cfg(test)]
impl TempDir {
    pub(crate) fn new() -> TempDir {
        let dir = std::env::temp_dir().join(format!("sbcctl-test-{}", hex(&random::<8>().unwrap())));
        make_dir(&dir).unwrap();
        TempDir(dir)
    }
}

#[cfg(test)]
impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_for_their_owner_only_even_over_an_old_file() {
        let dir = TempDir::new();
        let path = dir.0.join("key");
        write(&path, b"old").unwrap();
        write_secret(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn tails() {
        let dir = TempDir::new();
        let path = dir.0.join("log");
        write(&path, b"a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail(&path, 9), "a\nb\nc");
        assert_eq!(tail(&dir.0.join("none"), 9), "");
    }
}
