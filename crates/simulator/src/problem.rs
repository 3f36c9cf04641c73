//! Why a field is null, and where that is told.

use std::sync::Arc;

use async_graphql::{
    Error,
    dynamic::{FieldValue, ResolverContext},
};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

/// Errors of fields, collected while one operation is executed.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldErrors(Arc<Mutex<Vec<Json>>>);

impl FieldErrors {
    fn push(&self, error: Json) {
        self.0.lock().push(error);
    }

    pub(super) fn take(&self) -> Vec<Json> {
        std::mem::take(&mut self.0.lock())
    }
}

/// Why a field is null. The library would null the whole answer; the API nulls the field.
pub(super) enum Problem {
    /// No access: an error without a path.
    Context(String),
    /// Anything else, with `extensions` where it has a code.
    Field(String, Option<Json>),
}

impl Problem {
    pub(super) fn field(message: impl Into<String>) -> Self {
        Self::Field(message.into(), None)
    }
}

pub(super) fn null_on_problem<'a>(
    ctx: &ResolverContext<'_>,
    result: Result<FieldValue<'a>, Problem>,
) -> Result<Option<FieldValue<'a>>, Error> {
    let problem = match result {
        Ok(value) => return Ok(Some(value)),
        Err(problem) => problem,
    };
    let path = ctx.path_node.as_ref().map(|node| node.to_string_vec()).unwrap_or_default();
    let error = match problem {
        Problem::Context(message) => json!({ "message": message }),
        Problem::Field(message, None) => json!({ "message": message, "path": path }),
        Problem::Field(message, Some(extensions)) => {
            json!({ "message": message, "path": path, "extensions": extensions })
        }
    };
    ctx.data::<FieldErrors>()?.push(error);
    Ok(None)
}
