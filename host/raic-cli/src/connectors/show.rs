//! What a connector is, takes and may reach, in words.

use std::collections::BTreeSet;

use raic_wasm::{Package, Sending};
use serde_json::json;

use crate::{error::Outcome, output::say, progress};

/// Where a secret may be sent, in words.
fn sent(sending: &Sending) -> String {
    let place = match (&sending.header, sending.form.as_str()) {
        (Some(header), _) => header.as_str(),
        (None, "raw" | "query") => "a query",
        (None, _) => "a body",
    };
    format!(", sent in {place} ({}) to {:?}", sending.form, sending.network)
}

/// Shows a connector as `inspect` and `approve` do.
pub(super) fn show(package: &Package, json: bool) -> Outcome {
    let manifest = &package.manifest;
    if json {
        return crate::files::print_json(&json!({
            "sha256": package.sha256, "size": package.bytes.len(), "imports": package.imports, "manifest": manifest,
        }));
    }
    say!("{} {}: {}", manifest.name, manifest.version, manifest.description);
    say!("  sha-256   {}", package.sha256);
    say!("  licence   {}", manifest.license);
    say!("  contract  {}", manifest.contract);
    say!("  size      {}", progress::bytes(package.bytes.len() as u64));
    say!("  memory    {} MiB a call", manifest.memory_mib);
    say!("  imports   {}", package.imports.join(" "));
    say!("  settings");
    for (name, setting) in &manifest.settings {
        let value = match (&setting.default, setting.required) {
            (Some(default), _) => format!(" [default: {default}]"),
            (None, true) => " [required]".to_owned(),
            (None, false) => String::new(),
        };
        let choices = setting.choices.join(", ");
        let choices = if choices.is_empty() { choices } else { format!(" [{choices}]") };
        say!("    {name:<14} {}{choices}{value}", setting.help);
    }
    say!("  credentials");
    for (name, credential) in &manifest.credentials {
        say!("    {name:<14} {}", credential.help);
        for (part, rule) in &credential.parts {
            let what = if rule.secret { "secret" } else { "readable by the connector" };
            let optional = if rule.optional { ", may be missing" } else { "" };
            let signs = rule.sign.iter().map(|s| format!(", signs by {s:?}"));
            let sends = rule.send.iter().map(sent);
            say!("      {part:<29} {what}{optional}{}", signs.chain(sends).collect::<String>());
        }
    }
    for (name, token) in &manifest.tokens {
        let signs = token.sign.iter().map(|s| format!(", signs by {s:?}"));
        let uses: String = signs.chain(token.send.iter().map(sent)).collect();
        let places: BTreeSet<_> =
            token.answers.iter().map(|answer| format!("{:?}", answer.network)).collect();
        let places = places.into_iter().collect::<Vec<_>>().join(" and ");
        say!("    {name:<14} a secret that {places} answers with{uses}");
    }
    for (name, endpoint) in &manifest.endpoints {
        say!("    {name:<14} learned at login, pinned by you: {}", endpoint.help);
    }
    say!("  may send requests to");
    for network in &manifest.network {
        let when = network.when.iter().map(|(name, value)| format!(" where {name} is {value}"));
        let below = if network.exact { "that path alone" } else { "any path below it" };
        let methods: Vec<_> = network.methods.iter().map(String::as_str).collect();
        let methods = if methods.is_empty() { "any method".to_owned() } else { methods.join(" and ") };
        say!("    {:<14} {}{}: {below}, by {methods}", network.name, network.url, when.collect::<String>());
    }
    say!("  may read, besides errors");
    let answers = manifest.tokens.values().flat_map(|token| &token.answers);
    let mut shown = BTreeSet::new();
    for document in manifest.documents.iter().chain(answers) {
        let query = document
            .query
            .iter()
            .enumerate()
            .map(|(i, item)| format!("{}{item}", if i == 0 { "?" } else { "&" }));
        let query: String = query.collect();
        let line = format!("{} {}{}{query}", document.method, document.network, document.path);
        if shown.insert(line.clone()) {
            say!("    {line}");
        }
    }
    Ok(())
}
