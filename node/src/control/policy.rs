//! `sbc.v1.PolicyService`: header rules tried on a message.

use sbc_core::policy::{ClusterConfig, Direction, HeaderAction, HeaderRule, Passing, apply_header_rules};
use sbc_core::routing;
use sbc_core::sip::{Draft, Message, Uri};
use sbc_proto::v1 as pb;
use sbc_proto::v1::policy_service_server::PolicyService;
use tonic::{Request, Response, Status};

use super::error::invalid;
use super::routing::{MESSAGE_MAX, current, no_trunk};
use super::shared::Shared;

/// The service.
pub(crate) struct Policy(pub(crate) Shared);

fn applied(rule: &HeaderRule) -> pb::AppliedRule {
    pb::AppliedRule {
        name: rule.name.to_string(),
        trunk: rule.trunk.to_string(),
        direction: match rule.direction {
            Direction::In => "in".into(),
            Direction::Out => "out".into(),
        },
        action: match rule.action {
            HeaderAction::Add => "add".into(),
            HeaderAction::Remove => "remove".into(),
            HeaderAction::Replace => "replace".into(),
        },
        header: rule.header.to_string(),
    }
}

/// A message as a draft, with all that it has.
fn draft_of(message: &Message) -> Draft {
    let mut draft = match (message.status(), message.request_uri()) {
        (Some(status), _) => Draft::response(status, Some(message.reason())),
        (None, uri) => Draft::request(message.method(), uri.unwrap_or_default()),
    };
    for field in message.headers() {
        draft.push_field(&field);
    }
    draft.set_body(None, message.body());
    draft
}

fn known(config: &ClusterConfig, name: &str) -> Result<(), Status> {
    config.trunk(name).map(|_| ()).ok_or_else(|| no_trunk(name))
}

#[tonic::async_trait]
impl PolicyService for Policy {
    async fn test_message(
        &self,
        request: Request<pb::PolicyServiceTestMessageRequest>,
    ) -> Result<Response<pb::PolicyServiceTestMessageResponse>, Status> {
        let (asked, config) = (request.into_inner(), current(&self.0)?);
        if asked.message.len() > MESSAGE_MAX {
            return Err(invalid("message", format!("longer than {MESSAGE_MAX} octets")));
        }
        let message = Message::parse(asked.message.into()).map_err(|e| invalid("message", e.to_string()))?;
        known(&config, &asked.from_trunk)?;
        known(&config, &asked.to_trunk)?;
        let uri = message.request_uri().and_then(|uri| Uri::parse(uri).ok());
        let emergency = asked.emergency || uri.is_some_and(|uri| routing::is_emergency(&config, &uri));
        let passing = Passing {
            from: &asked.from_trunk,
            to: &asked.to_trunk,
            method: message.method().as_str(),
            response: !message.is_request(),
            emergency,
        };
        let mut draft = draft_of(&message);
        let changed = apply_header_rules(&config.header_rules, &passing, &mut draft);
        let octets = draft.encode().map_err(|e| invalid("message", e.to_string()))?;
        Ok(Response::new(pb::PolicyServiceTestMessageResponse {
            applied: changed.into_iter().map(|n| applied(&config.header_rules[n])).collect(),
            message: String::from_utf8_lossy(&octets).into_owned(),
            emergency,
        }))
    }
}
