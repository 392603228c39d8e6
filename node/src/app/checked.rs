//! Everything that is read before anything is bound: the node's configuration, and all files that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sbc_core::policy::ClusterConfig;
use sbc_core::token::ClusterKey;

use super::certificates::CheckedPems;
use super::disk::{self, DiskError};
use super::{AppError, announcing};
use crate::config::{Fault, Faults, LogSection, NodeConfig, builtin_cluster, parse_cluster, review_cluster};
use crate::telemetry;

/// The secret octets that `[cluster]` names, by their keys.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    own: [u8; 32],
    others: Vec<[u8; 32]>,
    identity: Option<[u8; 32]>,
}

impl Keys {
    pub(super) fn load(config: &NodeConfig) -> Result<Keys, DiskError> {
        Ok(Keys {
            own: disk::read_key(&config.cluster.key_file)?,
            others: config.cluster.other_key_files.iter().map(|p| disk::read_key(p)).collect::<Result<Vec<_>, _>>()?,
            identity: config.cluster.identity_key_file.as_deref().map(disk::read_key).transpose()?,
        })
    }

    pub(super) fn ring(&self) -> ClusterKey {
        ClusterKey::ring(&self.own, &self.others, self.identity.as_ref())
    }

    /// The keys whose files have another content.
    pub(super) fn differ(&self, other: &Keys) -> impl Iterator<Item = &'static str> {
        let differ = [
            ("cluster.key_file", self.own != other.own),
            ("cluster.previous_key_file, cluster.next_key_file", self.others != other.others),
            ("cluster.identity_key_file", self.identity != other.identity),
        ];
        differ.into_iter().filter_map(|(key, differs)| differs.then_some(key))
    }
}

/// Everything that is read before anything is bound.
pub struct Checked {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) config: Arc<NodeConfig>,
    pub(super) pems: CheckedPems,
    pub(super) keys: Keys,
    pub(super) cluster_text: Option<String>,
    pub(super) cluster: ClusterConfig,
}

impl Checked {
    /// How it logs.
    pub fn log(&self) -> &LogSection {
        &self.config.log
    }

    /// What is no reason not to start, for people.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.pems.warnings(&self.config);
        if let (Some(path), Some(text)) = (&self.config.cluster.config_file, &self.cluster_text) {
            let found = review_cluster(text, &self.cluster).into_iter().filter(Fault::needs_force);
            warnings.extend(found.map(|f| format!("{}:{}: {}", path.display(), f.line, f.message)));
        }
        warnings
    }
}

/// Reads and checks a node's configuration and all files that it names: what `--check-config` does. The error is for people, with places.
pub fn read(path: &Path) -> Result<Checked, String> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
    let base = path.parent().map(PathBuf::from).unwrap_or_default();
    let config = NodeConfig::parse(&text, &base).map_err(|faults| faults.render(&file, &text))?;
    telemetry::check_log_filter(&config.log.filter).map_err(|e| format!("{file}: {e}"))?;
    match check(path, &text, config) {
        Ok(checked) => Ok(checked),
        Err(AppError::Files(faults)) => Err(Faults::at_keys(&text, &faults).render(&file, &text)),
        Err(other) => Err(other.to_string()),
    }
}

fn check(path: &Path, text: &str, config: NodeConfig) -> Result<Checked, AppError> {
    let pems = CheckedPems::load(&config)?;
    let keys = Keys::load(&config)?;
    announcing::passwords(&config)?;
    let (cluster_text, cluster) = match &config.cluster.config_file {
        None => (None, builtin_cluster()),
        Some(path) => {
            let text = read_text(path)?;
            let mut cluster = parse_cluster(&text, 0).map_err(|faults| AppError::ClusterConfig {
                path: path.clone(),
                faults: faults.render(&path.display().to_string(), &text),
            })?;
            let missing = config.secrets().fill(&mut cluster);
            if !missing.is_empty() {
                return Err(AppError::ClusterConfig { path: path.clone(), faults: missing.join("\n") });
            }
            (Some(text), cluster)
        }
    };
    Ok(Checked { path: path.to_owned(), text: text.to_owned(), config: Arc::new(config), pems, keys, cluster_text, cluster })
}

fn read_text(path: &Path) -> Result<String, AppError> {
    std::fs::read_to_string(path).map_err(|source| DiskError::Io { path: path.to_owned(), source }.into())
}
