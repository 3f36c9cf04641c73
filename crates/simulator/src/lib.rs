//! A simulated Business NXT: token endpoint, GraphQL API, webhooks, limits and faults, in memory.
//!
//! Written from the API's public documentation and from nothing of the daemon's, so that it does not share the
//! daemon's mistakes. A library parses, validates and executes the queries; [`model`] says which tables there are;
//! `store` holds the truth with its history; `sender` posts signed notifications; `admin` lets a test or a
//! person change rows, set faults and read counters while it runs (see `docs/simulator.md`).

mod admin;
mod args;
mod clock;
mod fault;
mod filter;
mod limits;
pub mod model;
mod oddity;
mod page;
mod problem;
mod schema;
mod sender;
mod server;
mod store;
mod token;
mod trading;
mod use_model;
mod value;
mod wording;
mod words;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use parking_lot::{Mutex, MutexGuard, RwLock};
use serde_json::{Map, Value as Json};
use tokio_util::sync::CancellationToken;

pub use args::{SimulateArgs, run};
pub use clock::Clock;
pub use fault::{Fault, FaultKind};
pub use limits::Counters;
pub use model::Owner;
pub use oddity::{OddValue, Oddities, RetryAfter};
pub use sender::{Knobs, SenderCounters};
pub use store::Edit;
pub use trading::Trader;
pub use wording::Wording;

use fault::Faults;
use limits::Limits;
use sender::Sender;
use store::{Change, Store};

/// Why the simulator cannot do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No such table, tenant, row or column.
    #[error("there is no {0}")]
    Unknown(String),
    /// A value that its column cannot have.
    #[error("{0}")]
    BadValue(String),
    /// The schema cannot be built.
    #[error("the schema is wrong: {0}")]
    Schema(String),
}

/// How to start a simulator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address of the token endpoint and the API; port 0 for any.
    pub listen: SocketAddr,
    /// Address of the admin API; port 0 for any.
    pub admin_listen: SocketAddr,
    /// The client that gets tokens.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Seconds that a token lives.
    pub token_seconds: u64,
    /// Where notifications go, and how.
    pub knobs: Knobs,
    /// Companies as (customer, company).
    pub companies: Vec<(i64, i64)>,
    /// Seed of everything random.
    pub seed: u64,
    /// Requests in any 60 seconds.
    pub requests_per_minute: usize,
    /// Requests under way for one company.
    pub in_flight_max: usize,
    /// Whether the row of the vendor's published example exists.
    pub published_example: bool,
    /// Rows in one page at most, whatever `first` says.
    pub page_rows_max: usize,
    /// Further tables, `Extra1` and so on, for whoever needs many.
    pub extra_tables: u32,
    /// The clock of rows and notifications.
    pub clock: Clock,
    /// The forms of answers at first.
    pub oddities: Oddities,
}

impl Default for Options {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: any,
            admin_listen: any,
            client_id: "isv_simulated".into(),
            client_secret: "simulated-secret".into(),
            token_seconds: 3_600,
            knobs: Knobs::default(),
            companies: vec![(1_000_001, 2_000_001), (1_000_001, 2_000_002), (4_801_958, 5_199_768)],
            seed: 1,
            requests_per_minute: 600,
            in_flight_max: 60,
            published_example: true,
            page_rows_max: 5_000,
            extra_tables: 0,
            clock: Clock::default(),
            oddities: Oddities::default(),
        }
    }
}

/// What all parts of one simulator share.
#[derive(Debug)]
struct World {
    options: Options,
    store: Mutex<Store>,
    schema: RwLock<async_graphql::dynamic::Schema>,
    faults: Faults,
    odd: oddity::Odd,
    limits: Limits,
    tokens: token::Tokens,
    sender: Sender,
}

impl World {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }

    /// Makes a change and sends its notification.
    fn change(
        &self,
        notify: bool,
        change: impl FnOnce(&mut Store) -> Result<Vec<Change>, SimulatorError>,
    ) -> Result<(), SimulatorError> {
        let changes = change(&mut self.store())?;
        if notify {
            let store = self.store();
            for change in changes.iter().filter(|change| store.forwards(change, &self.options.client_id)) {
                self.sender.announce(change);
            }
        }
        Ok(())
    }

    fn rebuild_schema(self: &Arc<Self>) -> Result<(), SimulatorError> {
        let tables = self.store().shown();
        let built = schema::build(&tables, self)?;
        *self.schema.write() = built;
        Ok(())
    }

    /// Changes the forms of answers, those of descriptions among them.
    fn change_oddities(self: &Arc<Self>, change: impl FnOnce(&mut Oddities)) -> Result<(), SimulatorError> {
        let wording = self.odd.current().wording;
        self.odd.change(change);
        if self.odd.current().wording == wording { Ok(()) } else { self.rebuild_schema() }
    }

    /// Rows in one page at most.
    fn page_rows_max(&self) -> usize {
        self.odd.current().page_rows_max.unwrap_or(usize::MAX).min(self.options.page_rows_max)
    }
}

/// A running simulator. Stops when dropped.
#[derive(Debug)]
pub struct Simulator {
    world: Arc<World>,
    api: SocketAddr,
    admin: SocketAddr,
    servers: Vec<ServerHandle>,
    stop: CancellationToken,
}

impl Simulator {
    /// Starts the API, the admin API and the sender, with the rows of the published example alone.
    pub async fn start(options: Options) -> Result<Self, SimulatorError> {
        // The process may have a provider already; either is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stop = CancellationToken::new();
        let api = listen(options.listen)?;
        let admin = listen(options.admin_listen)?;
        let (api_address, admin_address) = (address(&api, options.listen)?, address(&admin, options.admin_listen)?);
        let world = Arc::new(World {
            store: Mutex::new(Store::new(model::tables(options.extra_tables), &options.companies, options.clock)),
            schema: RwLock::new(schema::empty()?),
            faults: Faults::new(options.seed),
            odd: oddity::Odd::new(options.oddities.clone()),
            limits: Limits::new(options.requests_per_minute, options.in_flight_max),
            tokens: token::Tokens::default(),
            sender: Sender::start(options.knobs.clone(), options.seed, stop.clone()),
            options,
        });
        world.rebuild_schema()?;
        world.store().subscribe_to_all(&world.options.client_id)?;
        if world.options.published_example {
            world.store().publish_example();
        }
        let servers = vec![server::serve(api, Arc::clone(&world))?, admin::serve(admin, Arc::clone(&world))?];
        Ok(Self { world, api: api_address, admin: admin_address, servers, stop })
    }

    /// The GraphQL endpoint.
    pub fn graphql_url(&self) -> String {
        format!("http://{}/api/graphql-service", self.api)
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        format!("http://{}/connect/token", self.api)
    }

    /// The admin API.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Inserts or updates a row by the GraphQL names of its columns, key included, and announces it.
    pub fn put(&self, owner: Owner, table: &str, values: Map<String, Json>) -> Result<(), SimulatorError> {
        self.world.change(true, |store| store.put(owner, table, &values).map(|change| vec![change]))
    }

    /// The same for many rows, silently if so wished.
    pub fn put_all(
        &self,
        owner: Owner,
        table: &str,
        rows: &[Map<String, Json>],
        notify: bool,
    ) -> Result<(), SimulatorError> {
        self.world.change(notify, |store| rows.iter().map(|row| store.put(owner, table, row)).collect())
    }

    /// Deletes a row by its key columns and announces it.
    pub fn delete(&self, owner: Owner, table: &str, key: Map<String, Json>) -> Result<(), SimulatorError> {
        self.world.change(true, |store| store.delete(owner, table, &key).map(|change| vec![change]))
    }

    /// The same without a notification.
    pub fn delete_silently(&self, owner: Owner, table: &str, key: Map<String, Json>) -> Result<(), SimulatorError> {
        self.world.change(false, |store| store.delete(owner, table, &key).map(|change| vec![change]))
    }

    /// Makes changes at one moment, as an edit session does that is saved, and announces each of them.
    pub fn save(&self, edits: impl IntoIterator<Item = Edit>) -> Result<(), SimulatorError> {
        self.world.change(true, |store| store.save(edits.into_iter()))
    }

    /// Announces a row as it is, without changing it.
    pub fn announce(&self, owner: Owner, table: &str, key: Map<String, Json>) -> Result<(), SimulatorError> {
        let change = self.world.store().as_change(owner, table, &key)?;
        self.world.sender.announce(&change);
        Ok(())
    }

    /// Adds a column to a table while it is in use: `name` and GraphQL scalar.
    pub fn add_column(&self, table: &str, name: &str, scalar: &str) -> Result<(), SimulatorError> {
        self.world.store().add_column(table, name, scalar, false)?;
        self.world.rebuild_schema()
    }

    /// Gives a column another GraphQL scalar. Values stay as they are.
    pub fn change_type(&self, table: &str, column: &str, scalar: &str) -> Result<(), SimulatorError> {
        self.world.store().change_column(table, column, |column| scalar.clone_into(&mut column.scalar))?;
        self.world.rebuild_schema()
    }

    /// Adds a column of the customer's own to a table: `name` and GraphQL scalar.
    pub fn add_extension_column(&self, table: &str, name: &str, scalar: &str) -> Result<(), SimulatorError> {
        self.world.store().add_column(table, name, scalar, true)?;
        self.world.rebuild_schema()
    }

    /// Takes a column away from the schema; its values stay.
    pub fn hide_column(&self, table: &str, name: &str) -> Result<(), SimulatorError> {
        self.world.store().change_column(table, name, |column| column.hidden = true)?;
        self.world.rebuild_schema()
    }

    /// Takes a table away from the schema, or shows it again; its rows stay.
    pub fn hide_table(&self, table: &str, hidden: bool) -> Result<(), SimulatorError> {
        self.world.store().hide_table(table, hidden)?;
        self.world.rebuild_schema()
    }

    /// Changes the label of a table, or of a column of it, in all languages.
    pub fn rename(&self, table: &str, column: Option<&str>, label: &str) {
        self.world.store().words.rename(table, column, label);
    }

    /// Gives a value of the columns of this name a name; a column without a second form does not show it.
    pub fn add_member(&self, column: &str, value: i64, name: &str) -> Result<(), SimulatorError> {
        self.world.store().words.add_member(column, value, name);
        self.world.rebuild_schema()
    }

    /// Lets the model list the names of values.
    pub fn tell_members(&self) -> Result<(), SimulatorError> {
        self.world.store().words.tells_members = true;
        self.world.rebuild_schema()
    }

    /// Gives a column a second form, as `Twin` names it.
    pub fn add_twin(&self, table: &str, column: &str, twin: model::Twin) -> Result<(), SimulatorError> {
        self.world.store().change_column(table, column, |column| column.twin = Some(twin))?;
        self.world.rebuild_schema()
    }

    /// All rows of a table, by the GraphQL names of the columns that are no twins.
    pub fn rows(&self, owner: Owner, table: &str) -> Result<Vec<Map<String, Json>>, SimulatorError> {
        self.world.store().rows(owner, table)
    }

    /// Table names with rows, by owner.
    pub fn tables(&self) -> Vec<(Owner, String)> {
        self.world.store().tables_in_use()
    }

    /// Names of a table's key columns.
    pub fn key_columns(&self, table: &str) -> Result<Vec<String>, SimulatorError> {
        self.world.store().key_columns(table)
    }

    /// Sets a fault.
    pub fn fault(&self, fault: Fault) {
        self.world.faults.add(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.world.faults.clear();
    }

    /// Changes the forms of answers from now on.
    pub fn set_oddities(&self, change: impl FnOnce(&mut Oddities)) {
        self.world.change_oddities(change).expect("descriptions in other words make no schema wrong");
    }

    /// Reads come from this long ago.
    pub fn set_read_lag(&self, lag: Duration) {
        self.world.store().set_read_lag(lag);
    }

    /// Tokens given out, so that a test can look for them where they should not be.
    pub fn tokens(&self) -> Vec<String> {
        self.world.tokens.all()
    }

    /// Counts so far.
    pub fn counters(&self) -> Counters {
        self.world.limits.counters(&self.world.faults)
    }

    /// Counts of the sender.
    pub fn sender_counters(&self) -> SenderCounters {
        self.world.sender.counters()
    }

    /// Changes how notifications are sent from now on.
    pub fn set_knobs(&self, change: impl FnOnce(&mut Knobs)) {
        self.world.sender.set_knobs(change);
    }

    /// Waits until every notification is delivered, given up or lost.
    pub async fn drain(&self) {
        self.world.sender.drain().await;
    }

    /// A trading company at work, until the token is cancelled.
    pub fn trade(&self, changes_per_second: f64, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        tokio::spawn(trading::work(Arc::clone(&self.world), changes_per_second, stop))
    }

    /// The same company, which makes a change only when it is told to.
    pub fn trader(&self) -> Trader {
        Trader::new(Arc::clone(&self.world))
    }

    /// Fills the companies with a small trading company's data, silently.
    pub fn stock_up(&self) -> Result<(), SimulatorError> {
        trading::stock_up(&self.world)
    }

    /// Stops serving and sending.
    pub async fn stop(self) {
        self.stop.cancel();
        for server in &self.servers {
            server.stop(false).await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
        for server in &self.servers {
            drop(server.stop(false));
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, SimulatorError> {
    TcpListener::bind(address).map_err(|source| SimulatorError::Listen { address, source })
}

fn address(listener: &TcpListener, wanted: SocketAddr) -> Result<SocketAddr, SimulatorError> {
    listener.local_addr().map_err(|source| SimulatorError::Listen { address: wanted, source })
}
