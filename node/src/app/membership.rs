//! Whether this node may take part in Raft with the disk that it has.
//!
//! A vote that was given, and an entry that was acknowledged, are forgotten with the disk; a node that came back without them under its
//! old id could vote twice, and give a leader a majority that does not have what was committed. So every log directory has an id of its
//! own (`data-id`), `NodeUp` brings it into the log, and a node with a new directory first asks the others whether the log knows it by
//! another one. Until it may, it serves calls degraded, as a node without quorum does.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use sbc_core::ids::NodeId;
use sbc_core::replica::Replica;
use sbc_core::store_pb::{NodeUp, command::Kind};
use sbc_proto::peer::peer_link_service_client::PeerLinkServiceClient;
use sbc_proto::peer::{AdmitRequest, AdmitResponse};
use sbc_raft::RaftHandle;
use tonic::Code;
use tonic::transport::Channel;

use super::disk::{self, DiskError};
use super::view::log_command;
use crate::driver::Clock;

/// Pause between two rounds of questions.
const AGAIN: Duration = Duration::from_millis(250);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_millis(1000);
/// Rounds between two lines in the log: ten seconds.
const SAY_EVERY: u32 = 40;
/// Pause between two looks whether the log knows of this start.
const SAY_UP: Duration = Duration::from_secs(1);
/// Octets of a data id.
pub(super) const DATA_ID: usize = 16;

/// The log directory's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataId {
    pub(super) id: [u8; DATA_ID],
    /// The directory has not been used before.
    pub(super) fresh: bool,
}

/// Where the id stands once this node takes part; until then it has the ending `new`.
fn file(dir: &Path) -> PathBuf {
    dir.join("data-id")
}

/// Reads the id of a log directory, or gives it one. It stays new until the others have admitted it, over restarts too. A directory of the
/// version before has a log and no id: it is not new.
pub(super) fn data_id(dir: &Path) -> Result<DataId, DiskError> {
    let path = file(dir);
    let pending = path.with_extension("new");
    for (path, fresh) in [(&path, false), (&pending, true)] {
        match fs::read(path) {
            Ok(bytes) => {
                let id = bytes.try_into().map_err(|_| DiskError::Content { path: path.clone(), what: "must hold 16 octets" })?;
                return Ok(DataId { id, fresh });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DiskError::Io { path: path.clone(), source }),
        }
    }
    let fresh = !dir.join("identity").exists();
    let path = if fresh { pending } else { path };
    let mut id = [0; DATA_ID];
    let made = getrandom::fill(&mut id).map_err(|e| io::Error::other(e.to_string())).and_then(|()| fs::create_dir_all(dir));
    made.map_err(|source| DiskError::Io { path: path.clone(), source })?;
    disk::replace(&path, &id)?;
    Ok(DataId { id, fresh })
}

/// From now on the directory is this node's.
fn keep(dir: &Path) -> io::Result<()> {
    let path = file(dir);
    fs::rename(path.with_extension("new"), &path)?;
    fs::File::open(dir)?.sync_all()
}

/// What one other member has said; `None`: nothing.
type Answer = Option<AdmitResponse>;

/// What follows from a round of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The log knows this node by another directory.
    Refused,
    Admitted,
    /// Nobody has said enough.
    Open,
}

/// `others`: one answer of each other member. The log's word on this node stands at a majority, so who has applied all of it knows. Without
/// a quorum nobody knows: of two whose disks were wiped each finds the other one's empty, while the third has the log. So where there is
/// none yet, all have to say that theirs is as new.
fn verdict(others: &[Answer]) -> Verdict {
    let mut heard = others.iter().flatten();
    if heard.clone().any(|a| a.known_otherwise) {
        return Verdict::Refused;
    }
    let new = others.iter().all(|a| a.as_ref().is_some_and(|a| a.empty));
    if new || heard.any(|a| a.caught_up) { Verdict::Admitted } else { Verdict::Open }
}

/// Asks the others until they have said enough. `Err`: this node must not go on; what to do, for people.
pub(super) async fn ask(
    own: (NodeId, &str, &str),
    data: &DataId,
    dir: &Path,
    peers: &HashMap<NodeId, Channel>,
    admitted: &AtomicBool,
) -> Result<(), String> {
    let (node, name, cluster_id) = own;
    let request = AdmitRequest { node: u32::from(node.0), cluster_id: cluster_id.to_owned(), data_id: data.id.to_vec().into() };
    if data.fresh {
        until_admitted(name, &request, peers).await?;
        keep(dir).map_err(|e| format!("{}: {e}", file(dir).display()))?;
    }
    admitted.store(true, Ordering::Release);
    Ok(())
}

async fn until_admitted(name: &str, request: &AdmitRequest, peers: &HashMap<NodeId, Channel>) -> Result<(), String> {
    for round in 0u32.. {
        match verdict(&join_all(peers.values().map(|channel| question(channel.clone(), request.clone()))).await) {
            Verdict::Admitted => break,
            Verdict::Refused => return Err(refusal(name)),
            Verdict::Open => {}
        }
        if round.is_multiple_of(SAY_EVERY) {
            tracing::warn!(
                "this node's log directory is new: it takes no part in Raft until a member that has the log has said that it knows no older one, \
                 or, where a cluster is made, until all members are up"
            );
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

async fn question(channel: Channel, request: AdmitRequest) -> Answer {
    match tokio::time::timeout(ANSWER, PeerLinkServiceClient::new(channel).admit(request)).await {
        Ok(Ok(answer)) => Some(answer.into_inner()),
        // The version before: it knows of no ids, and what it would say is yes.
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            Some(AdmitResponse { caught_up: true, ..AdmitResponse::default() })
        }
        _ => None,
    }
}

/// Tells the log of this start, and of the data id once the log takes it. Returns when this node must not go on; why, for people.
pub(super) async fn say_up(own: Starting) -> String {
    loop {
        match own.due() {
            Due::Nothing => {}
            Due::Say(up) => drop(own.raft.propose(log_command(own.clock, Kind::NodeUp(up))).await),
            Due::Stop => return refusal(&own.name),
        }
        tokio::time::sleep(SAY_UP).await;
    }
}

/// This start, as it is told to the log.
pub(super) struct Starting {
    pub(super) raft: RaftHandle,
    pub(super) clock: Clock,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) incarnation: u32,
    pub(super) data_id: [u8; DATA_ID],
    pub(super) admitted: Arc<AtomicBool>,
}

#[derive(Debug, PartialEq)]
enum Due {
    Nothing,
    Say(NodeUp),
    Stop,
}

impl Starting {
    fn due(&self) -> Due {
        if !self.admitted.load(Ordering::Acquire) {
            return Due::Nothing;
        }
        due(&self.replica.read().unwrap_or_else(PoisonError::into_inner), self.node, self.incarnation, &self.data_id)
    }
}

/// What there is to do for a node with this incarnation and log directory, by what the log has of it.
fn due(replica: &Replica, node: NodeId, incarnation: u32, data_id: &[u8]) -> Due {
    let with_id = replica.level() >= 2;
    let known = replica.node(node).filter(|n| !n.vacant);
    if known.is_some_and(|n| !n.data_id.is_empty() && n.data_id != data_id) {
        return Due::Stop;
    }
    if known.is_some_and(|n| n.incarnation == incarnation && (!with_id || !n.data_id.is_empty())) {
        return Due::Nothing;
    }
    let data_id = if with_id { Bytes::copy_from_slice(data_id) } else { Bytes::new() };
    Due::Say(NodeUp { node: u32::from(node.0), incarnation, data_id, vacant: false })
}

fn refusal(name: &str) -> String {
    format!(
        "the cluster knows {name} by another log directory than this new one. If its disk was wiped or exchanged, run\n    \
         sbcctl cluster readmit {name}\nand start it again: its vote is taken from it until it has the log anew. If the old \
         directory still exists, start it with that one"
    )
}

#[cfg(test)]
mod tests {
    use sbc_core::replica::ENTRY_VERSION;
    use sbc_core::store_pb::{Command, Entry, Level};

    use super::*;

    const SILENT: Answer = None;

    fn said(known_otherwise: bool, caught_up: bool, empty: bool) -> Answer {
        Some(AdmitResponse { known_otherwise, caught_up, empty })
    }

    #[test]
    fn every_round_of_answers() {
        let (other, current, behind, new) =
            (said(true, false, false), said(false, true, false), said(false, false, false), said(false, false, true));
        use Verdict::{Admitted, Open, Refused};
        let table: [(&[Answer], Verdict); 16] = [
            (&[], Admitted),
            (&[SILENT, SILENT], Open),
            (&[other, SILENT], Refused),
            (&[other, current], Refused),
            (&[other, new], Refused),
            (&[current, SILENT], Admitted),
            (&[current, new], Admitted),
            (&[behind, SILENT], Open),
            // Neither has applied what both may have in their logs; together they will have soon.
            (&[behind, behind], Open),
            // The third one may have the log.
            (&[new, SILENT], Open),
            (&[new, behind], Open),
            (&[new, new], Admitted),
            (&[SILENT], Open),
            (&[behind], Open),
            (&[new], Admitted),
            (&[new, new, new, SILENT], Open),
        ];
        for (others, wanted) in table {
            assert_eq!(verdict(others), wanted, "{others:?}");
        }
    }

    #[test]
    fn a_start_is_said_once_and_stops_where_the_log_knows_another_directory() {
        let (node, own) = (NodeId(2), [7; DATA_ID]);
        let mut replica = Replica::new();
        let mut index = 0;
        let mut logged = |replica: &mut Replica, kind: Kind| {
            index += 1;
            let commands = vec![Command { unix_ms: 1, kind: Some(kind) }];
            replica.apply(index, &Entry { version: ENTRY_VERSION, proposer: 1, incarnation: 1, commands }).unwrap();
        };
        let say = |incarnation, data_id: &[u8]| NodeUp { node: 2, incarnation, data_id: data_id.to_vec().into(), vacant: false };
        // Below the level of ids it says none.
        assert_eq!(due(&replica, node, 3, &own), Due::Say(say(3, &[])));
        logged(&mut replica, Kind::NodeUp(say(3, &[])));
        assert_eq!(due(&replica, node, 3, &own), Due::Nothing);
        logged(&mut replica, Kind::Level(Level { level: 2 }));
        assert_eq!(due(&replica, node, 3, &own), Due::Say(say(3, &own)));
        logged(&mut replica, Kind::NodeUp(say(3, &own)));
        assert_eq!(due(&replica, node, 3, &own), Due::Nothing);
        assert_eq!(due(&replica, node, 4, &own), Due::Say(say(4, &own)), "it has started again");
        // A process with another directory, whichever of the two is the older one.
        assert_eq!(due(&replica, node, 3, &[8; DATA_ID]), Due::Stop);
        assert_eq!(due(&replica, node, 4, &[8; DATA_ID]), Due::Stop);
        assert!(matches!(due(&replica, NodeId(3), 1, &[8; DATA_ID]), Due::Say(_)), "another node");
    }

    #[test]
    fn a_directory_keeps_its_id_and_a_new_one_has_another() {
        let dir = std::env::temp_dir().join(format!("sbc-data-id-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let first = data_id(&dir).unwrap();
        assert!(first.fresh);
        assert_eq!(data_id(&dir).unwrap(), first, "until it is admitted");
        keep(&dir).unwrap();
        assert_eq!(data_id(&dir).unwrap(), DataId { fresh: false, ..first });
        fs::remove_dir_all(&dir).unwrap();
        assert_ne!(data_id(&dir).unwrap().id, first.id);
        // Of the version before: a log, and no id.
        fs::write(dir.join("identity"), "x").unwrap();
        fs::remove_file(dir.join("data-id.new")).unwrap();
        assert!(!data_id(&dir).unwrap().fresh);
        fs::write(dir.join("data-id"), "short").unwrap();
        assert!(data_id(&dir).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
