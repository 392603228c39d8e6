//! What is judged by its source before it costs anything: the access list, and the source of requests within a call.

use std::net::IpAddr;

use super::Sbc;
use crate::ids::CallUid;
use crate::io::{Counter, Path, Side};
use crate::policy::{AclAction, acl_of, may_act};

impl Sbc {
    /// True when the access list says that this packet was never here. Asked before parsing, at the node whose socket read it.
    pub(super) fn is_denied(&self, path: &Path) -> bool {
        self.acl(path) == Some(AclAction::Deny)
    }

    /// True when the access list refuses a request that begins something.
    pub(super) fn is_rejected(&self, path: &Path) -> bool {
        self.acl(path) == Some(AclAction::Reject)
    }

    fn acl(&self, path: &Path) -> Option<AclAction> {
        acl_of(&self.cx.config.acl, path.role.realm(), path.remote.ip()).map(|(_, action)| action)
    }

    /// Counts the rule that denied or rejected this packet.
    pub(super) fn count_acl(&mut self, path: &Path) {
        if let Some((rule, _)) = acl_of(&self.cx.config.acl, path.role.realm(), path.remote.ip()) {
            self.cx.count(Counter::Acl(u8::try_from(rule).unwrap_or(u8::MAX)));
        }
    }

    /// True when a request of this source may act on this leg (AC-52). The source is the original one, also of a relayed request.
    pub(super) fn source_fits(&self, uid: CallUid, side: Side, source: IpAddr) -> bool {
        let Some(call) = self.calls.get(&uid.serial) else { return true };
        let leg = call.leg(side);
        let trunk = self.cx.config.trunks.iter().find(|t| t.name == leg.trunk);
        may_act(trunk, leg.path.remote.ip(), source)
    }
}
