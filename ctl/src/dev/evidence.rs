//! What the nodes say about one call, each asked for itself: the demonstration compares their answers.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sbc_proto::v1::dispatch_service_client::DispatchServiceClient;
use sbc_proto::v1::{self, Call, CallFilter, Cdr, EmergencyCallEvent, EmergencyEventKind};
use tonic::transport::Channel;

use crate::client::Cluster;
use crate::commands::{all_calls, all_cdrs};
use crate::context::Context;
use crate::dev::stand::Stand;
use crate::error::Failure;
use crate::follow::{self, Seen};

/// How long a fact may take to reach every node.
const SETTLE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take until a call of a node that has died is another one's: a lease and a margin, an election where that node led.
const DEATH: Duration = Duration::from_secs(15);

/// A node's name and the calls that it lists.
pub(crate) type NodesCalls = (String, Vec<Call>);

/// Each node by itself.
pub(crate) struct Witnesses(Vec<(String, Cluster)>);

impl Witnesses {
    pub(crate) fn of(stand: &Stand) -> Result<Witnesses, Failure> {
        let one = |name: String, endpoint: String| {
            let context = Context { endpoints: vec![endpoint], ..stand.context() };
            Ok((name, Cluster::of(&context, SETTLE)?))
        };
        stand
            .nodes()
            .into_iter()
            .map(|n| one(n.name.clone(), n.grpc().to_string()))
            .collect::<Result<_, Failure>>()
            .map(Witnesses)
    }

    /// The same without a node that is dead.
    pub(crate) fn without(mut self, dead: &str) -> Witnesses {
        self.0.retain(|(name, _)| name != dead);
        self
    }

    /// Asks every node until all answers satisfy `enough`; returns the last answers, whether they do or not.
    async fn ask<T>(
        &self,
        ask: impl AsyncFn(&Cluster) -> Result<T, Failure>,
        enough: impl Fn(&[(String, T)]) -> bool,
    ) -> Result<Vec<(String, T)>, Failure> {
        self.ask_for(SETTLE, ask, enough).await
    }

    async fn ask_for<T>(
        &self,
        limit: Duration,
        ask: impl AsyncFn(&Cluster) -> Result<T, Failure>,
        enough: impl Fn(&[(String, T)]) -> bool,
    ) -> Result<Vec<(String, T)>, Failure> {
        let end = Instant::now() + limit;
        loop {
            let mut answers = Vec::new();
            for (name, cluster) in &self.0 {
                answers.push((name.clone(), ask(cluster).await?));
            }
            if enough(&answers) || Instant::now() > end {
                return Ok(answers);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The live calls of each node, once `enough` likes them; as they were last when the time is up.
    pub(crate) async fn calls(&self, enough: impl Fn(&[NodesCalls]) -> bool) -> Result<Vec<NodesCalls>, Failure> {
        self.ask(async |c| all_calls(c.connect().await?, CallFilter::default(), 0).await, enough).await
    }

    /// The same after the death of a node, which has to be noticed first.
    pub(crate) async fn calls_after_death(&self, enough: impl Fn(&[NodesCalls]) -> bool) -> Result<Vec<NodesCalls>, Failure> {
        self.ask_for(DEATH, async |c| all_calls(c.connect().await?, CallFilter::default(), 0).await, enough).await
    }

    /// The records of each node, once each has one; then a moment longer, for a second one to show.
    pub(crate) async fn cdrs(&self) -> Result<Vec<(String, Vec<Cdr>)>, Failure> {
        let ask = async |c: &Cluster| all_cdrs(c.connect().await?, String::new(), 0).await;
        self.ask(ask, |all| all.iter().all(|(_, c)| !c.is_empty())).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.ask(ask, |_| true).await
    }

    /// The dispatch events of a call from each node, once each has its end.
    pub(crate) async fn events(&self, call: &str) -> Result<Vec<(String, Vec<EmergencyCallEvent>)>, Failure> {
        self.ask(async |c| emergency_events(c, call).await, |all| all.iter().all(|(_, e)| e.last().is_some_and(is_end))).await
    }
}

async fn emergency_events(cluster: &Cluster, call: &str) -> Result<Vec<EmergencyCallEvent>, Failure> {
    let mut events = Vec::new();
    let open = async |channel: Channel, from| {
        let request =
            v1::DispatchServiceStreamEmergencyEventsRequest { from: Some(from), heartbeat_ms: 0, call: call.to_owned() };
        DispatchServiceClient::new(channel).stream_emergency_events(request).await.map(tonic::Response::into_inner)
    };
    follow::follow(cluster, "watching emergency calls", follow::from("snapshot"), open, |seen| {
        Ok(match seen {
            Seen::Synced => ControlFlow::Break(()),
            // What was told before its commit comes again.
            Seen::Event(event) if event.committed == Some(false) => ControlFlow::Continue(()),
            Seen::Event(event) => {
                events.push(event);
                ControlFlow::Continue(())
            }
        })
    })
    .await?;
    Ok(events)
}

fn is_end(e: &EmergencyCallEvent) -> bool {
    matches!(e.kind(), EmergencyEventKind::Ended | EmergencyEventKind::Abandoned)
}

/// What is wrong with the events of an answered call as one node tells them; `None`: nothing.
pub(crate) fn events_fault(events: &[EmergencyCallEvent]) -> Option<String> {
    let sequence: Vec<u32> = events.iter().map(|e| e.call_sequence).collect();
    let mut ids: Vec<&str> = events.iter().map(|e| e.event_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let kinds: Vec<EmergencyEventKind> = events.iter().map(EmergencyCallEvent::kind).collect();
    if sequence.iter().zip(1..).any(|(s, n)| *s != n) || sequence.is_empty() {
        Some(format!("sequence {sequence:?}"))
    } else if ids.len() != events.len() {
        Some("an event id occurs twice".to_owned())
    } else if kinds.first() != Some(&EmergencyEventKind::Received)
        || kinds.last() != Some(&EmergencyEventKind::Ended)
        || !kinds.contains(&EmergencyEventKind::Answered)
    {
        Some(format!("kinds {kinds:?}"))
    } else {
        None
    }
}

/// True when every node told the same; `key` leaves out what may differ.
pub(crate) fn agree<T, K: PartialEq>(answers: &[(String, Vec<T>)], key: impl Fn(&T) -> K) -> bool {
    let keys = |items: &[T]| items.iter().map(&key).collect::<Vec<_>>();
    answers.windows(2).all(|pair| keys(&pair[0].1) == keys(&pair[1].1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(kinds: &[(u32, EmergencyEventKind)]) -> Vec<EmergencyCallEvent> {
        let event = |(n, kind): &(u32, EmergencyEventKind)| EmergencyCallEvent {
            event_id: format!("e{n}"),
            call_sequence: *n,
            kind: (*kind).into(),
            ..Default::default()
        };
        kinds.iter().map(event).collect()
    }

    #[test]
    fn finds_gaps_repetitions_and_missing_kinds() {
        use EmergencyEventKind::{Answered, Ended, Received, Ringing};
        let good = [(1, Received), (2, Ringing), (3, Answered), (4, Ended)];
        assert_eq!(events_fault(&events(&good)), None);
        assert!(events_fault(&[]).is_some());
        assert!(events_fault(&events(&good[1..])).is_some());
        assert!(events_fault(&events(&good[..3])).is_some());
        assert!(events_fault(&events(&[(1, Received), (2, Ringing), (4, Answered), (5, Ended)])).is_some());
        assert!(events_fault(&events(&[(1, Received), (2, Ended)])).is_some());
        let mut twice = events(&good);
        twice[1].event_id = "e1".into();
        assert!(events_fault(&twice).is_some());
    }

    #[test]
    fn agreement_is_of_all() {
        let answers = |b: &[u32]| vec![("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![1, 2]), ("c".to_owned(), b.to_vec())];
        assert!(agree(&answers(&[1, 2]), |n| *n));
        assert!(!agree(&answers(&[1]), |n| *n));
    }
}
