//! What the log has of a call that is up, and the legs as that makes them again: both ways in one place, so that what is written and what is
//! read cannot drift apart. `restore` makes the whole call.
//!
//! `tests/sim/restored.rs` shows that such a call says what the original would have said. A restored leg has not been asked who we are, and is
//! asked anew.

use super::context::Context;
use super::is_sips;
use super::leg::Leg;
use crate::dialog::{Dialog, Half};
use crate::ids::{FlowId, NodeId};
use crate::io::{AddressRole, Path, Side, Transport};
use crate::replica::{CSEQ_JUMP, CSEQ_MAX, CSEQ_STEP};
use crate::sip::Sdp;
use crate::store_pb::{Arrival, LegRecord};

impl Leg {
    /// What is replicated of the leg and of a dialog on it.
    pub fn record(&self, half: &Half, ports: Vec<u32>) -> LegRecord {
        let d = &half.dialog;
        let mut record = LegRecord {
            call_id: d.call_id.to_string(),
            local_tag: d.local_tag.to_string(),
            remote_tag: d.remote_tag.as_deref().unwrap_or_default().to_owned(),
            local_uri: d.local_uri.to_string(),
            remote_uri: d.remote_uri.to_string(),
            remote_target: d.remote_target.to_string(),
            route_set: d.route_set.iter().map(ToString::to_string).collect(),
            local_cseq_ceiling: (d.local_cseq / CSEQ_STEP + 1) * CSEQ_STEP,
            remote_cseq: d.remote_cseq.unwrap_or(0),
            path: Some(arrival(&self.path, self.ingress)),
            local_sdp: half.local_sdp.clone(),
            remote_sdp: half.remote_sdp.clone(),
            media_ports: ports,
            trunk: self.trunk.to_string(),
            guessed: d.guessed,
            secure: self.secure,
            tls_name: self.tls_name.as_deref().unwrap_or_default().to_owned(),
            contact_params: self.contact_params.to_string(),
            ..LegRecord::default()
        };
        self.session.record(&mut record);
        record
    }

    /// Takes what was recorded of the leg and its dialog, by the node `owner`. `None`: there is no dialog yet, or nothing that leads to its far
    /// end.
    pub(super) fn restore(
        &mut self,
        half: &mut Half,
        cx: &mut Context,
        record: &LegRecord,
        (owner, same_start): (NodeId, bool),
    ) -> Option<()> {
        let (path, ingress) = recorded_way(cx, record.path.as_ref()?, owner, same_start)?;
        let dialog = recorded_dialog(record)?;
        let written = Sdp::parse(&record.local_sdp).ok();
        half.sdp_version = written.and_then(|sdp| sdp.origin().sess_version).unwrap_or(half.sdp_version);
        (half.local_sdp, half.remote_sdp) = (record.local_sdp.clone(), record.remote_sdp.clone());
        match self.side {
            // Of several early dialogs each had a token of its own: the caller knows the tag, and our Contact has the same.
            Side::Caller => half.contact_token = dialog.local_tag.clone(),
            // A record of an earlier version does not say it.
            Side::Callee => self.secure = record.secure || is_sips(&dialog.remote_target),
        }
        half.dialog = dialog;
        self.tls_name = (!record.tls_name.is_empty()).then(|| record.tls_name.as_str().into());
        self.contact_params = record.contact_params.as_str().into();
        self.session.restore(cx, record);
        (self.realm, self.path, self.ingress) = (path.role.realm(), path, ingress);
        self.trunk = record.trunk.as_str().into();
        Some(())
    }
}

/// The dialog as it was recorded; its next request has a CSeq number above all that may have been used (rule J). `None`: there is none yet.
pub fn recorded_dialog(record: &LegRecord) -> Option<Dialog> {
    if record.remote_tag.is_empty() || record.local_tag.is_empty() {
        return None;
    }
    Some(Dialog {
        call_id: record.call_id.as_str().into(),
        local_tag: record.local_tag.as_str().into(),
        remote_tag: Some(record.remote_tag.as_str().into()),
        local_uri: record.local_uri.as_str().into(),
        remote_uri: record.remote_uri.as_str().into(),
        remote_target: record.remote_target.as_str().into(),
        guessed: record.guessed,
        route_set: record.route_set.iter().map(|route| route.as_str().into()).collect(),
        local_cseq: record.local_cseq_ceiling.saturating_add(CSEQ_JUMP - 1).min(CSEQ_MAX - 1),
        remote_cseq: Some(record.remote_cseq).filter(|cseq| *cseq != 0),
    })
}

/// The path of such a record, and the node that it is a path of. A connection of the node `owner` itself lasts as long as that start of it.
pub fn recorded_way(cx: &Context, arrival: &Arrival, owner: NodeId, same_start: bool) -> Option<(Path, Option<NodeId>)> {
    let through = u16::try_from(arrival.ingress).ok().map(NodeId).filter(|node| node.0 != 0).unwrap_or(owner);
    let ingress = Some(through).filter(|node| *node != cx.local.node);
    let seen = recorded_path(arrival)?;
    let lasts = if through == owner { same_start } else { ingress.is_some() };
    Some((Path { flow: seen.flow.filter(|_| lasts), ..seen }, ingress.filter(|node| lasts || *node != owner)))
}

/// The path of such a record; its connection may be gone. `None`: it is of a version that knows more kinds, or damaged.
pub fn recorded_path(arrival: &Arrival) -> Option<Path> {
    Some(Path {
        role: match arrival.role {
            1 => AddressRole::Anycast,
            2 => AddressRole::Unicast,
            3 => AddressRole::Core,
            _ => return None,
        },
        transport: match arrival.transport {
            1 => Transport::Udp,
            2 => Transport::Tcp,
            3 => Transport::Tls,
            _ => return None,
        },
        local: arrival.local.parse().ok()?,
        remote: arrival.remote.parse().ok()?,
        flow: Some(FlowId(arrival.flow)).filter(|flow| flow.0 != 0),
    })
}

/// A path as a record.
pub(super) fn arrival(path: &Path, ingress: Option<NodeId>) -> Arrival {
    Arrival {
        ingress: ingress.map_or(0, |n| u32::from(n.0)),
        role: match path.role {
            AddressRole::Anycast => 1,
            AddressRole::Unicast => 2,
            AddressRole::Core => 3,
        },
        transport: match path.transport {
            Transport::Udp => 1,
            Transport::Tcp => 2,
            Transport::Tls => 3,
        },
        local: path.local.to_string(),
        remote: path.remote.to_string(),
        flow: path.flow.map_or(0, |f| f.0),
    }
}
