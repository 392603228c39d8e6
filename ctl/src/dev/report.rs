//! The steps of a demonstration: each says what held and what was measured.

use std::time::Instant;

use crate::error::Failure;
use crate::output::line;

/// Prints steps and remembers whether all held.
pub(crate) struct Report {
    begin: Instant,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Report {
        Report { begin: Instant::now(), failed: Vec::new() }
    }

    /// One step.
    pub(crate) fn step(&mut self, held: bool, what: &str, measured: &str) -> Result<(), Failure> {
        if !held {
            self.failed.push(what.to_owned());
        }
        let mark = if held { '✓' } else { '✗' };
        line(&format!("{mark} {:5.1} s  {what}: {measured}", self.begin.elapsed().as_secs_f32()))
    }

    /// A step that gave an error instead of a measurement.
    pub(crate) fn broken(&mut self, what: &str, failure: &Failure) -> Result<(), Failure> {
        self.step(false, what, &failure.to_string().replace('\n', "\n             "))
    }

    /// The verdict.
    pub(crate) fn end(self) -> Result<(), Failure> {
        match self.failed.as_slice() {
            [] => line(&format!("all of it held, in {:.1} s", self.begin.elapsed().as_secs_f32())),
            failed => Err(Failure::failed(format!("the demonstration failed: {}", failed.join("; ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_it_all() {
        let mut report = Report::new();
        report.step(true, "a", "1").unwrap();
        report.step(false, "b", "2").unwrap();
        report.step(true, "c", "3").unwrap();
        assert!(report.end().unwrap_err().error.ends_with(": b"));
        assert!(Report::new().end().is_ok());
    }
}
