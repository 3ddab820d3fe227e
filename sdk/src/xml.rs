//! XML documents, read whole into a small tree.

use quick_xml::{Reader, events::Event};

use crate::{Error, ErrorKind, error};

/// How deep elements may nest; providers' documents need about five levels.
const MAX_DEPTH: usize = 32;

/// An XML element: its local name, its text, and the elements in it. Attributes and namespaces are
/// dropped.
///
/// ```
/// use raic_sdk::xml::Element;
///
/// let listing = b"<List xmlns='urn:x'>\
///     <Object><Key>a&amp;b</Key><Size>7</Size></Object><Object/></List>";
/// let list = Element::parse(listing).unwrap();
/// let first = list.all("Object").next().unwrap();
/// assert_eq!((first.text_of("Key"), first.text_of("Size")), (Some("a&b"), Some("7")));
/// assert_eq!(list.all("Object").count(), 2);
/// assert!(Element::parse(b"<List>").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The local name, without prefix.
    pub name: String,
    /// All text directly in the element, unescaped.
    pub text: String,
    /// The elements directly in it, in order.
    pub children: Vec<Element>,
}

impl Element {
    /// Reads a document and returns its root element.
    ///
    /// # Errors
    /// `protocol` if it is not well-formed, has a document type, or nests deeper than 32 levels.
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        // Every element has a name, so none has this one.
        Self::each(document, "", |_| Ok(()))
    }

    /// Reads a document that has many elements called `name`, such as a listing. Each of them is
    /// handed to `take` as soon as it ends, and is not in the tree that is returned. So a listing
    /// of megabytes takes no more memory than its entries.
    ///
    /// ```
    /// use raic_sdk::xml::Element;
    ///
    /// let mut keys = Vec::new();
    /// let document = b"<List><Object><Key>a</Key></Object><More>x</More>\
    ///     <Object><Key>b</Key></Object></List>";
    /// let list = Element::each(document, "Object", |object| {
    ///     keys.push(object.text_of("Key").unwrap_or_default().to_owned());
    ///     Ok(())
    /// });
    /// assert_eq!(list.unwrap().text_of("More"), Some("x"));
    /// assert_eq!(keys, ["a", "b"]);
    /// ```
    ///
    /// # Errors
    /// Those of [`Element::parse`] and of `take`.
    pub fn each(
        document: &[u8],
        name: &str,
        mut take: impl FnMut(Self) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let bad = |why: String| {
            error(
                ErrorKind::Protocol,
                format!("the answer is not an XML document: {why}"),
            )
        };
        let text = std::str::from_utf8(document).map_err(|e| bad(e.to_string()))?;
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().map_err(|e| bad(e.to_string()))? {
                Event::Start(tag) => {
                    if open.len() > MAX_DEPTH {
                        return Err(bad(format!("it nests deeper than {MAX_DEPTH} levels")));
                    }
                    open.push(Self::named(tag.local_name().as_ref()));
                }
                Event::Empty(tag) => {
                    let done = Self::named(tag.local_name().as_ref());
                    match open.last_mut() {
                        _ if done.name == name => take(done)?,
                        Some(parent) => parent.children.push(done),
                        None => {}
                    }
                }
                Event::End(_) => {
                    let (Some(done), Some(parent)) = (open.pop(), open.last_mut()) else {
                        return Err(bad("an element ends that did not begin".to_owned()));
                    };
                    if done.name == name {
                        take(done)?
                    } else {
                        parent.children.push(done)
                    }
                }
                Event::Text(piece) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&piece);
                    }
                }
                Event::CData(piece) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&piece);
                    }
                }
                Event::GeneralRef(reference) => {
                    let piece = match reference
                        .resolve_char_ref()
                        .map_err(|e| bad(e.to_string()))?
                    {
                        Some(c) => c.to_string(),
                        None => {
                            let name: &str = &reference;
                            quick_xml::escape::resolve_predefined_entity(name)
                                .ok_or_else(|| bad(format!("unknown entity &{name};")))?
                                .to_owned()
                        }
                    };
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&piece);
                    }
                }
                Event::DocType(_) => return Err(bad("it has a document type".to_owned())),
                Event::Eof => break,
                _ => {}
            }
        }
        match (
            open.len(),
            open.pop().and_then(|mut root| root.children.pop()),
        ) {
            (1, Some(document)) => Ok(document),
            _ => Err(bad("it ends early".to_owned())),
        }
    }

    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Returns the first child of that name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    /// Returns the text of the first child of that name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.as_str())
    }

    /// Returns every child of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_a_tree() {
        let e = Element::parse(
            b"<?xml version=\"1.0\"?><a:R xmlns:a=\"u\"><K>x &amp; &#233;y</K><K/></a:R>",
        )
        .unwrap();
        assert_eq!(e.name, "R");
        assert_eq!(
            e.all("K").map(|k| k.text.as_str()).collect::<Vec<_>>(),
            ["x & éy", ""]
        );
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for bad in [
            "",
            "<a>",
            "</a>",
            "text",
            "<!DOCTYPE a><a/>",
            "<a>&unknown;</a>",
        ] {
            assert_eq!(
                Element::parse(bad.as_bytes()).unwrap_err().kind,
                ErrorKind::Protocol,
                "{bad}"
            );
        }
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        assert!(Element::parse(deep.as_bytes()).is_err());
    }
}
