//! Listings: ListObjects and ListObjectsV2.

use std::{collections::BTreeMap, ops::Bound};

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::escape::escape;

use crate::{request::Target, store::Object};

const MOST: usize = 1000;

/// Makes the document of a page.
pub(crate) fn page<'a>(
    target: &Target,
    objects: impl Fn(Bound<String>) -> Box<dyn Iterator<Item = (&'a String, &'a Object)> + 'a>,
) -> String {
    let get = |name: &str| target.query.get(name).map_or("", String::as_str);
    let is_second = get("list-type") == "2";
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    let most = get("max-keys").parse().unwrap_or(MOST).min(MOST);
    let encoded = |key: &str| match get("encoding-type") {
        "url" => utf8_percent_encode(key, NON_ALPHANUMERIC).to_string(),
        _ => escape(key).into_owned(),
    };
    let after = match is_second {
        true if target.asks("continuation-token") => get("continuation-token"),
        true => get("start-after"),
        false => get("marker"),
    };
    let from = match after {
        "" => Bound::Included(prefix.to_owned()),
        after if after < prefix => Bound::Included(prefix.to_owned()),
        after => Bound::Excluded(after.to_owned()),
    };
    let mut body = String::new();
    let mut folders: BTreeMap<String, ()> = BTreeMap::new();
    let (mut count, mut last, mut is_cut) = (0, String::new(), false);
    for (key, object) in objects(from).take_while(|(key, _)| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let folder = match delimiter {
            "" => None,
            d => rest
                .find(d)
                .map(|at| format!("{prefix}{}", &rest[..at + d.len()])),
        };
        let is_known = folder.as_ref().is_some_and(|folder| {
            folders.contains_key(folder) || after.starts_with(folder.as_str())
        });
        if is_known {
            last.clone_from(key);
            continue;
        }
        if count == most {
            is_cut = true;
            break;
        }
        count += 1;
        last.clone_from(key);
        match folder {
            Some(folder) => drop(folders.insert(folder, ())),
            None => {
                let modified = Timestamp::try_from(object.modified).unwrap_or_default();
                body.push_str(&format!(
                    "<Contents><Key>{}</Key><LastModified>{modified:.3}</LastModified>\
                     <ETag>&quot;{}&quot;</ETag><Size>{}</Size>\
                     <StorageClass>STANDARD</StorageClass></Contents>",
                    encoded(key),
                    object.etag,
                    object.size
                ));
            }
        }
    }
    for folder in folders.keys() {
        body.push_str(&format!(
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            encoded(folder)
        ));
    }
    let next = match (is_cut, is_second) {
        (false, _) => String::new(),
        (true, true) => format!(
            "<NextContinuationToken>{}</NextContinuationToken>",
            escape(&last)
        ),
        (true, false) => format!("<NextMarker>{}</NextMarker>", encoded(&last)),
    };
    let encoding = match get("encoding-type") {
        "url" => "<EncodingType>url</EncodingType>",
        _ => "",
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Name>{}</Name><Prefix>{}</Prefix><MaxKeys>{most}</MaxKeys><KeyCount>{count}</KeyCount>\
         {encoding}<IsTruncated>{is_cut}</IsTruncated>{next}{body}</ListBucketResult>",
        escape(&target.bucket),
        encoded(prefix)
    )
}
