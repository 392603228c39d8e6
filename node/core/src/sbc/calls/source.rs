//! Whether a request within a call comes from where its far end may be (AC-52).

use std::net::IpAddr;

use super::Calls;
use crate::call::Context;
use crate::dialog::named_addresses;
use crate::ids::LocalId;
use crate::io::Side;
use crate::policy::{SourceStanding, standing};
use crate::sip::Message;

impl Calls {
    /// Whether a request of this source may act on this leg. The source is the original one, also of a relayed request.
    pub(in crate::sbc) fn source_standing(
        &self,
        cx: &Context,
        id: LocalId,
        side: Side,
        source: IpAddr,
        request: &Message,
    ) -> SourceStanding {
        let Some(call) = self.get(id) else { return SourceStanding::Known };
        let leg = call.sides.leg(side);
        let dialog = call.sides.dialog_for(side, request);
        let named = named_addresses(&dialog.remote_target, dialog.route_set.first().map(|route| &**route));
        standing(cx.config.trunk(&leg.trunk), leg.path.remote.ip(), &named, source)
    }
}
