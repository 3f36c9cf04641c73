//! `useModel`: tables, columns, domains and their members, with labels in a language.

use std::sync::{Arc, Weak};

use async_graphql::{
    Value as Argument,
    dynamic::{Enum, Field, FieldFuture, FieldValue, InputValue, Object, SchemaBuilder, TypeRef},
};

use super::{
    World,
    model::TableDef,
    words::{Domain, LANGUAGES, Words},
};

/// What `useModel` resolves to: everything, in one language.
type Language = String;

/// A column of the model: its table, its index there and its label.
struct ModelColumn {
    table: Arc<TableDef>,
    index: usize,
    label: String,
    domain: Option<usize>,
}

/// A table and its label.
type ModelTable = (Arc<TableDef>, String);

/// A member of a domain: the domain's number, the value and its name.
type Member = (usize, i64, String);

/// The field of `Query`.
pub(crate) fn field() -> Field {
    let field = Field::new("useModel", TypeRef::named("Query_UseModel"), |ctx| {
        let language = ctx.args.get("lang").and_then(|lang| lang.enum_name().map(str::to_owned).ok());
        let language: Language = language.unwrap_or_else(|| "ENGLISH".to_owned());
        FieldFuture::Value(Some(FieldValue::owned_any(language)))
    });
    field.argument(InputValue::new("lang", TypeRef::named("Language")))
}

/// The types that it needs.
pub(crate) fn register(builder: SchemaBuilder, world: &Weak<World>, tells_members: bool) -> SchemaBuilder {
    let languages = LANGUAGES.iter().fold(Enum::new("Language"), |languages, language| languages.item(*language));
    let mut root = Object::new("Query_UseModel")
        .field(list(world, "tables", "ModelTable", "tableNo", tables))
        .field(list(world, "columns", "ModelColumn", "tableNo", columns));
    let mut builder = builder.register(languages).register(table()).register(column());
    if tells_members {
        root = root.field(list(world, "domainMembers", "ModelDomainMember", "domainNo", members));
        builder = builder.register(member());
    }
    builder.register(root)
}

/// A list of the model, of which the argument picks a part.
fn list<T: Send + Sync + 'static>(
    world: &Weak<World>,
    name: &str,
    element: &str,
    argument: &'static str,
    elements: fn(&World, &str, Option<i64>) -> Vec<T>,
) -> Field {
    let world = world.clone();
    let field = Field::new(name, TypeRef::named_list(element), move |ctx| {
        let language = ctx.parent_value.downcast_ref::<Language>().cloned().unwrap_or_default();
        let wanted = ctx.args.get(argument).and_then(|number| number.i64().ok());
        let found = world.upgrade().map(|world| elements(&world, &language, wanted)).unwrap_or_default();
        FieldFuture::Value(Some(FieldValue::list(found.into_iter().map(FieldValue::owned_any))))
    });
    field.argument(InputValue::new(argument, TypeRef::named("Int")))
}

fn wanted_tables(world: &World, wanted: Option<i64>) -> Vec<Arc<TableDef>> {
    let tables = world.store().shown();
    tables.into_iter().filter(|table| wanted.is_none_or(|wanted| wanted == i64::from(table.number))).collect()
}

fn tables(world: &World, language: &str, wanted: Option<i64>) -> Vec<ModelTable> {
    let tables = wanted_tables(world, wanted);
    let store = world.store();
    let label = |table: Arc<TableDef>| {
        let label = store.words.label(&table, None, language);
        (table, label)
    };
    tables.into_iter().map(label).collect()
}

fn columns(world: &World, language: &str, wanted: Option<i64>) -> Vec<ModelColumn> {
    let tables = wanted_tables(world, wanted);
    let store = world.store();
    let column = |table: &Arc<TableDef>, index: usize| {
        let name = &table.columns[index].name;
        let label = store.words.label(table, Some(name), language);
        let domain = store.words.domain(name).map(|(number, _)| number);
        ModelColumn { table: Arc::clone(table), index, label, domain }
    };
    let shown = |table: &Arc<TableDef>, index: &usize| {
        let column = &table.columns[*index];
        !column.hidden && !column.extension
    };
    tables
        .iter()
        .flat_map(|table| (0..table.columns.len()).filter(|index| shown(table, index)).map(move |index| (table, index)))
        .map(|(table, index)| column(table, index))
        .collect()
}

fn members(world: &World, _: &str, wanted: Option<i64>) -> Vec<Member> {
    let store = world.store();
    let of_domain = |(index, (_, members)): (usize, &Domain)| {
        let number = index + 1;
        members.iter().map(|(value, name)| (number, *value, name.clone())).collect::<Vec<_>>()
    };
    let all = store.words.domains().iter().enumerate().flat_map(of_domain);
    all.filter(|(number, _, _)| wanted.is_none_or(|wanted| usize::try_from(wanted) == Ok(*number))).collect()
}

fn of<T: Send + Sync + 'static>(name: &str, scalar: &str, value: fn(&T) -> Argument) -> Field {
    Field::new(name, TypeRef::named(scalar), move |ctx| {
        FieldFuture::from_value(ctx.parent_value.downcast_ref::<T>().map(value))
    })
}

fn table() -> Object {
    Object::new("ModelTable")
        .field(of::<ModelTable>("tableNo", "Int", |(table, _)| table.number.into()))
        .field(of::<ModelTable>("identifier", "String", |(table, _)| table.name.as_str().into()))
        .field(of::<ModelTable>("name", "String", |(_, label)| label.as_str().into()))
        .field(of::<ModelTable>("databaseType", "String", |(table, _)| {
            if table.system { "SYSTEM" } else { "COMPANY" }.into()
        }))
}

fn column() -> Object {
    Object::new("ModelColumn")
        .field(of::<ModelColumn>("tableNo", "Int", |column| column.table.number.into()))
        .field(of::<ModelColumn>("columnNo", "Int", |column| column.table.column_number(column.index).into()))
        .field(of::<ModelColumn>("identifier", "String", |column| {
            // Identifiers of the model begin with a capital, as those of tables do.
            pascal(&column.table.columns[column.index].name).into()
        }))
        .field(of::<ModelColumn>("name", "String", |column| column.label.as_str().into()))
        .field(of::<ModelColumn>("domainNo", "Int", |column| column.domain.map_or(Argument::Null, Argument::from)))
}

fn member() -> Object {
    Object::new("ModelDomainMember")
        .field(of::<Member>("domainNo", "Int", |member| member.0.into()))
        .field(of::<Member>("value", "Long", |member| member.1.into()))
        .field(of::<Member>("identifier", "String", |member| member.2.as_str().into()))
        .field(of::<Member>("name", "String", |member| format!("{} (label)", member.2).into()))
}

fn pascal(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

/// The enumeration of a column's names, as GraphQL has it.
pub(crate) fn enumeration(name: &str, members: &[(i64, String)]) -> Enum {
    // One without items would not be valid.
    let first = Enum::new(enumeration_name(name)).item("Unknown_");
    members.iter().fold(first, |all, (_, member)| all.item(member))
}

/// What it is called.
pub(crate) fn enumeration_name(column: &str) -> String {
    format!("{}Domain", pascal(column))
}

/// The names of a value that a twin shows.
pub(crate) fn twin_names(world: &Weak<World>, column: &str, value: i64, is_flags: bool) -> Vec<String> {
    let names = |words: &Words| words.names(column, value, is_flags);
    world.upgrade().map(|world| names(&world.store().words)).unwrap_or_default()
}
