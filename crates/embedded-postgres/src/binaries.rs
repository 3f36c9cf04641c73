//! Finds an installed PostgreSQL server.
//!
//! Distributions differ in where they keep it, and most keep `initdb` off the PATH, so that PATH, `pg_config` and the
//! usual folders are all asked. Symbolic links are resolved first, because the server looks for its share files
//! relative to where it lies.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version that the mirror's SQL runs on.
pub(super) const MAJOR_MIN: u32 = 14;

/// A folder with `postgres` and `initdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The binaries in `folder`, if both are there and of a version that will do.
    pub(super) fn at(folder: &Path) -> Option<Self> {
        let postgres = folder.join("postgres").canonicalize().ok()?;
        let folder = postgres.parent()?.to_path_buf();
        folder.join("initdb").is_file().then_some(())?;
        let major = major_version(&postgres)?;
        (major >= MAJOR_MIN).then_some(Self { folder, major })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// All servers found on this machine, the preferred one first.
pub(super) fn installed() -> Vec<Binaries> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<Binaries> = Vec::new();
    for folder in candidates(&path, &usual_places(Path::new("/"))) {
        if let Some(binaries) = Binaries::at(&folder)
            && !found.contains(&binaries)
        {
            found.push(binaries);
        }
    }
    found
}

fn candidates(path: &OsStr, usual: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    folders.extend(pg_config_folder());
    folders.extend_from_slice(usual);
    folders
}

/// What `pg_config --bindir` says. On Debian this may name a client-only installation, so it is checked like the rest.
fn pg_config_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let folder = text.trim();
    (output.status.success() && !folder.is_empty()).then(|| PathBuf::from(folder))
}

/// Where packages put servers, newest version first within a family.
fn usual_places(root: &Path) -> Vec<PathBuf> {
    let families = [
        ("usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
        ("usr", "pgsql-", "bin"),                   // the PostgreSQL project's RPMs
        ("usr/libexec", "postgresql", ""),          // Alpine
        ("opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on Apple silicon
        ("usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
        ("Library/PostgreSQL", "", "bin"),          // the installer for macOS
        ("Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    let mut places: Vec<PathBuf> =
        families.iter().flat_map(|(parent, prefix, below)| versioned(&root.join(parent), prefix, below)).collect();
    places
        .extend(["usr/bin", "usr/local/pgsql/bin", "usr/local/bin", "opt/homebrew/bin"].map(|place| root.join(place)));
    places
}

/// Folders named `{prefix}{version}` in `parent`, the newest first.
fn versioned(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = parent.read_dir() else {
        return Vec::new();
    };
    let mut folders: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join(below)))
        })
        .collect();
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.0));
    folders.into_iter().map(|(_, folder)| folder).collect()
}

fn major_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    parse_major(&String::from_utf8(output.stdout).ok()?)
}

/// The major version in `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` or `postgres (PostgreSQL) 18beta1`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_line_gives_its_major_number() {
        let debian = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n";
        assert_eq!(parse_major(debian), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("postgres (PostgreSQL) unknown"), None);
        assert_eq!(parse_major(""), None);
    }

    #[test]
    fn the_newest_of_a_family_comes_first_by_number_and_not_by_letter() {
        let root = std::env::temp_dir().join(format!("nxt-usual-{}", uuid::Uuid::new_v4()));
        for version in ["9", "14", "100", "common"] {
            std::fs::create_dir_all(root.join("usr/lib/postgresql").join(version)).unwrap();
        }
        let debian = root.join("usr/lib/postgresql");
        let wanted: Vec<_> = ["100/bin", "14/bin", "9/bin"].map(|name| debian.join(name)).into();
        assert_eq!(usual_places(&root)[..3], wanted);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_without_a_server_is_not_one() {
        assert_eq!(Binaries::at(Path::new("/nonexistent")), None);
        assert_eq!(Binaries::at(Path::new("/")), None);
    }

    #[test]
    fn a_link_to_a_server_leads_to_the_folder_it_lives_in() {
        let Some(real) = installed().into_iter().next() else {
            panic!("the tests need an installed PostgreSQL server");
        };
        let links = std::env::temp_dir().join(format!("nxt-links-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&links).unwrap();
        std::os::unix::fs::symlink(real.program("postgres"), links.join("postgres")).unwrap();
        assert_eq!(Binaries::at(&links), Some(real));
        std::fs::remove_dir_all(links).unwrap();
    }
}
