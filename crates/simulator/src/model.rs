//! The tables: one line a column.
//!
//! `name:Scalar`, with `!` after a key column, and after a slash the twin that repeats it in another form. Audit
//! columns are added to every table. Names, numbers and keys follow the API notes; what those do not tell is made up.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Whose table: a company's, or a customer's ("system tables").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// Visma.net company number.
    Company(i64),
    /// Visma.net customer number.
    Customer(i64),
}

/// A second form of a column, which a client should leave alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    /// `...AsDate`
    Date,
    /// `...AsTime`
    Time,
    /// `...AsEnum`
    Enum,
    /// `...Flags`
    Flags,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDef {
    /// GraphQL name.
    pub name: String,
    /// GraphQL scalar.
    pub scalar: String,
    /// Part of the key.
    pub key: bool,
    /// Its second form.
    pub twin: Option<Twin>,
    /// No longer in the schema.
    pub hidden: bool,
    /// The customer's own: not in the schema, but a field of `extensions`.
    pub extension: bool,
}

/// A table.
#[derive(Debug, Clone)]
pub struct TableDef {
    /// Identifier, PascalCase.
    pub name: String,
    /// Number.
    pub number: u32,
    /// Name in the source's database.
    pub sql: String,
    /// Under `useCustomer` rather than `useCompany`.
    pub system: bool,
    /// Whether descriptions tell the key.
    pub marked: bool,
    /// Not in the schema.
    pub hidden: bool,
    /// Columns, audit columns last.
    pub columns: Vec<ColumnDef>,
    /// Indexes of the key columns.
    pub key: Vec<usize>,
    /// Relations, joins up and down.
    pub joins: Vec<JoinDef>,
}

/// A join with another table.
#[derive(Debug, Clone)]
pub struct JoinDef {
    /// Its field.
    pub field: String,
    /// The table that it leads to.
    pub target: String,
    /// The column that both have.
    pub column: String,
}

const AUDIT: &str = "createdDate:Int/date createdTime:Int/time createdByUser:String createdTimestamp:DateTime \
     changedDate:Int/date changedTime:Int/time changeTimeInMs:Int changedByUser:String changedTimestamp:DateTime";

/// Name, number, SQL name, columns, joins.
const TABLES: &[(&str, u32, &str, &str, &str)] = &[
    (
        "Associate",
        152,
        "Actor",
        "associateNo:Int! customerNo:Int supplierNo:Int name:String shortName:String companyNo:String addressLine1:String \
      postCode:String postalArea:String phone:String emailAddress:String countryNo:Int creditLimit:Decimal",
        "joindown_Order_via_Customer>Order:customerNo",
    ),
    (
        "Order",
        127,
        "Ord",
        "orderNo:Int! orderDate:Int/date customerNo:Int supplierNo:Int employeeNo:Int name:String transactionType:Int/enum \
      orderType:Int/enum orderStatus1:Int orderPreferences:Int/flags orderSumNetDomestic:Decimal \
      grossProfitTotalDomestic:Decimal finishDate:Int/date orgUnit1:Int orgUnit2:Int approved:Boolean",
        "joindown_OrderLine_via_Order>OrderLine:orderNo joinup_Associate_via_Customer>Associate:customerNo",
    ),
    (
        "OrderLine",
        128,
        "OrdLn",
        "orderNo:Int! lineNo:Int! productNo:String description:String transactionInformation1:String quantity:Decimal \
      finished:Decimal priceInCurrency:Decimal amountDomestic:Decimal transactionDate:Int/date finishDate:Int/date \
      invoiceNo:Int orgUnit1:Int orgUnit2:Int",
        "joinup_Order>Order:orderNo joinup_Product>Product:productNo",
    ),
    (
        "Product",
        114,
        "Prod",
        "productNo:String! description:String information1:String information2:String eanItemNo:String webPage:String \
      salesPrice:Decimal productType1:Int/enum weight:Decimal packing:Short discontinued:Boolean",
        "",
    ),
    (
        "GeneralLedgerAccount",
        70,
        "Ac",
        "accountNo:Int! name:String accountGroup:Int taxCode:String orgUnit1Processing:Int/enum",
        "",
    ),
    (
        "GeneralLedgerTransaction",
        71,
        "AcTr",
        "transactionNo:Long! accountNo:Int year:Int period:Int postedAmountDomestic:Decimal voucherDate:Int/date text:String",
        "",
    ),
    (
        "CustomerTransaction",
        72,
        "CustTr",
        "transactionNo:Int! invoiceNo:String customerNo:Int voucherDate:Int/date dueDate:Int/date amountDomestic:Decimal \
      outstandingAmountDomestic:Decimal paidStatus:Int",
        "",
    ),
    (
        "OpenCustomerEntry",
        73,
        "CustOp",
        "voucherJournalNo:Int! auditNo:Int! customerNo:Int invoiceNo:String dueDate:Int/date amountDomestic:Decimal",
        "",
    ),
    (
        "Batch",
        80,
        "Bat",
        "batchNo:Int! voucherSeriesNo:Int valueDate:Int/date",
        "joindown_Voucher_via_Batch>Voucher:batchNo",
    ),
    (
        "Voucher",
        81,
        "Vo",
        "batchNo:Int! lineNo:Int! voucherNo:Int debitAccountNo:Int creditAccountNo:Int customerNo:Int amountDomestic:Decimal \
      voucherDate:Int/date valueDate:Int/date",
        "",
    ),
    ("UpdatedBatch", 82, "UpdBat", "voucherJournalNo:Int! batchNo:Int! voucherSeriesNo:Int", ""),
    (
        "UpdatedVoucher",
        83,
        "UpdVo",
        "voucherJournalNo:Int! batchNo:Int! lineNo:Int! voucherNo:Int text:String orderNo:Int productNo:String",
        "",
    ),
    ("Text", 90, "Txt", "languageNo:Int! textType:Int! textNo:Int! lineNo:Int! text:String", ""),
    ("OrgUnit1", 91, "R1", "orgUnit1No:Int! name:String customerNo:Int actualStartDate:Int/date", ""),
    ("TaxCode", 92, "TxCd", "taxCode:String! description:String percent:Decimal validFrom:Date reference:Guid", ""),
    (
        "StockBalance",
        93,
        "StcBal",
        "productNo:String! warehouseNo:Int! physicalStockBalance:Decimal reserved:Decimal countedAt:DateTime",
        "",
    ),
    ("RetailQueueChange", 94, "RtlQChg", "queueChangeNo:Long! tableNo:Int content:String", ""),
    ("CapitalAsset", 95, "CapAst", "capitalAssetNo:Int! name:String acquisitionValue:Decimal", ""),
    ("FreeInformation1", 96, "FreeInf1", "freeInformation1No:Int! text1:String value1:Decimal", ""),
];
const SYSTEM_TABLES: &[(&str, u32, &str, &str)] = &[
    ("User", 3, "Usr", "userName:String! fullName:String emailAddress:String connectApplication:Boolean"),
    (TARGETS, 8, "WhTrg", "lineNo:Int! userName:String description:String"),
    (
        SUBSCRIPTIONS,
        9,
        "WhSub",
        "webhookTarget:Int! companyNo:Int! tableNo:Int! filter:Int/flags jqFilter:String description:String",
    ),
];
/// The webhook setup. The names that people see of its columns are documented (webhooks, filtering), these are made up.
pub(crate) const TARGETS: &str = "WebhookTarget";
/// Companies and tables that notifications are sent of.
pub(crate) const SUBSCRIPTIONS: &str = "WebhookSubscription";
/// Columns that make `CapitalAsset` a wide table.
const WIDE_COLUMNS: usize = 160;

/// All tables, and so many extra ones.
pub fn tables(extra: u32) -> Vec<Arc<TableDef>> {
    let company = TABLES.iter().map(|&(name, number, sql, columns, joins)| {
        let wide = match name {
            "CapitalAsset" => (1..=WIDE_COLUMNS).map(wide_column).collect::<Vec<_>>().join(" "),
            _ => String::new(),
        };
        let joins = joins.split_whitespace().map(join).collect();
        TableDef {
            marked: name != "FreeInformation1",
            joins,
            ..table(name, number, sql, &format!("{columns} {wide}"), false)
        }
    });
    let system = SYSTEM_TABLES.iter().map(|&(name, number, sql, columns)| table(name, number, sql, columns, true));
    let extra = (1..=extra).map(|number| {
        let columns =
            "rowNo:Int! name:String amount:Decimal quantity:Decimal dueDate:Int/date accountNo:Int text:String";
        table(&format!("Extra{number}"), 1_000 + number, &format!("Ex{number}"), columns, false)
    });
    company.chain(system).chain(extra).map(Arc::new).collect()
}

fn wide_column(number: usize) -> String {
    let scalar = ["Decimal", "Int", "String", "Int/date"][number % 4];
    format!("wideValue{number}:{scalar}")
}

fn table(name: &str, number: u32, sql: &str, columns: &str, system: bool) -> TableDef {
    let columns: Vec<ColumnDef> = columns.split_whitespace().chain(AUDIT.split_whitespace()).map(column).collect();
    let key = (0..columns.len()).filter(|&index| columns[index].key).collect();
    TableDef {
        name: name.into(),
        number,
        sql: sql.into(),
        system,
        marked: true,
        hidden: false,
        columns,
        key,
        joins: vec![],
    }
}

/// `joinup_Order>Order:orderNo`
fn join(text: &str) -> JoinDef {
    let (field, rest) = text.split_once('>').expect("a join is field>Target:column");
    let (target, column) = rest.split_once(':').expect("a join names its column");
    JoinDef { field: field.into(), target: target.into(), column: column.into() }
}

fn column(text: &str) -> ColumnDef {
    let (name, rest) = text.split_once(':').expect("a column is name:Scalar");
    let (scalar, twin) = match rest.split_once('/') {
        Some((scalar, twin)) => (scalar, Some(twin)),
        None => (rest, None),
    };
    let twin = twin.map(|twin| match twin {
        "date" => Twin::Date,
        "time" => Twin::Time,
        "enum" => Twin::Enum,
        "flags" => Twin::Flags,
        other => panic!("no twin {other}"),
    });
    let key = scalar.ends_with('!');
    let scalar = scalar.trim_end_matches('!').to_owned();
    ColumnDef { name: name.into(), scalar, key, twin, hidden: false, extension: false }
}

impl TableDef {
    /// Index of a column, by its name in any case.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// The field under `useCompany` or `useCustomer`.
    pub fn field(&self) -> String {
        let (first, rest) = self.name.split_at(1);
        format!("{}{rest}", first.to_lowercase())
    }

    /// The number of a column, which no other column has.
    pub fn column_number(&self, index: usize) -> u32 {
        self.number * 1_000 + u32::try_from(index).unwrap_or_default()
    }

    /// One end of a relation, as descriptions have it.
    pub fn join_end(&self, column: &str) -> String {
        let (first, rest) = column.split_at(1);
        let number = self.column(column).map(|index| self.column_number(index)).unwrap_or_default();
        format!(
            "\"{}\" (table \"{}\" ({}), columns {{{}{rest}, {number}}})",
            self.name,
            self.sql,
            self.number,
            first.to_uppercase()
        )
    }
}
