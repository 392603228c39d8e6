//! Raft's types as protobuf (sbc.peer.v1), for the wire, the log and the head of a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use sbc_proto::peer as pb;

use crate::types::{Batch, Entry, LeaderId, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership};
use crate::types::{TypeConfig, Vote};

/// Most members of a cluster that is taken from the wire; a site each, and there are not as many.
const MAX_MEMBERS: usize = 64;

/// A message that no node of this version sends. The peer's fault: refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed raft message: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

type Result<T> = std::result::Result<T, Malformed>;

pub(crate) fn log_id_to(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from(id: &pb::LogId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.node }, index: id.index }
}

pub(crate) fn vote_to(vote: &Vote) -> pb::Ballot {
    pb::Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from(ballot: Option<&pb::Ballot>) -> Result<Vote> {
    let ballot = ballot.ok_or(Malformed("no ballot"))?;
    Ok(Vote { leader_id: LeaderId { term: ballot.term, node_id: ballot.node }, committed: ballot.committed })
}

/// The ballot of a leader, as it stands in what only leaders send.
fn leader_from(ballot: Option<&pb::Ballot>) -> Result<Vote> {
    let vote = vote_from(ballot)?;
    if vote.committed { Ok(vote) } else { Err(Malformed("a leader's ballot that no quorum granted")) }
}

pub(crate) fn membership_to(membership: &Membership) -> pb::Membership {
    let voters = membership.get_joint_config().iter();
    let members = membership.nodes();
    pb::Membership {
        voters: voters.map(|set| pb::VoterSet { ids: set.iter().copied().collect() }).collect(),
        members: members
            .map(|(id, member)| pb::Member { id: *id, name: member.name.clone(), addr: member.addr.clone() })
            .collect(),
    }
}

pub(crate) fn membership_from(membership: &pb::Membership) -> Result<Membership> {
    if membership.members.len() > MAX_MEMBERS || membership.voters.len() > 2 {
        return Err(Malformed("too many members"));
    }
    let voters: Vec<BTreeSet<u64>> = membership.voters.iter().map(|set| set.ids.iter().copied().collect()).collect();
    let members: BTreeMap<u64, Member> = membership
        .members
        .iter()
        .map(|member| (member.id, Member { name: member.name.clone(), addr: member.addr.clone() }))
        .collect();
    Membership::new(voters, members).map_err(|_| Malformed("a voter that is no member, or no voters"))
}

pub(crate) fn payload_to(payload: &Payload) -> pb::EntryPayload {
    let kind = match payload {
        EntryPayload::Blank => pb::entry_payload::Kind::Blank(true),
        EntryPayload::Normal(batch) => pb::entry_payload::Kind::Normal(batch.0.clone()),
        EntryPayload::Membership(membership) => pb::entry_payload::Kind::Membership(membership_to(membership)),
    };
    pb::EntryPayload { kind: Some(kind) }
}

pub(crate) fn payload_from(payload: pb::EntryPayload) -> Result<Payload> {
    match payload.kind.ok_or(Malformed("an entry of unknown kind"))? {
        pb::entry_payload::Kind::Blank(_) => Ok(EntryPayload::Blank),
        pb::entry_payload::Kind::Normal(bytes) => Ok(EntryPayload::Normal(Batch(bytes))),
        pb::entry_payload::Kind::Membership(membership) => Ok(EntryPayload::Membership(membership_from(&membership)?)),
    }
}

pub(crate) fn append_to(request: &AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    let entries = request.entries.iter();
    pb::AppendRequest {
        leader: Some(vote_to(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to),
        entries: entries
            .map(|entry| pb::LogEntry { id: Some(log_id_to(&entry.log_id)), payload: Some(payload_to(&entry.payload)) })
            .collect(),
        committed: request.leader_commit.as_ref().map(log_id_to),
    }
}

/// Openraft takes for granted that entries follow one another and that none is younger than its leader.
pub(crate) fn append_from(request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>> {
    let vote = leader_from(request.leader.as_ref())?;
    let prev_log_id = request.previous.as_ref().map(log_id_from);
    let mut next = prev_log_id.as_ref().map_or(0, |id| id.index.saturating_add(1));
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let log_id = log_id_from(&entry.id.ok_or(Malformed("an entry without id"))?);
        if log_id.index != next || log_id.leader_id > vote.leader_id {
            return Err(Malformed("entries that do not follow one another"));
        }
        next = next.saturating_add(1);
        let payload = payload_from(entry.payload.ok_or(Malformed("an entry without content"))?)?;
        entries.push(Entry { log_id, payload });
    }
    let leader_commit = request.committed.as_ref().map(log_id_from);
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn append_reply_to(result: &StreamAppendResult<TypeConfig>) -> pb::AppendReply {
    use pb::append_reply::Result as Reply;
    let result = match result {
        Ok(last) => Reply::Matched(pb::Matched { last: last.as_ref().map(log_id_to) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(log_id_to(id)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::Higher(vote_to(vote)),
    };
    pb::AppendReply { result: Some(result) }
}

pub(crate) fn append_reply_from(reply: &pb::AppendReply) -> Result<StreamAppendResult<TypeConfig>> {
    use pb::append_reply::Result as Reply;
    Ok(match reply.result.as_ref().ok_or(Malformed("an empty reply"))? {
        Reply::Matched(matched) => Ok(matched.last.as_ref().map(log_id_from)),
        Reply::Conflict(id) => Err(StreamAppendError::Conflict(log_id_from(id))),
        Reply::Higher(vote) => Err(StreamAppendError::HigherVote(vote_from(Some(vote))?)),
    })
}

pub(crate) fn vote_request_to(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        ballot: Some(vote_to(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to),
        transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from(request: &pb::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    let vote = vote_from(request.ballot.as_ref())?;
    if vote.committed {
        return Err(Malformed("a candidate's ballot that a quorum granted"));
    }
    let mut out = VoteRequest::new(vote, request.last.as_ref().map(log_id_from));
    out.leadership_transfer = request.transfer;
    Ok(out)
}

pub(crate) fn vote_reply_to(reply: &VoteResponse<TypeConfig>) -> pb::VoteReply {
    pb::VoteReply {
        ballot: Some(vote_to(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(log_id_to),
    }
}

pub(crate) fn vote_reply_from(reply: &pb::VoteReply) -> Result<VoteResponse<TypeConfig>> {
    let vote = vote_from(reply.ballot.as_ref())?;
    Ok(VoteResponse { vote, vote_granted: reply.granted, last_log_id: reply.last.as_ref().map(log_id_from) })
}

pub(crate) fn transfer_to(request: &TransferLeaderRequest<TypeConfig>) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        from: Some(vote_to(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to),
    }
}

pub(crate) fn transfer_from(request: &pb::TransferLeaderRequest) -> Result<TransferLeaderRequest<TypeConfig>> {
    let from = leader_from(request.from.as_ref())?;
    Ok(TransferLeaderRequest::new(from, request.to, request.last.as_ref().map(log_id_from)))
}

pub(crate) fn transfer_reply_to(reply: &TransferLeaderResponse<TypeConfig>) -> pb::TransferLeaderReply {
    use pb::transfer_leader_reply::Refused;
    let refused = match reply {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => Some(Refused::Ballot(vote_to(actual))),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            Some(Refused::NotFlushed(pb::Matched { last: actual.as_ref().map(log_id_to) }))
        }
    };
    pb::TransferLeaderReply { refused }
}

pub(crate) fn transfer_reply_from(
    request: &TransferLeaderRequest<TypeConfig>,
    reply: &pb::TransferLeaderReply,
) -> Result<TransferLeaderResponse<TypeConfig>> {
    use pb::transfer_leader_reply::Refused;
    Ok(match &reply.refused {
        None => Ok(()),
        Some(Refused::Ballot(ballot)) => {
            let actual = vote_from(Some(ballot))?;
            Err(TransferLeaderError::VoteChanged { expected: *request.from_leader(), actual })
        }
        Some(Refused::NotFlushed(matched)) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().cloned(),
            actual: matched.last.as_ref().map(log_id_from),
        }),
    })
}

pub(crate) fn meta_to(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id_to),
        membership_id: meta.last_membership.log_id().as_ref().map(log_id_to),
        membership: Some(membership_to(meta.last_membership.membership())),
    }
}

pub(crate) fn meta_from(meta: &pb::SnapshotMeta) -> Result<SnapshotMeta> {
    let membership = membership_from(meta.membership.as_ref().ok_or(Malformed("a snapshot without members"))?)?;
    Ok(SnapshotMeta {
        last_log_id: Some(log_id_from(meta.last.as_ref().ok_or(Malformed("a snapshot of nothing"))?)),
        last_membership: StoredMembership::new(meta.membership_id.as_ref().map(log_id_from), membership),
    })
}

/// Openraft panics on a snapshot younger than the leader that sends it.
pub(crate) fn snapshot_header_from(header: &pb::SnapshotHeader) -> Result<(Vote, SnapshotMeta)> {
    let vote = leader_from(header.leader.as_ref())?;
    let meta = meta_from(header.meta.as_ref().ok_or(Malformed("a snapshot without header"))?)?;
    if meta.last_log_id.as_ref().is_some_and(|id| id.leader_id > vote.leader_id) {
        return Err(Malformed("a snapshot younger than its leader"));
    }
    Ok((vote, meta))
}
