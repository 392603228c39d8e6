//! Files that hold secrets: private keys, the cluster's keys, passwords of trunks. They are read only where nobody else on the machine can.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What nobody but owner and group may: read it, or change it. The group may read, for service managers hand files over that way.
const TOO_WIDE: u32 = 0o027;

/// Reads a file with a secret.
///
/// # Errors
/// As for any file; `PermissionDenied` where others than owner and group could read it, or others than the owner write it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & TOO_WIDE != 0 {
        let why = format!(
            "its mode is {mode:04o}, and it holds a secret: others must not read it, nor the group write it; chmod 600 it"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// The same as text.
///
/// # Errors
/// As [`read`], and `InvalidData` for what is no UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no UTF-8 text"))
}

/// Writes a file with a secret, for tests.
#[cfg(test)]
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("is ours");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("sbc-key-file-{}", std::process::id()));
        write(&path, "s");
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o620, false), (0o604, false), (0o777, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match read_to_string(&path) {
                Ok(text) => assert!(good && text == "s", "{mode:o}"),
                Err(e) => assert!(!good && e.to_string().contains("chmod 600"), "{mode:o}: {e}"),
            }
        }
        fs::remove_file(path).unwrap();
    }
}
