//! `sbc.v1.CallService`: reads from this node's index and from what owners tell before the log has it, control by the call's owner.

use std::collections::BTreeMap;

use sbc_core::ids::CallUid;
use sbc_core::io::{Command, CommandReply, LadderEntry, Realm};
use sbc_core::replica::CallEntry;
use sbc_proto::v1 as pb;
use sbc_proto::v1::call_service_client::CallServiceClient;
use sbc_proto::v1::call_service_server::CallService;
use tonic::{Code, Request, Response, Status};

use super::auth::Caller;
use super::call_watch::{CallWatcher, Filter, SCAN_MAX};
use super::error::{fault, no_call};
use super::map;
use super::shared::{FORWARD_BUDGET, Place, Shared, bad_page_token, caller, forwarded, on_behalf, page_size, parse_uid};
use super::watch::{Answers, watch};

/// Longest reason of a Terminate: it goes into a header field.
const REASON_MAX: usize = 128;

/// The service.
pub(crate) struct Calls(pub(crate) Shared);

impl Calls {
    /// The node that carries a call's commands out: its owner, or for a call that is not replicated the node that made it.
    fn owner(&self, uid: CallUid, caller: &Caller) -> Result<Place, Status> {
        let owner = self.0.read(|r| r.call(uid).map(|c| c.owner())).unwrap_or(uid.node);
        let member = self.0.node.config().cluster.members.iter().any(|m| m.id == owner);
        if member { self.0.place_of(owner, caller) } else { Err(no_call(&uid.to_string())) }
    }

    /// An error where a stream about a call would stay empty for ever. One that is resumed may have the call's events behind it.
    async fn watchable(&self, uid: CallUid, from: Option<&pb::WatchFrom>) -> Result<(), Status> {
        let resumed = matches!(from.and_then(|f| f.start.as_ref()), Some(pb::watch_from::Start::ResumeToken(_)));
        if resumed || self.entry(uid, false).is_some() {
            return Ok(());
        }
        // Another node may have told of it before this one has heard. Without a quorum it is as it is known here.
        let _ = self.0.linearizable().await;
        self.entry(uid, false).map(|_| ()).ok_or_else(|| no_call(&uid.to_string()))
    }

    /// Why there is no ladder of a call.
    fn no_ladder(&self, uid: CallUid, text: &str) -> Status {
        let forgotten = uid.node == self.0.me() && uid.incarnation < self.0.node.incarnation();
        if !forgotten {
            return no_call(text);
        }
        let message = format!("{} has started again since call {text}: ladders are kept in memory", self.0.my_name());
        fault(Code::NotFound, pb::ErrorReason::LadderNotKept, message, &[("call", text), ("node", self.0.my_name())])
    }

    fn entry(&self, uid: CallUid, pii: bool) -> Option<pb::Call> {
        let early = self.0.early_call(uid, pii);
        early.or_else(|| self.0.read(|r| r.call(uid).map(|c| map::call(r, c, &self.0.names, pii))))
    }

    async fn terminate_here(&self, uid: CallUid, asked: &pb::CallServiceTerminateRequest, pii: bool) -> Result<pb::Call, Status> {
        let facts = [("call", asked.uid.as_str())];
        if self.entry(uid, false).is_some_and(|c| c.state == i32::from(pb::CallState::Ended)) {
            return Err(fault(Code::FailedPrecondition, pb::ErrorReason::CallEnded, "the call is over", &facts));
        }
        let command = Command::Terminate { call: uid, reason: asked.reason.as_str().into(), emergency: asked.emergency };
        match self.0.node.command(command).await? {
            CommandReply::Done => {
                let bare = || pb::Call { uid: asked.uid.clone(), owner: self.0.my_name().to_owned(), ..pb::Call::default() };
                Ok(self.entry(uid, pii).unwrap_or_else(bare))
            }
            CommandReply::EmergencyRefused => {
                let message = "an emergency call is ended only by a request that says so";
                Err(fault(Code::FailedPrecondition, pb::ErrorReason::EmergencyCall, message, &facts))
            }
            CommandReply::NotFound => Err(no_call(&asked.uid)),
            other => Err(fault(Code::Internal, pb::ErrorReason::Internal, format!("core answered {other:?}"), &[])),
        }
    }
}

#[tonic::async_trait]
impl CallService for Calls {
    async fn list(&self, request: Request<pb::CallServiceListRequest>) -> Result<Response<pb::CallServiceListResponse>, Status> {
        let caller = caller(&request)?;
        let pii = caller.pii;
        let asked = request.into_inner();
        let after: Option<CallUid> = match asked.page_token.as_str() {
            "" => None,
            t => Some(t.parse().map_err(|()| bad_page_token())?),
        };
        let (limit, filter) = (page_size(asked.page_size), Filter::new(asked.filter, &self.0)?);
        let early = match asked.uncommitted_only {
            true => self.0.early_calls(after, pii),
            false => self.0.all_early_calls(after, &caller).await,
        };
        let (mut calls, last) = self.0.read(|r| {
            let mut calls = BTreeMap::new();
            let (mut last, mut more) = (None, false);
            for (looked, entry) in r.all_calls(after).enumerate().take_while(|_| !asked.uncommitted_only) {
                if calls.len() == limit || looked == SCAN_MAX {
                    more = true;
                    break;
                }
                last = Some(entry.uid);
                // Its owner knows better.
                if early.contains_key(&entry.uid) {
                    continue;
                }
                let call = map::call(r, entry, &self.0.names, pii);
                if filter.passes(&call, false) {
                    calls.insert(entry.uid, call);
                }
            }
            (calls, last.filter(|_| more))
        });
        let told = early.into_iter().filter(|(uid, call)| last.is_none_or(|last| *uid <= last) && filter.passes(call, false));
        calls.extend(told);
        let mut next = last;
        if calls.len() > limit {
            next = calls.keys().nth(limit - 1).copied();
        }
        let calls = calls.into_values().take(limit).collect();
        let next_page_token = next.map(|u| u.to_string()).unwrap_or_default();
        Ok(Response::new(pb::CallServiceListResponse { calls, next_page_token }))
    }

    async fn get(&self, request: Request<pb::CallServiceGetRequest>) -> Result<Response<pb::CallServiceGetResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let uid = parse_uid(&asked.uid)?;
        let mut call = self.entry(uid, caller.pii);
        // Only the owner counts packets, and knows what is not committed; when it does not answer, the rest is still true.
        match (self.owner(uid, &caller), &mut call) {
            (Ok(Place::Here), Some(call)) => {
                call.media = self.0.node.media_stats(uid).await.map(|m| pb::MediaCounters {
                    caller_packets: m.caller.rtp_packets,
                    caller_octets: m.caller.rtp_octets,
                    callee_packets: m.callee.rtp_packets,
                    callee_octets: m.callee.rtp_octets,
                });
            }
            (Ok(Place::There(name, channel)), call) => match (self.0.ask_owner(uid, (name, channel), &caller).await, call) {
                (Ok(theirs), Some(ours)) if theirs.committed != Some(false) => ours.media = theirs.media,
                (Ok(theirs), call) => *call = Some(theirs),
                // Whoever has no quorum does not know what there is.
                (Err(status), None) if status.code() != Code::NotFound && !self.0.node.status().borrow().quorum => {
                    return Err(status);
                }
                (Err(_), _) => {}
            },
            (Ok(Place::Here) | Err(_), _) => {}
        }
        let call = call.ok_or_else(|| no_call(&asked.uid))?;
        Ok(Response::new(pb::CallServiceGetResponse { call: Some(call) }))
    }

    type WatchStream = Answers<pb::CallServiceWatchResponse>;

    async fn watch(&self, request: Request<pb::CallServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let pii = caller.pii;
        let asked = request.into_inner();
        let uid = if asked.uid.is_empty() { None } else { Some(parse_uid(&asked.uid)?) };
        if let Some(uid) = uid.filter(|uid| self.entry(*uid, false).is_none()) {
            if let Ok(Place::There(name, channel)) = self.owner(uid, &caller)
                && self.0.ask_owner(uid, (name.clone(), channel.clone()), &caller).await.is_ok()
            {
                // Only its owner knows it.
                let mut client = CallServiceClient::new(channel);
                let answer = forwarded(&name, FORWARD_BUDGET, client.watch(on_behalf(asked, &caller))).await?;
                return Ok(Response::new(Box::pin(answer.into_inner())));
            }
            self.watchable(uid, asked.from.as_ref()).await?;
        }
        let filter = Filter::new(asked.filter, &self.0)?;
        let watcher = CallWatcher::new(self.0.clone(), uid, filter, pii);
        Ok(Response::new(watch(&self.0, asked.from, asked.heartbeat_ms, watcher)?))
    }

    async fn terminate(
        &self,
        request: Request<pb::CallServiceTerminateRequest>,
    ) -> Result<Response<pb::CallServiceTerminateResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let uid = parse_uid(&asked.uid)?;
        if asked.reason.len() > REASON_MAX || asked.reason.chars().any(char::is_control) {
            return Err(super::error::invalid("reason", format!("at most {REASON_MAX} octets, no control characters")));
        }
        match self.owner(uid, &caller)? {
            Place::Here => {
                let call = self.terminate_here(uid, &asked, caller.pii).await?;
                tracing::info!(call = %uid, by = %caller.display(), request_id = %asked.request_id, "call terminated by request");
                Ok(Response::new(pb::CallServiceTerminateResponse { call: Some(call) }))
            }
            Place::There(name, channel) => {
                let mut client = CallServiceClient::new(channel);
                forwarded(&name, FORWARD_BUDGET, client.terminate(on_behalf(asked, &caller))).await
            }
        }
    }

    async fn get_ladder(
        &self,
        request: Request<pb::CallServiceGetLadderRequest>,
    ) -> Result<Response<pb::CallServiceGetLadderResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let uid = parse_uid(&asked.uid)?;
        let channel = match self.owner(uid, &caller)? {
            Place::There(name, channel) => {
                let mut client = CallServiceClient::new(channel);
                return forwarded(&name, FORWARD_BUDGET, client.get_ladder(on_behalf(asked, &caller))).await;
            }
            Place::Here => self.0.node.command(Command::Ladder { call: uid }).await?,
        };
        let CommandReply::Ladder { entries, dropped } = channel else { return Err(self.no_ladder(uid, &asked.uid)) };
        let realm = self.0.read(|r| r.call(uid).and_then(|c| caller_realm(c)));
        let message = |e: LadderEntry| ladder_message(e, realm, caller.pii, &self.0);
        let messages = entries.into_iter().map(message).collect();
        Ok(Response::new(pb::CallServiceGetLadderResponse { messages, dropped }))
    }
}

/// On which side the caller is: role 3 of an arrival is the core address.
fn caller_realm(entry: &CallEntry) -> Option<Realm> {
    match entry.claim().arrival.as_ref()?.role {
        1 | 2 => Some(Realm::External),
        3 => Some(Realm::Core),
        _ => None,
    }
}

fn ladder_message(e: LadderEntry, caller_realm: Option<Realm>, pii: bool, shared: &Shared) -> pb::LadderMessage {
    let leg = match caller_realm {
        None => pb::CallLeg::Unspecified,
        Some(realm) if realm == e.realm => pb::CallLeg::Caller,
        Some(_) => pb::CallLeg::Callee,
    };
    let direction = if e.inbound { pb::MessageDirection::Received } else { pb::MessageDirection::Sent };
    pb::LadderMessage {
        at: map::time(e.at.0),
        leg: leg.into(),
        direction: direction.into(),
        transport: e.transport.via_token().to_ascii_lowercase(),
        local: e.local.to_string(),
        remote: if pii { e.remote.to_string() } else { String::new() },
        summary: e.summary.into(),
        cseq: e.cseq.into(),
        ingress: e.through.map_or_else(|| shared.my_name().to_owned(), |n| shared.names.name(n)),
        relayed: e.through.is_some(),
        retransmission: e.repeated,
    }
}
