//! Named steps at which a test can end the process as abruptly as `kill -9` does. A release build has none of this.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Names the step at which a development build aborts; `name:3` waits for the third time.
pub const VARIABLE: &str = "NXT_MIRROR_CRASH_AT";

macro_rules! failpoints {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A step between two others of the main path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failpoint {
            $($(#[$doc])* $variant,)*
        }

        impl Failpoint {
            /// All of them, in the order of the path.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in [`VARIABLE`].
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

failpoints! {
    /// A batch of notifications is taken, and nothing of it stored.
    ReceiveTaken = "receive-taken",
    /// The batch is committed, and nobody has an answer.
    ReceiveStored = "receive-stored",
    /// All have their answers.
    ReceiveAnswered = "receive-answered",
    /// A part of the ledger is folded into dirty rows, and not committed.
    FoldWritten = "fold-written",
    /// It is committed.
    Folded = "folded",
    /// Rows are claimed.
    Claimed = "claimed",
    /// A mirrored table is made or changed, but not committed.
    TableMade = "table-made",
    /// The change of the table is committed.
    TableReady = "table-ready",
    /// A request is granted, and not sent.
    Granted = "granted",
    /// It is answered, and its slot not given back.
    Answered = "answered",
    /// Rows are fetched, and nothing of them applied.
    Fetched = "fetched",
    /// The target is locked, and nothing decided.
    ApplyLocked = "apply-locked",
    /// The mirror is written, but not committed.
    ApplyWritten = "apply-written",
    /// Everything about a batch is committed.
    Applied = "applied",
    /// A page of a walk is written, but not committed.
    WalkWritten = "walk-written",
    /// It is committed with its checkpoint.
    WalkCommitted = "walk-committed",
    /// A table is cut into ranges.
    WalkCut = "walk-cut",
    /// Rows that only the mirror has are marked.
    WalkMarked = "walk-marked",
    /// A walk has come to its end.
    WalkFinished = "walk-finished",
    /// A sweep has written its pages, and not moved its watermark.
    SweepWritten = "sweep-written",
}

impl Failpoint {
    /// The process is at this step.
    pub fn pass(self) {
        static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
        static PASSED: AtomicU64 = AtomicU64::new(0);
        if !cfg!(debug_assertions) {
            return;
        }
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            let (name, time) = text.split_once(':').unwrap_or((&text, "1"));
            Some((name.to_owned(), time.parse().unwrap_or(1)))
        });
        if let Some((name, time)) = armed
            && name == self.name()
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *time
        {
            std::process::abort();
        }
    }
}
