//! Small JSON bodies that carry a secret: whole documents, in which no key stands twice.
//!
//! Of a key that stands twice some parsers take the first and others the last, so that one service
//! could read another body than the one that a person, or a proxy before it, reads.

use std::{collections::BTreeSet, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// That `text` is one JSON document without keys that stand twice.
///
/// # Errors
/// One line, without the document.
pub(crate) fn check(text: &str) -> Result<(), String> {
    serde_json::from_str::<Unambiguous>(text)
        .map(drop)
        .map_err(|e| match e.is_data() {
            true => "a JSON body with a secret has a key twice".to_owned(),
            false => {
                format!(
                    "a JSON body with a secret is no document (line {}, column {})",
                    e.line(),
                    e.column()
                )
            }
        })
}

/// A document of which nothing is kept.
struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_unit<E: Error>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unambiguous, A::Error> {
        while items.next_element::<Unambiguous>()?.is_some() {}
        Ok(Unambiguous)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unambiguous, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some((key, Unambiguous)) = entries.next_entry::<String, Unambiguous>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Unambiguous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_once_in_its_object() {
        assert_eq!(
            check(r#"{"a":{"p":1},"b":[{"p":2},{"p":null}],"c":-1.5}"#),
            Ok(())
        );
        for twice in [r#"{"a":1,"a":2}"#, r#"{"x":[{"p":1,"\u0070":2}]}"#] {
            assert!(check(twice).unwrap_err().contains("twice"), "{twice}");
        }
        for broken in ["", "{", "{} {}", "RAIC0"] {
            assert!(
                check(broken).unwrap_err().contains("no document"),
                "{broken}"
            );
        }
    }
}
