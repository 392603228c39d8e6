//! What is wrong with this node now. Whoever notices something raises an alarm, and clears it when it is well again; the metric, `sbcctl
//! status` and the log (by `app/alarms.rs`) tell it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sbc_core::io::AlarmKind;
use tokio::sync::watch;

use super::Metrics;

/// An alarm that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveAlarm {
    /// What.
    pub kind: AlarmKind,
    /// For people.
    pub detail: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
}

/// The alarms of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Alarms {
    standing: Arc<Mutex<BTreeMap<AlarmKind, ActiveAlarm>>>,
    changes: watch::Sender<u64>,
    metrics: Metrics,
}

impl Alarms {
    /// None stands. `metrics` shows each kind, at zero.
    pub fn new(metrics: &Metrics) -> Alarms {
        for kind in AlarmKind::ALL {
            metrics.alarm(kind, false);
        }
        Alarms { standing: Arc::default(), changes: watch::Sender::new(0), metrics: metrics.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AlarmKind, ActiveAlarm>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong. Of an alarm that stands only the detail changes.
    pub fn raise(&self, kind: AlarmKind, detail: impl Into<String>) {
        let detail = detail.into();
        // Held to the end: of two that raise and clear at once, the metric says what stands.
        let mut all = self.lock();
        if let Some(standing) = all.get_mut(&kind) {
            standing.detail = detail;
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let since_unix_ms = u64::try_from(since).unwrap_or(u64::MAX);
        tracing::warn!(alarm = kind.as_str(), %detail, "alarm raised");
        all.insert(kind, ActiveAlarm { kind, detail, since_unix_ms });
        self.changed(kind, true);
    }

    /// It is well again. Nothing happens where it was.
    pub fn clear(&self, kind: AlarmKind) {
        let mut all = self.lock();
        let Some(stood) = all.remove(&kind) else { return };
        tracing::info!(alarm = kind.as_str(), detail = %stood.detail, "alarm cleared");
        self.changed(kind, false);
    }

    fn changed(&self, kind: AlarmKind, raised: bool) {
        self.metrics.alarm(kind, raised);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Raises it where there is something to say, else clears it.
    pub fn set(&self, kind: AlarmKind, raised: Option<String>) {
        match raised {
            Some(detail) => self.raise(kind, detail),
            None => self.clear(kind),
        }
    }

    /// Those that stand, in the order of their kinds.
    pub fn active(&self) -> Vec<ActiveAlarm> {
        self.lock().values().cloned().collect()
    }

    /// Changes whenever one is raised or cleared.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stands_until_it_is_cleared_and_the_metric_says_so() {
        let metrics = Metrics::new();
        let alarms = Alarms::new(&metrics);
        let shown = |value: u8| metrics.render().contains(&format!("sbc_alarm{{alarm=\"disk-low\"}} {value}\n"));
        assert!(shown(0) && alarms.active().is_empty());
        let mut watch = alarms.watch();
        alarms.raise(AlarmKind::DiskLow, "3 % free");
        assert!(watch.has_changed().unwrap() && shown(1));
        watch.mark_unchanged();
        alarms.raise(AlarmKind::DiskLow, "2 % free");
        assert!(!watch.has_changed().unwrap(), "it stood already");
        let active = alarms.active();
        assert_eq!((active.len(), active[0].detail.as_str()), (1, "2 % free"));
        alarms.clear(AlarmKind::DiskLow);
        alarms.clear(AlarmKind::DiskLow);
        assert!(shown(0) && alarms.active().is_empty() && watch.has_changed().unwrap());
        alarms.set(AlarmKind::NoQuorum, Some("alone".into()));
        assert_eq!(alarms.active().len(), 1);
        alarms.set(AlarmKind::NoQuorum, None);
        assert!(alarms.active().is_empty());
    }
}
