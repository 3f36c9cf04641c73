//! What requests to the API are made for.

/// Whose request it is, as people ask: who uses up the budget?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Rows that notifications announced, and whatever they wait for.
    Live,
    /// First loads, and the walks that repeat them.
    Load,
    /// Sweeps for what changed lately.
    Sweep,
    /// Comparisons.
    Verify,
    /// Replays, descriptions, the set-up.
    Other,
}

impl Purpose {
    /// Each of them, the most urgent first.
    pub const ALL: [Self; 5] = [Self::Live, Self::Load, Self::Sweep, Self::Verify, Self::Other];

    /// By the name in metrics; what is not among them is another one.
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name).unwrap_or(Self::Other)
    }

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Load => "load",
            Self::Sweep => "sweep",
            Self::Verify => "verify",
            Self::Other => "other",
        }
    }
}
