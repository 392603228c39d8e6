//! The product's binaries, and what /proc tells of a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Directory of `sbcd` and `sbcctl`: `SBC_BIN_DIR`, or that of the build this test belongs to.
///
/// # Panics
/// When they are not there, with the command that builds them.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("SBC_BIN_DIR") {
        return PathBuf::from(dir);
    }
    let exe = std::env::current_exe().expect("Linux names the executable of a process");
    let dir = exe.ancestors().skip(1).find(|dir| dir.join("sbcctl").is_file() && dir.join("sbcd").is_file());
    match dir {
        Some(dir) => dir.to_owned(),
        None => panic!("no sbcd and sbcctl beside {}: run `cargo build --workspace --bins` first", exe.display()),
    }
}

/// Path of a file of this package.
pub fn package_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Clock ticks a second of /proc/PID/stat: USER_HZ, 100 on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// CPU time of a process, user and system, in steps of 10 ms.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; fields count from behind it: utime is the 12th, stime the 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Resident memory of a process, octets.
pub fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Processes whose command line holds all of `parts`.
pub fn find(parts: &[&str]) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            *pid != std::process::id() && parts.iter().all(|part| line.contains(part))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_tells_of_this_process() {
        let pid = std::process::id();
        assert!(cpu_time(pid).is_some());
        assert!(resident(pid).unwrap() > 100_000);
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
