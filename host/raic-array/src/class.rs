//! Classes: how an array stores new streams. A stream remembers its own geometry, so a change of a
//! class changes new streams only.

use std::collections::{BTreeMap, BTreeSet};

use raic_storage::{ServerId, StorageIndex};

use crate::{
    ArrayError, Geometry, Padding, Result,
    codec::Codec,
    format::{Layout, MAX_SEGMENT},
    place::{Rule, Site, most_homes},
};

/// The name of the class that `raic init` makes.
pub const STANDARD_CLASS: &str = "standard";
/// Most characters of a class's name.
const MAX_NAME: usize = 64;

/// How an array stores new streams: what S3 calls a storage class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// How many shares a stream has, and how many suffice. An array may have more clouds than
    /// shares, or fewer.
    pub geometry: Geometry,
    /// Number of failure domains that may be lost right after a write was acknowledged, beside what
    /// is down already.
    pub survive: usize,
    /// How contents are padded.
    pub padding: Padding,
    /// Bytes of content in a segment, from 1 to [`MAX_SEGMENT`]; usually [`Class::SEGMENT_SIZE`].
    pub segment_size: u32,
}

impl Class {
    /// Default size of a segment, in bytes of content.
    pub const SEGMENT_SIZE: u32 = 128 << 10;

    /// Returns the least number of clouds, each a failure domain of its own, that must work for a
    /// file to be stored.
    pub fn needed(&self) -> usize {
        self.rule().least_clouds()
    }

    /// Returns those failure domains of which a file may have more shares than can be lost.
    /// `domains` has the domain of each cloud.
    pub fn domains_too_large<'a>(
        &self,
        domains: impl Iterator<Item = &'a str>,
    ) -> BTreeSet<&'a str> {
        let Geometry { k, n } = self.geometry;
        let lost = usize::from(n.saturating_sub(k));
        let most = most_homes(domains, n.into()).into_iter();
        most.filter(|(_, homes)| *homes > lost)
            .map(|(domain, _)| domain)
            .collect()
    }

    /// Returns how many of `clouds` clouds may be lost after a file was stored while all were up.
    /// The clouds that lack for n shares count as lost already.
    pub fn lost(&self, clouds: usize) -> usize {
        let Geometry { k, n } = self.geometry;
        let used = clouds.min(n.into());
        used.saturating_sub(k.into()).max(self.survive)
    }

    pub(crate) fn rule(&self) -> Rule {
        Rule {
            geometry: self.geometry,
            survive: self.survive,
        }
    }

    /// Returns whether a write of this class can ever be acknowledged on clouds of these failure
    /// domains, all of them up.
    pub fn is_possible_on(&self, domains: &[String]) -> bool {
        let site =
            |(number, domain): (u32, &String)| Site::new(ServerId::of(number), domain.clone());
        let sites: Vec<Site> = (0..).zip(domains).map(site).collect();
        if sites.is_empty() {
            return false;
        }
        let rule = self.rule();
        let (_, spots) = rule.plan(StorageIndex([0; 16]), &sites);
        rule.is_met(&sites, &spots)
    }

    /// Returns the layout of a stream that holds `length` bytes of content.
    pub(crate) fn layout(&self, length: u64, manifest: &[u8]) -> Result<Layout> {
        let manifest_length =
            u32::try_from(manifest.len()).map_err(|e| ArrayError::Task(e.to_string()))?;
        Ok(Layout {
            geometry: self.geometry,
            segment_size: self.segment_size,
            padded: self.padding.padded(length),
            manifest_length,
        })
    }
}

/// A class that is ready for use.
#[derive(Clone, Debug)]
pub(crate) struct OpenClass {
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) codec: Codec,
}

/// The classes of an array.
#[derive(Clone, Debug)]
pub struct Classes {
    classes: BTreeMap<String, OpenClass>,
    default: OpenClass,
}

impl Classes {
    /// Makes the set of an array's classes, by their names. `default` is the one of streams whose
    /// bucket and request name none.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchClass`] if there is no default, with
    /// [`ArrayError::ClassName`] if a name has other characters than A-Z, a-z, 0-9, - and _, and
    /// with [`ArrayError::Geometry`] if a geometry is not possible.
    pub fn new(classes: BTreeMap<String, Class>, default: &str) -> Result<Self> {
        let open = |(name, class): (String, Class)| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
                return Err(ArrayError::ClassName(name.chars().take(MAX_NAME).collect()));
            }
            let Geometry { k, n } = class.geometry;
            // A single copy survives nothing.
            let is_possible = class.geometry.is_possible() && k < n;
            if !is_possible || !(1..=MAX_SEGMENT).contains(&class.segment_size) {
                return Err(ArrayError::Geometry { k, n: n.into() });
            }
            let codec = Codec::new(class.geometry)?;
            Ok((name.clone(), OpenClass { name, class, codec }))
        };
        let classes: BTreeMap<_, _> = classes.into_iter().map(open).collect::<Result<_>>()?;
        let found = classes.get(default).cloned();
        let default = found.ok_or_else(|| ArrayError::NoSuchClass(default.to_owned()))?;
        Ok(Self { classes, default })
    }

    /// Makes the set of one class, the default.
    ///
    /// # Errors
    /// Fails with [`ArrayError::Geometry`] if the geometry is not possible.
    pub fn one(class: Class) -> Result<Self> {
        let classes = BTreeMap::from([(STANDARD_CLASS.to_owned(), class)]);
        Self::new(classes, STANDARD_CLASS)
    }

    /// The class of streams that name none, with its name.
    pub fn default(&self) -> (&str, Class) {
        (&self.default.name, self.default.class)
    }

    /// All classes, in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = (&str, Class)> {
        let classes = self.classes.values();
        classes.map(|open| (&*open.name, open.class))
    }

    /// Returns a class by its name; the default if there is no name.
    ///
    /// # Errors
    /// Fails with [`ArrayError::NoSuchClass`] if there is none of that name.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<&OpenClass> {
        match name {
            None => Ok(&self.default),
            Some(name) => self
                .classes
                .get(name)
                .ok_or_else(|| ArrayError::NoSuchClass(name.chars().take(MAX_NAME).collect())),
        }
    }

    /// The code of a geometry; `None` if no class has it.
    pub(crate) fn codec(&self, geometry: Geometry) -> Option<&Codec> {
        let mut classes = self.classes.values();
        classes
            .find(|open| open.class.geometry == geometry)
            .map(|open| &open.codec)
    }

    /// The most of `clouds` clouds whose loss a file of any class survives.
    pub(crate) fn most_lost(&self, clouds: usize) -> usize {
        let lost = self.classes.values().map(|open| open.class.lost(clouds));
        lost.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(k: u8, n: u8, survive: usize) -> Class {
        Class {
            geometry: Geometry { k, n },
            survive,
            padding: Padding::None,
            segment_size: Class::SEGMENT_SIZE,
        }
    }

    fn domains(names: &str) -> Vec<String> {
        names.chars().map(String::from).collect()
    }

    #[test]
    fn a_class_may_have_more_shares_than_there_are_clouds_or_fewer() {
        let two_of_four = class(2, 4, 1);
        for (clouds, is_possible) in [
            ("abcd", true),
            ("abcdefgh", true),
            ("abc", true),
            ("ab", true),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(
                two_of_four.is_possible_on(&domains(clouds)),
                is_possible,
                "{clouds}"
            );
        }
        // Two clouds of one domain: its loss would take everything.
        assert!(!two_of_four.is_possible_on(&domains("aa")));
        assert!(!class(3, 4, 1).is_possible_on(&domains("ab")));
        assert!(class(3, 4, 1).is_possible_on(&domains("abcd")));
    }

    #[test]
    fn names_and_geometries_are_checked() {
        let named = |name: &str, k, n| {
            let classes = BTreeMap::from([(name.to_owned(), class(k, n, 0))]);
            Classes::new(classes, name)
        };
        assert!(named("cold-1_A", 2, 4).is_ok());
        assert!(matches!(named("a b", 2, 4), Err(ArrayError::ClassName(_))));
        assert!(matches!(named("a", 4, 4), Err(ArrayError::Geometry { .. })));
        let none = Classes::new(BTreeMap::new(), "a");
        assert!(matches!(none, Err(ArrayError::NoSuchClass(name)) if name == "a"));
        let two = BTreeMap::from([
            ("a".to_owned(), class(2, 4, 1)),
            ("b".to_owned(), class(3, 8, 1)),
        ]);
        let two = Classes::new(two, "b").unwrap();
        assert_eq!((two.default().0, two.most_lost(20)), ("b", 5));
        assert_eq!((two.most_lost(4), two.most_lost(2)), (2, 1));
        assert_eq!(two.find(Some("a")).unwrap().class.geometry.n, 4);
        assert!(two.find(Some("c")).is_err());
    }
}
