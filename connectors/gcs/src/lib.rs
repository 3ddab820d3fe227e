//! Google Cloud Storage: by its JSON API with tokens, or by its XML API with HMAC keys.
//!
//! An object's etag is its generation, which both APIs take as a condition of every call.

mod answer;
mod json_api;
mod login;
mod request;
mod signing;
mod xml_api;

use raic_sdk::{
    Body, ByteRange, Capabilities, Connector, CreateOnly, ErrorKind, Extra, ObjectInfo, Page,
    Payload, Response, Result, WriteMode, conditions, error, required_setting,
};

/// The Google Cloud Storage connector.
#[derive(Debug)]
pub struct Gcs;

raic_sdk::connector!(Gcs);

/// Whether the cloud's credential is an HMAC key, which only the XML API takes.
fn by_hmac() -> Result<bool> {
    Ok(required_setting("auth")? == "hmac")
}

/// Calls the API that the cloud's credential is for.
macro_rules! api {
    ($call:ident($($argument:expr),*)) => {
        if by_hmac()? { xml_api::$call($($argument),*) } else { json_api::$call($($argument),*) }
    };
}

impl Connector for Gcs {
    fn describe() -> Result<Extra> {
        let capabilities = Capabilities::new(CreateOnly::Native).if_match();
        Ok(capabilities
            .ordered()
            .strong()
            .max_object_size(5 << 40)
            .describe())
    }

    fn probe() -> Result<()> {
        Self::list(String::new(), None, 1).map(drop)
    }

    fn put(key: String, content: &Payload, mode: WriteMode) -> Result<ObjectInfo> {
        let generation = match &mode {
            WriteMode::Overwrite => None,
            WriteMode::CreateOnly => Some("0"),
            WriteMode::IfMatch(etag) => Some(etag.as_str()),
        };
        api!(put(&key, content, generation)).map_err(|e| conditions::of_put(e, &mode))
    }

    fn get(
        key: String,
        range: Option<ByteRange>,
        if_match: Option<String>,
    ) -> Result<(ObjectInfo, Body)> {
        api!(get(&key, range, if_match.as_deref()))
    }

    fn head(key: String) -> Result<ObjectInfo> {
        api!(head(&key))
    }

    fn delete(key: String, if_match: Option<String>) -> Result<()> {
        conditions::or_gone(api!(delete(&key, if_match.as_deref())), ErrorKind::NotFound)
    }

    fn list(prefix: String, cursor: Option<String>, limit: u32) -> Result<Page> {
        api!(list(&prefix, cursor, limit))
    }

    fn create_container() -> Result<()> {
        match api!(create_bucket()) {
            // In the JSON API, only the message says that the bucket is this account's own.
            Err(e)
                if e.kind == ErrorKind::AlreadyExists
                    && e.message.contains("you already own it") =>
            {
                Ok(())
            }
            Err(e) if e.provider_code.as_deref() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            other => other,
        }
    }

    fn delete_container() -> Result<()> {
        conditions::or_gone(api!(delete_bucket()), ErrorKind::ContainerNotFound)
    }
}

/// What the headers of an object's answer say: the etag is the generation.
fn info(answer: &Response) -> Result<ObjectInfo> {
    let generation = answer.header("x-goog-generation");
    let generation =
        generation.ok_or_else(|| error(ErrorKind::Protocol, "the answer has no generation"))?;
    Ok(ObjectInfo {
        etag: Some(generation),
        ..raic_sdk::answer::info(answer)?
    })
}
