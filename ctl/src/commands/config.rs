//! `config`: get, validate, diff, apply, confirm, history, rollback.

use std::path::Path;

use sbc_proto::v1::config_service_client::ConfigServiceClient;
use sbc_proto::v1::config_service_diff_request::To;
use sbc_proto::v1::{self, Config, ConfigFault, ConfigSeverity};
use tonic::transport::Channel;

use super::{pages, rounds};
use crate::args::{ChangeArgs, ConfigCommand, DiffArgs, Watching};
use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::files;
use crate::output::{Out, Table, enum_name, line, note, time};

type Client = ConfigServiceClient<Channel>;

pub(super) async fn run(cluster: &Cluster, out: Out, command: ConfigCommand) -> Result<(), Failure> {
    let mut client = ConfigServiceClient::new(cluster.connect().await?);
    match command {
        ConfigCommand::Get { stale, revision } => {
            let config = get(&mut client, stale, revision.unwrap_or_default()).await?;
            out.message("sbc.v1.Config", &config, || {
                note(&format!("revision {} etag {} by {}{}", config.revision, config.etag, config.author, remark(&config)));
                config.text.clone()
            })
        }
        ConfigCommand::Validate { file } => validate(&mut client, out, &file).await,
        ConfigCommand::Diff(args) => {
            let to = match (&args.file, args.revision) {
                (Some(file), _) => To::Text(files::read(file)?),
                (None, revision) => To::Revision(revision.unwrap_or_default()),
            };
            let DiffArgs { from, .. } = args;
            match diff(&mut client, from, to).await?.as_str() {
                "" => Ok(()),
                text => line(text).and(Err(Failure::silent(Exit::DiffFound))),
            }
        }
        ConfigCommand::Apply { file, validate_only, change } => {
            apply(cluster, &mut client, out, files::read(&file)?, validate_only, change).await
        }
        ConfigCommand::Rollback { revision, change } => rollback(cluster, &mut client, out, revision, change).await,
        ConfigCommand::Confirm { etag } => confirm(cluster, &mut client, out, etag).await,
        ConfigCommand::History { limit, watching } => history(&client, out, limit, watching).await,
    }
}

async fn get(client: &mut Client, stale: bool, revision: u64) -> Result<Config, Failure> {
    let answer = client.get(v1::ConfigServiceGetRequest { stale, revision }).await;
    let answer = answer.map_err(|s| Failure::from_status("asking for the configuration", &s))?;
    Ok(answer.into_inner().config.unwrap_or_default())
}

async fn diff(client: &mut Client, from_revision: u64, to: To) -> Result<String, Failure> {
    let answer = client.diff(v1::ConfigServiceDiffRequest { from_revision, to: Some(to) }).await;
    Ok(answer.map_err(|s| Failure::from_status("comparing", &s))?.into_inner().diff)
}

/// What is to be said of a revision besides its author.
fn remark(config: &Config) -> String {
    let restored =
        if config.restores == 0 { String::new() } else { format!(", the text of revision {} once more", config.restores) };
    let waits = match config.confirm_by.as_ref() {
        Some(by) => format!(", waits for `sbcctl config confirm` until {}", time(Some(by))),
        None if config.confirmed_by.is_empty() => String::new(),
        None => format!(", confirmed by {}", config.confirmed_by),
    };
    restored + &waits
}

fn severity(fault: &ConfigFault) -> String {
    enum_name(fault.severity().as_str_name(), "CONFIG_SEVERITY_")
}

fn shown(file: &str, fault: &ConfigFault) -> String {
    let hint = if fault.hint.is_empty() { String::new() } else { format!("\n  {}", fault.hint) };
    format!("{file}:{}:{}: {}: {}{hint}", fault.line, fault.column, severity(fault), fault.message)
}

async fn validate(client: &mut Client, out: Out, file: &Path) -> Result<(), Failure> {
    let text = files::read(file)?;
    let answer = client.validate(v1::ConfigServiceValidateRequest { text }).await;
    let answer = answer.map_err(|s| Failure::from_status("validating", &s))?.into_inner();
    if !out.is_table() {
        out.message("sbc.v1.ConfigServiceValidateResponse", &answer, String::new)?;
    } else {
        let name = file.display().to_string();
        answer.faults.iter().try_for_each(|fault| line(&shown(&name, fault)))?;
    }
    verdict(&file.display().to_string(), &answer.faults)
}

/// Good is what Apply takes without `--force`.
fn verdict(file: &str, faults: &[ConfigFault]) -> Result<(), Failure> {
    let bad: Vec<&ConfigFault> = faults.iter().filter(|f| f.severity() != ConfigSeverity::Info).collect();
    let count = |severity| match bad.iter().filter(|f| f.severity() == severity).count() {
        0 => None,
        n => Some(format!(
            "{n} {}{}",
            if severity == ConfigSeverity::Warning { "warning" } else { "error" },
            if n == 1 { "" } else { "s" }
        )),
    };
    if bad.is_empty() {
        note(&format!("{file} is good"));
        return Ok(());
    }
    let counts: Vec<String> = [ConfigSeverity::Error, ConfigSeverity::Warning].into_iter().filter_map(count).collect();
    let failure = Failure::failed(format!("{file} has {}", counts.join(" and ")));
    match bad.iter().all(|f| f.forceable) {
        true => Err(failure.hint("it is applied with --force only")),
        false => Err(failure),
    }
}

/// Shows what would change and asks. `None`: nothing would.
async fn ask(client: &mut Client, to: To, change: &ChangeArgs) -> Result<(), Failure> {
    match diff(client, 0, to).await?.as_str() {
        "" => Ok(()),
        changes => {
            note(changes);
            super::confirm("This becomes the configuration of the whole cluster.", change.confirm)
        }
    }
}

fn milliseconds(seconds: Option<u32>) -> u32 {
    seconds.map_or(0, |s| s.saturating_mul(1000))
}

async fn apply(
    cluster: &Cluster,
    client: &mut Client,
    out: Out,
    text: String,
    validate_only: bool,
    change: ChangeArgs,
) -> Result<(), Failure> {
    // The etag first: what is shown is then what is replaced, or the etag does not fit.
    let current = get(client, false, 0).await?;
    if !validate_only {
        ask(client, To::Text(text.clone()), &change).await?;
    }
    let request_id = cluster.request_id()?;
    let request = v1::ConfigServiceApplyRequest {
        text,
        etag: change.etag.unwrap_or(current.etag),
        validate_only,
        request_id: request_id.clone(),
        force: change.force,
        confirm_within_ms: milliseconds(change.confirm_within),
    };
    let answer = client.apply(request).await;
    let answer = answer.map_err(|s| Failure::from_change("applying the configuration", &s, &request_id))?.into_inner();
    answer.findings.iter().for_each(|f| note(&format!("{}: {}", severity(f), f.message)));
    out.message("sbc.v1.ConfigServiceApplyResponse", &answer, || match (validate_only, answer.changed) {
        (true, true) => "it is good and would change the configuration".to_owned(),
        (true, false) => "it is good and would change nothing".to_owned(),
        (false, changed) => outcome(answer.config.as_ref(), changed),
    })
}

async fn rollback(cluster: &Cluster, client: &mut Client, out: Out, revision: u64, change: ChangeArgs) -> Result<(), Failure> {
    let current = get(client, false, 0).await?;
    ask(client, To::Revision(revision), &change).await?;
    let request_id = cluster.request_id()?;
    let request = v1::ConfigServiceRollbackRequest {
        revision,
        etag: change.etag.unwrap_or(current.etag),
        request_id: request_id.clone(),
        force: change.force,
        confirm_within_ms: milliseconds(change.confirm_within),
    };
    let answer = client.rollback(request).await;
    let what = format!("going back to revision {revision}");
    let answer = answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner();
    answer.findings.iter().for_each(|f| note(&format!("{}: {}", severity(f), f.message)));
    out.message("sbc.v1.ConfigServiceRollbackResponse", &answer, || outcome(answer.config.as_ref(), answer.changed))
}

fn outcome(config: Option<&Config>, changed: bool) -> String {
    let config = config.cloned().unwrap_or_default();
    match changed {
        true => format!("revision {} etag {}{}", config.revision, config.etag, remark(&config)),
        false => format!("nothing to change at revision {}", config.revision),
    }
}

async fn confirm(cluster: &Cluster, client: &mut Client, out: Out, etag: Option<String>) -> Result<(), Failure> {
    let request_id = cluster.request_id()?;
    let request = v1::ConfigServiceConfirmRequest { etag: etag.unwrap_or_default(), request_id: request_id.clone() };
    let answer = client.confirm(request).await;
    let answer = answer.map_err(|s| Failure::from_change("confirming the configuration", &s, &request_id))?.into_inner();
    out.message("sbc.v1.ConfigServiceConfirmResponse", &answer, || {
        let config = answer.config.clone().unwrap_or_default();
        format!("revision {} stands", config.revision)
    })
}

async fn history(client: &Client, out: Out, limit: usize, watching: Watching) -> Result<(), Failure> {
    rounds(out, watching, async || {
        let page = async |page_size, page_token| {
            let request = v1::ConfigServiceListRevisionsRequest { page_size, page_token, stale: false };
            let answer = client.clone().list_revisions(request).await;
            let answer = answer.map_err(|s| Failure::from_status("listing revisions", &s))?.into_inner();
            Ok((answer.revisions, answer.next_page_token))
        };
        let revisions = pages("revisions", limit, page).await?;
        let response = v1::ConfigServiceListRevisionsResponse { revisions, next_page_token: String::new() };
        out.list(
            ("sbc.v1.ConfigServiceListRevisionsResponse", &response),
            "sbc.v1.Config",
            &response.revisions,
            table,
            "there is no configuration yet",
        )
    })
    .await
}

fn table(revisions: &[Config]) -> Table {
    let mut table = Table::new(&["REVISION", "CHANGED", "BY", "REMARK"]);
    for config in revisions {
        let remark = remark(config).trim_start_matches(", ").to_owned();
        table.row([config.revision.to_string(), time(config.changed_at.as_ref()), config.author.clone(), remark]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(severity: ConfigSeverity, forceable: bool) -> ConfigFault {
        ConfigFault {
            line: 3,
            column: 1,
            message: "trunks[1]: never matches".into(),
            hint: "put it first".into(),
            severity: severity.into(),
            forceable,
        }
    }

    #[test]
    fn good_is_what_is_applied_without_force() {
        use ConfigSeverity::{Error, Info, Warning};
        assert!(verdict("c.toml", &[]).is_ok() && verdict("c.toml", &[fault(Info, true)]).is_ok());
        let harmful = verdict("c.toml", &[fault(Error, true), fault(Warning, true), fault(Info, true)]).unwrap_err();
        assert_eq!((harmful.exit, harmful.error.as_str()), (Exit::Failed, "c.toml has 1 error and 1 warning"));
        assert!(harmful.hint.unwrap().contains("--force"));
        assert_eq!(verdict("c.toml", &[fault(Error, false), fault(Error, true)]).unwrap_err().hint, None);
        assert_eq!(shown("c.toml", &fault(Warning, true)), "c.toml:3:1: warning: trunks[1]: never matches\n  put it first");
    }

    #[test]
    fn revisions_say_what_became_of_them() {
        let at = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 };
        assert_eq!(remark(&Config::default()), "");
        let waits = Config { confirm_by: Some(at), restores: 2, ..Config::default() };
        assert_eq!(
            remark(&waits),
            ", the text of revision 2 once more, waits for `sbcctl config confirm` until 2023-11-14T22:13:20Z"
        );
        assert_eq!(remark(&Config { confirmed_by: "user/ann".into(), ..Config::default() }), ", confirmed by user/ann");
    }
}
