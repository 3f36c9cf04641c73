//! From the bytes of a body to a [`ChangeEvent`]: the wire shape ends here.
//!
//! Strict about what identifies the row and dates the change, tolerant about the rest: `changedColumns` and
//! `changedByUser` are hints, unknown fields may come any day, and none of them is a reason to lose a change.

use std::borrow::Cow;

use crate::domain::{
    AnnouncedKey, AnnouncedRow, ChangeEvent, ChangeKind, KeyError, KeyValue, SourceTime, TableName, Tenant,
    json::{Json, Kind, Members, storable, without_mark},
    naming,
    table::BadTableName,
    time,
};

/// Why a signed body cannot be understood. The text is stored with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("field {0} is missing")]
    Missing(&'static str),
    #[error("field {0} is not {1}")]
    WrongType(&'static str, &'static str),
    #[error("event {0:?} is none of INSERT, UPDATE and DELETE")]
    UnknownEvent(String),
    #[error("companyNo and customerNo are both 0")]
    NoTenant,
    #[error("the number of the {0} is {1}, and none is negative")]
    NegativeTenant(&'static str, i64),
    #[error("tableIdentifier: {0}")]
    Table(#[from] BadTableName),
    #[error("primaryKeys: {0}")]
    Key(#[from] KeyError),
    #[error("primaryKeys: the value of {0:?} is neither a string nor an integer of 64 bits")]
    KeyValue(String),
    #[error("the timestamp of a DELETE cannot be read: {0:?}")]
    Timestamp(String),
}

/// What a body says.
#[derive(Debug, PartialEq, Eq)]
pub struct Payload {
    /// The change.
    pub event: ChangeEvent,
    /// Who made it.
    pub changed_by: Option<String>,
    /// Names of the columns that changed, as received.
    pub columns: Vec<String>,
}

/// Reads one body.
pub(super) fn parse(body: &[u8]) -> Result<Payload, PayloadError> {
    let text = std::str::from_utf8(without_mark(body)).map_err(|_| PayloadError::NotUtf8)?;
    let json = Json::parse(text).map_err(|error| PayloadError::NotJson(error.to_string()))?;
    let fields = json.members().ok_or(PayloadError::NotAnObject)?;
    let row = AnnouncedRow { table: table(&fields)?, tenant: tenant(&fields)?, key: key(&fields)? };
    let kind = kind(&fields)?;
    // Rows of such a key come and go with walks.
    if row.key.is_blank() {
        return Err(KeyError::Empty.into());
    }
    let changed_by = fields.get("changedByUser").and_then(Json::storable_text).map(Cow::into_owned);
    Ok(Payload { event: ChangeEvent { row, kind }, changed_by, columns: columns(&fields) })
}

fn table(fields: &Members<'_>) -> Result<TableName, PayloadError> {
    Ok(TableName::new(text(fields, "tableIdentifier")?)?)
}

fn tenant(fields: &Members<'_>) -> Result<Tenant, PayloadError> {
    let (company, customer) = (integer(fields, "companyNo")?, integer(fields, "customerNo")?);
    let tenant = Tenant::from_numbers(company, customer).ok_or(PayloadError::NoTenant)?;
    match tenant.number() {
        number if number < 0 => Err(PayloadError::NegativeTenant(tenant.kind(), number)),
        _ => Ok(tenant),
    }
}

fn key(fields: &Members<'_>) -> Result<AnnouncedKey, PayloadError> {
    const NAME: &str = "primaryKeys";
    const TYPE: &str = "a list of objects";
    let entries = required(fields, NAME)?.items().ok_or(PayloadError::WrongType(NAME, TYPE))?;
    let mut columns = Vec::with_capacity(entries.len());
    for entry in entries {
        for (name, value) in entry.members().ok_or(PayloadError::WrongType(NAME, TYPE))? {
            let value = KeyValue::read(value).ok_or_else(|| PayloadError::KeyValue(name.to_string()))?;
            columns.push((name.into_owned(), value));
        }
    }
    Ok(AnnouncedKey::new(columns)?)
}

fn kind(fields: &Members<'_>) -> Result<ChangeKind, PayloadError> {
    match &*text(fields, "event")? {
        "INSERT" => Ok(ChangeKind::Insert { changed_at: changed_at(fields) }),
        "UPDATE" => Ok(ChangeKind::Update { changed_at: changed_at(fields) }),
        "DELETE" => {
            let timestamp = text(fields, "timestamp")?;
            let deleted_at = time::parse_utc(&timestamp).ok_or_else(|| PayloadError::Timestamp(timestamp.into()))?;
            Ok(ChangeKind::Delete { deleted_at })
        }
        other => Err(PayloadError::UnknownEvent(other.to_owned())),
    }
}

/// `ChangedTimestamp` among the changed columns, which is absent in payloads from before 2025 and a hint in all.
fn changed_at(fields: &Members<'_>) -> Option<SourceTime> {
    let hints = hints(fields)?;
    let (_, value) = changed(&hints).find(|(name, _)| name.eq_ignore_ascii_case("changedTimestamp"))?;
    match value.kind() {
        Kind::Number(_) => time::from_webhook_digits(value.integer()?),
        Kind::Text => time::parse_utc(&value.text()?),
        Kind::Null | Kind::Bool(_) | Kind::List | Kind::Object => None,
    }
}

/// Names in `changedColumns`; what cannot be a name is no news.
fn columns(fields: &Members<'_>) -> Vec<String> {
    let Some(hints) = hints(fields) else { return Vec::new() };
    changed(&hints).map(|(name, _)| name.into_owned()).filter(|name| naming::is_well_formed(name)).collect()
}

/// `changedColumns` as a text without half characters, which must not spoil the rest of it.
fn hints<'a>(fields: &Members<'a>) -> Option<Cow<'a, str>> {
    fields.get("changedColumns").map(|hints| storable(hints.as_str()))
}

/// The columns in a list of objects, and their values.
fn changed(hints: &str) -> impl Iterator<Item = (Cow<'_, str>, Json<'_>)> {
    let entries = Json::parse(hints).ok().and_then(Json::items).unwrap_or_default();
    entries.into_iter().filter_map(Json::members).flatten()
}

fn required<'a>(fields: &Members<'a>, name: &'static str) -> Result<Json<'a>, PayloadError> {
    fields.get(name).ok_or(PayloadError::Missing(name))
}

fn text<'a>(fields: &Members<'a>, name: &'static str) -> Result<Cow<'a, str>, PayloadError> {
    required(fields, name)?.text().ok_or(PayloadError::WrongType(name, "a string"))
}

fn integer(fields: &Members<'_>, name: &'static str) -> Result<i64, PayloadError> {
    let number = required(fields, name)?.as_str().parse();
    number.map_err(|_| PayloadError::WrongType(name, "an integer"))
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const PUBLISHED: &[u8] = include_bytes!("../../tests/fixtures/order-line-insert.json");

    fn body() -> Value {
        json!({
            "tableIdentifier": "Order", "customerNo": 1, "companyNo": 2, "event": "DELETE",
            "primaryKeys": [{"OrderNo": 4711}], "timestamp": "2024-05-07T08:17:38.3221987Z"
        })
    }

    fn with(field: &str, value: Value) -> Result<Payload, PayloadError> {
        let mut body = body();
        body[field] = value;
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn the_published_example_is_understood() {
        let payload = parse(PUBLISHED).unwrap();
        let row = &payload.event.row;
        assert_eq!((row.table.as_str(), row.tenant), ("OrderLine", Tenant::Company(5_199_768)));
        assert_eq!(row.key.canonical(), r#"{"lineno":1,"orderno":3}"#);
        let changed_at = Utc.with_ymd_and_hms(2025, 2, 6, 21, 15, 28).unwrap() + chrono::Duration::milliseconds(366);
        let changed_at = Some(SourceTime::new(changed_at));
        assert_eq!(payload.event.kind, ChangeKind::Insert { changed_at });
        assert!(payload.columns.iter().any(|name| name == "ChangedTimestamp"), "{:?}", payload.columns);
        assert_eq!(payload.changed_by.as_deref(), Some("ola.normann"));
    }

    #[test]
    fn every_field_that_is_needed_is_missed() {
        for field in ["tableIdentifier", "customerNo", "companyNo", "event", "primaryKeys", "timestamp"] {
            let mut body = body();
            body.as_object_mut().unwrap().remove(field);
            assert_eq!(parse(body.to_string().as_bytes()), Err(PayloadError::Missing(field)));
            assert!(with(field, json!({})).is_err(), "{field}");
            assert!(with(field, Value::Null).is_err(), "{field}");
        }
    }

    #[test]
    fn only_a_delete_needs_its_timestamp() {
        for event in ["INSERT", "UPDATE"] {
            let mut body = body();
            body["event"] = json!(event);
            body["timestamp"] = json!("soon");
            assert!(parse(body.to_string().as_bytes()).is_ok());
        }
        assert_eq!(with("timestamp", json!("soon")), Err(PayloadError::Timestamp("soon".into())));
    }

    #[test]
    fn key_values_that_cannot_be_are_refused() {
        for value in ["null", "true", "[]", "{}", "1.5", "1.0", "1e2", "9223372036854775808"] {
            let keys: Value = serde_json::from_str(&format!(r#"[{{"OrderNo": {value}}}]"#)).unwrap();
            assert!(with("primaryKeys", keys).is_err(), "{value}");
        }
        for keys in [json!([]), json!([{}]), json!([1]), json!({"OrderNo": 1}), json!([{"A": 1}, {"a": 2}])] {
            assert!(with("primaryKeys", keys.clone()).is_err(), "{keys}");
        }
        assert!(with("primaryKeys", json!([{"OrderNo": i64::MIN}])).is_ok());
    }

    #[test]
    fn a_byte_order_mark_before_a_body_says_nothing() {
        let marked = [b"\xef\xbb\xbf", body().to_string().as_bytes()].concat();
        assert_eq!(parse(&marked), parse(body().to_string().as_bytes()));
        assert!(parse(b"\xef\xbb\xbf").is_err());
    }

    #[test]
    fn a_key_may_be_any_text_but_a_blank_one_whatever_the_event() {
        for text in ["a\0b", "'", "\"", "\\", "%_[", "12"] {
            let payload = with("primaryKeys", json!([{"ProductNo": text}])).unwrap();
            let expected = json!({ "productno": text.replace('\0', "\u{fffd}") });
            assert_eq!(payload.event.row.key.canonical(), expected.to_string());
        }
        for (event, text) in ["INSERT", "UPDATE", "DELETE"].into_iter().zip(["", "  ", ""]) {
            let mut body = body();
            body["event"] = json!(event);
            body["primaryKeys"] = json!([{"ProductNo": text}]);
            assert_eq!(parse(body.to_string().as_bytes()), Err(KeyError::Empty.into()), "{event}");
            body["primaryKeys"] = json!([{"ProductNo": text}, {"LineNo": 0}]);
            assert!(parse(body.to_string().as_bytes()).is_ok(), "{event}");
        }
    }

    #[test]
    fn a_tenant_has_a_positive_number() {
        for (company, customer) in [(-1, 0), (-1, 5), (0, -1), (i64::MIN, 1)] {
            let mut body = body();
            body["companyNo"] = json!(company);
            body["customerNo"] = json!(customer);
            let parsed = parse(body.to_string().as_bytes());
            assert!(matches!(parsed, Err(PayloadError::NegativeTenant(..))), "{company} {customer}: {parsed:?}");
        }
        // The customer does not count beside a company.
        assert_eq!(with("customerNo", json!(-1)).unwrap().event.row.tenant, Tenant::Company(2));
    }

    #[test]
    fn half_a_character_is_replaced_in_a_hint_and_refused_in_a_key() {
        let hinted = body().to_string().replace("Order\",", r#"Order","changedByUser":"\ud800x","note":"\udc00","#);
        assert_eq!(parse(hinted.as_bytes()).unwrap().changed_by.as_deref(), Some("\u{fffd}x"));
        let column =
            body().to_string().replace("Order\",", r#"Order","changedColumns":[{"\ud800":1},{"Name":"\ud800"}],"#);
        assert_eq!(parse(column.as_bytes()).unwrap().columns, ["Name"]);
        for key in [r#"{"OrderNo":"\ud800"}"#, r#"{"\ud800":1}"#] {
            let keyed = body().to_string().replace(r#"{"OrderNo":4711}"#, key);
            assert!(parse(keyed.as_bytes()).is_err(), "{key}");
        }
    }

    #[test]
    fn a_member_named_like_the_library_s_own_marker_is_neither_number_nor_trouble() {
        for marker in [r#"{"$serde_json::private::Number":"5"}"#, r#"{"$serde_json::private::RawValue":"5"}"#] {
            for hint in ["changedColumns", "changedByUser", "somethingNew"] {
                let hinted = body().to_string().replace("Order\",", &format!(r#"Order","{hint}":[{marker}],"#));
                assert!(parse(hinted.as_bytes()).is_ok(), "{hinted}");
            }
            let keyed = body().to_string().replace("4711", marker);
            assert_eq!(parse(keyed.as_bytes()), Err(PayloadError::KeyValue("OrderNo".into())));
            let numbered = body().to_string().replace("\"companyNo\":2", &format!(r#""companyNo":{marker}"#));
            assert_eq!(parse(numbered.as_bytes()), Err(PayloadError::WrongType("companyNo", "an integer")));
        }
    }

    #[test]
    fn hints_of_any_shape_do_not_lose_the_change() {
        for value in [json!(null), json!("x"), json!([1]), json!([{"ChangedTimestamp": "x"}]), json!({"a": []})] {
            assert!(with("changedColumns", value.clone()).is_ok(), "{value}");
            assert!(with("changedByUser", value).is_ok());
        }
        assert!(with("somethingNew", json!({"a": [1]})).is_ok());
    }

    #[test]
    fn both_tenant_numbers_0_and_unknown_events_are_refused() {
        let mut nobody = body();
        nobody["companyNo"] = json!(0);
        nobody["customerNo"] = json!(0);
        assert_eq!(parse(nobody.to_string().as_bytes()), Err(PayloadError::NoTenant));
        assert_eq!(with("event", json!("delete")), Err(PayloadError::UnknownEvent("delete".into())));
        assert!(with("tableIdentifier", json!("Order\"; drop table x")).is_err());
        assert_eq!(parse(b"\xff"), Err(PayloadError::NotUtf8));
        assert!(matches!(parse(b"{"), Err(PayloadError::NotJson(_))));
        assert_eq!(parse(b"[]"), Err(PayloadError::NotAnObject));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_key_of_strings_and_integers_is_read_back_as_sent(number in any::<i64>(), text in "[^\0]{1,40}[^\0\\s]") {
            let payload = with("primaryKeys", json!([{"B": text}, {"A": number}])).unwrap();
            let expected = json!({"a": number, "b": text}).to_string();
            let read: Value = serde_json::from_str(&payload.event.row.key.canonical()).unwrap();
            prop_assert_eq!(read.to_string(), expected);
        }
    }
}
