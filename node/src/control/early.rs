//! Calls that the log does not have whole, as their owners tell them: this node's own, and those of the nodes that can be asked.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use sbc_core::ids::CallUid;
use sbc_proto::v1 as pb;
use sbc_proto::v1::call_service_client::CallServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use super::auth::Caller;
use super::map;
use super::shared::{PAGE_MAX, Place, Shared, forwarded, on_behalf};

/// A node that does not answer by then is left out of a list: it may be dead, and the asker waits.
const ASK_BUDGET: Duration = Duration::from_millis(500);

impl Shared {
    /// Such a call of this node.
    pub(crate) fn early_call(&self, uid: CallUid, pii: bool) -> Option<pb::Call> {
        let entry = self.read_early(|early| early.call(uid).cloned())?;
        Some(self.read(|r| map::early_call(r, &entry, &self.names, pii)))
    }

    /// Those of this node after `after`, in the order of their identifiers.
    pub(crate) fn early_calls(&self, after: Option<CallUid>, pii: bool) -> BTreeMap<CallUid, pb::Call> {
        let entries: Vec<_> = self.read_early(|early| early.calls(after).cloned().collect());
        self.read(|r| entries.iter().map(|e| (e.uid, map::early_call(r, e, &self.names, pii))).collect())
    }

    /// The same with those of the other nodes, as far as they answer.
    pub(crate) async fn all_early_calls(&self, after: Option<CallUid>, caller: &Caller) -> BTreeMap<CallUid, pb::Call> {
        let members = self.node.config().cluster.members.iter().map(|m| m.id);
        let asked = members.filter_map(|id| match self.place_of(id, caller) {
            Ok(Place::There(name, channel)) => Some(ask(name, channel, after, caller)),
            Ok(Place::Here) | Err(_) => None,
        });
        let told = join_all(asked).await;
        let mut calls = self.early_calls(after, caller.pii);
        for call in told.into_iter().flatten().filter(|call| call.committed == Some(false)) {
            if let Ok(uid) = call.uid.parse() {
                calls.entry(uid).or_insert(call);
            }
        }
        calls
    }

    /// The owner's own word on a call.
    pub(crate) async fn ask_owner(&self, uid: CallUid, place: (String, Channel), caller: &Caller) -> Result<pb::Call, Status> {
        let (name, channel) = place;
        let mut client = CallServiceClient::new(channel);
        let answer = client.get(on_behalf(pb::CallServiceGetRequest { uid: uid.to_string() }, caller));
        let answer = forwarded(&name, super::nodes::PEER_BUDGET, answer).await?;
        Ok(answer.into_inner().call.unwrap_or_default())
    }
}

async fn ask(name: String, channel: Channel, after: Option<CallUid>, caller: &Caller) -> Vec<pb::Call> {
    let mut client = CallServiceClient::new(channel);
    let request = pb::CallServiceListRequest {
        // Ended ones too: the log may still have them as live.
        filter: Some(pb::CallFilter { states: ALL.map(i32::from).to_vec(), ..pb::CallFilter::default() }),
        page_size: u32::try_from(PAGE_MAX).unwrap_or(0),
        page_token: after.map(|uid| uid.to_string()).unwrap_or_default(),
        uncommitted_only: true,
    };
    let answer = forwarded(&name, ASK_BUDGET, client.list(on_behalf(request, caller))).await;
    answer.map(|answer| answer.into_inner().calls).unwrap_or_default()
}

const ALL: [pb::CallState; 4] = [pb::CallState::Trying, pb::CallState::Ringing, pb::CallState::Answered, pb::CallState::Ended];
