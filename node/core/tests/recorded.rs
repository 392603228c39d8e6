//! What older versions wrote is read as they read it: logs and snapshots that were recorded by them, replayed here. `recorded/levelN` was
//! written by the last version that knew no level above N.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use sbc_core::replica::Replica;
use sbc_core::store_pb::{self, NodeUp};
use sbc_core::store_pb::{Entry, Level, Snapshot, command::Kind};

fn recorded(level: u32, name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/level{level}/{name}"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

/// The log: each entry after its index, eight octets, and with its length before it.
fn log(level: u32) -> Vec<(u64, Entry)> {
    let mut bytes = recorded(level, "log.bin");
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let index = bytes.split_to(8);
        let entry = Entry::decode_length_delimited(&mut bytes).expect("an entry");
        entries.push((u64::from_be_bytes(index[..].try_into().expect("eight octets")), entry));
    }
    entries
}

fn replay(level: u32) -> Replica {
    let mut replica = Replica::new();
    for (index, entry) in log(level) {
        replica.apply(index, &entry).unwrap_or_else(|e| panic!("level {level}: {e}"));
    }
    replica
}

#[test]
fn a_log_of_level_1_gives_the_snapshot_that_its_version_wrote() {
    let replica = replay(1);
    assert!(replica.live_calls() > 5 && replica.cdrs(0, 999).expect("all").len() > 50, "it is worth replaying");
    assert!(replica.snapshot().encode_to_vec() == recorded(1, "snapshot.bin"), "the same octets");
}

#[test]
fn a_snapshot_of_level_1_goes_on_as_the_log_does() {
    let snapshot = Snapshot::decode(recorded(1, "snapshot.bin")).expect("a snapshot");
    let (mut restored, mut replayed) = (Replica::restore(snapshot).expect("restores"), replay(1));
    let command = |kind| store_pb::Command { unix_ms: 1_790_000_900_000, kind: Some(kind) };
    // The upgrade itself: the level rises, then an owner starts again.
    let kinds = [Kind::Level(Level { level: 2 }), Kind::NodeUp(NodeUp { node: 1, incarnation: 90, ..NodeUp::default() })];
    let next = Entry { version: 1, proposer: 1, incarnation: 1, commands: kinds.into_iter().map(command).collect() };
    assert_eq!(restored.apply(900, &next).expect("applies"), replayed.apply(900, &next).expect("applies"));
    assert_eq!(restored.snapshot(), replayed.snapshot());
    assert_eq!(restored.level(), 2);
}

#[test]
fn every_kind_of_command_of_level_1_is_in_the_log() {
    let mut seen = std::collections::BTreeSet::new();
    for (_, entry) in log(1) {
        for command in entry.commands {
            let word = format!("{:?}", command.kind.expect("a kind"));
            seen.insert(word.split('(').next().unwrap_or_default().to_owned());
        }
    }
    let all = ["Answer", "Block", "Claim", "Config", "End", "NodeUp", "Notice", "Progress", "Refresh", "Tick", "Unblock"];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
}
