//! From introspection to a [`TableSpec`]: which fields are columns, and of which type.

use std::collections::HashSet;

use super::{
    documentation, primary_key,
    queries::{RowField, RowType, TableField},
};
use crate::domain::{
    Column,
    ColumnType::{self, BigInt, Integer, SmallInt, Text},
    Exclusions, ExtensionColumn, TableName, TableSpec, Twin, naming,
};

/// Why a table cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// No source tells the key.
    #[error(
        "the primary key of table {table} is not known, so it cannot be mirrored; \
         set NXT_KEYS to tell it, for example NXT_KEYS=\"{table}=firstColumn+secondColumn\""
    )]
    NoKey {
        /// The table.
        table: TableName,
    },
    /// The key names a column that the table does not have.
    #[error("the primary key of table {table} names column {column} ({origin}), which the API does not show")]
    NoSuchColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// Who named it.
        origin: &'static str,
    },
    /// The row type has no columns at all.
    #[error("the API shows no columns of table {table}")]
    NoColumns {
        /// The table.
        table: TableName,
    },
    /// The settings leave out the table.
    #[error("NXT_EXCLUDE names table {table}, so it is not mirrored")]
    ExcludedTable {
        /// The table.
        table: TableName,
    },
    /// The settings leave out a column without which no row can be named.
    #[error(
        "NXT_EXCLUDE names {table}.{column}, which is part of the primary key: leave it in, or leave out the whole table"
    )]
    ExcludedKey {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A key column whose values cannot name a row.
    #[error(
        "the primary key of table {table} has column {column} of type {kind}, and only integers and texts name a row; set \
         NXT_KEYS if another key does"
    )]
    KeyType {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// Its type in the mirror.
        kind: &'static str,
    },
}

/// What the settings say of a table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Configured<'a> {
    /// `NXT_EXCLUDE`.
    pub(super) exclusions: Option<&'a Exclusions>,
    /// `NXT_KEYS`.
    pub(super) key: Option<&'a [String]>,
    /// `NXT_EXTENSION_COLUMNS`.
    pub(super) extensions: &'a [ExtensionColumn],
}

/// What else tells of a table, beside its descriptions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hints<'a> {
    /// The settings.
    pub(super) configured: Configured<'a>,
    /// The columns of a received notification, in its order.
    pub(super) announced: Option<&'a [String]>,
}

/// Describes a table.
pub(super) fn describe(table: &TableField, row_type: &RowType, hints: Hints<'_>) -> Result<TableSpec, DescribeError> {
    let fields = row_type.fields.as_slice();
    let name = TableName::new(naming::pascal_case(&table.field)).expect("GraphQL names are well formed");
    let columns = columns(fields);
    if columns.is_empty() {
        return Err(DescribeError::NoColumns { table: name });
    }
    let key = primary_key::find(&name, &columns, fields, hints)?;
    let names_no_row = |column: &&Column| !matches!(column.kind, SmallInt | Integer | BigInt | Text);
    if let Some(column) = key.iter().map(|&index| &columns[index]).find(names_no_row) {
        return Err(DescribeError::KeyType { table: name, column: column.name.clone(), kind: column.kind.sql() });
    }
    let sql_name = naming::snake_case(name.as_str());
    let spec = TableSpec {
        field: table.field.clone(),
        sql_name,
        level: table.level,
        columns,
        key,
        name,
        origin: documentation::origin(&row_type.description),
        joins: fields.iter().filter_map(|field| documentation::join(&field.name, &field.description)).collect(),
    };
    hints.configured.without_excluded(spec.with_extensions(extensions(fields, hints.configured)))
}

impl Configured<'_> {
    /// The table without what `NXT_EXCLUDE` leaves out, be it all of it.
    pub(super) fn without_excluded(self, spec: TableSpec) -> Result<TableSpec, DescribeError> {
        let Some(exclusions) = self.exclusions else { return Ok(spec) };
        let table = spec.name.clone();
        if exclusions.has_table(table.as_str()) {
            return Err(DescribeError::ExcludedTable { table });
        }
        exclusions.applied_to(spec).map_err(|column| DescribeError::ExcludedKey { table, column })
    }
}

/// The customer's own columns, where the API lets them be asked for: every row type has `extensions` since 2026-03.
fn extensions<'a>(fields: &[RowField], configured: Configured<'a>) -> &'a [ExtensionColumn] {
    let is_there = fields.iter().any(|field| field.name == "extensions" && field.leaf.is_none());
    if is_there { configured.extensions } else { &[] }
}

/// Scalars and enums, without the twins whose base column exists and without binary content.
fn columns(fields: &[RowField]) -> Vec<Column> {
    let mut known = HashSet::new();
    let names: HashSet<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    let kept: Vec<(&RowField, ColumnType)> = without_twins(fields)
        // Another name could not be asked for, and one that comes again is the same field.
        .filter(|field| naming::is_well_formed(&field.name) && known.insert(field.name.as_str()))
        .filter_map(|field| Some((field, field.leaf.as_ref()?.column_type(&field.name)?)))
        .collect();
    let sql_names =
        naming::column_names(&kept.iter().map(|(field, _)| field.name.as_str()).collect::<Vec<_>>(), |_| None);
    let column = |((field, kind), sql_name): ((&RowField, ColumnType), String)| Column {
        sql_name,
        twin: twin(&field.name, kind, &names),
        origin: documentation::origin(&field.description),
        ..Column::new(&field.name, kind)
    };
    kept.into_iter().zip(sql_names).map(column).collect()
}

/// The second form of a column of integers (API notes, enum domains and bit flags).
fn twin(column: &str, kind: ColumnType, names: &HashSet<&str>) -> Option<Twin> {
    let is_number = matches!(kind, SmallInt | Integer | BigInt);
    let has = |twin: &Twin| names.contains(format!("{column}{}", twin.ending()).as_str());
    Twin::ALL.into_iter().find(has).filter(|_| is_number)
}

/// Fields that repeat no other one.
pub(super) fn without_twins(fields: &[RowField]) -> impl Iterator<Item = &RowField> {
    let names: HashSet<_> = fields.iter().map(|field| field.name.as_str()).collect();
    let is_twin = move |name: &str| {
        Twin::ALL.iter().any(|twin| name.strip_suffix(twin.ending()).is_some_and(|base| names.contains(base)))
    };
    fields.iter().filter(move |field| !is_twin(&field.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{ExtensionType, TableLevel},
        upstream::queries::Leaf,
    };

    fn field(name: &str, scalar: &str, description: &str) -> RowField {
        let leaf = (!scalar.is_empty()).then(|| Leaf::Scalar(scalar.into()));
        RowField { name: name.into(), description: description.into(), leaf }
    }

    fn describe(table: &TableField, fields: &[RowField], hints: Hints<'_>) -> Result<TableSpec, DescribeError> {
        let row_type = RowType { description: String::new(), fields: fields.to_vec() };
        super::describe(table, &row_type, hints)
    }

    fn table(name: &str) -> TableField {
        TableField { level: TableLevel::Company, field: name.into() }
    }

    fn key_names(spec: &TableSpec) -> Vec<&str> {
        spec.key_columns().map(|column| column.name.as_str()).collect()
    }

    fn voucher() -> Vec<RowField> {
        vec![
            field("batchNo", "Int", "Column \"BatchNo\" (1)."),
            field("voucherNo", "Int", ""),
            field("text", "String", ""),
        ]
    }

    #[test]
    fn joins_twins_and_binaries_are_left_out() {
        let fields = [
            field("orderNo", "Int", "[PK] Column \"OrdNo\" (1) / Model.Column.OrderNo."),
            field("orderDate", "Int", ""),
            field("orderDateAsDate", "Date", ""),
            field("orderType", "Int", ""),
            field("orderTypeAsEnum", "OrderType", ""),
            field("lonelyAsDate", "Date", ""),
            field("changedTimestamp", "DateTime", ""),
            field("deliveredAt", "DateTime", ""),
            field("picture", "Base64", ""),
            field("joinup_Associate", "", ""),
            field("strange", "Hologram", ""),
        ];
        let spec = describe(&table("order"), &fields, Hints::default()).unwrap();
        let columns: Vec<_> = spec.columns.iter().map(|column| (column.sql_name.as_str(), column.kind)).collect();
        assert_eq!(
            columns,
            [
                ("order_no", ColumnType::Integer),
                ("order_date", ColumnType::Integer),
                ("order_type", ColumnType::Integer),
                ("lonely_as_date", ColumnType::Date),
                ("changed_timestamp", ColumnType::TimestampTz),
                ("delivered_at", ColumnType::Timestamp),
                ("strange", ColumnType::Text),
            ]
        );
        assert_eq!((spec.name.as_str(), spec.sql_name.as_str()), ("Order", "order"));
        assert_eq!(key_names(&spec), ["orderNo"]);
    }

    #[test]
    fn columns_of_the_customer_s_own_come_behind_and_only_where_they_can_be_asked_for() {
        let extension = |name: &str| ExtensionColumn { name: name.into(), kind: ExtensionType::Time };
        let (new, taken) = ([extension("MyDme_openFrom")], [extension("batch_No"), extension("BatchNo")]);
        let describe_with = |fields: &[RowField], extensions| {
            let configured = Configured { extensions, ..Configured::default() };
            describe(&table("order"), fields, Hints { configured, announced: None })
        };
        let names = |spec: TableSpec| spec.columns.into_iter().map(|column| column.sql_name).collect::<Vec<_>>();
        let mut fields = vec![field("orderNo", "Int", "[PK]"), field("batchNo", "Int", "")];
        assert_eq!(names(describe_with(&fields, &new).unwrap()), ["order_no", "batch_no"]);
        fields.insert(0, field("extensions", "", ""));
        assert_eq!(names(describe_with(&fields, &new).unwrap()), ["order_no", "batch_no", "my_dme_open_from"]);
        // One that has the mirrored name of another one gets a suffix, and what the table has anyway is its own.
        let names = names(describe_with(&fields, &taken).unwrap());
        assert!(names.len() == 3 && names[2].starts_with("batch_no_"), "{names:?}");
    }

    #[test]
    fn the_settings_know_the_key_best() {
        let configured = ["voucherno".to_owned(), "batchNo".to_owned()];
        let configured = Configured { key: Some(&configured), ..Configured::default() };
        let hints = Hints { configured, announced: None };
        assert_eq!(key_names(&describe(&table("voucher"), &voucher(), hints).unwrap()), ["voucherNo", "batchNo"]);
    }

    #[test]
    fn a_notification_tells_the_key_where_no_description_does() {
        let announced = ["BatchNo".to_owned(), "VoucherNo".to_owned()];
        let hints = Hints { announced: Some(&announced), ..Hints::default() };
        assert_eq!(key_names(&describe(&table("voucher"), &voucher(), hints).unwrap()), ["batchNo", "voucherNo"]);
    }

    #[test]
    fn a_table_whose_key_nobody_knows_is_refused_with_the_way_out() {
        let error = describe(&table("voucher"), &voucher(), Hints::default()).unwrap_err();
        assert!(error.to_string().contains("NXT_KEYS=\"Voucher="), "{error}");
    }

    #[test]
    fn a_key_column_that_the_api_does_not_show_is_refused() {
        let announced = ["Nonsense".to_owned()];
        let hints = Hints { announced: Some(&announced), ..Hints::default() };
        let error = describe(&table("voucher"), &voucher(), hints).unwrap_err();
        assert!(matches!(error, DescribeError::NoSuchColumn { .. }));
    }

    #[test]
    fn the_built_in_list_is_the_last_resort() {
        let fields = [field("orgUnit3No", "Int", ""), field("name", "String", "")];
        assert_eq!(key_names(&describe(&table("orgUnit3"), &fields, Hints::default()).unwrap()), ["orgUnit3No"]);
    }

    #[test]
    fn columns_of_one_sql_name_and_names_of_postgresql_s_own_are_kept_apart() {
        let fields = [field("aB", "Int", "[PK]"), field("a_b", "Int", ""), field("xmin", "Int", "")];
        let spec = describe(&table("odd"), &fields, Hints::default()).unwrap();
        let names: Vec<_> = spec.columns.iter().map(|column| column.sql_name.as_str()).collect();
        assert_eq!(names, ["a_b", "a_b_04f4ad51", "xmin_"]);
        assert_eq!(key_names(&spec), ["aB"]);
    }

    #[test]
    fn a_key_that_names_no_row_is_refused() {
        let fields = [field("validFrom", "Date", "[PK]"), field("name", "String", "")];
        let error = describe(&table("odd"), &fields, Hints::default()).unwrap_err();
        assert!(error.to_string().contains("column validFrom of type date"), "{error}");
    }

    #[test]
    fn a_built_in_key_that_does_not_fit_is_none() {
        let fields = [field("languageNo", "Int", ""), field("textNo", "Int", ""), field("text", "String", "")];
        let error = describe(&table("text"), &fields, Hints::default()).unwrap_err();
        assert!(matches!(error, DescribeError::NoKey { .. }));
        let text = ["textNo", "lineNo", "textType", "languageNo", "text"].map(|name| field(name, "Int", ""));
        let spec = describe(&table("text"), &text, Hints::default()).unwrap();
        assert_eq!(key_names(&spec), ["languageNo", "textType", "textNo", "lineNo"]);
    }

    #[test]
    fn a_twin_that_repeats_the_mark_is_no_further_key_column() {
        let fields = ["textType", "textTypeAsEnum", "textNo"].map(|name| field(name, "Int", "[PK]"));
        assert_eq!(key_names(&describe(&table("odd"), &fields, Hints::default()).unwrap()), ["textType", "textNo"]);
    }

    #[test]
    fn numbers_of_marks_tell_the_order_of_the_key() {
        let fields = [field("lineNo", "Int", "[PK2]"), field("orderNo", "Int", "(primary key 1)")];
        assert_eq!(key_names(&describe(&table("odd"), &fields, Hints::default()).unwrap()), ["orderNo", "lineNo"]);
        let fields = [field("lineNo", "Int", "[PK2]"), field("orderNo", "Int", "[PK]")];
        assert_eq!(key_names(&describe(&table("odd"), &fields, Hints::default()).unwrap()), ["lineNo", "orderNo"]);
    }
}
