//! The protocol of one row, model-checked: every order of changes, deliveries, folds, claims, fetches that lag, walks,
//! crashes and workers that stand still, within small bounds. What a row's evidence means is decided by the product's own
//! rules; what surrounds them (fold, claim, settle) is told again in `world.rs`.
//!
//! A copy that lags is checked with notifications that tell when the row was changed, with a source whose clock is not
//! ahead, and without a row that is made again: where times cannot tell which was first, the source's answer decides, and
//! one from an old copy misleads until the next walk.
//!
//! `cargo test --release -p nxt-protocol larger -- --ignored --nocapture` checks larger bounds: minutes, and some
//! hundred MB of memory.
//!
//! It is a package of its own, so that builds for tests can compile it to be fast.

mod bounds;
mod clocks;
#[cfg(test)]
mod tests;
mod world;

use stateright::{Model, Property};

pub use bounds::Bounds;
pub use clocks::Clocks;
pub use world::{Action, Rules, World};

/// The property that what is quiet is equal.
pub const EQUAL: &str = "quiet means equal";
/// The property that nothing goes back.
pub const NEVER_BACK: &str = "a reader never sees an older row, and a living one is never removed";

/// What is checked, within which bounds.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// How much may happen.
    pub bounds: Bounds,
    /// By which rules and clocks.
    pub clocks: Clocks,
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        // What follows a fault tells nothing.
        world.fault().is_none().then(|| world.reduced_after(action, self.clocks))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(EQUAL, |_, world: &World| !world.is_quiet() || world.is_equal()),
            Property::always(NEVER_BACK, |_, world: &World| world.fault().is_none()),
            Property::always("something is left to do until it is quiet", |_, world: &World| {
                world.is_quiet() || world.fault().is_some() || !world.actions().is_empty()
            }),
        ];
        // Not true by emptiness.
        if self.bounds.freezes() {
            let held = |_: &Self, world: &World| world.is_held_twice();
            properties.push(Property::sometimes("two workers hold the row", held));
        }
        if self.bounds.makes_rows_again() {
            let shown = |_: &Self, world: &World| world.has_shown_a_second_life();
            properties.push(Property::sometimes("a row that was made again is shown", shown));
        }
        properties
    }
}
