//! Tests of the errors that a connector reports if its service refuses. Some change the
//! credentials, some rehearse an answer, and some need a set-up by the author at the service.

use std::{collections::BTreeMap, time::Duration};

use raic_cloud::{
    Cloud, ErrorKind, Retry, RetryPolicy,
    conformance::{
        Finding, Verdict, clock_skew, container, missing_container, read_only, throttled,
        unauthenticated, unavailable,
    },
};
use raic_wasm::{
    Configuration, Connector, ConnectorCloud, CredentialDocuments, Part, Rehearsal, RehearsedAnswer,
};
use zeroize::Zeroizing;

/// How far the connector's clock is set wrong: more than the quarter of an hour that signatures
/// allow.
const OFF: Duration = Duration::from_secs(2 * 3600);
/// The time to wait that the rehearsed service names.
const WAIT: Duration = Duration::from_secs(7);

/// The way in which the service is made to refuse.
enum Way {
    Credentials,
    Clock,
    Throttling,
    Failures,
    Container,
    ReadOnly,
    Expired,
}

/// A test in addition to the suite's behaviours.
pub(super) struct Refusal {
    way: Way,
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// The option that the test needs; `None` if it needs no option.
    pub(super) needs: Option<&'static str>,
}

pub(super) const REFUSALS: [Refusal; 7] = [
    Refusal {
        way: Way::Credentials,
        name: "credentials",
        what: "wrong credentials are refused, and reported as the reason",
        needs: None,
    },
    Refusal {
        way: Way::Clock,
        name: "clock",
        what: "a wrong clock is reported as the reason, if the service checks it",
        needs: None,
    },
    Refusal {
        way: Way::Throttling,
        name: "throttling",
        what: "throttling by the service is reported, with the time to wait",
        needs: None,
    },
    Refusal {
        way: Way::Failures,
        name: "failures",
        what: "failures of the service are reported so that the host tries again",
        needs: None,
    },
    Refusal {
        way: Way::Container,
        name: "container",
        what: "a missing container is reported; it is created, kept while in use, and deleted",
        needs: Some("--missing NAME=VALUE, the setting that names a container that does not exist"),
    },
    Refusal {
        way: Way::ReadOnly,
        name: "read-only",
        what: "credentials that may only read can read; a write is reported as forbidden",
        needs: Some("--read-only NAME=FILE, a credential that may only read"),
    },
    Refusal {
        way: Way::Expired,
        name: "expired",
        what: "expired credentials are reported as the reason",
        needs: Some("--expired NAME=FILE, a credential that has expired"),
    },
];

/// The connector that is tested, and the author's set-up for the tests.
pub(super) struct SetUp<'a> {
    pub(super) connector: &'a Connector,
    pub(super) configuration: &'a Configuration,
    /// The cloud with the right settings and credentials.
    pub(super) cloud: &'a ConnectorCloud,
    pub(super) prefix: &'a str,
    /// Settings that name a container that does not exist; empty if none were given.
    pub(super) missing: BTreeMap<String, String>,
    /// Credentials that may only read; empty if none were given.
    pub(super) read_only: CredentialDocuments,
    /// Credentials that have expired; empty if none were given.
    pub(super) expired: CredentialDocuments,
}

impl SetUp<'_> {
    /// Runs a test; `None` if the option that it needs was not given.
    pub(super) async fn check(&self, refusal: &Refusal) -> Option<Verdict> {
        let prefix = &format!("{}{}/", self.prefix, refusal.name);
        Some(match refusal.way {
            Way::Credentials => wrong_credentials(self.connector, self.configuration, prefix).await,
            Way::Clock => {
                let clock_ahead_ms = -i64::try_from(OFF.as_millis()).unwrap_or(i64::MAX);
                let late = self.cloud.rehearsing(Rehearsal {
                    clock_ahead_ms,
                    ..Rehearsal::default()
                });
                clock_skew(&late, prefix, OFF).await
            }
            Way::Throttling => {
                let wait = ("retry-after".to_owned(), WAIT.as_secs().to_string());
                throttled(&self.answered(429, vec![wait]), prefix, WAIT).await
            }
            Way::Failures => self.failures(prefix).await,
            Way::Container if !self.missing.is_empty() => self.container(prefix).await,
            Way::ReadOnly if !self.read_only.is_empty() => match self.with(&self.read_only) {
                Ok(reader) => read_only(&patient(reader), self.cloud, prefix).await,
                Err(why) => Err(why),
            },
            Way::Expired if !self.expired.is_empty() => match self.with(&self.expired) {
                Ok(cloud) => unauthenticated(&patient(cloud), prefix).await,
                Err(why) => Err(why),
            },
            Way::Container | Way::ReadOnly | Way::Expired => return None,
        })
    }

    /// Returns the cloud with this answer rehearsed for every request.
    fn answered(&self, status: u16, headers: Vec<(String, String)>) -> ConnectorCloud {
        let answer = Some(RehearsedAnswer { status, headers });
        self.cloud.rehearsing(Rehearsal {
            answer,
            ..Rehearsal::default()
        })
    }

    async fn failures(&self, prefix: &str) -> Verdict {
        for status in [500, 502, 503, 504] {
            let failing = self.answered(status, Vec::new());
            unavailable(&failing, prefix)
                .await
                .map_err(|why| format!("{status}: {why}"))?;
        }
        Ok(Finding::Holds)
    }

    async fn container(&self, prefix: &str) -> Verdict {
        let mut settings = self.configuration.settings.clone();
        settings.extend(self.missing.clone());
        let cloud = patient(self.open(Configuration {
            settings,
            ..self.configuration.clone()
        })?);
        // A container is created and deleted only if it is known not to exist.
        missing_container(&cloud, prefix).await?;
        let checked = container(&cloud, prefix).await;
        let Err(why) = checked else { return checked };
        Err(match cloud.probe().await {
            Err(e) if e.kind == ErrorKind::ContainerNotFound => why,
            _ => format!("{why}; the container may be left: remove it before the next run"),
        })
    }

    fn with(&self, others: &CredentialDocuments) -> Verdict<ConnectorCloud> {
        let mut credentials = self.configuration.credentials.clone();
        credentials.extend(others.clone());
        self.open(Configuration {
            credentials,
            ..self.configuration.clone()
        })
    }

    fn open(&self, configuration: Configuration) -> Verdict<ConnectorCloud> {
        ConnectorCloud::new(self.cloud.name(), self.connector, &configuration)
            .map_err(|e| e.to_string())
    }
}

/// Puts the daemon's retries around a cloud, so that a busy service is asked again.
fn patient(cloud: ConnectorCloud) -> Retry<ConnectorCloud> {
    Retry::new(cloud, RetryPolicy::default())
}

/// Tests that nothing can be written with slightly changed credentials, and that the error reports
/// them as the reason.
async fn wrong_credentials(connector: &Connector, right: &Configuration, prefix: &str) -> Verdict {
    let secrets = with_garbled(connector, right, |part| part.secret);
    let Some(secrets) = secrets else {
        return Ok(Finding::Lacks("the connector takes no secrets".to_owned()));
    };
    // A changed private key is no key any more. Then the parts that are not secret are changed.
    let opened = ConnectorCloud::new("test", connector, &secrets)
        .ok()
        .or_else(|| {
            let plain = with_garbled(connector, right, |part| !part.secret)?;
            ConnectorCloud::new("test", connector, &plain).ok()
        });
    match opened {
        Some(cloud) => unauthenticated(&cloud, prefix).await,
        None => Ok(Finding::Lacks(
            "a wrong credential does not pass the host's own checks".to_owned(),
        )),
    }
}

/// Returns the configuration with some parts of its credentials changed; `None` if it has no such
/// parts.
fn with_garbled(
    connector: &Connector,
    right: &Configuration,
    which: impl Fn(&Part) -> bool,
) -> Option<Configuration> {
    let mut credentials = right.credentials.clone();
    let mut is_changed = false;
    for (name, credential) in &connector.manifest().credentials {
        let Some(document) = credentials.get_mut(name) else {
            continue;
        };
        for part in credential.parts.values().filter(|part| which(part)) {
            is_changed |= garble(document, &part.from);
        }
    }
    is_changed.then(|| Configuration {
        credentials,
        ..right.clone()
    })
}

/// Changes one character in the middle of a part of a document. Returns `false` if the document
/// lacks the part, or if the part is a URL, which names a host.
fn garble(document: &mut Zeroizing<Vec<u8>>, from: &str) -> bool {
    let changed = |text: &str| -> Option<String> {
        if text.contains("://") {
            return None;
        }
        let mut bytes = text.as_bytes().to_vec();
        let middle = bytes.len() / 2;
        let place = (middle..bytes.len())
            .chain(0..middle)
            .find(|i| bytes[*i].is_ascii_alphanumeric())?;
        bytes[place] = match bytes[place] {
            b'a' | b'A' | b'0' => bytes[place] + 1,
            b if b.is_ascii_digit() => b'0',
            b if b.is_ascii_lowercase() => b'a',
            _ => b'A',
        };
        String::from_utf8(bytes).ok()
    };
    let Ok(text) = std::str::from_utf8(document) else {
        return false;
    };
    let whole = match from.strip_prefix("json:") {
        None => changed(text),
        Some(pointer) => serde_json::from_str(text)
            .ok()
            .and_then(|mut json: serde_json::Value| {
                let value = json.pointer_mut(pointer)?;
                *value = changed(value.as_str()?)?.into();
                Some(json.to_string())
            }),
    };
    whole
        .map(|whole| *document = Zeroizing::new(whole.into_bytes()))
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_garbled_secret_is_another_of_the_same_form() {
        let mut text = Zeroizing::new(b"c2VjcmV0\n".to_vec());
        assert!(garble(&mut text, "text"));
        assert_eq!(text.len(), 9);
        assert_ne!(&text[..], b"c2VjcmV0\n");
        let mut json = Zeroizing::new(br#"{"a":"b","k":{"s":"0"}}"#.to_vec());
        assert!(garble(&mut json, "json:/k/s"));
        assert_eq!(&json[..], br#"{"a":"b","k":{"s":"1"}}"#);
        assert!(!garble(&mut json, "json:/none"));
        assert!(!garble(
            &mut Zeroizing::new(b"https://h/token".to_vec()),
            "text"
        ));
    }
}
