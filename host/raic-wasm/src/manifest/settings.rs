//! The settings that a cloud's operator gives: checked, completed by defaults, and filled into
//! templates.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{Manifest, Setting, SettingType, Values, is_plain};
use crate::ConnectorError;

/// A cloud's settings, complete and checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(crate) values: BTreeMap<String, String>,
    /// Names of the settings that the operator typed. Only these, not defaults, may lead to private
    /// addresses.
    pub(crate) typed: BTreeSet<String>,
}

impl Manifest {
    /// Returns the settings of a cloud: the given ones, which are checked, and the defaults of the
    /// others.
    ///
    /// # Errors
    /// [`ConnectorError::Setting`] if a setting is unknown, missing or malformed.
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
                format!("{} has no setting of that name; it has {known}", self.name),
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
        // Defaults may name given settings or other defaults. Two rounds are deeper than any
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
            SettingType::Choice => wrong(format!(
                "{value:?} is not one of {}",
                self.choices.join(", ")
            )),
            SettingType::Url => match Url::parse(value) {
                Ok(url) if is_plain(&url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
                _ => wrong(format!(
                    "{value:?} is not an http or https URL without query, \
                     such as http://127.0.0.1:9000"
                )),
            },
        }
    }
}

/// Whether the settings have the values on which something depends.
pub(crate) fn holds(when: &BTreeMap<String, Values>, values: &BTreeMap<String, String>) -> bool {
    when.iter()
        .all(|(name, wanted)| values.get(name).is_some_and(|value| wanted.has(value)))
}

/// Returns the names of the learned endpoints that a template needs.
pub(crate) fn learned_in(template: &str) -> impl Iterator<Item = &str> {
    template
        .split('{')
        .filter_map(|rest| rest.strip_prefix("learned:")?.split(['}', '.']).next())
}

/// Fills settings into a template.
pub(crate) fn expand(template: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| format!("{template:?} has an open brace"))?;
        // `credential.part` is the name of a value. In other names, the word after the point is a
        // part of a URL.
        let whole = values.contains_key(name);
        let (setting, field) = name
            .split_once('.')
            .filter(|_| !whole)
            .map_or((name, None), |(s, f)| (s, Some(f)));
        let value = values
            .get(setting)
            .ok_or_else(|| format!("{template:?} needs the setting {setting:?}"))?;
        let url = || Url::parse(value).map_err(|e| format!("{setting:?} is not a URL: {e}"));
        out += before;
        match field {
            None => out += value,
            Some("scheme") => out += url()?.scheme(),
            Some("authority") => out += url()?.authority(),
            Some(other) => {
                return Err(format!(
                    "{template:?}: a setting has scheme and authority, but no {other:?}"
                ));
            }
        }
        rest = after;
    }
    Ok(out + rest)
}
