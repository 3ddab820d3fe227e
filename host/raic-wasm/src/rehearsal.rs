//! What a connector is made to meet while it is tried, since no service does it on request.

/// A clock that is off, and a service that answers every request alike. The daemon rehearses
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Rehearsal {
    /// How far the connector's clock is ahead of the host's, in milliseconds.
    pub clock_ahead_ms: i64,
    /// What every request is answered by, in the place of being sent. The gate judges it all the
    /// same.
    pub answer: Option<RehearsedAnswer>,
}

/// An answer without content.
#[derive(Clone, Debug, Default)]
pub struct RehearsedAnswer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
}
