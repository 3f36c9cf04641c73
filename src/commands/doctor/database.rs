//! The database's environment.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use sqlx::PgPool;

use super::Findings;
use crate::{config::DatabaseSettings, database::environment, telemetry::chain};

/// Less room than this on the volume of our own server is told.
const FREE_MIN: u64 = 1024 * 1024 * 1024;

/// What should be otherwise in the database itself.
pub(super) async fn environment(settings: &DatabaseSettings, pool: &PgPool, findings: &mut Findings) {
    match environment::findings(pool).await {
        Ok(found) => {
            for environment::Finding { what, remedy } in found {
                findings.warning("database", what, &remedy);
            }
        }
        Err(error) => findings.problem("database", chain(&error), "check the server's log"),
    }
    if settings.address.is_none() {
        room(&settings.data_dir, findings);
    }
}

/// Room for our own server's files.
fn room(folder: &Path, findings: &mut Findings) {
    match statvfs(folder) {
        Ok(volume) => {
            let free = volume.blocks_available().saturating_mul(volume.fragment_size());
            let text = format!("{:.1} GB free in {}", free as f64 / 1e9, folder.display());
            match free < FREE_MIN {
                true => findings.problem("room", text, "make room, or set NXT_DATA_DIR to a folder of a larger volume"),
                false => findings.fine("room", text),
            }
        }
        Err(error) => findings.warning("room", error, "see that NXT_DATA_DIR is a folder"),
    }
}
