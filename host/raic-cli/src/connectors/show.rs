//! Prints a connector for people: its description, settings, credentials and permissions.

use std::collections::BTreeSet;

use raic_wasm::{Manifest, Package, Sending};
use serde_json::json;

use crate::{error::Outcome, output::say, progress};

/// Describes where a secret may be sent.
fn sent(sending: &Sending) -> String {
    let place = match (&sending.header, sending.form.as_str()) {
        (Some(header), _) => header.as_str(),
        (None, "raw" | "query") => "a query",
        (None, _) => "a body",
    };
    format!(
        ", sent in {place} ({}) to {:?}",
        sending.form, sending.network
    )
}

/// Returns a network's URL. An endpoint in it that may be any host below a domain is shown so.
fn any_host(manifest: &Manifest, url: &str) -> String {
    let below = manifest
        .endpoints
        .iter()
        .filter_map(|(name, endpoint)| Some((name, endpoint.below.as_ref()?)));
    below.fold(url.to_owned(), |url, (name, domain)| {
        url.replace(
            &format!("{{learned:{name}}}"),
            &format!("https://any host below {domain}"),
        )
    })
}

/// Returns the networks that get a secret in a query or a body, and answer with a document that has
/// no token. The connector may read such a document, and nothing in it is hidden.
fn unhidden_logins(manifest: &Manifest) -> BTreeSet<&str> {
    let parts = manifest.credentials.values().flat_map(|c| c.parts.values());
    let sent_to: BTreeSet<_> = parts
        .flat_map(|p| &p.send)
        .filter(|s| s.header.is_none())
        .map(|s| s.network.as_str())
        .collect();
    let has_token = |name: &str| {
        manifest
            .tokens
            .values()
            .flat_map(|t| &t.answers)
            .any(|a| a.network == name)
    };
    let read = manifest
        .documents
        .iter()
        .filter(|d| d.method == "POST")
        .map(|d| d.network.as_str());
    read.filter(|name| sent_to.contains(name) && !has_token(name))
        .collect()
}

/// Prints a connector, for `inspect` and `approve`.
pub(super) fn show(package: &Package, json: bool) -> Outcome {
    let manifest = &package.manifest;
    if json {
        return crate::files::print_json(&json!({
            "sha256": package.sha256, "size": package.bytes.len(), "imports": package.imports, "manifest": manifest,
        }));
    }
    say!(
        "{} {}: {}",
        manifest.name,
        manifest.version,
        manifest.description
    );
    say!("  sha-256   {}", package.sha256);
    say!("  licence   {}", manifest.license);
    say!("  contract  {}", manifest.contract);
    say!(
        "  size      {}",
        progress::bytes(package.bytes.len() as u64)
    );
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
        let choices = if choices.is_empty() {
            choices
        } else {
            format!(" [{choices}]")
        };
        say!("    {name:<14} {}{choices}{value}", setting.help);
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
        let line = format!(
            "{} {}{}{query}",
            document.method, document.network, document.path
        );
        if shown.insert(line.clone()) {
            say!("    {line}");
        }
    }
    for object in &manifest.objects {
        say!(
            "    and passes on, unread, {} {}{}",
            object.method,
            object.network,
            object.path
        );
    }
    if !manifest.logins.is_empty() {
        say!("  keeps from call to call, for 7 days at most");
        for login in &manifest.logins {
            say!("    the login {login:?}: texts of 8 KiB, and secrets by handle");
        }
    }
    say!("  credentials");
    for (name, credential) in &manifest.credentials {
        let when = credential
            .when
            .iter()
            .map(|(name, value)| format!(", if {name} is {value}"));
        say!(
            "    {name:<14} {}{}",
            credential.help,
            when.collect::<String>()
        );
        for (part, rule) in &credential.parts {
            let what = if rule.secret {
                "secret"
            } else {
                "readable by the connector"
            };
            let optional = if rule.optional {
                ", may be missing"
            } else {
                ""
            };
            let signs = rule.sign.iter().map(|s| format!(", {}", s.in_words()));
            let sends = rule.send.iter().map(sent);
            say!(
                "      {part:<29} {what}{optional}{}",
                signs.chain(sends).collect::<String>()
            );
        }
    }
    for (name, token) in &manifest.tokens {
        let signs = token.sign.iter().map(|s| format!(", {}", s.in_words()));
        let uses: String = signs.chain(token.send.iter().map(sent)).collect();
        let places: BTreeSet<_> = token
            .answers
            .iter()
            .map(|answer| format!("{:?}", answer.network))
            .collect();
        let places = places.into_iter().collect::<Vec<_>>().join(" and ");
        say!(
            "    {name:<14} a secret that {places} answers with in {}{uses}",
            token.from.join(" and ")
        );
    }
    for (name, endpoint) in &manifest.endpoints {
        let help = &endpoint.help;
        match &endpoint.below {
            Some(domain) => {
                say!("    {name:<14} from the service, any https host below {domain}: {help}")
            }
            None if endpoint.several => {
                say!("    {name:<14} from the service, several, each pinned by you: {help}")
            }
            None => say!("    {name:<14} from the service, pinned by you: {help}"),
        }
    }
    say!("  may send requests to");
    for network in &manifest.network {
        let when = network
            .when
            .iter()
            .map(|(name, value)| format!(" if {name} is {value}"));
        let below = if network.exact {
            "that path alone"
        } else {
            "any path below it"
        };
        let methods: Vec<_> = network.methods.iter().map(String::as_str).collect();
        let methods = if methods.is_empty() {
            "any method".to_owned()
        } else {
            methods.join(" and ")
        };
        let url = any_host(manifest, &network.url);
        say!(
            "    {:<14} {url}{}: {below}, by {methods}",
            network.name,
            when.collect::<String>()
        );
    }
    for network in unhidden_logins(manifest) {
        say!(
            "  warning: the answer of {network:?} to a secret hides no token: the connector can \
             read all of it"
        );
    }
    Ok(())
}
