//! Checks Signature Version 4, in a header or in the query.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::{HeaderMap, Method, Uri};
use sha2::{Digest as _, Sha256};

use crate::service::Keys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The name of the signature in the query, which it does not sign.
const IN_QUERY: &str = "X-Amz-Signature";

/// The parts of a signature as it was sent.
struct Sent {
    access_key: String,
    /// Date, region and service.
    scope: [String; 3],
    signed_headers: String,
    signature: String,
    /// The time that was signed.
    timestamp: String,
    payload: String,
}

fn hmac(key: &[u8], text: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    Some(mac)
}

fn signed(key: &[u8], text: &str) -> Option<Vec<u8>> {
    Some(hmac(key, text)?.finalize().into_bytes().to_vec())
}

/// Reads `ACCESS-KEY/DATE/REGION/SERVICE/aws4_request`.
fn credential(text: &str) -> Option<(String, [String; 3])> {
    let mut parts = text.split('/').map(str::to_owned);
    let key = parts.next()?;
    let scope = [parts.next()?, parts.next()?, parts.next()?];
    (parts.next()? == "aws4_request").then_some((key, scope))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn in_header(headers: &HeaderMap) -> Option<Sent> {
    let authorization = text(headers, "authorization")?.strip_prefix(ALGORITHM)?;
    let field = |name: &str| {
        let fields = authorization.split(',').map(str::trim);
        let named = fields.filter_map(|field| field.split_once('='));
        named
            .filter(|(field, _)| *field == name)
            .map(|(_, value)| value.to_owned())
            .next()
    };
    let (access_key, scope) = credential(&field("Credential")?)?;
    Some(Sent {
        access_key,
        scope,
        signed_headers: field("SignedHeaders")?,
        signature: field("Signature")?,
        timestamp: text(headers, "x-amz-date")?.to_owned(),
        payload: text(headers, "x-amz-content-sha256")?.to_owned(),
    })
}

fn in_query(query: &str, headers: &HeaderMap) -> Option<Sent> {
    let field = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut named = pairs.filter(|(field, _)| *field == name);
        let value = percent_encoding::percent_decode_str(named.next()?.1);
        Some(value.decode_utf8().ok()?.into_owned())
    };
    let (access_key, scope) = credential(&field("X-Amz-Credential")?)?;
    Some(Sent {
        access_key,
        scope,
        signed_headers: field("X-Amz-SignedHeaders")?,
        signature: field(IN_QUERY)?,
        timestamp: field("X-Amz-Date")?,
        payload: text(headers, "x-amz-content-sha256")
            .unwrap_or("UNSIGNED-PAYLOAD")
            .to_owned(),
    })
}

/// The query as it is signed: in the order of its names, and with a `=` for each.
fn canonical_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<_> = pairs
        .filter(|pair| !pair.starts_with(&format!("{IN_QUERY}=")))
        .map(|pair| match pair.contains('=') {
            true => pair.to_owned(),
            false => format!("{pair}="),
        })
        .collect();
    pairs.sort_unstable();
    pairs.join("&")
}

/// Returns whether a request was signed with the keys. Headers without `host` never were.
pub(crate) fn is_signed(keys: &Keys, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let query = uri.query().unwrap_or_default();
    let Some(sent) = in_header(headers).or_else(|| in_query(query, headers)) else {
        return false;
    };
    if sent.access_key != keys.access_key || !sent.signed_headers.split(';').any(|h| h == "host") {
        return false;
    }
    let mut lines = String::new();
    for name in sent.signed_headers.split(';') {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        let values = values.iter().filter_map(|value| value.to_str().ok());
        let values: Vec<_> = values.map(str::trim).collect();
        lines.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let canonical = format!(
        "{method}\n{}\n{}\n{lines}\n{}\n{}",
        uri.path(),
        canonical_query(query),
        sent.signed_headers,
        sent.payload
    );
    let [date, region, service] = &sent.scope;
    let digest = HEXLOWER.encode(&Sha256::digest(canonical));
    let to_sign = format!(
        "{ALGORITHM}\n{}\n{date}/{region}/{service}/aws4_request\n{digest}",
        sent.timestamp
    );
    let secret = format!("AWS4{}", keys.secret_key);
    let key = signed(secret.as_bytes(), date)
        .and_then(|key| signed(&key, region))
        .and_then(|key| signed(&key, service))
        .and_then(|key| signed(&key, "aws4_request"));
    let Some(mac) = key.and_then(|key| hmac(&key, &to_sign)) else {
        return false;
    };
    let signature = HEXLOWER.decode(sent.signature.as_bytes());
    signature.is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "GET Bucket (List Objects)" of the S3 API reference's signature examples, and the same with
    /// one character changed.
    #[test]
    fn amazons_example_is_signed_and_a_changed_one_is_not() {
        let keys = Keys {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &str| {
            headers.insert(name, value.parse().unwrap());
        };
        set("host", "examplebucket.s3.amazonaws.com");
        set("x-amz-date", "20130524T000000Z");
        set("x-amz-content-sha256", empty);
        set(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;x-amz-content-sha256;x-amz-date,\
             Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        );
        let uri: Uri = "/?max-keys=2&prefix=J".parse().unwrap();
        assert!(is_signed(&keys, &Method::GET, &uri, &headers));
        assert!(!is_signed(&keys, &Method::PUT, &uri, &headers));
        let other: Uri = "/?max-keys=2&prefix=K".parse().unwrap();
        assert!(!is_signed(&keys, &Method::GET, &other, &headers));
        headers.remove("authorization");
        assert!(!is_signed(&keys, &Method::GET, &uri, &headers));
    }
}
