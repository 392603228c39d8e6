//! `sbc.v1.PolicyService`: header rules tried on a message, blocked sources, limits.

use sbc_core::io::Realm;
use sbc_core::policy::{
    AclAction, ClusterConfig, HeaderAction, HeaderRule, Passing, RuleDirection, acl_of, apply_header_rules, apply_profile,
};
use sbc_core::routing;
use sbc_core::sip::{Draft, Message, Uri};
use sbc_proto::v1 as pb;
use sbc_proto::v1::policy_service_server::PolicyService;
use tonic::{Request, Response, Status};

use super::error::invalid;
use super::routing::{MESSAGE_MAX, current, no_trunk};
use super::shared::{Shared, caller};

/// The service.
pub(crate) struct Policy(pub(crate) Shared);

fn applied(rule: &HeaderRule) -> pb::AppliedRule {
    pb::AppliedRule {
        name: rule.name.to_string(),
        trunk: rule.trunk.to_string(),
        direction: match rule.direction {
            RuleDirection::In => "in".into(),
            RuleDirection::Out => "out".into(),
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
        let (from, to) = (config.trunk(&asked.from_trunk), config.trunk(&asked.to_trunk));
        apply_profile(from, to, message.method(), emergency, &mut draft);
        let changed = apply_header_rules(&config.header_rules, &passing, &mut draft);
        let octets = draft.encode().map_err(|e| invalid("message", e.to_string()))?;
        Ok(Response::new(pb::PolicyServiceTestMessageResponse {
            applied: changed.into_iter().map(|n| applied(&config.header_rules[n])).collect(),
            message: String::from_utf8_lossy(&octets).into_owned(),
            emergency,
        }))
    }

    async fn block_source(
        &self,
        request: Request<pb::PolicyServiceBlockSourceRequest>,
    ) -> Result<Response<pb::PolicyServiceBlockSourceResponse>, Status> {
        self.0.block(&caller(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn unblock(
        &self,
        request: Request<pb::PolicyServiceUnblockRequest>,
    ) -> Result<Response<pb::PolicyServiceUnblockResponse>, Status> {
        self.0.unblock(&caller(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn list_blocks(
        &self,
        request: Request<pb::PolicyServiceListBlocksRequest>,
    ) -> Result<Response<pb::PolicyServiceListBlocksResponse>, Status> {
        self.0.list_blocks(&request.into_inner()).map(Response::new)
    }

    async fn list_acl_rules(
        &self,
        request: Request<pb::PolicyServiceListAclRulesRequest>,
    ) -> Result<Response<pb::PolicyServiceListAclRulesResponse>, Status> {
        let (asked, config) = (request.into_inner(), current(&self.0)?);
        let source = match asked.source.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| invalid("source", format!("\"{text}\" is no address")))?),
        };
        let decides = |n: usize| match source {
            None => true,
            Some(ip) => [Realm::External, Realm::Core].iter().any(|r| acl_of(&config.acl, *r, ip).is_some_and(|(at, _)| at == n)),
        };
        let listed = config.acl.iter().enumerate().filter(|(n, _)| decides(*n)).map(|(n, rule)| pb::ListedAclRule {
            rule: u32::try_from(n).unwrap_or(u32::MAX),
            prefix: rule.prefix.to_string(),
            realm: match rule.realm {
                None => String::new(),
                Some(Realm::External) => "external".into(),
                Some(Realm::Core) => "core".into(),
            },
            action: match rule.action {
                AclAction::Allow => "allow".into(),
                AclAction::Deny => "deny".into(),
                AclAction::Reject => "reject".into(),
            },
        });
        Ok(Response::new(pb::PolicyServiceListAclRulesResponse { rules: listed.collect() }))
    }

    async fn list_rate_limits(
        &self,
        _: Request<pb::PolicyServiceListRateLimitsRequest>,
    ) -> Result<Response<pb::PolicyServiceListRateLimitsResponse>, Status> {
        let config = current(&self.0)?;
        Ok(Response::new(pb::PolicyServiceListRateLimitsResponse { limits: limits(&config) }))
    }
}

/// The limits that are set, by the names under which they are counted.
fn limits(config: &ClusterConfig) -> Vec<pb::RateLimit> {
    let settings = &config.settings;
    let limit = |limit: &str, trunk: &str, value: u32, unit: &str| pb::RateLimit {
        limit: limit.into(),
        trunk: trunk.into(),
        value,
        unit: unit.into(),
        emergency: limit == "emergency_source_rate" || limit == "emergency_crowd",
    };
    let mut all = vec![
        limit("max_calls", "", settings.max_calls, "calls"),
        limit("load", "", settings.shed_at.into(), "percent"),
        limit("source_rate", "", settings.source_rate, "calls/s"),
        limit("emergency_source_rate", "", settings.emergency_source_rate, "calls/s"),
    ];
    for t in &config.trunks {
        all.push(limit("trunk_max_calls", &t.name, t.limits.max_calls, "calls"));
        all.push(limit("trunk_max_rate", &t.name, t.limits.max_rate, "calls/s"));
        if !t.targets.is_empty() {
            all.push(limit("emergency_crowd", &t.name, t.limits.max_emergency_calls, "calls"));
        }
    }
    all.retain(|l| l.value > 0);
    all
}
