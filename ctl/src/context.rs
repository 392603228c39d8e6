//! Which cluster a command speaks to: flags, SBCCTL_* variables, and the contexts file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::Global;
use crate::error::{Exit, Failure};
use crate::files;

/// `~/.config/sbcctl/config.toml`.
#[derive(Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used without `--context`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One cluster, and who we are there.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// host:port of each node's gRPC.
    pub(crate) endpoints: Vec<String>,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Contexts {
    /// Reads a contexts file; one that does not exist is empty.
    pub(crate) fn load(path: &Path) -> Result<Contexts, Failure> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|e| Failure::new(Exit::Usage, format!("the contexts file {} is wrong", path.display())).cause(e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(e) => Err(files::failure("read", path, &e)),
        }
    }

    /// Writes it.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string_pretty(self).map_err(|e| Failure::failed("the contexts cannot be written").cause(e))?;
        if let Some(dir) = path.parent() {
            files::make_dir(dir)?;
        }
        files::write(path, text.as_bytes())
    }
}

/// Where the contexts file is.
pub(crate) fn path(global: &Global) -> Result<PathBuf, Failure> {
    match &global.config_file {
        Some(path) => Ok(path.clone()),
        None => files::xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("sbcctl/config.toml")),
    }
}

/// The cluster that the flags and the contexts file name together.
pub(crate) fn resolve(global: &Global) -> Result<Context, Failure> {
    let complete = !global.endpoint.is_empty() && global.ca.is_some() && global.cert.is_some() && global.key.is_some();
    let contexts = if complete { Contexts::default() } else { Contexts::load(&path(global)?)? };
    merge(global, contexts)
}

fn merge(global: &Global, contexts: Contexts) -> Result<Context, Failure> {
    let name = global.context.clone().or(contexts.current);
    let mut context = match &name {
        None => Context::default(),
        Some(name) => match contexts.contexts.get(name) {
            Some(context) => context.clone(),
            None if global.context.is_none() => Context::default(),
            None => {
                let known: Vec<_> = contexts.contexts.keys().cloned().collect();
                let hint = if known.is_empty() {
                    "there are no contexts".to_owned()
                } else {
                    format!("there are: {}", known.join(", "))
                };
                return Err(Failure::new(Exit::Usage, format!("there is no context {name:?}")).hint(hint));
            }
        },
    };
    if !global.endpoint.is_empty() {
        context.endpoints.clone_from(&global.endpoint);
    }
    for (target, flag) in [(&mut context.ca, &global.ca), (&mut context.cert, &global.cert), (&mut context.key, &global.key)] {
        if let Some(path) = flag {
            target.clone_from(path);
        }
    }
    let missing: Vec<&str> = [
        ("--endpoint", context.endpoints.is_empty()),
        ("--ca", context.ca.as_os_str().is_empty()),
        ("--cert", context.cert.as_os_str().is_empty()),
        ("--key", context.key.as_os_str().is_empty()),
    ]
    .into_iter()
    .filter_map(|(flag, missing)| missing.then_some(flag))
    .collect();
    if missing.is_empty() {
        return Ok(context);
    }
    Err(Failure::new(Exit::Usage, format!("which cluster? missing: {}", missing.join(", ")))
        .hint("name them, or a context with --context; `sbcctl dev up` starts a cluster here and makes it the current context"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let text = "current = 'dev'\n[contexts.dev]\nendpoints = ['a:1', 'b:1']\nca = 'ca'\ncert = 'c'\nkey = 'k'\n";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flags_stand_above_the_file() {
        let global = Global { endpoint: vec!["x:9".into()], key: Some("other".into()), ..Global::default() };
        let context = merge(&global, contexts()).unwrap();
        assert_eq!(context.endpoints, ["x:9"]);
        assert_eq!(context.key, Path::new("other"));
        assert_eq!(context.cert, Path::new("c"));
    }

    #[test]
    fn the_current_context_is_the_default() {
        assert_eq!(merge(&Global::default(), contexts()).unwrap().endpoints, ["a:1", "b:1"]);
    }

    #[test]
    fn an_unknown_context_and_missing_facts_are_usage_errors() {
        let unknown = merge(&Global { context: Some("prod".into()), ..Global::default() }, contexts()).unwrap_err();
        assert_eq!(unknown.exit, Exit::Usage);
        assert!(unknown.hint.unwrap().contains("dev"));
        let missing = merge(&Global { endpoint: vec!["x:9".into()], ..Global::default() }, Contexts::default()).unwrap_err();
        assert!(missing.error.contains("--ca, --cert, --key") && !missing.error.contains("--endpoint"));
    }

    #[test]
    fn the_file_survives_a_round_trip() {
        let text = toml::to_string_pretty(&contexts()).unwrap();
        assert_eq!(toml::from_str::<Contexts>(&text).unwrap(), contexts());
        assert!(toml::from_str::<Contexts>("curent = 'x'").is_err());
    }
}
