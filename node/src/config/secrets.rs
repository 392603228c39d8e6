//! Where this node finds the secrets that the cluster's configuration names: one file each, in one directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sbc_core::policy::ClusterConfig;

use crate::key_file;

/// Longest content of a secret's file.
const SIZE_CAP: u64 = 4096;

/// The directory, where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretsDir(Option<PathBuf>);

impl SecretsDir {
    /// The configured directory; without one that of systemd's credentials (`LoadCredential=`), as `credentials` says it.
    pub fn new(configured: Option<&Path>, credentials: Option<&Path>) -> SecretsDir {
        SecretsDir(configured.or(credentials).map(Path::to_owned))
    }

    /// Reads what is named. What is said of each that is not there is for people, and names no value.
    pub fn fill(&self, config: &mut ClusterConfig) -> Vec<String> {
        let mut wrong = Vec::new();
        for secret in config.secrets_mut() {
            let name = secret.name().to_owned();
            let why = match self.read(&name) {
                Ok(content) if secret.fill(&content) => continue,
                Ok(_) => "must hold one line, the password, or lines `HA1 <algorithm> <digits>`".to_owned(),
                Err(why) => why,
            };
            let place = self.0.as_ref().map_or_else(|| name.clone(), |dir| dir.join(&name).display().to_string());
            let message = format!("secret \"{name}\": {place}: {why}");
            if !wrong.contains(&message) {
                wrong.push(message);
            }
        }
        wrong
    }

    fn read(&self, name: &str) -> Result<String, String> {
        let dir = self.0.as_ref().ok_or("this node has no secrets_dir and no systemd credentials")?;
        let path = dir.join(name);
        let size = std::fs::metadata(&path).map_err(|e| said(&e))?.len();
        if size > SIZE_CAP {
            return Err(format!("larger than {SIZE_CAP} octets"));
        }
        key_file::read_to_string(&path).map_err(|e| said(&e))
    }
}

fn said(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "not there".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_cluster;
    use super::*;

    const TEXT: &str = "[[trunks]]\nname = \"psap\"\nrealm = \"core\"\n[trunks.credentials]\nusername = \"u\"\nsecret = \"one\"\n\
                        [[trunks]]\nname = \"pbx\"\nrealm = \"external\"\nauth = \"digest\"\n[[trunks.users]]\nname = \"a\"\nsecret = \"two\"\n";

    #[test]
    fn found_missing_and_wrong() {
        let dir = std::env::temp_dir().join(format!("sbc-secrets-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        key_file::write(&dir.join("one"), "hunter2\n");
        let mut config = parse_cluster(TEXT, 1).unwrap();
        let wrong = SecretsDir::new(Some(&dir), None).fill(&mut config);
        assert_eq!(wrong, [format!("secret \"two\": {}: not there", dir.join("two").display())]);
        assert!(config.trunks[0].auth.credentials.as_ref().unwrap().secret.is_known());
        assert!(!format!("{config:?}").contains("hunter2"), "nothing shows it");
        key_file::write(&dir.join("two"), "a\nb\n");
        let wrong = SecretsDir::new(None, Some(&dir)).fill(&mut config);
        assert!(wrong.len() == 1 && wrong[0].contains("one line"), "{wrong:?}");
        key_file::write(&dir.join("two"), "x".repeat(5000));
        assert!(SecretsDir::new(Some(&dir), None).fill(&mut config)[0].contains("larger"));
        assert_eq!(SecretsDir::default().fill(&mut config).len(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
