//! Endpoints that a service returns at a login: learned by requests, shown, and pinned in
//! config.toml.

use std::collections::BTreeMap;

use raic_cloud::{Cloud as _, ObjectKey, Payload, WriteMode, collect_body};
use serde_json::json;
use toml_edit::{Array, DocumentMut, InlineTable, value};

use super::{replace, section, versions::reopen};
use crate::{
    config::{CloudSection, Config},
    error::{Failed, Outcome},
    files::print_json,
    home::{self, Home},
    offline::read_pins,
    opener::Opener,
    output::say,
};

/// How often a cloud is asked again, because an endpoint that is pinned may lead to another one.
const ROUNDS: usize = 9;

/// An endpoint that the service returned.
struct Learned {
    name: String,
    url: String,
    /// Whether the operator named the URL's host in the settings.
    is_named: bool,
    /// Whether the URL is pinned beside those that are pinned already.
    is_one_of_several: bool,
}

/// Asks the service for endpoints that are not pinned, or are pinned to other URLs. Returns an
/// empty list if the service cannot be asked. With `thoroughly`, it also stores and removes a small
/// object, because some endpoints are returned only then.
async fn learn(
    home: &Home,
    name: &str,
    section: &CloudSection,
    thoroughly: bool,
) -> Outcome<Vec<Learned>> {
    if !matches!(section, CloudSection::Cloud { .. }) {
        return Ok(Vec::new());
    }
    let cloud = tokio::task::block_in_place(|| {
        Opener::for_command(home)?.connector_cloud(name, section, &mut read_pins(home)?)
    })?;
    // Errors of the cloud are reported when it is used. Here only the learned endpoints count.
    let probed = cloud.probe().await;
    if thoroughly && probed.is_ok() && cloud.learned().is_empty() && !section.is_read_only() {
        let unique = raic_storage::StorageIndex::random().map_err(Failed::other)?;
        let key = ObjectKey::new(format!("raic/test.{unique}")).map_err(Failed::other)?;
        let content = Payload::from(&b"a small object of `raic cloud pin`"[..]);
        if cloud.put(&key, content, WriteMode::Overwrite).await.is_ok() {
            if let Ok(object) = cloud.get(&key, None, None).await {
                let _ = collect_body(name, object.body, 1024).await;
            }
            let _ = cloud.head(&key).await;
            let deleted = cloud.delete(&key, None).await;
            // A deletion that learns an endpoint is refused, and that is no error here.
            if cloud.learned().is_empty() {
                deleted.map_err(Failed::other)?;
            }
        }
    }
    let several = |name: &str| {
        cloud
            .manifest()
            .endpoints
            .get(name)
            .is_some_and(|endpoint| endpoint.several)
    };
    let learned = cloud.learned().into_iter();
    Ok(learned
        .map(|(name, url)| Learned {
            is_named: cloud.names_host_of(&url),
            is_one_of_several: several(&name),
            name,
            url,
        })
        .collect())
}

/// Pins an endpoint in the document.
fn set(document: &mut DocumentMut, cloud: &str, learned: &Learned) {
    let table = &mut document["clouds"][cloud];
    if table.get("endpoints").is_none() {
        table["endpoints"] = value(InlineTable::new());
    }
    let pinned = &mut table["endpoints"][learned.name.as_str()];
    let mut all: Vec<String> = match (pinned.as_str(), pinned.as_array()) {
        (Some(one), _) => vec![one.to_owned()],
        (_, Some(several)) => several
            .iter()
            .filter_map(|url| url.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    if !learned.is_one_of_several {
        all.clear();
    }
    all.push(learned.url.clone());
    *pinned = match &all[..] {
        [one] => value(one),
        _ => value(Array::from_iter(all)),
    };
}

/// Pins in the document the endpoints that a cloud's service returns, until it returns no new one.
/// Only endpoints on hosts that the operator named are pinned, or with `thoroughly` all of them.
/// Returns the names and URLs that were pinned.
pub(super) async fn pin_learned(
    home: &Home,
    document: &mut DocumentMut,
    name: &str,
    thoroughly: bool,
) -> Outcome<Vec<(String, String)>> {
    let mut pinned = Vec::new();
    for _ in 0..ROUNDS {
        let config = Config::parse(&document.to_string(), home.path())
            .map_err(|why| Failed::configuration(format!("{}: {why}", home.config().display())))?;
        let learned = learn(home, name, section(&config, name)?, thoroughly).await?;
        let new: Vec<_> = learned
            .into_iter()
            .filter(|learned| thoroughly || learned.is_named)
            .collect();
        // An endpoint with another URL each time would be pinned again and again.
        if new.is_empty()
            || new
                .iter()
                .all(|l| pinned.iter().filter(|(n, _)| *n == l.name).count() >= ROUNDS - 1)
        {
            break;
        }
        for learned in new {
            set(document, name, &learned);
            pinned.push((learned.name, learned.url));
        }
    }
    Ok(pinned)
}

pub(super) async fn pin_endpoints(home: &Home, json: bool, name: &str) -> Outcome {
    let path = home.config();
    let failed = |why: String| Failed::configuration(format!("{}: {why}", path.display()));
    section(&Config::load(home)?, name)?;
    let text = String::from_utf8(home::read(&path)?).map_err(|e| failed(e.to_string()))?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| failed(e.to_string()))?;
    let pinned = pin_learned(home, &mut document, name, true).await?;
    if !pinned.is_empty() {
        let changed = document.to_string();
        Config::parse(&changed, home.path()).map_err(failed)?;
        replace(&path, &text, &changed)?;
        reopen(home, &raic_storage::Pins::new()).await?;
    }
    if json {
        let pinned: BTreeMap<_, _> = pinned.into_iter().collect();
        return print_json(&json!({"cloud": name, "pinned": pinned}));
    }
    for (endpoint, url) in &pinned {
        say!("pinned: {endpoint} of cloud {name:?} is at {url}");
    }
    if pinned.is_empty() {
        say!(
            "its service returned no new endpoint; `raic cloud test {name}` shows whether it works"
        );
    }
    Ok(())
}
