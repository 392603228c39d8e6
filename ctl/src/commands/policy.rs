//! `policy`: test-message, block, unblock, blocks, acl, rate.

use sbc_proto::v1::policy_service_client::PolicyServiceClient;
use sbc_proto::v1::{self, PolicyServiceTestMessageResponse};
use tonic::transport::Channel;

use crate::args::PolicyCommand;
use crate::client::Cluster;
use crate::error::Failure;
use crate::output::{Out, Table, time};

pub(super) async fn run(cluster: &Cluster, out: Out, command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::TestMessage { file, from, to, emergency } => {
            let message = super::routing::read(&file)?;
            let asked = v1::PolicyServiceTestMessageRequest { message, from_trunk: from, to_trunk: to, emergency };
            let answer = client(cluster).await?.test_message(asked).await;
            let answer = answer.map_err(|s| Failure::from_status("testing the message", &s))?.into_inner();
            out.message("sbc.v1.PolicyServiceTestMessageResponse", &answer, || text(&answer))
        }
        PolicyCommand::Acl { source } => {
            let asked = v1::PolicyServiceListAclRulesRequest { source: source.map(|s| s.to_string()).unwrap_or_default() };
            let answer = client(cluster).await?.list_acl_rules(asked).await;
            let answer = answer.map_err(|s| Failure::from_status("listing the access list", &s))?.into_inner();
            let name = ("sbc.v1.PolicyServiceListAclRulesResponse", &answer);
            let none =
                if source.is_some() { "no rule is about it: it is let through" } else { "no rules: everybody is let through" };
            out.list(name, "sbc.v1.ListedAclRule", &answer.rules, acl_table, none)
        }
        PolicyCommand::Rate => {
            let answer = client(cluster).await?.list_rate_limits(v1::PolicyServiceListRateLimitsRequest {}).await;
            let answer = answer.map_err(|s| Failure::from_status("listing the limits", &s))?.into_inner();
            let name = ("sbc.v1.PolicyServiceListRateLimitsResponse", &answer);
            out.list(name, "sbc.v1.RateLimit", &answer.limits, rate_table, "no limits")
        }
        PolicyCommand::Blocks => blocks(cluster, out).await,
        PolicyCommand::Block { prefix, duration, everything, reason, confirm } => {
            let request_id = cluster.request_id()?;
            let what = format!("blocking {prefix}");
            let mut asked = v1::PolicyServiceBlockSourceRequest {
                prefix,
                duration_s: duration.unwrap_or_default(),
                everything,
                reason,
                validate_only: true,
                request_id: request_id.clone(),
            };
            let mut client = client(cluster).await?;
            let hits = client.block_source(asked.clone()).await.map_err(|s| Failure::from_status(&what, &s))?.into_inner();
            super::confirm(&hit(&hits), confirm)?;
            asked.validate_only = false;
            let answer = client.block_source(asked).await;
            let answer = answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner();
            one(out, &answer.block.unwrap_or_default())
        }
        PolicyCommand::Unblock { prefix } => {
            let request_id = cluster.request_id()?;
            let what = format!("taking back the block of {prefix}");
            let asked = v1::PolicyServiceUnblockRequest { prefix, request_id: request_id.clone() };
            let answer = client(cluster).await?.unblock(asked).await;
            let answer = answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner();
            one(out, &answer.block.unwrap_or_default())
        }
    }
}

async fn client(cluster: &Cluster) -> Result<PolicyServiceClient<Channel>, Failure> {
    Ok(PolicyServiceClient::new(cluster.connect().await?))
}

async fn blocks(cluster: &Cluster, out: Out) -> Result<(), Failure> {
    let client = client(cluster).await?;
    let blocks = super::pages("listing the blocks", 0, async |page_size, page_token| {
        let answer = client.clone().list_blocks(v1::PolicyServiceListBlocksRequest { page_size, page_token }).await;
        let answer = answer.map_err(|s| Failure::from_status("listing the blocks", &s))?.into_inner();
        Ok((answer.blocks, answer.next_page_token))
    })
    .await?;
    let response = v1::PolicyServiceListBlocksResponse { blocks, next_page_token: String::new() };
    let name = ("sbc.v1.PolicyServiceListBlocksResponse", &response);
    out.list(name, "sbc.v1.Block", &response.blocks, block_table, "nobody is blocked")
}

fn one(out: Out, block: &v1::Block) -> Result<(), Failure> {
    out.message("sbc.v1.Block", block, || block_table(std::slice::from_ref(block)).to_string())
}

/// What a block would hit.
fn hit(hits: &v1::PolicyServiceBlockSourceResponse) -> String {
    let block = hits.block.clone().unwrap_or_default();
    let what = if block.everything {
        "every packet is dropped, of emergency calls and of calls under way too"
    } else {
        "nothing new is taken but emergency calls"
    };
    let trunks = if hits.trunks.is_empty() { "no trunk".to_owned() } else { format!("trunk {}", hits.trunks.join(", ")) };
    format!("{} is blocked at every node: {what}. Sources in it: of {trunks}.", block.prefix)
}

fn block_table(blocks: &[v1::Block]) -> Table {
    let mut table = Table::new(&["PREFIX", "DROPS", "SINCE", "UNTIL", "AUTHOR", "REASON"]);
    for b in blocks {
        table.row([
            b.prefix.clone(),
            if b.everything { "everything" } else { "ordinary" }.to_owned(),
            time(b.since.as_ref()),
            if b.until.is_some() { time(b.until.as_ref()) } else { "taken back".to_owned() },
            b.author.clone(),
            b.reason.clone(),
        ]);
    }
    table
}

fn acl_table(rules: &[v1::ListedAclRule]) -> Table {
    let mut table = Table::new(&["RULE", "PREFIX", "REALM", "ACTION"]);
    for r in rules {
        let realm = if r.realm.is_empty() { "both" } else { &r.realm };
        table.row([r.rule.to_string(), r.prefix.clone(), realm.to_owned(), r.action.clone()]);
    }
    table
}

fn rate_table(limits: &[v1::RateLimit]) -> Table {
    let mut table = Table::new(&["LIMIT", "TRUNK", "VALUE", "UNIT", "CALLS"]);
    for l in limits {
        let calls = if l.emergency { "emergency" } else { "ordinary" };
        table.row([l.limit.clone(), l.trunk.clone(), l.value.to_string(), l.unit.clone(), calls.to_owned()]);
    }
    table
}

/// "90s", "30m", "12h" or "7d" in seconds.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let unit =
        text.chars().last().and_then(|c| [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)].into_iter().find(|(u, _)| *u == c));
    let number = unit.and_then(|(u, of)| Some((text.strip_suffix(u)?.parse::<u32>().ok()?, of)));
    let seconds = number.and_then(|(n, of)| n.checked_mul(of)).filter(|s| *s > 0);
    seconds.ok_or_else(|| "expected a number and a unit, for example 90s, 30m, 12h or 7d".to_owned())
}

fn text(answer: &PolicyServiceTestMessageResponse) -> String {
    let class = if answer.emergency { "emergency" } else { "ordinary" };
    let mut lines = vec![format!("class: {class}")];
    lines.extend(
        answer.applied.iter().map(|r| format!("rule {}: {} {} ({} of {})", r.name, r.action, r.header, r.direction, r.trunk)),
    );
    if answer.applied.is_empty() {
        lines.push("no rule changes it".into());
    }
    lines.push(String::new());
    lines.extend(answer.message.lines().map(|l| l.replace(char::is_control, "\u{fffd}")));
    lines.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("30m", Some(1800)),
            ("12h", Some(43_200)),
            ("7d", Some(604_800)),
            ("7", None),
            ("0s", None),
            ("d", None),
            ("-1s", None),
            ("99999999d", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_block_says_what_it_hits() {
        let block = v1::Block { prefix: "198.51.100.0/24".into(), ..Default::default() };
        let mut hits = v1::PolicyServiceBlockSourceResponse { block: Some(block), trunks: vec!["callers".into(), "pbx".into()] };
        assert!(hit(&hits).contains("198.51.100.0/24") && hit(&hits).contains("of trunk callers, pbx"), "{}", hit(&hits));
        hits.block.as_mut().unwrap().everything = true;
        assert!(hit(&hits).contains("emergency calls and of calls under way too"));
    }

    #[test]
    fn rules_then_the_message() {
        let mut answer = PolicyServiceTestMessageResponse {
            message: "INVITE sip:x SIP/2.0\r\nX-Site: a\x1bb\r\n\r\n".into(),
            emergency: true,
            ..Default::default()
        };
        assert_eq!(text(&answer), "class: emergency\nno rule changes it\n\nINVITE sip:x SIP/2.0\nX-Site: a\u{fffd}b");
        answer.applied.push(v1::AppliedRule {
            name: "site".into(),
            trunk: "psap".into(),
            direction: "out".into(),
            action: "add".into(),
            header: "X-Site".into(),
        });
        assert!(text(&answer).contains("rule site: add X-Site (out of psap)\n"));
    }
}
