//! The database's environment.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use sqlx::PgPool;

use super::Findings;
use crate::{
    config::{DatabaseSettings, MirrorSettings},
    database::environment,
    mirror::{Mirror, Narrow},
    telemetry::chain,
};

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

/// Columns that the source has widened and the mirror has not, and the statements that do it.
pub(super) async fn narrow_columns(settings: &MirrorSettings, pool: &PgPool, findings: &mut Findings) {
    let mirror = Mirror::new(pool.clone(), settings.deletes).with_history(settings.history.clone());
    match mirror.narrow_columns().await {
        Ok(narrow) => {
            for Narrow { what, statements } in narrow {
                let remedy = format!(
                    "rows whose values do not fit are set aside until then. To widen it, run:\nbegin;\n{};\ncommit;",
                    statements.join(";\n")
                );
                findings.warning("column", what, &remedy);
            }
        }
        Err(error) => findings.problem("columns", chain(&error), "check the server's log"),
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
