//! Colours for people, on a terminal alone.

/// Whether there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Some,
    None,
}

impl Colour {
    /// Where the output is a terminal, unless `NO_COLOR` is set.
    pub(super) fn of(is_terminal: bool) -> Self {
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_terminal && !is_unwanted { Self::Some } else { Self::None }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint(text, "32")
    }

    pub(super) fn busy(self, text: &str) -> String {
        self.paint(text, "33")
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint(text, "31")
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint(text, "2")
    }

    fn paint(self, text: &str, code: &str) -> String {
        match self {
            Self::Some => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::None => text.to_owned(),
        }
    }
}
