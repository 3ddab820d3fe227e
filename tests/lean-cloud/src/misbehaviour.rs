//! How the cloud misbehaves: what happens, and at which moment of a request.

use std::fmt;

/// The moment of a request at which a cloud misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// When the client connects.
    Connect,
    /// When the headers of a request for an object have come.
    Headers,
    /// In the middle of an object's body, on its way in or out.
    MidBody,
    /// When the whole request for an object has come.
    AfterBody,
    /// At a listing.
    List,
    /// At a deletion.
    Delete,
}

impl Moment {
    /// All moments, in the order of a request.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Headers,
        Self::MidBody,
        Self::AfterBody,
        Self::List,
        Self::Delete,
    ];
}

/// What a cloud does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection is refused.
    Refuse,
    /// Nothing comes any more.
    TimeOut,
    /// The connection is reset.
    Reset,
    /// The answer is status 429.
    TooManyRequests,
    /// The answer is status 503.
    ServerError,
    /// The answer breaks off.
    Short,
    /// One bit is changed.
    BitFlip,
    /// The answer is what was true before the misbehaviour began.
    Stale,
    /// The request is done for another object.
    WrongObject,
    /// The answer is success, and nothing was done.
    Lost,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 10] = [
        Self::Refuse,
        Self::TimeOut,
        Self::Reset,
        Self::TooManyRequests,
        Self::ServerError,
        Self::Short,
        Self::BitFlip,
        Self::Stale,
        Self::WrongObject,
        Self::Lost,
    ];
}

/// A fault at a moment of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Misbehaviour {
    /// When it happens.
    pub at: Moment,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}", self.fault, self.at)
    }
}

impl Misbehaviour {
    /// Returns why there is no such misbehaviour; `None` if there is.
    pub fn why_impossible(self) -> Option<&'static str> {
        match (self.at, self.fault) {
            (Moment::Connect, Fault::Refuse | Fault::TimeOut | Fault::Reset) => None,
            (Moment::Connect, _) => Some("a connection has no answer yet"),
            (_, Fault::Refuse) => Some("what is connected is not refused any more"),
            (Moment::MidBody, Fault::Stale) => Some("half a body has no age"),
            _ => None,
        }
    }

    /// Returns whether it happens at `at`, and what.
    pub(crate) fn when(self, at: Moment) -> Option<Fault> {
        (self.at == at).then_some(self.fault)
    }
}
