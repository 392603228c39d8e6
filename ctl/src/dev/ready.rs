//! When a development cluster is ready: every process runs, every node answers over gRPC, Raft has a leader, all have
//! applied what is committed, the configuration is there, and a node serves the anycast address.

use std::time::{Duration, Instant};

use sbc_proto::v1::cluster_service_client::ClusterServiceClient;
use sbc_proto::v1::{ClusterServiceGetStatusRequest, ClusterStatus};
use tonic::transport::Channel;

use crate::client::Cluster;
use crate::dev::process::Process;
use crate::dev::stand::{NodeSpec, Stand};
use crate::error::Failure;
use crate::files;
use crate::output::note;

/// A start takes about three seconds: an election and a configuration; slow machines get ten times as much.
const READY: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of a log in an error message.
const TAIL: usize = 15;

/// A node and the connection to it.
struct Watched {
    node: NodeSpec,
    channel: Option<Channel>,
    status: Result<ClusterStatus, String>,
}

/// Waits until the cluster is ready; says on standard error how far it is.
pub(crate) async fn wait(stand: &Stand) -> Result<(), Failure> {
    let begin = Instant::now();
    let cluster = stand.cluster()?;
    let mut nodes: Vec<Watched> = watched(stand);
    let mut said = String::new();
    loop {
        for name in stand.process_names() {
            died(stand, &name)?;
        }
        for watched in &mut nodes {
            watched.look(&cluster).await;
        }
        let lacking = lacking(&nodes).or_else(|| psap_lacking(stand));
        match lacking {
            None => {
                note(&format!("ready after {:.1} s", begin.elapsed().as_secs_f32()));
                return Ok(());
            }
            Some((who, what)) if begin.elapsed() > READY => {
                return Err(Failure::failed(format!("the cluster is not ready after {} s", READY.as_secs()))
                    .cause(format!("{who}: {what}\n{}", files::tail(&stand.log(&who), TAIL)))
                    .hint(format!("the logs are in {}", stand.dir.display())));
            }
            Some((who, what)) => {
                let now = format!("waiting for {who}: {what}");
                if now != said {
                    note(&now);
                    said = now;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Names of the nodes that serve the anycast address now. A node that does not answer serves nothing that we know of.
pub(crate) async fn announcers(stand: &Stand) -> Result<Vec<String>, Failure> {
    let cluster = stand.cluster()?;
    let mut names = Vec::new();
    for mut watched in watched(stand) {
        watched.look(&cluster).await;
        if watched.status.as_ref().is_ok_and(|s| announces(s, &watched.node.name)) {
            names.push(watched.node.name);
        }
    }
    Ok(names)
}

fn watched(stand: &Stand) -> Vec<Watched> {
    let watch = |node| Watched { node, channel: None, status: Err("it has not answered yet".to_owned()) };
    stand.nodes().into_iter().map(watch).collect()
}

impl Watched {
    async fn look(&mut self, cluster: &Cluster) {
        self.status = self.ask(cluster).await;
        if self.status.is_err() {
            self.channel = None;
        }
    }

    async fn ask(&mut self, cluster: &Cluster) -> Result<ClusterStatus, String> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => cluster.connect_to(&self.node.grpc().to_string()).await.map_err(|f| f.cause.unwrap_or(f.error))?,
        };
        self.channel = Some(channel.clone());
        let answer = ClusterServiceClient::new(channel).get_status(ClusterServiceGetStatusRequest {}).await;
        let answer = answer.map_err(|s| Failure::from_status("status", &s).cause.unwrap_or_default())?;
        answer.into_inner().status.ok_or_else(|| "an empty status".to_owned())
    }
}

/// Who lacks what; `None`: nobody anything.
fn lacking(nodes: &[Watched]) -> Option<(String, String)> {
    let statuses: Vec<(&str, Result<&ClusterStatus, &String>)> =
        nodes.iter().map(|w| (w.node.name.as_str(), w.status.as_ref())).collect();
    let committed = statuses.iter().filter_map(|(_, s)| s.as_ref().ok().map(|s| s.committed_index)).max().unwrap_or(0);
    for (name, status) in &statuses {
        let what = match status {
            Err(why) => Some((*why).clone()),
            Ok(s) => behind(s, name, committed),
        };
        if let Some(what) = what {
            return Some(((*name).to_owned(), what));
        }
    }
    let announced = statuses.iter().any(|(name, s)| s.as_ref().is_ok_and(|s| announces(s, name)));
    let first = statuses.first()?.0.to_owned();
    (!announced).then(|| (first, "no node serves the anycast address".to_owned()))
}

fn behind(status: &ClusterStatus, name: &str, committed: u64) -> Option<String> {
    let own = status.members.iter().find(|m| m.name == name);
    let applied = own.map_or(0, |m| m.applied_index);
    if status.leader.is_empty() {
        Some("no leader is elected".to_owned())
    } else if !status.quorum_ok {
        Some("no quorum".to_owned())
    } else if applied < committed {
        Some(format!("it has applied {applied} of {committed} entries"))
    } else if status.config_revision == 0 {
        Some("no configuration is applied".to_owned())
    } else {
        None
    }
}

fn announces(status: &ClusterStatus, name: &str) -> bool {
    status.members.iter().any(|m| m.name == name && m.announced)
}

fn psap_lacking(stand: &Stand) -> Option<(String, String)> {
    let log = std::fs::read_to_string(stand.log("psap")).unwrap_or_default();
    let ready = stand.spec.psap.is_some() || log.lines().any(|l| l.starts_with("ready "));
    (!ready).then(|| ("psap".to_owned(), "it does not listen yet".to_owned()))
}

/// A process that has ended will not get ready.
fn died(stand: &Stand, name: &str) -> Result<(), Failure> {
    match Process::load(&stand.pid(name)) {
        Some(process) if !process.is_alive() => Err(Failure::failed(format!("{name} ended"))
            .cause(files::tail(&stand.log(name), TAIL))
            .hint(format!("its whole log: {}", stand.log(name).display()))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sbc_proto::v1::Member;

    use super::*;

    fn cluster(change: impl Fn(&str, &mut ClusterStatus)) -> Option<(String, String)> {
        let nodes = ["node-a", "node-b"].iter().zip(1..).map(|(name, id)| {
            let member = Member { name: name.to_string(), applied_index: 7, announced: id == 1, ..Member::default() };
            let mut status = ClusterStatus {
                leader: "node-b".into(),
                quorum_ok: true,
                committed_index: 7,
                config_revision: 1,
                members: vec![member],
                ..ClusterStatus::default()
            };
            change(name, &mut status);
            Watched { node: NodeSpec { name: name.to_string(), id }, channel: None, status: Ok(status) }
        });
        lacking(&nodes.collect::<Vec<_>>())
    }

    #[test]
    fn ready_needs_every_part() {
        assert_eq!(cluster(|_, _| ()), None);
        let what = |change: fn(&str, &mut ClusterStatus)| cluster(change).map(|(_, what)| what).unwrap_or_default();
        assert!(what(|_, s| s.leader.clear()).contains("leader"));
        assert!(what(|_, s| s.quorum_ok = false).contains("quorum"));
        assert!(what(|_, s| s.config_revision = 0).contains("configuration"));
        assert!(what(|_, s| s.members[0].announced = false).contains("anycast"));
        let behind = cluster(|name, s| s.committed_index = if name == "node-a" { 9 } else { 7 });
        assert_eq!(behind, Some(("node-a".to_owned(), "it has applied 7 of 9 entries".to_owned())));
    }
}
