//! The command line of `sbcctl dev`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start a cluster and a PSAP phone; returns when it is ready and leaves it running
    Up(UpArgs),
    /// Stop all of it
    Down(DirArg),
    /// What runs
    Status(DirArg),
    /// Move the anycast address; returns when the node serves it
    Flip {
        node: String,
        #[command(flatten)]
        dir: DirArg,
    },
    /// kill -9
    Kill {
        node: String,
        #[command(flatten)]
        dir: DirArg,
    },
    /// Start what is dead; returns when the cluster is ready
    Heal(DirArg),
    /// One call to the anycast address; prints its SIP messages
    Call(CallArgs),
    /// Show that a call survives the move of the anycast address and the death of its node: a cluster of its own, under 30 s
    Demo,
    /// The PSAP phone that `up` starts
    #[command(hide = true)]
    Psap {
        #[arg(long)]
        bind: SocketAddr,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DirArg {
    /// Data, certificates, logs; default: ~/.local/state/sbcctl/dev
    #[arg(long, env = "SBCCTL_DEV_DIR", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: u8,
    /// Where calls go (UDP); default: a built-in phone at 127.0.2.1:5060
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) psap: Option<SocketAddr>,
    /// Setting of every node, e.g. log.filter=debug, or of the cluster, e.g. settings.claim_budget_ms=100; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Setting>,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CallArgs {
    /// Number, or a whole URI
    #[arg(long, default_value = "112")]
    pub(crate) to: String,
    /// Hang up after this many seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) hold: u64,
    /// Send and count audio
    #[arg(long)]
    pub(crate) rtp: bool,
    /// Send this location along (PIDF-LO; "-": standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) location: Option<PathBuf>,
}

/// `key=value` with a dotted key.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Setting {
    /// The parts of the key.
    pub(crate) key: Vec<String>,
    /// As typed: a TOML value, or else a string.
    pub(crate) value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Setting, String> {
        let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
        let key: Vec<String> = key.split('.').map(str::to_owned).collect();
        let good = |part: &String| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if key.len() < 2 || !key.iter().all(good) {
            return Err("the key is a table and a name, for example log.filter".to_owned());
        }
        Ok(Setting { key, value: value.to_owned() })
    }
}

impl TryFrom<String> for Setting {
    type Error = String;

    fn try_from(text: String) -> Result<Setting, String> {
        text.parse()
    }
}

impl From<Setting> for String {
    fn from(setting: Setting) -> String {
        setting.to_string()
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key.join("."), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let setting: Setting = "log.filter=info,sbc_core=debug".parse().unwrap();
        assert_eq!(setting.key, ["log", "filter"]);
        assert_eq!(setting.value, "info,sbc_core=debug");
        assert_eq!(setting.to_string(), "log.filter=info,sbc_core=debug");
        assert_eq!("a.b=c=d".parse::<Setting>().unwrap().value, "c=d");
        for wrong in ["a.b", "b=1", ".b=1", "a..b=1", "a b.c=1"] {
            assert!(wrong.parse::<Setting>().is_err(), "{wrong}");
        }
    }
}
