//! A small trading company at work: orders are entered, lines changed, products repriced, open entries deleted when
//! they are settled, and numbers used again.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::{
    SimulatorError, World,
    model::Owner,
    store::{Change, Store},
};

const PRODUCTS: i64 = 40;
const CUSTOMERS: i64 = 25;
const GOODS: [&str; 8] = [
    "Fiskekaker",
    "Blåbærsyltetøy",
    "Brunost \"G35\"",
    "Knekkebrød",
    "Søtpotet's",
    "Ærlig kaffe",
    "Øl 0,5 l",
    "Tørrfisk",
];

fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(object) => object,
        _ => Map::new(),
    }
}

/// Normal orders, subscriptions and quotes.
const ORDER_TYPES: [i64; 3] = [1, 2, 5];

fn companies(store: &Store) -> Vec<(i64, i64)> {
    store.companies().into_iter().take(2).collect()
}

/// Products, customers, accounts and texts of the first two companies, some of them from before 2024.
pub(super) fn stock_up(world: &World) -> Result<(), SimulatorError> {
    let mut store = world.store();
    for (customer, company) in companies(&store).into_iter().map(|(company, customer)| (customer, company)) {
        let owner = Owner::Company(company);
        for number in 1..=PRODUCTS {
            let name = GOODS[usize::try_from(number).unwrap_or_default() % GOODS.len()];
            let mut product = object(json!({
                "productNo": product_no(number), "description": format!("{name} {number}"), "packing": number % 12,
                "salesPrice": price(number * 1_375), "weight": price(number * 50),
            }));
            if number % 5 == 0 {
                // Untouched since October 2024: no timestamps.
                product.extend(object(json!({ "changedTimestamp": null, "createdTimestamp": null })));
            }
            store.put(owner, "Product", &product)?;
            let balance = json!({ "productNo": product_no(number), "warehouseNo": 1, "physicalStockBalance": 100 });
            store.put(owner, "StockBalance", &object(balance))?;
        }
        for number in 1..=CUSTOMERS {
            let associate = json!({
                "associateNo": 10_000 + number, "customerNo": number, "name": format!("Kunde {number} AS"),
                "companyNo": format!("98765{number:04}"), "creditLimit": price(number * 1_000_000),
            });
            store.put(owner, "Associate", &object(associate))?;
            let text = json!({ "languageNo": 47, "textType": 6, "textNo": number, "lineNo": 1, "text": format!("{} dager", number * 5) });
            store.put(owner, "Text", &object(text))?;
        }
        for number in [1500, 1900, 3000, 4000, 7790] {
            let account = json!({ "accountNo": number, "name": format!("Konto {number}"), "taxCode": "3" });
            store.put(owner, "GeneralLedgerAccount", &object(account))?;
        }
        let user = json!({ "userName": format!("Bruker {company}"), "fullName": "Kari Nordmann" });
        store.put(Owner::Customer(customer), "User", &object(user))?;
    }
    Ok(())
}

fn product_no(number: i64) -> String {
    // A blank, a quote and letters beyond ASCII in some of them.
    match number % 7 {
        0 => format!("Ø {number}"),
        3 => format!("{number}'A"),
        _ => format!("{}", 1_000 + number),
    }
}

fn price(hundredths: i64) -> Json {
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    text.parse::<serde_json::Number>().map_or(Json::Null, Json::Number)
}

/// What a company has going on.
#[derive(Debug)]
struct Office {
    owner: Owner,
    next_order: i64,
    open_orders: Vec<(i64, i64)>,
    open_entries: Vec<i64>,
}

/// A trading company at work.
#[derive(Debug)]
pub struct Trader {
    world: Arc<World>,
    random: StdRng,
    offices: Vec<Office>,
}

impl Trader {
    pub(super) fn new(world: Arc<World>) -> Self {
        let random = StdRng::seed_from_u64(world.options.seed.wrapping_add(2));
        let offices = companies(&world.store())
            .into_iter()
            .map(|(company, _)| Office {
                owner: Owner::Company(company),
                next_order: 1,
                open_orders: vec![],
                open_entries: vec![],
            })
            .collect();
        Self { world, random, offices }
    }

    /// Makes so many changes, one after the other. By one seed they are the same ones each time.
    pub fn work(&mut self, changes: u32) {
        for _ in 0..changes {
            self.change();
        }
    }

    fn change(&mut self) {
        if self.offices.is_empty() {
            return;
        }
        let Self { world, random, offices } = self;
        let office = random.random_range(0..offices.len());
        let done = world.change(true, |store| offices[office].act(store, random));
        if let Err(error) = done {
            tracing::warn!(%error, "the trading company could not make a change");
        }
    }
}

/// Works at this rate until told to stop.
pub(super) async fn work(world: Arc<World>, changes_per_second: f64, stop: CancellationToken) {
    let mut trader = Trader::new(world);
    let mut timer = tokio::time::interval(Duration::from_secs_f64(1.0 / changes_per_second.max(0.01)));
    while stop.run_until_cancelled(timer.tick()).await.is_some() {
        trader.change();
    }
}

impl Office {
    fn act(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        match random.random_range(0..100) {
            0..25 => self.enter_order(store, random),
            25..60 => self.change_line(store, random),
            60..75 => self.reprice(store, random),
            75..85 => self.replace_line(store, random),
            85..93 => self.settle_entry(store, random),
            _ => self.cancel_order(store, random),
        }
    }

    fn enter_order(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        let (order, lines) = (self.next_order, random.random_range(1..=4));
        self.next_order += 1;
        let customer = random.random_range(1..=CUSTOMERS);
        let (month, day) = (random.random_range(1..=12), random.random_range(1..=28));
        let date = 20_260_000 + month * 100 + day;
        let sum = price(random.random_range(100..1_000_000));
        let header = json!({
            "orderNo": order, "customerNo": customer, "name": format!("Kunde {customer} AS"), "transactionType": 1,
            "orderType": ORDER_TYPES[usize::try_from(order % 3).unwrap_or_default()], "orderPreferences": order % 8, "orderDate": date, "finishDate": 0,
            "orderSumNetDomestic": sum.clone(),
        });
        let mut changes = vec![store.put(self.owner, "Order", &object(header))?];
        for line in 1..=lines {
            changes.push(self.put_line(store, random, order, line)?);
        }
        let entry = json!({
            "voucherJournalNo": order, "auditNo": 1, "customerNo": customer, "invoiceNo": format!("F{order:06}"),
            "dueDate": date, "amountDomestic": sum.clone(),
        });
        changes.push(store.put(self.owner, "OpenCustomerEntry", &object(entry))?);
        let posting = json!({
            "transactionNo": order, "accountNo": 3_000, "year": 2_026, "period": month, "voucherDate": date,
            "postedAmountDomestic": sum, "text": format!("Faktura F{order:06}"),
        });
        changes.push(store.put(self.owner, "GeneralLedgerTransaction", &object(posting))?);
        self.open_orders.push((order, lines));
        self.open_entries.push(order);
        Ok(changes)
    }

    fn put_line(
        &self,
        store: &mut Store,
        random: &mut StdRng,
        order: i64,
        line: i64,
    ) -> Result<Change, SimulatorError> {
        let product = random.random_range(1..=PRODUCTS);
        let row = json!({
            "orderNo": order, "lineNo": line, "productNo": product_no(product),
            "description": GOODS[random.random_range(0..GOODS.len())],
            "quantity": price(random.random_range(1..5_000)), "amountDomestic": price(random.random_range(1..500_000)),
        });
        store.put(self.owner, "OrderLine", &object(row))
    }

    fn change_line(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        let Some((order, line)) = self.some_line(random) else { return self.enter_order(store, random) };
        Ok(vec![self.put_line(store, random, order, line)?])
    }

    /// Deletes a line and enters another under the same number.
    fn replace_line(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        let Some((order, line)) = self.some_line(random) else { return self.enter_order(store, random) };
        let key = object(json!({ "orderNo": order, "lineNo": line }));
        Ok(vec![store.delete(self.owner, "OrderLine", &key)?, self.put_line(store, random, order, line)?])
    }

    fn reprice(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        let product = product_no(random.random_range(1..=PRODUCTS));
        let row = object(json!({ "productNo": product, "salesPrice": price(random.random_range(100..100_000)) }));
        Ok(vec![store.put(self.owner, "Product", &row)?])
    }

    fn settle_entry(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        if self.open_entries.is_empty() {
            return self.enter_order(store, random);
        }
        let entry = self.open_entries.swap_remove(random.random_range(0..self.open_entries.len()));
        let key = object(json!({ "voucherJournalNo": entry, "auditNo": 1 }));
        Ok(vec![store.delete(self.owner, "OpenCustomerEntry", &key)?])
    }

    fn cancel_order(&mut self, store: &mut Store, random: &mut StdRng) -> Result<Vec<Change>, SimulatorError> {
        if self.open_orders.is_empty() {
            return self.enter_order(store, random);
        }
        let (order, lines) = self.open_orders.swap_remove(random.random_range(0..self.open_orders.len()));
        let mut changes = Vec::new();
        for line in 1..=lines {
            let key = object(json!({ "orderNo": order, "lineNo": line }));
            changes.push(store.delete(self.owner, "OrderLine", &key)?);
        }
        changes.push(store.delete(self.owner, "Order", &object(json!({ "orderNo": order })))?);
        Ok(changes)
    }

    fn some_line(&self, random: &mut StdRng) -> Option<(i64, i64)> {
        let (order, lines) = *self.open_orders.get(random.random_range(0..self.open_orders.len().max(1)))?;
        Some((order, random.random_range(1..=lines)))
    }
}
