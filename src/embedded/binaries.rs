//! Finding an installed server.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::EmbeddedError;

/// The oldest major version that is supported.
const MAJOR_MIN: u32 = 14;
/// Folders that hold one folder for each version, and where the binaries lie in those.
const VERSIONED: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/pgsql", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "bin"),
];
/// Folders that hold binaries themselves.
const PLAIN: [&str; 4] = ["/usr/local/pgsql/bin", "/usr/bin", "/usr/local/bin", "/opt/local/bin"];

/// The programs of one installed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    folder: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The newest server that is installed: on PATH, where `pg_config` says, or in the usual places.
    pub(super) fn find() -> Result<Self, EmbeddedError> {
        let mut found: Vec<Self> = candidates().into_iter().filter_map(|folder| Self::in_folder(&folder)).collect();
        found.sort_by_key(|binaries| binaries.major);
        found.pop().ok_or(EmbeddedError::NotInstalled)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let version = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let major = major(std::str::from_utf8(&version.stdout).ok()?)?;
        let complete = folder.join("initdb").is_file();
        (complete && major >= MAJOR_MIN).then(|| Self { folder: folder.to_owned(), major })
    }
}

/// Folders to look into. Entries of PATH may be links, whose targets have the server's other files beside them.
fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        let target = folder.join("postgres").canonicalize().ok();
        folders.extend(target.and_then(|program| program.parent().map(Path::to_owned)));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for (parent, inner) in VERSIONED {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path().join(inner)));
    }
    // /usr/pgsql-16/bin and the like.
    let entries = std::fs::read_dir("/usr").into_iter().flatten().flatten();
    let versions = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgsql-"));
    folders.extend(versions.map(|entry| entry.path().join("bin")));
    folders.extend(PLAIN.map(PathBuf::from));
    folders.sort();
    folders.dedup();
    folders
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → 15
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_any_build() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("something else"), None);
    }
}
