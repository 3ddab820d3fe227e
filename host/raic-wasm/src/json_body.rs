//! Checks small JSON bodies that carry a secret: each is one whole document, and no key stands
//! twice in an object.
//!
//! Of a key that stands twice, some parsers take the first value and others the last. So a service
//! could read another body than a person reads, or a proxy in front of it.

use std::{collections::BTreeSet, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Checks that `text` is one JSON document in whose objects no key stands twice.
///
/// # Errors
/// One line that says what is wrong, without the document's words.
pub(crate) fn check(text: &str) -> Result<(), String> {
    serde_json::from_str::<Unambiguous>(text)
        .map(drop)
        .map_err(|e| match e.is_data() {
            true => "a JSON body with a secret has a key twice in an object".to_owned(),
            false => {
                format!(
                    "a JSON body with a secret is not a JSON document (line {}, column {})",
                    e.line(),
                    e.column()
                )
            }
        })
}

/// A document that is read to its end, and of which nothing is kept.
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
                check(broken).unwrap_err().contains("not a JSON document"),
                "{broken}"
            );
        }
    }
}
