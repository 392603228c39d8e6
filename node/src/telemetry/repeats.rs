//! One fault must not fill the disk with its lines: of each place in the code only so many lines a period are written, then one
//! that says how many were left out.
//!
//! Lines below `info` are not counted: who asked for them wants them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in a period: enough to see each node, trunk or connection that a fault concerns.
const LINES: u32 = 30;
/// The period: 30 lines in it are 3 a second.
const PERIOD: Duration = Duration::from_secs(10);

/// One place in the code, as it writes.
struct Place {
    metadata: &'static Metadata<'static>,
    since: Instant,
    written: u32,
    left_out: u64,
}

/// See the module. Clones share what was counted; places are those of the program, so their number is bounded.
#[derive(Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Identifier, Place>>>);

impl Repeats {
    fn places(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True: the line is written.
    fn on_line(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.places();
        let new = || Place { metadata, since: now, written: 0, left_out: 0 };
        let place = places.entry(metadata.callsite()).or_insert_with(new);
        // What was left out is told before lines of a new period are written.
        if place.left_out == 0 && now.duration_since(place.since) >= PERIOD {
            (place.since, place.written) = (now, 0);
        }
        if place.written < LINES {
            place.written += 1;
            return true;
        }
        place.left_out += 1;
        false
    }

    /// What was left out in periods that are over: level, file and line, how many. It is told once.
    fn left_out(&self, now: Instant) -> Vec<(Level, String, u64)> {
        let mut told = Vec::new();
        for place in self.places().values_mut() {
            if place.left_out > 0 && now.duration_since(place.since) >= PERIOD {
                let (file, line) = (place.metadata.file().unwrap_or("?"), place.metadata.line().unwrap_or(0));
                told.push((*place.metadata.level(), format!("{file}:{line}"), place.left_out));
                (place.since, place.written, place.left_out) = (now, 0, 0);
            }
        }
        told
    }

    fn tell(&self, now: Instant) {
        for (level, place, lines) in self.left_out(now) {
            tracing::warn!(%level, place, lines, "lines of one place were left out: they came too fast");
        }
    }

    /// Tells once a period, as long as the process lives.
    pub(super) fn tell_regularly(self) -> std::io::Result<()> {
        let work = move || {
            loop {
                std::thread::sleep(PERIOD);
                self.tell(Instant::now());
            }
        };
        std::thread::Builder::new().name("log".into()).spawn(work).map(drop)
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // `Level` orders by verbosity.
        *metadata.level() > Level::INFO || self.on_line(metadata, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_of_one_place_is_cut_and_told_and_others_are_written() {
        let (written, repeats) = (Written::default(), Repeats::default());
        let to = written.clone();
        let fmt = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || to.clone());
        let subscriber = tracing_subscriber::registry().with(fmt).with(repeats.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..10_000 {
                tracing::warn!(n, "flood");
                tracing::debug!(n, "asked for");
            }
            tracing::warn!("other");
            repeats.tell(Instant::now() + PERIOD);
            tracing::info!("after");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("flood"), count("other"), count("after")), (30, 1, 1));
        assert_eq!(count("asked for"), 10_000);
        let told: Vec<_> = text.lines().filter(|line| line.contains("were left out")).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("lines=9970") && told[0].contains("repeats.rs:"), "{told:?}");
    }

    #[test]
    fn a_new_period_writes_again() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let place = tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            tracing::info_span!("place").metadata().expect("enabled")
        });
        let written = |at| (0..40).filter(|_| repeats.on_line(place, at)).count();
        assert_eq!(written(start), 30);
        assert_eq!(written(start + PERIOD), 0, "not before it was told");
        assert_eq!(repeats.left_out(start + PERIOD / 2), []);
        let told = repeats.left_out(start + PERIOD);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].2, 50);
        assert_eq!(repeats.left_out(start + 2 * PERIOD), [], "told once");
        assert_eq!(written(start + 2 * PERIOD), 30);
        // Few lines a period: none is lost.
        let quiet = Repeats::default();
        for n in 0..100 {
            assert!(quiet.on_line(place, start + n * PERIOD / 20));
        }
    }
}
