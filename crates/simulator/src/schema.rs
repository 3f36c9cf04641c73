//! The GraphQL schema, made from the model and executed by the library.

use std::sync::{Arc, Weak};

use async_graphql::{
    Error, Name, Value as Argument,
    dynamic::{
        Enum, Field, FieldFuture, FieldValue, InputObject, InputValue, Object, ResolverContext, Scalar, Schema,
        SchemaBuilder, TypeRef,
    },
};

use super::{
    SimulatorError, World,
    model::{ColumnDef, JoinDef, Owner, TableDef, Twin},
    page::{Page, cursor, enter, page},
    problem::null_on_problem,
    store::Row,
    use_model,
    value::Value,
};

/// GraphQL's own scalars.
const BUILT_IN: [&str; 3] = ["Int", "String", "Boolean"];
/// Fields of `extensions` and the scalars of their values.
const EXTENSIONS: [(&str, &str); 7] = [
    ("integerValue", "Long"),
    ("decimalValue", "Decimal"),
    ("stringValue", "String"),
    ("booleanValue", "Boolean"),
    ("dateValue", "Date"),
    ("timeValue", "Time"),
    ("timestampValue", "DateTime"),
];
const OPERATORS: [&str; 7] = ["_eq", "_not_eq", "_gt", "_gte", "_lt", "_lte", "_like"];

/// What `useCompany` and `useCustomer` resolve to.
struct Context(Owner);

/// A schema without tables, for the moment before the first real one.
pub(super) fn empty() -> Result<Schema, SimulatorError> {
    let query =
        Object::new("Query").field(Field::new("starting", TypeRef::named("Boolean"), |_| FieldFuture::Value(None)));
    Schema::build("Query", None, None).register(query).finish().map_err(wrong)
}

/// The schema of these tables over this world.
pub(super) fn build(tables: &[Arc<TableDef>], world: &Arc<World>) -> Result<Schema, SimulatorError> {
    let strong = world;
    let world = Arc::downgrade(world);
    let mut builder = Schema::build("Query", None, None);
    for scalar in ["Long", "Short", "Decimal", "DateTime", "Date", "Time", "Guid"] {
        builder = builder.register(Scalar::new(scalar)).register(operators(scalar));
    }
    for scalar in BUILT_IN {
        builder = builder.register(operators(scalar));
    }
    builder =
        builder.register(Enum::new("SortOrder").item("ASC").item("DESC")).register(page_info()).register(extensions());
    let (mut company, mut customer) = (Object::new("Query_UseCompany"), Object::new("Query_UseCustomer"));
    for table in tables {
        let table = &known_joins(table, tables);
        let parent = if table.system { &mut customer } else { &mut company };
        let field = connection_field(table, world.clone());
        *parent = std::mem::replace(parent, Object::new("_")).field(field);
        builder = register_table(builder, table, tables, &world);
    }
    let (tells_members, domains) = {
        let store = strong.store();
        (store.words.tells_members, store.words.domains().to_vec())
    };
    for (column, members) in &domains {
        builder = builder.register(use_model::enumeration(column, members));
    }
    builder = use_model::register(builder, &world, tells_members);
    let query = root(&world);
    let builder = register_tenants(builder).register(company).register(customer).register(query);
    builder.finish().map_err(wrong)
}

/// A table with the joins to those tables that the schema shows.
fn known_joins(table: &Arc<TableDef>, tables: &[Arc<TableDef>]) -> Arc<TableDef> {
    let is_known = |target: &str| tables.iter().any(|table| table.name == target);
    if table.joins.iter().all(|join| is_known(&join.target)) {
        return Arc::clone(table);
    }
    let joins = table.joins.iter().filter(|join| is_known(&join.target)).cloned().collect();
    Arc::new(TableDef { joins, ..(**table).clone() })
}

fn wrong(error: impl std::fmt::Display) -> SimulatorError {
    SimulatorError::Schema(error.to_string())
}

fn list(element: &str) -> TypeRef {
    TypeRef::named_list(element)
}

fn operators(scalar: &str) -> InputObject {
    let mut input = InputObject::new(format!("Operators_{scalar}"));
    for operator in OPERATORS {
        input = input.field(InputValue::new(operator, TypeRef::named(scalar)));
    }
    for operator in ["_in", "_not_in"] {
        input = input.field(InputValue::new(operator, list(scalar)));
    }
    for operator in ["_is_null", "_is_not_null"] {
        input = input.field(InputValue::new(operator, TypeRef::named("Boolean")));
    }
    input
}

fn root(world: &Weak<World>) -> Object {
    let context = |name: &str, type_: &str, owner: fn(i64) -> Owner| {
        let world = world.clone();
        Field::new(name, TypeRef::named(type_), move |ctx| {
            let world = world.clone();
            FieldFuture::new(async move {
                let owner = owner(ctx.args.try_get("no")?.i64()?);
                let entered = enter(&ctx, &world, owner).map(|()| FieldValue::owned_any(Context(owner)));
                null_on_problem(&ctx, entered)
            })
        })
        .argument(InputValue::new("no", TypeRef::named_nn("Int")))
    };
    let tenants = |name: &str, connection: &str, by_customer: bool| {
        let world = world.clone();
        let field = Field::new(name, TypeRef::named(connection), move |ctx| {
            let companies = world.upgrade().map(|world| world.store().companies()).unwrap_or_default();
            let wanted = ctx.args.get("customerNo").and_then(|no| no.i64().ok());
            FieldFuture::Value(Some(FieldValue::owned_any(tenant_items(companies, by_customer, wanted))))
        });
        field
            .argument(InputValue::new("first", TypeRef::named("Int")))
            .argument(InputValue::new("last", TypeRef::named("Int")))
    };
    Object::new("Query")
        .field(context("useCompany", "Query_UseCompany", Owner::Company))
        .field(context("useCustomer", "Query_UseCustomer", Owner::Customer))
        .field(use_model::field())
        .field(
            tenants("availableCompanies", "Query_AvailableCompanies_Connection", false)
                .argument(InputValue::new("customerNo", TypeRef::named("Int"))),
        )
        .field(tenants("availableCustomers", "Query_AvailableCustomers_Connection", true))
}

/// One (name, company, customer) an item.
type TenantItems = Vec<(String, i64, i64)>;

fn tenant_items(companies: Vec<(i64, i64)>, by_customer: bool, wanted: Option<i64>) -> TenantItems {
    let mut items: TenantItems = companies
        .into_iter()
        .filter(|(_, customer)| wanted.is_none_or(|wanted| wanted == *customer))
        .map(|(company, customer)| (format!("Simulated {company} AS"), company, customer))
        .collect();
    if by_customer {
        items.sort_by_key(|item| item.2);
        items.dedup_by_key(|item| item.2);
    }
    items
}

fn register_tenants(builder: SchemaBuilder) -> SchemaBuilder {
    let connection = |name: &str, item: &str| {
        let total = Field::new("totalCount", TypeRef::named("Int"), |ctx| {
            let items = ctx.parent_value.downcast_ref::<TenantItems>().map_or(0, Vec::len);
            FieldFuture::from_value(Some(Argument::from(items)))
        });
        let items = Field::new("items", list(item), |ctx| {
            let items = ctx.parent_value.downcast_ref::<TenantItems>().cloned().unwrap_or_default();
            FieldFuture::Value(Some(FieldValue::list(items.into_iter().map(FieldValue::owned_any))))
        });
        Object::new(name).field(total).field(items)
    };
    let item = |name: &str| {
        let of = |field: &str, scalar: &str, value: fn(&(String, i64, i64)) -> Argument| {
            Field::new(field, TypeRef::named(scalar), move |ctx| {
                FieldFuture::from_value(ctx.parent_value.downcast_ref().map(value))
            })
        };
        Object::new(name)
            .field(of("name", "String", |item| item.0.as_str().into()))
            .field(of("vismaNetCompanyId", "Long", |item| item.1.into()))
            .field(of("vismaNetCustomerId", "Long", |item| item.2.into()))
            .field(of("organizationNo", "String", |item| format!("9{:08}", item.1 % 100_000_000).into()))
    };
    builder
        .register(connection("Query_AvailableCompanies_Connection", "VbcCompany"))
        .register(connection("Query_AvailableCustomers_Connection", "VbcCustomer"))
        .register(item("VbcCompany"))
        .register(item("VbcCustomer"))
}

fn page_info() -> Object {
    let of = |name: &str, scalar: &str, value: fn(&Page) -> Argument| {
        Field::new(name, TypeRef::named(scalar), move |ctx| {
            FieldFuture::from_value(ctx.parent_value.downcast_ref::<Arc<Page>>().map(|page| value(page)))
        })
    };
    Object::new("PageInfo")
        .field(of("hasNextPage", "Boolean", |page| page.has_next.into()))
        .field(of("hasPreviousPage", "Boolean", |page| (page.offset > 0).into()))
        .field(of("startCursor", "String", |page| cursor(page.offset)))
        .field(of("endCursor", "String", |page| cursor(page.offset + page.rows.len())))
}

/// A row with its table, whose columns of the customer's own are asked for.
type Extended = (Arc<TableDef>, Row);

fn extensions() -> Object {
    EXTENSIONS.into_iter().fold(Object::new("Extensions"), |object, (field, scalar)| {
        let value = Field::new(field, TypeRef::named(scalar), move |ctx| {
            FieldFuture::from_value(extension_value(&ctx, scalar))
        });
        object.field(value.argument(InputValue::new("name", TypeRef::named("String"))))
    })
}

/// The column that the argument names, else the alias, in any case; null where it has another type.
fn extension_value(ctx: &ResolverContext<'_>, scalar: &str) -> Option<Argument> {
    let (table, row) = ctx.parent_value.downcast_ref::<Extended>()?;
    let given = ctx.args.get("name").and_then(|name| name.string().ok().map(str::to_owned));
    let name = given.or_else(|| ctx.field().alias().map(str::to_owned))?;
    let is_wanted = |index: &usize| {
        let column = &table.columns[*index];
        column.extension && !column.hidden && column.scalar == scalar && column.name.eq_ignore_ascii_case(&name)
    };
    (0..table.columns.len()).find(is_wanted).map(|index| to_argument(&row[index]))
}

fn connection_name(table: &TableDef) -> String {
    let parent = if table.system { "Query_UseCustomer" } else { "Query_UseCompany" };
    format!("{parent}_{}_Connection", table.name)
}

fn connection_arguments(field: Field, table: &str) -> Field {
    let mut field = field;
    for (name, type_) in [("first", "Int"), ("last", "Int"), ("skip", "Int"), ("after", "String"), ("before", "String")]
    {
        field = field.argument(InputValue::new(name, TypeRef::named(type_)));
    }
    field
        .argument(InputValue::new("filter", TypeRef::named(format!("FilterExpression_{table}"))))
        .argument(InputValue::new("orderBy", list(&format!("OrderBy_{table}"))))
}

fn connection_field(table: &Arc<TableDef>, world: Weak<World>) -> Field {
    let name = table.name.clone();
    let table = Arc::clone(table);
    let field = Field::new(table.field(), TypeRef::named(connection_name(&table)), move |ctx| {
        let (world, table) = (world.clone(), Arc::clone(&table));
        FieldFuture::new(async move {
            let world = world.upgrade().ok_or_else(|| Error::new("the simulator is stopping"))?;
            let owner = ctx.parent_value.try_downcast_ref::<Context>()?.0;
            let page = page(&ctx, &world, owner, &table).await;
            null_on_problem(&ctx, page.map(|page| FieldValue::owned_any(Arc::new(page))))
        })
    });
    connection_arguments(field, &name).description(format!("A field for accessing the data from the table {name}."))
}

fn register_table(
    builder: SchemaBuilder,
    table: &Arc<TableDef>,
    tables: &[Arc<TableDef>],
    world: &Weak<World>,
) -> SchemaBuilder {
    let name = &table.name;
    let (filter_name, order_name) = (format!("FilterExpression_{name}"), format!("OrderBy_{name}"));
    let mut filter = InputObject::new(&filter_name)
        .field(InputValue::new("_and", list(&filter_name)))
        .field(InputValue::new("_or", list(&filter_name)))
        .field(InputValue::new("changedDateTimeUtc", TypeRef::named("Operators_DateTime")));
    let mut order = InputObject::new(&order_name);
    let wording = world.upgrade().map(|world| world.odd.current().wording).unwrap_or_default();
    let mut row = Object::new(name).description(wording.table(table));
    for (index, column) in table.columns.iter().enumerate().filter(|(_, column)| !column.hidden && !column.extension) {
        filter = filter.field(InputValue::new(&column.name, TypeRef::named(format!("Operators_{}", column.scalar))));
        order = order.field(InputValue::new(&column.name, TypeRef::named("SortOrder")));
        row = row.field(column_field(table, index, world.clone()).description(wording.column(table, index)));
        if let Some(twin) = column.twin {
            row = row.field(twin_field(column, twin, index, world.clone()));
        }
    }
    for join @ JoinDef { field, target, .. } in &table.joins {
        let is_down = field.starts_with("joindown");
        let type_ = if is_down { format!("Query_UseCompany_{target}_Connection") } else { target.clone() };
        let join = Field::new(field, TypeRef::named(type_), |_| FieldFuture::Value(None))
            .description(join_description(table, join, tables));
        row = row.field(if is_down { connection_arguments(join, target) } else { join });
    }
    let own = Arc::clone(table);
    let extensions = Field::new("extensions", TypeRef::named("Extensions"), move |ctx| {
        let row = ctx.parent_value.downcast_ref::<Row>().cloned();
        FieldFuture::Value(row.map(|row| FieldValue::owned_any::<Extended>((Arc::clone(&own), row))))
    });
    let connection = Object::new(connection_name(table))
        .field(Field::new("totalCount", TypeRef::named("Int"), |ctx| {
            let page = ctx.parent_value.downcast_ref::<Arc<Page>>();
            FieldFuture::from_value(page.map(|page| Argument::from(page.total)))
        }))
        .field(Field::new("pageInfo", TypeRef::named("PageInfo"), |ctx| {
            let page = ctx.parent_value.downcast_ref::<Arc<Page>>().cloned();
            FieldFuture::Value(page.map(FieldValue::owned_any))
        }))
        .field(Field::new("items", list(name), |ctx| {
            let page = ctx.parent_value.downcast_ref::<Arc<Page>>();
            let rows = page.map(|page| page.rows.clone()).unwrap_or_default();
            FieldFuture::Value(Some(FieldValue::list(rows.into_iter().map(FieldValue::owned_any))))
        }));
    builder.register(filter).register(order).register(row.field(extensions)).register(connection)
}

/// `A one-to-one relation, "Order" (678), from ... to ...`: the wording of 2022.
fn join_description(table: &TableDef, join: &JoinDef, tables: &[Arc<TableDef>]) -> String {
    let Some(target) = tables.iter().find(|table| table.name == join.target) else { return String::new() };
    let kind = if join.field.starts_with("joindown") { "one-to-many" } else { "one-to-one" };
    let name = join.field.rsplit('_').next().unwrap_or(&join.field);
    let number = u32::try_from(name.len()).unwrap_or_default() + table.number;
    let (from, to) = (table.join_end(&join.column), target.join_end(&join.column));
    format!("A {kind} relation, \"{name}\" ({number}), from {from} to {to}.")
}

fn column_field(table: &Arc<TableDef>, index: usize, world: Weak<World>) -> Field {
    let column = &table.columns[index];
    let (name, own) = (column.name.clone(), Arc::clone(table));
    let is_long = column.scalar == "Long";
    Field::new(&column.name, TypeRef::named(&column.scalar), move |ctx| {
        let world = world.upgrade();
        let row = ctx.parent_value.downcast_ref::<Row>();
        let odd = row.zip(world.as_ref()).and_then(|(row, world)| world.odd.placeholder(&own, row, &name));
        let as_text = is_long && world.is_some_and(|world| world.odd.longs_as_text());
        FieldFuture::from_value(odd.map(Argument::String).or_else(|| match cell(&ctx, index)? {
            Value::Int(number) if as_text => Some(Argument::String(number.to_string())),
            value => Some(to_argument(value)),
        }))
    })
}

fn twin_field(column: &ColumnDef, twin: Twin, index: usize, world: Weak<World>) -> Field {
    let domain = use_model::enumeration_name(&column.name);
    let (ending, type_) = match twin {
        Twin::Date => ("AsDate", TypeRef::named("Date")),
        Twin::Time => ("AsTime", TypeRef::named("Time")),
        Twin::Enum => ("AsEnum", TypeRef::named(domain)),
        Twin::Flags => ("Flags", list(&domain)),
    };
    let name = column.name.clone();
    Field::new(format!("{name}{ending}"), type_, move |ctx| {
        let names = |value, is_flags| {
            let names = use_model::twin_names(&world, &name, value, is_flags).into_iter();
            names.map(|name| Argument::Enum(Name::new(name)))
        };
        let value = match (twin, cell(&ctx, index)) {
            (Twin::Date, Some(Value::Int(date))) => date_text(*date).map(Argument::from),
            (Twin::Time, Some(Value::Int(time))) => time_text(*time).map(Argument::from),
            (Twin::Enum, Some(Value::Int(value))) => names(*value, false).next(),
            (Twin::Flags, Some(Value::Int(value))) => Some(Argument::List(names(*value, true).collect())),
            _ => None,
        };
        FieldFuture::from_value(value)
    })
}

fn cell<'a>(ctx: &ResolverContext<'a>, index: usize) -> Option<&'a Value> {
    ctx.parent_value.downcast_ref::<Row>().and_then(|row| row.get(index))
}

fn date_text(date: i64) -> Option<String> {
    let digits = format!("{date:08}");
    (date > 0).then(|| format!("{}-{}-{}", &digits[..4], &digits[4..6], &digits[6..]))
}

fn time_text(time: i64) -> Option<String> {
    ((0..2400).contains(&time) && time % 100 < 60).then(|| format!("{:02}:{:02}:00", time / 100, time % 100))
}

fn to_argument(value: &Value) -> Argument {
    match value {
        Value::Null => Argument::Null,
        Value::Text(text) => Argument::String(text.clone()),
        Value::Int(number) => Argument::from(*number),
        Value::Decimal(text) => text.parse().map_or(Argument::Null, Argument::Number),
        other => Argument::from_json(other.to_json()).unwrap_or(Argument::Null),
    }
}
