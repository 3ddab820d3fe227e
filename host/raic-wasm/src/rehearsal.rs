//! Conditions that are simulated while a connector is tried, because no service produces them on
//! request.

/// A simulated clock that is wrong, or a simulated service that gives every request the same
/// answer. The daemon uses neither.
#[derive(Clone, Debug, Default)]
pub struct Rehearsal {
    /// How far the connector's clock is ahead of the host's, in milliseconds; 0 for a right clock.
    pub clock_ahead_ms: i64,
    /// The answer to every request, which is then judged by the gate but not sent. `None` sends
    /// requests.
    pub answer: Option<RehearsedAnswer>,
}

/// A simulated answer, without content.
#[derive(Clone, Debug, Default)]
pub struct RehearsedAnswer {
    /// HTTP status of the answer.
    pub status: u16,
    /// Headers of the answer, with names in lower case.
    pub headers: Vec<(String, String)>,
}
