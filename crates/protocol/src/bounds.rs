//! How much may happen in one model.

/// How often what may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Changes and deletions at the source.
    pub changes: u8,
    /// Deliveries whose answer is lost, so that the sender repeats them.
    pub repeats: u8,
    /// Reads of a copy that lacks the last change.
    pub lags: u8,
    /// Workers that are killed.
    pub kills: u8,
    /// Workers that stand still so long that another one takes over.
    pub freezes: u8,
    /// Pages of walks.
    pub walks: u8,
}

impl Bounds {
    const NOTHING: Self = Self { changes: 0, repeats: 0, lags: 0, kills: 0, freezes: 0, walks: 0 };
    /// A copy that lags once, and a worker that stands still once.
    pub const LAGGING: Self = Self { changes: 2, lags: 1, freezes: 1, ..Self::NOTHING };
    /// A worker that stands still.
    pub const FROZEN: Self = Self { changes: 2, freezes: 1, ..Self::NOTHING };
    /// A row that comes, goes and comes back, beside a worker that stands still,
    pub const AGAIN_FROZEN: Self = Self { changes: 3, freezes: 1, ..Self::NOTHING };
    /// and beside a walk.
    pub const AGAIN_WALKED: Self = Self { changes: 3, walks: 1, ..Self::NOTHING };
    /// For minutes of checking: a row that comes back, beside a walk and a worker that stands still,
    pub const LARGE_WALKED: Self = Self { freezes: 1, ..Self::AGAIN_WALKED };
    /// beside workers that are killed or stand still, and answers that are lost,
    pub const LARGE_KILLED: Self = Self { repeats: 1, kills: 1, ..Self::AGAIN_FROZEN };
    /// and a copy that lags, beside each of these.
    pub const LARGE_LAGGING: Self = Self { repeats: 1, kills: 1, walks: 1, ..Self::LAGGING };
    /// For histories drawn at random.
    pub const LONG: Self = Self { changes: 8, repeats: 2, lags: 0, kills: 2, freezes: 2, walks: 2 };

    /// Whether a row can come, go and come back.
    pub fn makes_rows_again(self) -> bool {
        self.changes > 2
    }

    /// Whether a worker can stand still.
    pub fn freezes(self) -> bool {
        self.freezes > 0
    }
}
