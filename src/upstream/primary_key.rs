//! The primary key of a table: who tells it, and how descriptions mark it.

use std::collections::BTreeSet;

use super::{
    describe::{DescribeError, Hints, without_twins},
    queries::RowField,
};
use crate::domain::{Column, TableName};

/// Keys of well-known tables, the last resort. From the documentation of webhooks and of the API, from that of the model of
/// Visma Business, which prints whole keys, and from clients in production. Where none of them attests every column, the
/// table is left out.
const KEYS: [(&str, &[&str]); 32] = [
    ("AccountGroup", &["accountGroup"]),
    ("Associate", &["associateNo"]),
    // The number is free again when the batch is posted.
    ("Batch", &["batchNo"]),
    ("Company", &["companyNo"]),
    ("Country", &["countryNo"]),
    ("Currency", &["currencyNo"]),
    ("CustomerTransaction", &["voucherJournalNo", "auditNo"]),
    ("DeliveryAlternative", &["productNo", "lineNo"]),
    ("Document", &["documentNo"]),
    ("GeneralLedgerAccount", &["accountNo"]),
    ("GeneralLedgerTransaction", &["voucherJournalNo", "auditNo"]),
    ("Language", &["languageNo"]),
    ("OpenCustomerEntry", &["voucherJournalNo", "auditNo"]),
    ("OpenSupplierEntry", &["voucherJournalNo", "auditNo"]),
    ("Order", &["orderNo"]),
    ("OrderJournal", &["orderJournalNo"]),
    ("OrderLine", &["orderNo", "lineNo"]),
    ("PriceAndDiscountMatrix", &["lineNo"]),
    ("Product", &["productNo"]),
    ("ProductCustomer", &["productNo", "customerNo"]),
    ("RealisationJournal", &["voucherJournalNo"]),
    ("Shipment", &["productNo", "warehouseNo", "shipmentNo"]),
    ("StockBalance", &["productNo", "warehouseNo"]),
    ("SupplierTransaction", &["voucherJournalNo", "auditNo"]),
    ("TaxCode", &["taxCode"]),
    // A text may run over several lines.
    ("Text", &["languageNo", "textType", "textNo", "lineNo"]),
    ("Unit", &["unit"]),
    ("UpdatedBatch", &["voucherJournalNo", "batchNo"]),
    ("UpdatedVoucher", &["voucherJournalNo", "batchNo", "lineNo"]),
    // Not the number of the voucher, which repeats within a batch.
    ("Voucher", &["batchNo", "lineNo"]),
    ("VoucherSeries", &["voucherSeriesNo"]),
    ("VoucherType", &["voucherType"]),
];

/// Words that say of a column that it belongs to the key.
const KEY_PHRASES: [&str; 4] =
    ["part of the primary key", "is the primary key", "is a primary key", "primary key column"];

/// The key, from the first of these that knows it: the settings, marks in the descriptions, a notification, the built-in
/// list. A notification that names the same columns as the descriptions changes nothing but confirms them; where they
/// differ the descriptions win, because one odd notification must not shape a table for good. Descriptions without a mark
/// say nothing of the key, never that there is none.
pub(super) fn find(
    table: &TableName,
    columns: &[Column],
    fields: &[RowField],
    hints: Hints<'_>,
) -> Result<Vec<usize>, DescribeError> {
    if let Some(configured) = hints.configured.key {
        return resolve(table, columns, configured, "NXT_KEYS");
    }
    let marked = marked(fields);
    if !marked.is_empty() {
        return resolve(table, columns, &marked, "marked as key");
    }
    let built_in = built_in(table);
    if let Some(announced) = hints.announced {
        // The same columns in the order that is known to be the source's.
        let folded = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<_>>();
        let key = built_in.filter(|known| folded(known) == folded(announced));
        return resolve(table, columns, key.as_deref().unwrap_or(announced), "from a notification");
    }
    // One that names a column that is not there was made for another table.
    built_in
        .and_then(|key| resolve(table, columns, &key, "built in").ok())
        .ok_or_else(|| DescribeError::NoKey { table: table.clone() })
}

fn built_in(table: &TableName) -> Option<Vec<String>> {
    let listed = KEYS.iter().find(|(name, _)| *name == table.as_str()).map(|(_, key)| *key);
    let listed = listed.map(|key| key.iter().map(|name| (*name).to_owned()).collect());
    listed.or_else(|| Some(vec![org_unit_key(table)?]))
}

/// Columns that descriptions mark as part of the key: in the order of the marks' numbers if all have one, else in that of
/// the columns.
fn marked(fields: &[RowField]) -> Vec<String> {
    let mut marked: Vec<(Option<u32>, &str)> =
        without_twins(fields).filter_map(|field| Some((mark(&field.description)?, field.name.as_str()))).collect();
    if marked.iter().all(|(number, _)| number.is_some()) {
        marked.sort_by_key(|(number, _)| *number);
    }
    marked.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Whether a description marks its column as part of the key, and the number it gives it there.
///
/// `[PK] Column "ActNo" (4028) / Model.Column.ActorNo.` is the wording of 2022. It was changed in 2024 and the new one is
/// not known, so that several are understood: a mark in brackets of any kind anywhere, and plain words. A description
/// that only refers to another table's key has none of them.
fn mark(description: &str) -> Option<Option<u32>> {
    let text = description.to_lowercase();
    let parts = bracketed(&text).into_iter().flat_map(|inside| inside.split([',', ';', '/', '|', '+']));
    parts.filter_map(key_mark).next().or_else(|| is_said_to_be_key(&text).then_some(None))
}

/// Whether plain words say so.
fn is_said_to_be_key(text: &str) -> bool {
    let begins = text.trim_start().strip_prefix("primary key");
    let is_affirmed = |phrase: &str| text.match_indices(phrase).any(|(at, _)| !text[..at].trim_end().ends_with("not"));
    begins.is_some_and(|rest| !rest.trim_start().starts_with("of"))
        || KEY_PHRASES.iter().any(|&phrase| is_affirmed(phrase))
}

/// What stands in brackets.
fn bracketed(text: &str) -> Vec<&str> {
    let inside =
        |(open, close): (char, char)| text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0));
    [('[', ']'), ('(', ')'), ('{', '}')].into_iter().flat_map(inside).collect()
}

/// `pk`, `pk2`, `primary key 2`
fn key_mark(text: &str) -> Option<Option<u32>> {
    let text = text.trim();
    let rest = text.strip_prefix("pk").or_else(|| text.strip_prefix("primary key"))?.trim();
    if rest.is_empty() { Some(None) } else { rest.parse().ok().map(Some) }
}

/// `OrgUnit1` to `OrgUnit12` have `orgUnit1No` to `orgUnit12No`.
fn org_unit_key(table: &TableName) -> Option<String> {
    let number = table.as_str().strip_prefix("OrgUnit")?;
    number.parse::<u8>().ok().filter(|number| (1..=12).contains(number)).map(|number| format!("orgUnit{number}No"))
}

fn resolve(
    table: &TableName,
    columns: &[Column],
    key: &[String],
    origin: &'static str,
) -> Result<Vec<usize>, DescribeError> {
    key.iter()
        .map(|name| {
            let exactly = columns.iter().position(|column| column.name == *name);
            exactly
                .or_else(|| columns.iter().position(|column| column.name.eq_ignore_ascii_case(name)))
                .ok_or_else(|| DescribeError::NoSuchColumn { table: table.clone(), column: name.clone(), origin })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_understood_in_several_wordings() {
        for marked in [
            "[PK] Column \"ActNo\" (4028) / Model.Column.ActorNo.",
            "Column \"ActNo\" (4028) [pk]. The number.",
            "The number (PK, read only)",
            "{PK} ActNo",
            "[FK, PK] ActNo (4028)",
            "Primary key. The number of the associate.",
            "ActNo (4028), part of the primary key",
            "[Primary key] ActNo",
        ] {
            assert_eq!(mark(marked), Some(None), "{marked}");
        }
        for plain in [
            "Column \"CustNo\" (4045) / Model.Column.CustomerNo.",
            "Refers to the primary key of \"Country\" (29).",
            "Primary key of the order that it belongs to",
            "[FK to PK] CtryNo",
            "It is not part of the primary key.",
            "PKW number (pkw)",
            "[FK] CtryNo",
            "",
        ] {
            assert_eq!(mark(plain), None, "{plain}");
        }
    }
}
