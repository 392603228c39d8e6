//! The first command of the README: the demonstration holds, and leaves nothing behind.

use std::process::Command;
use std::time::Duration;

use cluster_tests::command::{self, scratch};
use cluster_tests::guard::Guard;
use cluster_tests::process;

/// Half a minute by itself; debug builds on a machine that has much else to do take longer.
const LIMIT: Duration = Duration::from_secs(150);

#[test]
fn the_demonstration_holds_and_cleans_up() {
    let (sbcctl, dir) = (process::bin_dir().join("sbcctl"), scratch("demo"));
    std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
    let clean_up = "for d in \"$2\"/*; do [ -d \"$d\" ] && timeout 60 \"$1\" dev down --dir \"$d\"; done; rm -rf \"$2\"";
    let _guard = Guard::take(clean_up, &[&sbcctl, &dir], &std::env::temp_dir().join("sbc-cluster-tests.log"));
    let mut demo = Command::new(&sbcctl);
    demo.args(["dev", "demo"]).env("TMPDIR", &dir).env("SBCCTL_CONFIG", dir.join("contexts.toml"));
    let done = command::run(&mut demo, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("sbcctl dev demo");
    assert!(done.stdout.contains("all of it held"), "{}", done.stdout);
    assert!(!done.stdout.contains('✗'), "{}", done.stdout);
    let left: Vec<_> = std::fs::read_dir(&dir).expect("it is there").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
