//! What a cloud's operator sets: checked, completed by defaults, and filled into templates.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{Manifest, Setting, SettingType, Values, is_plain};
use crate::ConnectorError;

/// A cloud's settings, complete and checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(crate) values: BTreeMap<String, String>,
    /// Those the operator typed, rather than defaults: only they may lead to private addresses.
    pub(crate) typed: BTreeSet<String>,
}

impl Manifest {
    /// The settings of a cloud: those given, checked, and the defaults of the others.
    ///
    /// # Errors
    /// [`ConnectorError::Setting`] for one that is unknown, missing or malformed.
    pub fn resolve(&self, given: &BTreeMap<String, String>) -> Result<Settings, ConnectorError> {
        if let Some(name) = given.keys().find(|name| !self.settings.contains_key(*name)) {
            let known = self
                .settings
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(ConnectorError::setting(
                name,
                format!("{} has none of that name; it has {known}", self.name),
            ));
        }
        let mut values = BTreeMap::new();
        for (name, setting) in &self.settings {
            match given.get(name) {
                Some(value) => {
                    values.insert(name.clone(), setting.checked(name, value)?);
                }
                None if setting.required => {
                    return Err(ConnectorError::setting(
                        name,
                        format!("is missing: {}", setting.help),
                    ));
                }
                None => {}
            }
        }
        // Defaults may name what was given or other defaults; twice round is deeper than any
        // manifest needs.
        for _ in 0..2 {
            for (name, setting) in &self.settings {
                let Some(default) = setting
                    .default
                    .as_ref()
                    .filter(|_| !values.contains_key(name))
                else {
                    continue;
                };
                if let Ok(value) = expand(default, &values) {
                    values.insert(name.clone(), setting.checked(name, &value)?);
                }
            }
        }
        Ok(Settings {
            values,
            typed: given.keys().cloned().collect(),
        })
    }
}

impl Setting {
    fn checked(&self, name: &str, value: &str) -> Result<String, ConnectorError> {
        let wrong = |problem: String| {
            Err(ConnectorError::setting(
                name,
                format!("{problem}; it is: {}", self.help),
            ))
        };
        if value.is_empty() || value.len() > 4096 || value.chars().any(char::is_control) {
            return wrong("is empty, longer than 4096 bytes, or has control characters".to_owned());
        }
        match self.kind {
            SettingType::Text => Ok(value.to_owned()),
            SettingType::Choice if self.choices.iter().any(|c| c == value) => Ok(value.to_owned()),
            SettingType::Choice => {
                wrong(format!("{value:?} is none of {}", self.choices.join(", ")))
            }
            SettingType::Url => match Url::parse(value) {
                Ok(url) if is_plain(&url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
                _ => wrong(format!(
                    "{value:?} is no http or https URL without query, such as http://127.0.0.1:9000"
                )),
            },
        }
    }
}

/// Whether settings have the values that something depends on.
pub(crate) fn holds(when: &BTreeMap<String, Values>, values: &BTreeMap<String, String>) -> bool {
    when.iter()
        .all(|(name, wanted)| values.get(name).is_some_and(|value| wanted.has(value)))
}

/// The endpoints that a template needs, by name.
pub(crate) fn learned_in(template: &str) -> impl Iterator<Item = &str> {
    template
        .split('{')
        .filter_map(|rest| rest.strip_prefix("learned:")?.split(['}', '.']).next())
}

/// Fills the settings into a template.
pub(crate) fn expand(template: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| format!("{template:?} has an open brace"))?;
        // `credential.part` is a value by that name; of others what follows the point is a part of
        // a URL.
        let whole = values.contains_key(name);
        let (setting, field) = name
            .split_once('.')
            .filter(|_| !whole)
            .map_or((name, None), |(s, f)| (s, Some(f)));
        let value = values
            .get(setting)
            .ok_or_else(|| format!("{template:?} needs the setting {setting:?}"))?;
        let url = || Url::parse(value).map_err(|e| format!("{setting:?} is no URL: {e}"));
        out += before;
        match field {
            None => out += value,
            Some("scheme") => out += url()?.scheme(),
            Some("authority") => out += url()?.authority(),
            Some(other) => return Err(format!("{template:?}: a setting has no {other:?}")),
        }
        rest = after;
    }
    Ok(out + rest)
}
