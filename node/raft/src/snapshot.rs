//! Snapshots as files: `snapshot-<index>-<term>.zst`, one zstd frame with its checksum, holding a length-prefixed
//! [`pb::SnapshotMeta`] and the content. Written under another name, flushed, renamed; the last two are kept, so that one
//! damaged file does not cost the state where the log still reaches back to the one before.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message;
use sbc_proto::peer as pb;

use crate::config::MAX_SNAPSHOT;
use crate::convert;
use crate::types::SnapshotMeta;

/// Snapshots kept.
const KEEP: usize = 2;
/// Compression: the fastest regular level; the content is short-lived.
const LEVEL: i32 = 1;
/// Longest meta: 64 members with their names.
const MAX_META: usize = 1 << 20;

/// A snapshot file, open: it stays readable when it is removed.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
}

impl SnapshotFile {
    /// Bytes in the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Up to `size` bytes from `offset`; fewer only at the end.
    pub(crate) fn chunk(&self, offset: u64, size: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(size)];
        self.file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// Reads and checks the whole file.
    pub(crate) fn load(&self) -> io::Result<(SnapshotMeta, Bytes)> {
        decode(File::open(&self.path)?)
    }
}

/// The snapshots of one node.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    dir: Arc<PathBuf>,
    temporary: Arc<AtomicU64>,
}

impl SnapshotStore {
    /// Those in this directory. Does not touch the disk.
    pub(crate) fn new(dir: PathBuf) -> SnapshotStore {
        SnapshotStore { dir: Arc::new(dir), temporary: Arc::new(AtomicU64::new(0)) }
    }

    /// Makes the directory, and removes what an earlier run left unfinished.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(self.dir.as_path())?;
        for entry in fs::read_dir(self.dir.as_path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Writes a snapshot and makes it the newest.
    pub(crate) fn write(&self, meta: &SnapshotMeta, content: &[u8]) -> io::Result<SnapshotFile> {
        let mut incoming = self.receive()?;
        encode(&incoming.file, meta, content)?;
        incoming.length = incoming.file.metadata()?.len();
        let file = incoming.finish()?;
        self.adopt(meta, &file)
    }

    /// A file to be filled with a snapshot that a peer sends.
    pub(crate) fn receive(&self) -> io::Result<Incoming> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}.tmp"));
        let file = File::create(&path)?;
        Ok(Incoming { path: Some(path), file, length: 0 })
    }

    /// Gives a complete file its name and removes what is too old.
    pub(crate) fn adopt(&self, meta: &SnapshotMeta, file: &SnapshotFile) -> io::Result<SnapshotFile> {
        let (index, term) = meta.last_log_id.as_ref().map_or((0, 0), |id| (id.index, id.leader_id.term));
        let path = self.dir.join(format!("snapshot-{index:020}-{term:020}.zst"));
        fs::rename(&file.path, &path)?;
        File::open(self.dir.as_path())?.sync_all()?;
        for (_, old) in self.list()?.into_iter().skip(KEEP) {
            fs::remove_file(old)?;
        }
        Ok(SnapshotFile { path, file: file.file.clone(), length: file.length })
    }

    /// The newest sound snapshot with its content. A damaged one is set aside as `.damaged`.
    pub(crate) fn newest(&self) -> io::Result<Option<(SnapshotFile, SnapshotMeta, Bytes)>> {
        for (_, path) in self.list()? {
            let file = open(&path)?;
            match file.load() {
                Ok((meta, content)) => return Ok(Some((file, meta, content))),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "damaged snapshot set aside");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok(None)
    }

    /// Complete snapshots, the newest first.
    fn list(&self) -> io::Result<Vec<((u64, u64), PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.as_path())? {
            let path = entry?.path();
            let key = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix("snapshot-")?.strip_suffix(".zst")?.split_once('-'))
                .and_then(|(index, term)| Some((index.parse().ok()?, term.parse().ok()?)));
            if let Some(key) = key {
                found.push((key, path));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }
}

fn open(path: &Path) -> io::Result<SnapshotFile> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(SnapshotFile { path: path.to_owned(), file: Arc::new(file), length })
}

/// A snapshot file that is being filled; removed when dropped unfinished.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: Option<PathBuf>,
    file: File,
    length: u64,
}

impl Incoming {
    /// Appends bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        if self.length > MAX_SNAPSHOT {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "snapshot"));
        }
        self.file.write_all(bytes)
    }

    /// Flushes and hands out the file, still under its temporary name.
    pub(crate) fn finish(mut self) -> io::Result<SnapshotFile> {
        self.file.sync_all()?;
        let path = self.path.take().expect("taken here only, and here self ends");
        open(&path)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, "unfinished snapshot not removed");
        }
    }
}

fn encode(file: &File, meta: &SnapshotMeta, content: &[u8]) -> io::Result<()> {
    let meta = convert::meta_to(meta).encode_length_delimited_to_vec();
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(&meta)?;
    encoder.write_all(content)?;
    encoder.finish()?;
    Ok(())
}

fn decode(file: File) -> io::Result<(SnapshotMeta, Bytes)> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut content = Vec::new();
    let length = zstd::Decoder::new(file)?.take(MAX_SNAPSHOT + 1).read_to_end(&mut content)?;
    if length as u64 > MAX_SNAPSHOT {
        return Err(invalid("snapshot too long"));
    }
    let mut content = Bytes::from(content);
    let length = prost::decode_length_delimiter(&mut content).map_err(|error| invalid(&error.to_string()))?;
    if length > MAX_META || length > content.len() {
        return Err(invalid("snapshot meta too long"));
    }
    let meta = pb::SnapshotMeta::decode(content.split_to(length)).map_err(|error| invalid(&error.to_string()))?;
    let meta = convert::meta_from(&meta).map_err(|error| invalid(&error.to_string()))?;
    Ok((meta, content))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::{LeaderId, LogId, Member, Membership, StoredMembership};

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn store(name: &str) -> (Dir, SnapshotStore) {
        let dir = std::env::temp_dir().join(format!("sbc-raft-snapshot-{}-{name}", std::process::id()));
        let store = SnapshotStore::new(dir.clone());
        store.prepare().unwrap();
        (Dir(dir), store)
    }

    fn meta(index: u64) -> SnapshotMeta {
        let id = LogId { leader_id: LeaderId { term: 2, node_id: 1 }, index };
        let member = Member { name: "a".into(), addr: "a:1".into() };
        let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member)])).unwrap();
        SnapshotMeta { last_log_id: Some(id), last_membership: StoredMembership::new(Some(id), membership) }
    }

    #[test]
    fn the_last_two_are_kept_and_a_damaged_one_is_passed_over() {
        let (dir, store) = store("keep");
        for index in [7, 30, 200] {
            store.write(&meta(index), format!("state {index}").as_bytes()).unwrap();
        }
        assert_eq!(store.list().unwrap().len(), KEEP);
        let (file, found, content) = store.newest().unwrap().unwrap();
        assert_eq!((found, &content[..]), (meta(200), &b"state 200"[..]));
        fs::write(&file.path, b"nonsense").unwrap();
        fs::write(dir.0.join("9.tmp"), b"unfinished").unwrap();
        let store = SnapshotStore::new(dir.0.clone());
        store.prepare().unwrap();
        let (_, found, content) = store.newest().unwrap().unwrap();
        assert_eq!((found, &content[..]), (meta(30), &b"state 30"[..]));
        assert!(file.path.with_extension("damaged").exists());
        assert!(!dir.0.join("9.tmp").exists());
    }

    #[test]
    fn no_damage_goes_unnoticed() {
        let (_dir, store) = store("damage");
        let file = store.write(&meta(1), &b"some state ".repeat(50)).unwrap();
        let bytes = fs::read(&file.path).unwrap();
        let sound = file.load().unwrap();
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x10;
            fs::write(&file.path, &damaged).unwrap();
            // A bit that zstd does not use is no damage.
            if let Ok(found) = file.load() {
                assert_eq!(found, sound, "flipped at {position}");
            }
            fs::write(&file.path, &bytes[..position]).unwrap();
            assert!(file.load().is_err(), "cut at {position}");
        }
    }
}
