//! What happens at the source.

use std::{collections::HashMap, sync::Mutex};

use nxt_simulator::{Edit, Owner};
use nxt_testkit::{Site, object};
use rand::{RngExt, rngs::StdRng};
use serde_json::{Map, Value, json};

pub const CUSTOMER: Owner = Owner::Customer(1_000_001);
pub const OWNERS: [Owner; 2] = [Owner::Company(2_000_001), Owner::Company(2_000_002)];
const PRODUCTS: [&str; 10] = ["A", "Bolt x", "bolt X", "bø", "BØ ", "Ærlig", "10", "9", "z'z", "Ω"];
/// Beyond what a double can tell apart.
const FIRST_LONG: i64 = 9_007_199_254_740_992;

/// A table of the runs: each row holds the number of the change that it comes from.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub number: i64,
    version: &'static str,
    pub sql_name: &'static str,
    /// In the order of their names, as the parts of a key in JSON.
    pub sql_key: &'static str,
    pub sql_version: &'static str,
}

const fn table(
    name: &'static str,
    number: i64,
    version: &'static str,
    sql: (&'static str, &'static str, &'static str),
) -> Table {
    Table { name, number, version, sql_name: sql.0, sql_key: sql.1, sql_version: sql.2 }
}

/// Keys of one and of two columns, integers of 32 and 64 bits, texts; a number that is freed and used again.
pub const TABLES: [Table; 5] = [
    table("Order", 127, "name", ("\"order\"", "order_no", "name")),
    table("OrderLine", 128, "description", ("order_line", "line_no, order_no", "description")),
    table("Product", 114, "description", ("product", "product_no", "description")),
    table("Batch", 80, "voucherSeriesNo", ("batch", "batch_no", "voucher_series_no")),
    table("RetailQueueChange", 94, "content", ("retail_queue_change", "queue_change_no", "content")),
];

/// Which row: owner, table, key as the reader sees it.
pub type RowId = (Owner, &'static str, String);

/// Each version of a row is the number of the change.
#[derive(Default)]
pub struct History {
    pub changes: i64,
    pub deletes: HashMap<RowId, Vec<i64>>,
}

/// A row to change: where it is, and its key.
struct Picked {
    owner: Owner,
    table: &'static Table,
    key: Map<String, Value>,
}

impl Picked {
    fn draw(random: &mut StdRng) -> Self {
        let owner = OWNERS[random.random_range(0..OWNERS.len())];
        let table = &TABLES[random.random_range(0..TABLES.len())];
        let key = match table.name {
            "Order" => json!({ "orderNo": random.random_range(1..15) }),
            "OrderLine" => json!({ "orderNo": random.random_range(1..4), "lineNo": random.random_range(1..5) }),
            "Batch" => json!({ "batchNo": random.random_range(1..6) }),
            "RetailQueueChange" => json!({ "queueChangeNo": FIRST_LONG + random.random_range(0..12) }),
            _ => json!({ "productNo": PRODUCTS[random.random_range(0..PRODUCTS.len())] }),
        };
        Self { owner, table, key: object(key) }
    }

    fn id(&self) -> RowId {
        (self.owner, self.table.name, folded(self.key.values()))
    }

    fn exists(&self, site: &Site) -> bool {
        let rows = site.simulator.rows(self.owner, self.table.name).expect("the table is there");
        rows.iter().any(|row| folded(self.key.keys().map(|column| &row[column])) == self.id().2)
    }

    fn delete(&self) -> Edit {
        Edit::Delete(self.owner, self.table.name.to_owned(), self.key.clone())
    }

    fn put(&self, random: &mut StdRng, version: i64) -> Edit {
        let mut row = self.key.clone();
        let is_number = self.table.name == "Batch";
        row.insert(self.table.version.to_owned(), if is_number { version.into() } else { version.to_string().into() });
        if self.table.name == "Order" {
            row.insert("employeeNo".to_owned(), version.into());
            row.insert("MyDme_score".to_owned(), version.into());
        }
        if random.random_ratio(1, 8) {
            // As rows that nobody has touched for years.
            row.insert("changedTimestamp".to_owned(), Value::Null);
        }
        Edit::Put(self.owner, self.table.name.to_owned(), row)
    }
}

/// A key as the reader sees it.
fn folded<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    let part = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    values.map(part).collect::<Vec<_>>().join("/").trim_end().to_lowercase()
}

/// A row is made, changed or deleted.
pub fn change(random: &mut StdRng, site: &Site, history: &Mutex<History>) {
    let row = Picked::draw(random);
    let delete = random.random_bool(0.35);
    save(random, site, history, &[row], |exists| if exists && delete { Deed::Delete } else { Deed::Put });
}

/// An edit session is saved: several rows at one moment, and now and then a number is freed and used again by it.
pub fn session(random: &mut StdRng, site: &Site, history: &Mutex<History>) {
    let mut rows: Vec<Picked> = (0..random.random_range(2..9)).map(|_| Picked::draw(random)).collect();
    rows.sort_by_key(|row| (row.table.name, row.owner, row.id().2));
    rows.dedup_by_key(|row| row.id());
    let again = random.random_bool(0.5);
    save(random, site, history, &rows, |exists| if exists && again { Deed::Reuse } else { Deed::Put });
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Put,
    Delete,
    /// Deletes the row and makes it anew.
    Reuse,
}

fn save(random: &mut StdRng, site: &Site, history: &Mutex<History>, rows: &[Picked], deed: impl Fn(bool) -> Deed) {
    let mut history = history.lock().unwrap();
    let mut edits = Vec::new();
    for row in rows {
        let deed = deed(row.exists(site));
        if deed != Deed::Put {
            history.changes += 1;
            let version = history.changes;
            history.deletes.entry(row.id()).or_default().push(version);
            edits.push(row.delete());
        }
        if deed != Deed::Delete {
            history.changes += 1;
            edits.push(row.put(random, history.changes));
        }
    }
    site.simulator.save(edits).expect("rows that are there can be deleted, and all can be put");
}
