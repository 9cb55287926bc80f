//! Time as an argument: a [`Moment`] is how long the process, or the simulation, has run.

use std::time::Duration;

/// A point in time, counted from the start of the process or of the simulation.
///
/// Not `std::time::Instant`, because an instant cannot be made from a number and so a script or a
/// test could not state one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The start itself.
    pub const START: Self = Self(Duration::ZERO);

    /// The moment that lies `elapsed` after the start.
    #[must_use]
    pub const fn after(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after `earlier` this moment lies; zero when it lies before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long after the start this moment lies.
    #[must_use]
    pub const fn elapsed(self) -> Duration {
        self.0
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}
