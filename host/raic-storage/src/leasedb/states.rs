//! The numbers that stand for states, kinds and suspicions in the tables. Only this file maps the
//! numbers to types and back.
//!
//! **Invariant:** an unknown number is an error, never a state. It comes from a newer program or
//! from damage, and some states mean deletion.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::{ShareKind, ShareState, Suspicion};
use crate::Moment;

/// Moments stand in columns whose names end in `_ms`.
impl ToSql for Moment {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_millis()))
    }
}

impl FromSql for Moment {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_millis)
    }
}

macro_rules! sql_enum {
    ($type:ident { $($variant:ident => $number:ident),+ $(,)? }) => {
        $(
            #[doc = concat!("The number of [`", stringify!($type), "::", stringify!($variant),
                "`], for the text of a statement: a partial index takes no parameter.")]
            pub(super) const $number: i64 = $type::$variant as i64;
        )+

        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(*self as i64))
            }
        }

        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_i64()? {
                    $($number => Ok(Self::$variant),)+
                    unknown => Err(FromSqlError::OutOfRange(unknown)),
                }
            }
        }
    };
}

sql_enum!(ShareKind {
    Array => ARRAY,
    Immutable => IMMUTABLE,
    Mutable => MUTABLE,
});

sql_enum!(ShareState {
    Coming => COMING,
    Stable => STABLE,
    Going => GOING,
});

sql_enum!(Suspicion {
    Torn => TORN,
    Vanished => VANISHED,
    Leftover => LEFTOVER,
});

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn an_unknown_state_is_an_error_and_never_going() {
        let c = Connection::open_in_memory().unwrap();
        let state =
            |number: i64| c.query_row("SELECT ?1", [number], |row| row.get::<_, ShareState>(0));
        assert_eq!(state(2).unwrap(), ShareState::Going);
        assert!(state(3).is_err() && state(-1).is_err());
        for known in [ShareState::Coming, ShareState::Stable, ShareState::Going] {
            let read: ShareState = c.query_row("SELECT ?1", [known], |row| row.get(0)).unwrap();
            assert_eq!(read, known);
        }
    }
}
