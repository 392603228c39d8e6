//! The claim as the log records it.

use super::super::Call;
use super::super::record::arrival;
use super::super::services::Services;
use crate::policy::IdentityPolicy;
use crate::sip::{HeaderId, NameAddr, readable};
use crate::store_pb;

impl Call {
    /// What is proposed of it.
    pub(in crate::call) fn claim_record(&self, cx: &Services) -> store_pb::Claim {
        let parse = |value: &str| NameAddr::parse(value).ok();
        let (from, to) = (parse(self.invite.from()), parse(self.invite.to()));
        store_pb::Claim {
            key: self.claim_key.0.to_vec().into(),
            exact: self.exact.to_vec().into(),
            call: self.uid.to_bytes().to_vec().into(),
            owner: u32::from(self.uid.node.0),
            epoch: self.epoch.0,
            emergency: self.emergency,
            invite: self.invite.raw().clone(),
            arrival: Some(arrival(&self.back.path, self.back.ingress.or(Some(self.uid.node)))),
            trunk: self.caller.trunk.to_string(),
            emergency_info: self.emergency_info.clone(),
            beside: Default::default(),
            parties: Some(store_pb::CallParties {
                from_uri: from.as_ref().map(|n| readable(n.uri.as_str()).into_owned()).unwrap_or_default(),
                from_display: from.and_then(|n| n.display).map(|name| readable(&name).into_owned()).unwrap_or_default(),
                to_uri: to.map(|n| readable(n.uri.as_str()).into_owned()).unwrap_or_default(),
                request_uri: self.invite.request_uri().unwrap_or_default().to_owned(),
                call_id: self.invite.call_id().to_owned(),
                asserted_identity: readable(self.asserted_identity(cx)).into_owned(),
            }),
        }
    }

    /// What the caller's trunk asserts of the caller; empty: nothing, or it is not believed.
    fn asserted_identity(&self, cx: &Services) -> &str {
        let believed = cx.config.trunk(&self.caller.trunk).is_none_or(|t| t.identity == IdentityPolicy::Trust);
        self.invite.first(HeaderId::PAssertedIdentity).filter(|_| believed).unwrap_or_default()
    }
}
