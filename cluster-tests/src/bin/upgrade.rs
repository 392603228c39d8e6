//! A rolling upgrade from the binaries of another commit, under calls: `make upgrade OLD=<commit>`.
//! usage: upgrade OLD-BIN-DIR

use std::path::PathBuf;
use std::process::ExitCode;

use cluster_tests::cluster::{Cluster, NODES, Options};
use cluster_tests::upgrade;

fn main() -> ExitCode {
    let Some(old) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: upgrade OLD-BIN-DIR: where sbcd and sbcctl of the version before are");
        return ExitCode::from(2);
    };
    println!("starting three nodes of {}", old.display());
    let cluster = Cluster::start(Options { first_bin_dir: Some(old), ..Options::with_own_psap() });
    let replace = |node: u8| {
        println!("replacing {}", NODES[usize::from(node)]);
        cluster.kill(node);
        cluster.dev(&["heal"]);
    };
    let calls = upgrade::roll(&cluster, replace, |replaced| println!("{replaced} of 3 nodes are new; no call was lost"));
    upgrade::reaches(&cluster, upgrade::newest(&cluster, 0));
    upgrade::replicas_agree(&cluster);
    println!(
        "{calls} calls, {} records, the same at each node; format level {}",
        cluster.cdrs().len(),
        upgrade::level(&cluster, 0)
    );
    ExitCode::SUCCESS
}
