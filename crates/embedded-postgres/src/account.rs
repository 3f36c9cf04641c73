//! Whom the server runs as, and which folder that user can reach.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User, geteuid};
use sha2::{Digest, Sha256};

use super::error::EmbeddedError;

/// The user that runs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// Whoever runs us.
    Own,
    /// We are root, whom PostgreSQL refuses, so it is someone else.
    Other { name: String, uid: u32, gid: u32 },
}

impl Account {
    /// The account for the cluster at `cluster`: as root, whoever owns it, and for a new one `postgres` or `nobody`.
    pub(super) fn choose(cluster: &Path) -> Result<Self, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(Self::Own);
        }
        let owner = cluster.metadata().ok().filter(|metadata| metadata.uid() != 0);
        match owner {
            Some(owner) => Ok(Self::owner(owner.uid(), owner.gid())),
            None => Self::unprivileged().ok_or(EmbeddedError::NoAccount),
        }
    }

    fn owner(uid: u32, gid: u32) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = user.map_or_else(|| uid.to_string(), |user| user.name);
        Self::Other { name, uid, gid }
    }

    fn unprivileged() -> Option<Self> {
        ["postgres", "nobody"].into_iter().find_map(|name| {
            let user = User::from_name(name).ok().flatten()?;
            Some(Self::owner(user.uid.as_raw(), user.gid.as_raw()))
        })
    }

    /// Makes `command` run as this account. The standard library drops root's supplementary groups along the way.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Self::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }

    /// Hands `path` to this account.
    pub(super) fn give(&self, path: &Path) -> Result<(), EmbeddedError> {
        let Self::Other { uid, gid, .. } = self else {
            return Ok(());
        };
        chown(path, Some(*uid), Some(*gid)).map_err(EmbeddedError::io("change the owner of", path))
    }

    /// Whether this account can enter `folder`. It is tried out, since mode bits are not the whole truth.
    fn can_enter(&self, folder: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "cd -- \"$1\"", "sh"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.apply(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}

/// The folder to use for `wanted`: the same, unless the server's user cannot reach it.
///
/// Below `/root`, say, only root may enter. Then a place derived from the wanted one is used, the same in every run,
/// and the log says so.
pub(super) fn reachable_folder(wanted: &Path, account: &Account) -> Result<PathBuf, EmbeddedError> {
    let Account::Other { name, .. } = account else {
        create(wanted)?;
        return Ok(wanted.to_path_buf());
    };
    if account.can_enter(existing_ancestor(wanted)) {
        create(wanted)?;
        return Ok(wanted.to_path_buf());
    }
    let digest = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    let stable: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    for base in [PathBuf::from("/var/lib"), std::env::temp_dir()] {
        let folder = base.join("nxt-mirror").join(&stable);
        if create(&folder).is_ok() && is_roots(&folder) && account.can_enter(&folder) {
            tracing::warn!(
                wanted = %wanted.display(),
                used = %folder.display(),
                "the database server runs as the user {name}, who cannot reach the data folder wanted, so another one is used"
            );
            return Ok(folder);
        }
    }
    Err(EmbeddedError::Unreachable { account: name.clone(), path: wanted.to_path_buf() })
}

/// Whether nobody but root could have put `folder` there: in the temporary folder everybody may create entries.
fn is_roots(folder: &Path) -> bool {
    folder
        .ancestors()
        .take(2)
        .all(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == 0))
}

fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"))
}

fn create(folder: &Path) -> Result<(), EmbeddedError> {
    std::fs::create_dir_all(folder).map_err(EmbeddedError::io("create the data folder", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_exist_yet_is_judged_by_its_nearest_ancestor() {
        let missing = Path::new("/usr/no-such-folder/and/deeper");
        assert_eq!(existing_ancestor(missing), Path::new("/usr"));
    }

    #[test]
    fn an_ordinary_user_runs_the_server_as_themselves() {
        let account = Account::choose(Path::new("/nonexistent")).unwrap();
        assert_eq!(account == Account::Own, !geteuid().is_root());
    }

    #[test]
    fn a_folder_closed_to_the_servers_user_is_replaced_by_the_same_other_one_each_time() {
        if !geteuid().is_root() {
            return; // Only root runs the server as somebody else.
        }
        let closed = std::env::temp_dir().join(format!("nxt-closed-{}", uuid::Uuid::new_v4()));
        create(&closed).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&closed, mode).unwrap();
        let account = Account::choose(&closed.join("cluster")).unwrap();
        let wanted = closed.join("nxt-data");
        let first = reachable_folder(&wanted, &account).unwrap();
        let second = reachable_folder(&wanted, &account).unwrap();
        assert!(!first.starts_with(&closed), "{first:?} is closed");
        assert_eq!(first, second);
        std::fs::remove_dir_all(first).unwrap();
        std::fs::remove_dir_all(closed).unwrap();
    }
}
