//! `config`: get, validate, diff, apply.

use std::path::Path;

use sbc_proto::v1::config_service_client::ConfigServiceClient;
use sbc_proto::v1::{self, Config};
use tonic::transport::Channel;

use super::diff::diff;
use crate::args::{ConfigCommand, Confirm};
use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::files;
use crate::output::{Out, line, note};

pub(super) async fn run(cluster: &Cluster, out: Out, command: ConfigCommand) -> Result<(), Failure> {
    let mut client = ConfigServiceClient::new(cluster.connect().await?);
    match command {
        ConfigCommand::Get { stale } => {
            let config = get(&mut client, stale).await?;
            out.message("sbc.v1.Config", &config, || {
                note(&format!("revision {} etag {} by {}", config.revision, config.etag, config.author));
                config.text.clone()
            })
        }
        ConfigCommand::Validate { file } => validate(&mut client, out, &file).await,
        ConfigCommand::Diff { file } => {
            let new = files::read(&file)?;
            match diff(&get(&mut client, false).await?.text, &new) {
                None => Ok(()),
                Some(text) => line(&text).and(Err(Failure::silent(Exit::DiffFound))),
            }
        }
        ConfigCommand::Apply { file, etag, validate_only, confirm } => {
            let apply = Apply { text: files::read(&file)?, etag, validate_only };
            apply.run(cluster, &mut client, out, confirm).await
        }
    }
}

async fn get(client: &mut ConfigServiceClient<Channel>, stale: bool) -> Result<Config, Failure> {
    let answer = client.get(v1::ConfigServiceGetRequest { stale }).await;
    let answer = answer.map_err(|s| Failure::from_status("asking for the configuration", &s))?;
    Ok(answer.into_inner().config.unwrap_or_default())
}

async fn validate(client: &mut ConfigServiceClient<Channel>, out: Out, file: &Path) -> Result<(), Failure> {
    let text = files::read(file)?;
    let answer = client.validate(v1::ConfigServiceValidateRequest { text }).await;
    let answer = answer.map_err(|s| Failure::from_status("validating", &s))?.into_inner();
    if !out.is_table() {
        out.message("sbc.v1.ConfigServiceValidateResponse", &answer, String::new)?;
    } else {
        for fault in &answer.faults {
            line(&format!("{}:{}:{}: {}", file.display(), fault.line, fault.column, fault.message))?;
            if !fault.hint.is_empty() {
                line(&format!("  {}", fault.hint))?;
            }
        }
    }
    match answer.faults.len() {
        0 => {
            note(&format!("{} is good", file.display()));
            Ok(())
        }
        n => Err(Failure::failed(format!("{} has {n} fault{}", file.display(), if n == 1 { "" } else { "s" }))),
    }
}

struct Apply {
    text: String,
    etag: Option<String>,
    validate_only: bool,
}

impl Apply {
    async fn run(
        self,
        cluster: &Cluster,
        client: &mut ConfigServiceClient<Channel>,
        out: Out,
        confirm: Confirm,
    ) -> Result<(), Failure> {
        let current = get(client, false).await?;
        let changes = diff(&current.text, &self.text);
        if let Some(changes) = changes.filter(|_| !self.validate_only) {
            note(&changes);
            super::confirm("This becomes the configuration of the whole cluster.", confirm)?;
        }
        let request_id = cluster.request_id()?;
        let request = v1::ConfigServiceApplyRequest {
            text: self.text,
            etag: self.etag.unwrap_or(current.etag),
            validate_only: self.validate_only,
            request_id: request_id.clone(),
        };
        let answer =
            client.apply(request).await.map_err(|s| Failure::from_change("applying the configuration", &s, &request_id))?;
        let answer = answer.into_inner();
        out.message("sbc.v1.ConfigServiceApplyResponse", &answer, || {
            let config = answer.config.clone().unwrap_or_default();
            match (self.validate_only, answer.changed) {
                (true, true) => "it is good and would change the configuration".to_owned(),
                (true, false) => "it is good and would change nothing".to_owned(),
                (false, true) => format!("revision {} etag {}", config.revision, config.etag),
                (false, false) => format!("nothing to change at revision {}", config.revision),
            }
        })
    }
}
