//! Who runs the server, and where that account can keep files.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{Uid, User, geteuid};

use super::EmbeddedError;

/// Accounts that may run the server when we are root, in order of preference.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// The account that runs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// Our own.
    Own,
    /// An unprivileged one, since we are root.
    Other {
        uid: u32,
        gid: u32,
    },
}

impl Account {
    pub(super) fn choose() -> Result<Self, EmbeddedError> {
        if geteuid() != Uid::from_raw(0) {
            return Ok(Self::Own);
        }
        let found = ACCOUNTS.iter().find_map(|name| User::from_name(name).ok().flatten());
        found
            .map(|user| Self::Other { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
            .ok_or(EmbeddedError::NoAccount)
    }

    /// Makes a program run as this account.
    pub(super) fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        use std::os::unix::process::CommandExt;
        match self {
            Self::Own => command,
            Self::Other { uid, gid } => command.uid(*uid).gid(*gid),
        }
    }

    /// Makes a folder that only this account can look into.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), EmbeddedError> {
        std::fs::create_dir_all(path).map_err(EmbeddedError::file("cannot make folder", path))?;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, mode).map_err(EmbeddedError::file("cannot restrict folder", path))?;
        self.own(path)
    }

    /// Hands a file or folder to this account.
    pub(super) fn own(&self, path: &Path) -> Result<(), EmbeddedError> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => {
                chown(path, Some(*uid), Some(*gid)).map_err(EmbeddedError::file("cannot hand over", path))
            }
        }
    }

    /// The folder to use for a wanted one: the same, unless the account cannot reach it, as below root's home.
    pub(super) fn reachable(&self, wanted: &Path) -> Result<PathBuf, EmbeddedError> {
        std::fs::create_dir_all(wanted).map_err(EmbeddedError::file("cannot make folder", wanted))?;
        let wanted = wanted.canonicalize().map_err(EmbeddedError::file("cannot resolve", wanted))?;
        if wanted.ancestors().skip(1).all(|folder| self.may_pass(folder)) {
            return Ok(wanted);
        }
        let mut hasher = DefaultHasher::new();
        wanted.hash(&mut hasher);
        let name = format!("nxt-mirror-{:016x}", hasher.finish());
        let parent = [PathBuf::from("/var/lib"), std::env::temp_dir()]
            .into_iter()
            .find(|folder| folder.ancestors().all(|folder| self.may_pass(folder)))
            .unwrap_or_else(std::env::temp_dir);
        let instead = parent.join(name);
        tracing::warn!(
            wanted = %wanted.display(),
            used = %instead.display(),
            "the database server's account cannot reach the wanted folder, so its files go elsewhere"
        );
        Ok(instead)
    }

    fn may_pass(&self, folder: &Path) -> bool {
        let Self::Other { uid, gid } = *self else { return true };
        let Ok(folder) = folder.metadata() else { return false };
        let bit = match () {
            () if folder.uid() == uid => 0o100,
            () if folder.gid() == gid => 0o010,
            () => 0o001,
        };
        folder.mode() & bit != 0
    }
}
