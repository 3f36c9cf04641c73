//! The truth: every row with its history.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{Local, NaiveDateTime, TimeDelta, Timelike};
use serde_json::{Map, Value as Json, json};

use super::{
    SimulatorError,
    clock::Clock,
    model::{ColumnDef, Owner, SUBSCRIPTIONS, TARGETS, TableDef},
    value::{Ordered, Value},
    words::Words,
};

/// A row's values, in the order of its table's columns.
pub(crate) type Row = Arc<Vec<Value>>;
/// A key in the source's order.
pub(crate) type Key = Vec<Ordered>;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Made.
    Insert,
    /// Changed.
    Update,
    /// Removed.
    Delete,
}

/// One change, with all that a notification needs.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) owner: Owner,
    pub(crate) customer: i64,
    pub(crate) table: Arc<TableDef>,
    pub(crate) event: Event,
    pub(crate) key: Vec<(String, Json)>,
    /// Columns that changed, for INSERT and UPDATE.
    pub(crate) columns: Vec<(String, Json)>,
    pub(crate) at: NaiveDateTime,
}

/// A row at some time; `None` while it did not exist.
#[derive(Debug)]
struct Version {
    since: Instant,
    row: Option<Row>,
}

type Rows = BTreeMap<Key, Vec<Version>>;

/// All tables of all tenants.
#[derive(Debug)]
pub(crate) struct Store {
    model: BTreeMap<String, Arc<TableDef>>,
    /// Companies and the customers they belong to.
    customers: BTreeMap<Owner, i64>,
    rows: BTreeMap<(Owner, String), Rows>,
    last_change: NaiveDateTime,
    /// The one moment of all that is changed together.
    together: Option<(NaiveDateTime, Instant)>,
    clock: Clock,
    read_lag: Duration,
    pub(crate) words: Words,
}

/// One of the changes that an edit session saves together.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Inserts or changes a row by the GraphQL names of its columns.
    Put(Owner, String, Map<String, Json>),
    /// Deletes a row by its key columns.
    Delete(Owner, String, Map<String, Json>),
}

impl Store {
    pub(crate) fn new(tables: Vec<Arc<TableDef>>, companies: &[(i64, i64)], clock: Clock) -> Self {
        let mut customers = BTreeMap::new();
        for &(customer, company) in companies {
            customers.insert(Owner::Company(company), customer);
            customers.insert(Owner::Customer(customer), customer);
        }
        Self {
            model: tables.into_iter().map(|table| (table.name.clone(), table)).collect(),
            customers,
            rows: BTreeMap::new(),
            last_change: clock.now().naive_utc(),
            together: None,
            clock,
            read_lag: Duration::ZERO,
            words: Words::default(),
        }
    }

    pub(crate) fn model(&self) -> Vec<Arc<TableDef>> {
        self.model.values().cloned().collect()
    }

    /// The tables that the schema shows.
    pub(crate) fn shown(&self) -> Vec<Arc<TableDef>> {
        self.model.values().filter(|table| !table.hidden).cloned().collect()
    }

    pub(crate) fn companies(&self) -> Vec<(i64, i64)> {
        let company = |(owner, customer): (&Owner, &i64)| match owner {
            Owner::Company(company) => Some((*company, *customer)),
            Owner::Customer(_) => None,
        };
        self.customers.iter().filter_map(company).collect()
    }

    pub(crate) fn knows(&self, owner: Owner) -> bool {
        self.customers.contains_key(&owner)
    }

    pub(crate) fn table(&self, name: &str) -> Result<Arc<TableDef>, SimulatorError> {
        self.model.get(name).cloned().ok_or_else(|| SimulatorError::Unknown(format!("table {name}")))
    }

    pub(crate) fn set_read_lag(&mut self, lag: Duration) {
        self.read_lag = lag;
    }

    /// One change.
    pub(crate) fn edit(&mut self, edit: &Edit) -> Result<Change, SimulatorError> {
        match edit {
            Edit::Put(owner, table, values) => self.put(*owner, table, values),
            Edit::Delete(owner, table, key) => self.delete(*owner, table, key),
        }
    }

    /// What an edit session saves: one moment for all of it.
    pub(crate) fn save(&mut self, edits: impl Iterator<Item = Edit>) -> Result<Vec<Change>, SimulatorError> {
        self.together = Some((self.next_time(), Instant::now()));
        let changes = edits.map(|edit| self.edit(&edit)).collect();
        self.together = None;
        changes
    }

    /// Inserts a row, or changes the given columns of one that is there.
    pub(crate) fn put(
        &mut self,
        owner: Owner,
        table: &str,
        values: &Map<String, Json>,
    ) -> Result<Change, SimulatorError> {
        let table = self.table(table)?;
        let customer = self.customer(owner)?;
        let given = read_columns(&table, values)?;
        let key = self.key(&table, values)?;
        let existing = self.current(owner, &table, &key);
        let event = if existing.is_some() { Event::Update } else { Event::Insert };
        let mut row = existing.map_or_else(|| fresh(&table), |row| row.to_vec());
        for (index, value) in &given {
            row[*index] = value.clone();
        }
        let at = self.next_time();
        let mut changed: Vec<usize> = given.iter().map(|(index, _)| *index).collect();
        let own = |name: &str| given.iter().any(|(index, _)| table.columns[*index].name == name);
        for (name, value) in audit(at, event) {
            // A test may set the audit columns itself, null for a row of long ago.
            if let Some(index) = table.column(name).filter(|_| !own(name)) {
                row[index] = value;
                changed.push(index);
            }
        }
        let columns = changed.iter().map(|&index| webhook_column(&table, index, &row[index], at)).collect();
        let key_columns = webhook_key(&table, &row);
        self.record(owner, &table, key, Some(Arc::new(row)));
        Ok(Change { owner, customer, table, event, key: key_columns, columns, at })
    }

    pub(crate) fn delete(
        &mut self,
        owner: Owner,
        table: &str,
        values: &Map<String, Json>,
    ) -> Result<Change, SimulatorError> {
        let change = self.as_change(owner, table, values)?;
        let key = self.key(&change.table, values)?;
        let at = self.next_time();
        self.record(owner, &change.table, key, None);
        Ok(Change { event: Event::Delete, columns: vec![], at, ..change })
    }

    /// An existing row as the change that an UPDATE of nothing would be.
    pub(crate) fn as_change(
        &self,
        owner: Owner,
        table: &str,
        values: &Map<String, Json>,
    ) -> Result<Change, SimulatorError> {
        let table = self.table(table)?;
        let customer = self.customer(owner)?;
        let key = self.key(&table, values)?;
        let row = self
            .current(owner, &table, &key)
            .ok_or_else(|| SimulatorError::Unknown(format!("row {key:?} of {}", table.name)))?;
        let key = webhook_key(&table, &row);
        Ok(Change { owner, customer, event: Event::Update, key, columns: vec![], at: self.last_change, table })
    }

    /// Rows that readers see from this key on, in key order.
    pub(crate) fn visible<'a>(
        &'a self,
        owner: Owner,
        table: &str,
        from: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Row)> {
        let moment = Instant::now().checked_sub(self.read_lag);
        let rows = self.rows.get(&(owner, table.to_owned()));
        rows.into_iter()
            .flat_map(move |rows| match from {
                Some(from) => rows.range(from.clone()..),
                None => rows.range(Vec::new()..),
            })
            .filter_map(move |(key, versions)| {
                let seen = versions.iter().rev().find(|version| moment.is_none_or(|moment| version.since <= moment));
                Some((key, seen?.row.as_ref()?))
            })
    }

    /// The row of a key that readers see.
    pub(crate) fn visible_one(&self, owner: Owner, table: &str, key: &Key) -> Option<(&Key, &Row)> {
        self.visible(owner, table, Some(key)).next().filter(|(found, _)| *found == key)
    }

    pub(crate) fn rows(&self, owner: Owner, table: &str) -> Result<Vec<Map<String, Json>>, SimulatorError> {
        let table = self.table(table)?;
        let rows = self.rows.get(&(owner, table.name.clone()));
        let current = rows.into_iter().flat_map(BTreeMap::values).filter_map(|versions| versions.last()?.row.as_ref());
        Ok(current
            .map(|row| {
                let columns = table.columns.iter().zip(row.iter()).filter(|(column, _)| !column.hidden);
                columns.map(|(column, value)| (column.name.clone(), value.to_json())).collect()
            })
            .collect())
    }

    pub(crate) fn tables_in_use(&self) -> Vec<(Owner, String)> {
        self.rows.keys().filter(|(_, table)| !is_setup(table)).cloned().collect()
    }

    /// Gives each customer a webhook target of this user, and subscriptions to all tables below it.
    pub(crate) fn subscribe_to_all(&mut self, user: &str) -> Result<(), SimulatorError> {
        let tenants: Vec<(Owner, i64)> = self.customers.iter().map(|(owner, customer)| (*owner, *customer)).collect();
        for (tenant, customer) in tenants {
            let owner = Owner::Customer(customer);
            let (company, is_system) = match tenant {
                Owner::Company(company) => (company, false),
                Owner::Customer(_) => (0, true),
            };
            if is_system {
                self.put(owner, TARGETS, &object(json!({ "lineNo": 1, "userName": user })))?;
            }
            for table in self.model().iter().filter(|table| table.system == is_system && !is_setup(&table.name)) {
                let row = json!({ "webhookTarget": 1, "companyNo": company, "tableNo": table.number });
                self.put(owner, SUBSCRIPTIONS, &object(row))?;
            }
        }
        Ok(())
    }

    /// Whether a subscription below one of the user's targets lets a change through. Its JSONPath is not looked at.
    pub(crate) fn forwards(&self, change: &Change, user: &str) -> bool {
        let customer = Owner::Customer(change.customer);
        let company = match change.owner {
            Owner::Company(company) => company,
            Owner::Customer(_) => 0,
        };
        let bit = match change.event {
            Event::Insert => 1,
            Event::Update => 2,
            Event::Delete => 4,
        };
        let lets_through = |target: &Map<String, Json>| {
            let key = [target["lineNo"].as_i64().unwrap_or_default(), company, i64::from(change.table.number)];
            let row = self
                .rows
                .get(&(customer, SUBSCRIPTIONS.to_owned()))
                .and_then(|rows| rows.get(&key.map(Ordered::Int).to_vec())?.last()?.row.clone());
            let filter = self.model.get(SUBSCRIPTIONS).and_then(|table| table.column("filter"));
            row.zip(filter).is_some_and(|(row, filter)| !matches!(row[filter], Value::Int(bits) if bits & bit != 0))
        };
        let targets = self.rows(customer, TARGETS).unwrap_or_default();
        targets.iter().filter(|target| target["userName"] == user).any(lets_through)
    }

    pub(crate) fn key_columns(&self, table: &str) -> Result<Vec<String>, SimulatorError> {
        let table = self.table(table)?;
        Ok(table.key.iter().map(|&index| table.columns[index].name.clone()).collect())
    }

    pub(crate) fn add_column(
        &mut self,
        table: &str,
        name: &str,
        scalar: &str,
        extension: bool,
    ) -> Result<(), SimulatorError> {
        let mut changed = TableDef::clone(&*self.table(table)?);
        if let Some(index) = changed.column(name) {
            changed.columns[index].hidden = false;
        } else {
            let (name, scalar) = (name.to_owned(), scalar.to_owned());
            changed.columns.push(ColumnDef { name, scalar, key: false, twin: None, hidden: false, extension });
            for ((_, own), rows) in &mut self.rows {
                if own == table {
                    widen(rows, changed.columns.len());
                }
            }
        }
        self.model.insert(table.to_owned(), Arc::new(changed));
        Ok(())
    }

    pub(crate) fn change_column(
        &mut self,
        table: &str,
        name: &str,
        change: impl FnOnce(&mut ColumnDef),
    ) -> Result<(), SimulatorError> {
        let mut changed = TableDef::clone(&*self.table(table)?);
        let index = changed.column(name).ok_or_else(|| SimulatorError::Unknown(format!("column {name}")))?;
        change(&mut changed.columns[index]);
        self.model.insert(table.to_owned(), Arc::new(changed));
        Ok(())
    }

    /// Takes a table away from the schema, or shows it again; its rows stay.
    pub(crate) fn hide_table(&mut self, table: &str, hidden: bool) -> Result<(), SimulatorError> {
        let changed = TableDef { hidden, ..TableDef::clone(&*self.table(table)?) };
        self.model.insert(table.to_owned(), Arc::new(changed));
        Ok(())
    }

    /// The row of the vendor's published example body.
    pub(crate) fn publish_example(&mut self) {
        let owner = Owner::Company(5_199_768);
        if !self.knows(owner) {
            return;
        }
        let row = json!({
            "orderNo": 3, "lineNo": 1, "description": "Hello webhook", "productNo": "1001", "quantity": 5.5,
            "createdDate": 20250206, "createdTime": 2215, "createdByUser": "ola.normann",
            "createdTimestamp": "2025-02-06T21:15:28.3660000", "changedDate": 20250206, "changedTime": 2215,
            "changeTimeInMs": 80128366, "changedByUser": "ola.normann",
            "changedTimestamp": "2025-02-06T21:15:28.3660000",
        });
        let row = row.as_object().expect("an object").clone();
        self.put(owner, "OrderLine", &row).expect("the example fits the model");
    }

    fn customer(&self, owner: Owner) -> Result<i64, SimulatorError> {
        self.customers.get(&owner).copied().ok_or_else(|| SimulatorError::Unknown(format!("tenant {owner:?}")))
    }

    fn key(&self, table: &TableDef, values: &Map<String, Json>) -> Result<Key, SimulatorError> {
        let read = |&index: &usize| {
            let column = &table.columns[index];
            let json = values
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(&column.name))
                .ok_or_else(|| SimulatorError::BadValue(format!("key column {} is missing", column.name)))?;
            Value::read(&column.scalar, json.1).map(|value| value.ordered()).map_err(SimulatorError::BadValue)
        };
        table.key.iter().map(read).collect()
    }

    fn current(&self, owner: Owner, table: &TableDef, key: &Key) -> Option<Row> {
        self.rows.get(&(owner, table.name.clone()))?.get(key)?.last()?.row.clone()
    }

    fn record(&mut self, owner: Owner, table: &TableDef, key: Key, row: Option<Row>) {
        let versions = self.rows.entry((owner, table.name.clone())).or_default().entry(key).or_default();
        let since = self.together.map_or_else(Instant::now, |(_, since)| since);
        versions.push(Version { since, row });
    }

    /// Strictly increasing but for what is changed together, with the 100 ns of `datetime2(7)`.
    fn next_time(&mut self) -> NaiveDateTime {
        if let Some((time, _)) = self.together {
            return time;
        }
        let now = self.clock.now().naive_utc();
        let now = now.with_nanosecond(now.nanosecond() / 100 * 100).unwrap_or(now);
        self.last_change = now.max(self.last_change + TimeDelta::nanoseconds(100));
        self.last_change
    }
}

/// Whether a table says what is sent, and is nothing that is worked with.
fn is_setup(table: &str) -> bool {
    table == TARGETS || table == SUBSCRIPTIONS
}

fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(object) => object,
        _ => Map::new(),
    }
}

fn read_columns(table: &TableDef, values: &Map<String, Json>) -> Result<Vec<(usize, Value)>, SimulatorError> {
    let read = |(name, json): (&String, &Json)| {
        let index = table.column(name).ok_or_else(|| SimulatorError::Unknown(format!("column {name}")))?;
        let value = Value::read(&table.columns[index].scalar, json).map_err(SimulatorError::BadValue)?;
        Ok((index, value))
    };
    values.iter().map(read).collect()
}

/// Unset integers are 0, unset strings empty (API notes, types); what has no such value is null.
fn fresh(table: &TableDef) -> Vec<Value> {
    let unset = |column: &ColumnDef| match column.scalar.as_str() {
        _ if column.extension => Value::Null,
        "Int" | "Short" | "Byte" | "Long" => Value::Int(0),
        "Decimal" => Value::Decimal("0.0".into()),
        "String" => Value::Text(String::new()),
        "Boolean" => Value::Bool(false),
        _ => Value::Null,
    };
    table.columns.iter().map(unset).collect()
}

fn widen(rows: &mut Rows, width: usize) {
    for version in rows.values_mut().flatten() {
        if let Some(row) = &mut version.row {
            Arc::make_mut(row).resize(width, Value::Null);
        }
    }
}

/// The audit columns: dates and times in the server's local time, timestamps in UTC (webhook documentation).
fn audit(at: NaiveDateTime, event: Event) -> Vec<(&'static str, Value)> {
    let local = at.and_utc().with_timezone(&Local).naive_local();
    let date = Value::Int(local.format("%Y%m%d").to_string().parse().unwrap_or_default());
    let time = Value::Int(i64::from(local.hour() * 100 + local.minute()));
    let millis = i64::from(local.num_seconds_from_midnight()) * 1_000 + i64::from(local.nanosecond() / 1_000_000);
    let mut columns = vec![
        ("changedDate", date.clone()),
        ("changedTime", time.clone()),
        ("changeTimeInMs", Value::Int(millis)),
        ("changedByUser", Value::Text("kari.nordmann".into())),
        ("changedTimestamp", Value::DateTime(at)),
    ];
    if event == Event::Insert {
        columns.extend([
            ("createdDate", date),
            ("createdTime", time),
            ("createdByUser", Value::Text("kari.nordmann".into())),
            ("createdTimestamp", Value::DateTime(at)),
        ]);
    }
    columns
}

fn pascal(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

fn webhook_key(table: &TableDef, row: &[Value]) -> Vec<(String, Json)> {
    table.key.iter().map(|&index| (pascal(&table.columns[index].name), row[index].to_json())).collect()
}

/// Timestamps are integers `yyyymmddhhmmssfff` in webhooks.
fn webhook_column(table: &TableDef, index: usize, value: &Value, at: NaiveDateTime) -> (String, Json) {
    let name = pascal(&table.columns[index].name);
    let json = match value {
        Value::DateTime(time) if name.ends_with("Timestamp") => {
            time.format("%Y%m%d%H%M%S%3f").to_string().parse::<i64>().map_or(Json::Null, Json::from)
        }
        Value::Null if name == "ChangedTimestamp" => {
            at.format("%Y%m%d%H%M%S%3f").to_string().parse::<i64>().map_or(Json::Null, Json::from)
        }
        other => other.to_json(),
    };
    (name, json)
}
