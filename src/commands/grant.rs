//! `grant`: lets an existing database role read what people read.

use std::{path::Path, process::ExitCode};

use super::operate;
use crate::{
    config::Deletes,
    mirror::{GrantError, Mirror},
};

/// Lets a role in, for some companies or for everything.
pub(super) async fn grant(config: Option<&Path>, role: &str, companies: &[i64]) -> anyhow::Result<ExitCode> {
    let (pool, _) = operate::open(config).await?;
    // How rows are deleted does not matter to who reads them.
    let mirror = Mirror::new(pool.clone(), Deletes::Hard);
    let companies = (!companies.is_empty()).then_some(companies);
    let granted = mirror.grant(role, companies).await;
    pool.close().await;
    match granted {
        Ok(tables) => say!("{}", line(role, companies, tables)),
        Err(error @ (GrantError::NoRole { .. } | GrantError::SeesAll { .. } | GrantError::TooOld { .. })) => {
            complain!("nxt-mirror: {error}");
            return Ok(ExitCode::from(2));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn line(role: &str, companies: Option<&[i64]>, tables: usize) -> String {
    let whose = match companies {
        None => "all rows".to_owned(),
        Some([one]) => format!("the rows of company {one}"),
        Some(several) => {
            let numbers: Vec<String> = several.iter().map(i64::to_string).collect();
            format!("the rows of companies {}", numbers.join(", "))
        }
    };
    format!("{role} may read {whose}, in {tables} mirrored tables and in those to come")
}
