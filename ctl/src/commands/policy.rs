//! `policy test-message`: what the header rules make of a message.

use sbc_proto::v1::policy_service_client::PolicyServiceClient;
use sbc_proto::v1::{self, PolicyServiceTestMessageResponse};

use crate::args::PolicyCommand;
use crate::client::Cluster;
use crate::error::Failure;
use crate::output::Out;

pub(super) async fn run(cluster: &Cluster, out: Out, command: PolicyCommand) -> Result<(), Failure> {
    let PolicyCommand::TestMessage { file, from, to, emergency } = command;
    let message = super::routing::read(&file)?;
    let asked = v1::PolicyServiceTestMessageRequest { message, from_trunk: from, to_trunk: to, emergency };
    let answer = PolicyServiceClient::new(cluster.connect().await?).test_message(asked).await;
    let answer = answer.map_err(|s| Failure::from_status("testing the message", &s))?.into_inner();
    out.message("sbc.v1.PolicyServiceTestMessageResponse", &answer, || text(&answer))
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
