//! Deliveries without what is left out (`NXT_EXCLUDE`), before they are stored.
//!
//! A body may carry a value wherever its sender likes. So of a body that may have any, a member is kept only if its name is
//! none of those left out, a list or an object only if no text in it is such a name, and a text only if it cannot be JSON of
//! its own.

use actix_web::web::Bytes;

use super::accept::{Delivery, Notification, Quarantine};
use crate::domain::{
    Exclusions,
    json::{Json, Kind, without_mark},
};

/// Members that tell which row a notification is about, and are never a column's value.
const OF_NOTIFICATION: [&str; 6] = ["tableIdentifier", "customerNo", "companyNo", "event", "primaryKeys", "timestamp"];
/// A column of which a notification has a value outside its changed columns.
const CHANGED_BY: &str = "changedByUser";
/// How deep values may lie; nobody sends deeper ones in earnest.
const DEPTH_MAX: usize = 32;

/// The delivery as it may be stored; `None` for one of a table that is left out.
pub(super) fn redacted(delivery: Delivery, exclusions: &Exclusions) -> Option<Delivery> {
    if exclusions.is_empty() {
        return Some(delivery);
    }
    match delivery {
        Delivery::Notification(notification) => of_notification(notification, exclusions),
        Delivery::Quarantine(quarantine) => Some(Delivery::Quarantine(of_quarantine(quarantine, exclusions)?)),
    }
}

fn of_notification(notification: Notification, exclusions: &Exclusions) -> Option<Delivery> {
    let table = notification.event.row.table.as_str();
    if exclusions.has_table(table) {
        return None;
    }
    if !exclusions.has_columns_of(table) {
        return Some(Delivery::Notification(notification));
    }
    let is_left_out = |name: &str| exclusions.has_column(table, name);
    if let Some(column) = notification.event.row.key.columns().find(|column| is_left_out(column)) {
        let reason = format!("the key has column {column}, which NXT_EXCLUDE leaves out");
        let quarantine = Quarantine { delivery_id: notification.delivery_id, reason, body: notification.body };
        return Some(Delivery::Quarantine(of_quarantine(quarantine, exclusions)?));
    }
    let body = Redaction { is_left_out: &is_left_out, keeps_key: true }.body(&notification.body)?;
    Some(Delivery::Notification(Notification {
        changed_by: notification.changed_by.filter(|_| !is_left_out(CHANGED_BY)),
        columns: notification.columns.into_iter().filter(|column| !is_left_out(column)).collect(),
        body,
        delivery_id: notification.delivery_id,
        event: notification.event,
    }))
}

/// Which table it is about may not be known, so that columns of any table are left out.
fn of_quarantine(quarantine: Quarantine, exclusions: &Exclusions) -> Option<Quarantine> {
    let is_left_out = |name: &str| exclusions.has_column_of_any(name);
    match (Redaction { is_left_out: &is_left_out, keeps_key: false }).body(&quarantine.body) {
        Some(body) if table_of(&body).is_some_and(|table| exclusions.has_table(&table)) => {
            tracing::debug!(bytes = body.len(), "a body of a table that is left out is not kept");
            None
        }
        Some(body) => Some(Quarantine { body, ..quarantine }),
        None => {
            let (reason, bytes) = (&quarantine.reason, quarantine.body.len());
            let reason = format!("{reason}; its {bytes} bytes are not kept, because NXT_EXCLUDE is set");
            Some(Quarantine { reason, body: Bytes::new(), ..quarantine })
        }
    }
}

fn table_of(body: &[u8]) -> Option<String> {
    let fields = Json::parse(std::str::from_utf8(body).ok()?).ok()?.members()?;
    Some(fields.get("tableIdentifier")?.storable_text()?.into_owned())
}

struct Redaction<'a> {
    is_left_out: &'a dyn Fn(&str) -> bool,
    /// Whether the key is known to have none of the columns.
    keeps_key: bool,
}

impl Redaction<'_> {
    /// The body as it may be kept; `None` for one that is no JSON.
    fn body(&self, body: &[u8]) -> Option<Bytes> {
        let json = Json::parse(std::str::from_utf8(without_mark(body)).ok()?).ok()?;
        let text = match json.members() {
            Some(fields) => object(fields.into_iter().filter_map(|(name, value)| {
                let is_plain = OF_NOTIFICATION.contains(&&*name) && (self.keeps_key || name != "primaryKeys");
                let kept =
                    if is_plain { Some(value.as_str().to_owned()) } else { self.member(&name, value, DEPTH_MAX) };
                Some((name.into_owned(), kept?))
            })),
            None => self.value(json, DEPTH_MAX).unwrap_or_else(|| "null".to_owned()),
        };
        Some(Bytes::from(text))
    }

    fn member(&self, name: &str, value: Json<'_>, depth: usize) -> Option<String> {
        if (self.is_left_out)(name) { None } else { self.value(value, depth) }
    }

    /// What is kept of a value; `None`: nothing.
    fn value(&self, json: Json<'_>, depth: usize) -> Option<String> {
        let depth = depth.checked_sub(1)?;
        match json.kind() {
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => Some(json.as_str().to_owned()),
            Kind::Text => {
                let text = json.storable_text()?;
                (!text.trim_start().starts_with(['{', '['])).then(|| json.as_str().to_owned())
            }
            Kind::List => {
                let items = json.items()?;
                let is_kept = items.iter().all(|item| !self.names_a_column(*item));
                let kept = || items.iter().filter_map(|item| self.value(*item, depth)).collect::<Vec<_>>().join(",");
                is_kept.then(|| format!("[{}]", kept()))
            }
            Kind::Object => {
                let members: Vec<_> = json.members()?.into_iter().collect();
                let is_kept = members.iter().all(|(_, value)| !self.names_a_column(*value));
                let kept = members
                    .iter()
                    .filter_map(|(name, value)| Some((name.to_string(), self.member(name, *value, depth)?)));
                is_kept.then(|| object(kept))
            }
        }
    }

    /// Whether a value is the name of a column that is left out, whose own value may stand beside it.
    fn names_a_column(&self, value: Json<'_>) -> bool {
        value.kind() == Kind::Text && value.storable_text().is_some_and(|text| (self.is_left_out)(&text))
    }
}

fn object(members: impl Iterator<Item = (String, String)>) -> String {
    let member = |(name, value): (String, String)| {
        format!("{}:{value}", serde_json::to_string(&name).expect("a text always serialises"))
    };
    format!("{{{}}}", members.map(member).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(body: &str, keeps_key: bool) -> Option<String> {
        let is_left_out = |name: &str| matches!(name.to_lowercase().as_str(), "phone" | "emailaddress");
        let body = Redaction { is_left_out: &is_left_out, keeps_key }.body(body.as_bytes())?;
        Some(String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn values_are_gone_wherever_they_stand() {
        for (body, kept) in [
            (
                r#"{"event":"UPDATE","changedColumns":[{"Phone":"1"},{"Name":"n"}]}"#,
                r#"{"event":"UPDATE","changedColumns":[{},{"Name":"n"}]}"#,
            ),
            (r#"{"changedColumns":{"PHONE":"1","Ph\u006fne":"2","Name":1.50}}"#, r#"{"changedColumns":{"Name":1.50}}"#),
            (r#"{"changedColumns":[{"name":"Phone","value":"1"},["emailAddress","x"]]}"#, r#"{"changedColumns":[]}"#),
            (
                r#"{"changedColumns":"[{\"Phone\":\"1\"}]","phone":"1","more":{"deep":[{"Phone":1}]}}"#,
                r#"{"more":{"deep":[{}]}}"#,
            ),
            (r#"[{"Phone":"1"}]"#, "[{}]"),
        ] {
            assert_eq!(redact(body, true).as_deref(), Some(kept), "{body}");
        }
        assert_eq!(redact("not JSON", true), None);
    }

    #[test]
    fn a_key_is_kept_where_it_is_known_to_be_one() {
        let body = r#"{"primaryKeys":[{"ProductNo":"phone"}],"companyNo":1}"#;
        assert_eq!(redact(body, true).as_deref(), Some(body));
        assert_eq!(redact(body, false).as_deref(), Some(r#"{"primaryKeys":[],"companyNo":1}"#));
    }

    #[test]
    fn what_lies_deeper_than_anything_sent_in_earnest_is_dropped() {
        let body = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(redact(&body, true).is_some_and(|kept| kept.len() < 100));
    }
}
