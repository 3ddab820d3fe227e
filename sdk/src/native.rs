//! The contract's types and calls in a native build. They have the shapes that `wit-bindgen`
//! generates for a guest, and the [`testing`](crate::testing) host of the thread answers them.

/// The interfaces that a connector imports.
pub mod raic {
    /// Package `raic:connector`.
    pub mod connector {
        /// Errors, and what is known of objects.
        pub mod types {
            /// Text pairs with an open vocabulary.
            pub type Extra = Vec<(String, String)>;

            /// What went wrong. The host reacts to each kind in its own way; `wit/connector.wit`
            /// has the meaning and the retry rule of each.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            #[allow(missing_docs, reason = "the contract has the meaning of each")]
            pub enum ErrorKind {
                NotFound,
                ContainerNotFound,
                AlreadyExists,
                PreconditionFailed,
                Conflict,
                RangeNotSatisfiable,
                Unauthenticated,
                PermissionDenied,
                ClockSkew,
                QuotaExceeded,
                TooLarge,
                Throttled,
                Unavailable,
                Timeout,
                Integrity,
                Archived,
                RefusedByHost,
                Misconfigured,
                Unsupported,
                Protocol,
                Internal,
            }

            /// The error of a call.
            #[derive(Clone, Debug)]
            pub struct Error {
                /// What went wrong; it decides what the host does next.
                pub kind: ErrorKind,
                /// One line for a person, without secrets.
                pub message: String,
                /// The provider's own code (`SlowDown`, `BlobNotFound`).
                pub provider_code: Option<String>,
                /// The status of the HTTP answer, if there was one.
                pub http_status: Option<u16>,
                /// The provider's name for the request.
                pub request_id: Option<String>,
                /// How long the provider asks to wait, in milliseconds.
                pub retry_after_ms: Option<u64>,
                /// Further pairs, under names of the connector's choice.
                pub extra: Extra,
            }

            /// A part of an object, in bytes.
            #[derive(Clone, Copy, Debug)]
            pub struct ByteRange {
                /// Where the part begins.
                pub offset: u64,
                /// The length of the part, 1 or more. It is cut at the object's end.
                pub length: u64,
            }

            /// What is known of a whole object.
            #[derive(Clone, Debug)]
            pub struct ObjectInfo {
                /// The size of the whole object, in bytes.
                pub size: u64,
                /// A text that changes with the content, the same from put, get, head and list;
                /// `None` if the provider's etag is weak.
                pub etag: Option<String>,
                /// When the object was written, by the provider's clock, in milliseconds since
                /// 1970.
                pub last_modified_unix_ms: Option<u64>,
                /// Further pairs, under names of the connector's choice.
                pub extra: Extra,
            }
        }

        /// Objects' bytes, which stay in the host.
        pub mod payloads {
            /// An object's bytes on their way up.
            #[derive(Debug)]
            pub struct Payload(pub(crate) Vec<u8>);

            impl Payload {
                /// The number of bytes.
                pub fn size(&self) -> u64 {
                    self.0.len() as u64
                }
                /// A digest of the whole payload: `sha256`, `sha1`, `md5` or `crc32c`
                /// (big-endian). `None` for another name.
                pub fn digest(&self, name: &str) -> Option<Vec<u8>> {
                    match name {
                        "sha256" => Some(crate::sha256(&self.0)),
                        "sha1" => Some(crate::sha1(&self.0)),
                        "md5" => Some(crate::md5(&self.0)),
                        "crc32c" => Some(crc32c::crc32c(&self.0).to_be_bytes().to_vec()),
                        _ => None,
                    }
                }
            }

            /// An object's bytes on their way down.
            #[derive(Debug)]
            pub struct Body(pub(crate) Vec<u8>);

            impl Body {
                /// The number of bytes, if it is known; the test host always knows it.
                pub fn size(&self) -> Option<u64> {
                    Some(self.0.len() as u64)
                }
            }
        }

        /// Parts of credentials that only the host can read.
        pub mod secrets {
            use super::types::Error;
            use crate::testing;

            /// A handle to a secret.
            #[derive(Clone, Debug)]
            pub struct Secret(pub(crate) String);

            impl Secret {
                /// Returns the HMAC of a message; `hash` is `sha256`.
                ///
                /// # Errors
                /// `refused-by-host` for another hash.
                pub fn hmac(&self, hash: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
                    testing::hmac(&self.0, hash, message)
                }
                /// Returns the SigV4 signature of a canonical request, by the scheme `AWS4` or
                /// `GOOG4`.
                ///
                /// # Errors
                /// `refused-by-host` for another scheme.
                pub fn sigv4(
                    &self,
                    scheme: &str,
                    timestamp: &str,
                    region: &str,
                    service: &str,
                    canonical_request: &[u8],
                ) -> Result<Vec<u8>, Error> {
                    testing::sigv4(
                        &self.0,
                        scheme,
                        timestamp,
                        region,
                        service,
                        canonical_request,
                    )
                }
                /// Returns a signature by RSASSA-PKCS1-v1_5 with SHA-256. The test host returns the
                /// SHA-256 of key and message instead.
                ///
                /// # Errors
                /// None in a test.
                pub fn rsa_sha256(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
                    Ok(crate::sha256(&[self.0.as_bytes(), message].concat()))
                }
                /// Returns a text that the host replaces by the secret as it sends, in the form
                /// `raw`, `json`, `form` or `query`.
                ///
                /// # Errors
                /// `refused-by-host` for another form.
                pub fn placeholder(&self, form: &str) -> Result<String, Error> {
                    testing::placeholder(&self.0, form)
                }
                /// Returns a text that the host replaces by base64(user:value) as it sends.
                ///
                /// # Errors
                /// None in a test.
                pub fn basic_auth(&self, user: &str) -> Result<String, Error> {
                    Ok(testing::issue(
                        crate::BASE64.encode(format!("{user}:{}", self.0).as_bytes()),
                    ))
                }
            }

            /// Returns the secret of that name, `CREDENTIAL.PART` of the manifest; `None` if the
            /// credential has no such part.
            ///
            /// # Errors
            /// None in a test.
            pub fn open(name: &str) -> Result<Option<Secret>, Error> {
                Ok(testing::secret(name).map(Secret))
            }
        }

        /// Requests.
        pub mod http {
            use super::{
                payloads::{Body, Payload},
                secrets::Secret,
                types::Error,
            };
            use crate::testing;

            /// A request, as it is handed to the host.
            #[derive(Clone, Debug)]
            pub struct Request {
                /// The method, in upper case.
                pub method: String,
                /// The URL, as a URL parser would write it.
                pub url: String,
                /// The names and values of the headers.
                pub headers: Vec<(String, Vec<u8>)>,
                /// A small body; empty if a payload goes up.
                pub content: Vec<u8>,
                /// How long to wait for an answer, in milliseconds; `None` for the host's own
                /// deadline.
                pub timeout_ms: Option<u32>,
            }

            /// An answer.
            #[derive(Debug)]
            pub struct Response(pub(crate) testing::Answer);

            impl Response {
                /// The HTTP status.
                pub fn status(&self) -> u16 {
                    self.0.status
                }
                /// All headers.
                pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
                    self.0
                        .headers
                        .iter()
                        .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
                        .collect()
                }
                /// The value of a header, whose name may be in any case. Several values are joined
                /// by `, `.
                pub fn header(&self, name: &str) -> Option<String> {
                    let same = self
                        .0
                        .headers
                        .iter()
                        .filter(|(n, _)| n.eq_ignore_ascii_case(name));
                    let values: Vec<&str> = same.map(|(_, value)| value.as_str()).collect();
                    (!values.is_empty()).then(|| values.join(", "))
                }
                /// Returns the whole body. Outside of a test, the answer must be an error or a
                /// document of the manifest.
                ///
                /// # Errors
                /// `too-large` if the body is longer than `limit` bytes.
                pub fn read(&self, limit: u32) -> Result<Vec<u8>, Error> {
                    testing::bounded(&self.0.body, limit)
                }
                /// Returns the object's bytes out of an answer of 200 or 206.
                ///
                /// # Errors
                /// `protocol` for another status.
                pub fn into_body(this: Self) -> Result<Body, Error> {
                    match this.0.status {
                        200 | 206 => Ok(Body(this.0.body)),
                        other => Err(crate::error(
                            super::types::ErrorKind::Protocol,
                            format!("an answer of {other} has no object's bytes"),
                        )),
                    }
                }
                /// Takes the token that the manifest has under that name out of this answer.
                ///
                /// # Errors
                /// `protocol` if the test gave no such token.
                pub fn take_secret(&self, name: &str) -> Result<Secret, Error> {
                    testing::token(name).map(Secret)
                }
            }

            /// Sends a request.
            ///
            /// # Errors
            /// The error that the test gave instead of an answer.
            pub fn send(request: &Request, upload: Option<&Payload>) -> Result<Response, Error> {
                testing::send(request, upload).map(Response)
            }
        }

        /// The cloud that a call serves.
        pub mod cloud {
            use super::{secrets::Secret, types::Error};
            use crate::testing;

            /// A setting, or a plain part of a credential (`CREDENTIAL.PART`).
            pub fn setting(name: &str) -> Option<String> {
                testing::setting(name)
            }
            /// Reports an endpoint that a login named. Returns its URL as requests must be made of
            /// it.
            ///
            /// # Errors
            /// None in a test. Outside of one, `refused-by-host` until the operator has pinned it.
            pub fn endpoint(_name: &str, url: &str) -> Result<String, Error> {
                Ok(url.trim_end_matches('/').to_owned())
            }
            /// The time, in milliseconds since 1970.
            pub fn now_unix_ms() -> u64 {
                testing::now_unix_ms()
            }
            /// Returns `len` bytes: random ones outside of a test, and in a test always the same.
            pub fn random_bytes(len: u32) -> Vec<u8> {
                (0..len).map(|i| i as u8).collect()
            }

            /// A value of a login.
            #[derive(Debug)]
            pub enum Value {
                /// A text that the connector may read.
                Text(String),
                /// A handle to a secret.
                Secret(Secret),
            }
            /// The values that one login gave.
            #[derive(Debug)]
            pub struct Hit {
                /// The values, under names of the connector's choice.
                pub values: Vec<(String, Value)>,
                /// Says which login it is, for [`cache_invalidate`].
                pub generation: u64,
            }
            /// The right to log in, while other calls wait.
            #[derive(Debug)]
            pub struct Ticket(pub(crate) String);

            impl Ticket {
                /// Stores what the login gave, and returns it with handles for this call.
                pub fn fill(this: Self, values: Vec<(String, Value)>, _ttl_ms: u64) -> Hit {
                    testing::fill_login(&this.0, values)
                }
                /// Gives the error to all waiting calls; a test has none.
                pub fn fail(_this: Self, _error: &Error, _ttl_ms: u64) {}
            }
            /// The host's answer to [`cache_acquire`].
            #[derive(Debug)]
            pub enum Acquired {
                /// The login, which the host has kept.
                Hit(Hit),
                /// The ticket to log in.
                Refresh(Ticket),
            }
            /// Returns a login of the manifest, or the ticket to make it.
            ///
            /// # Errors
            /// None in a test.
            pub fn cache_acquire(name: &str) -> Result<Acquired, Error> {
                Ok(testing::acquire_login(name))
            }
            /// Drops a login, only if it is still of that generation.
            pub fn cache_invalidate(name: &str, generation: u64) {
                testing::drop_login(name, generation);
            }
        }

        /// The host's log.
        pub mod log {
            /// How much a line matters.
            #[derive(Clone, Copy, Debug)]
            #[allow(missing_docs, reason = "the names are those of every log")]
            pub enum Level {
                Trace,
                Debug,
                Info,
                Warn,
                Error,
            }
            /// Writes a line; in a test to standard error.
            pub fn write(level: Level, message: &str) {
                eprintln!("{level:?}: {message}");
            }
        }
    }
}

/// The interfaces that a connector exports.
pub mod exports {
    /// The contract's namespace.
    pub mod raic {
        /// Package `raic:connector`.
        pub mod connector {
            /// What the account uses and may use.
            pub mod account {
                use crate::Extra;

                /// What the provider reports of this account. A field is `None` if the provider
                /// does not report it.
                #[derive(Clone, Debug)]
                pub struct Usage {
                    /// The bytes that are used.
                    pub bytes_used: Option<u64>,
                    /// The number of objects.
                    pub objects: Option<u64>,
                    /// The most that the account may use, in bytes.
                    pub quota_bytes: Option<u64>,
                    /// Further pairs, under names of the connector's choice.
                    pub extra: Extra,
                }
            }

            /// Objects and listings.
            pub mod object_store {
                use crate::ObjectInfo;

                /// What a put does if the key has an object already.
                #[derive(Clone, Debug)]
                pub enum WriteMode {
                    /// The put replaces the object.
                    Overwrite,
                    /// The put fails with `already-exists`.
                    CreateOnly,
                    /// The put replaces the object only while its etag is this one.
                    IfMatch(String),
                }
                /// One entry of a listing.
                #[derive(Clone, Debug)]
                pub struct Listed {
                    /// The object's key, as the provider has it.
                    pub key: String,
                    /// What the listing says of the object.
                    pub info: ObjectInfo,
                }
                /// A page of a listing.
                #[derive(Clone, Debug)]
                pub struct Page {
                    /// The entries, at most as many as were asked for.
                    pub entries: Vec<Listed>,
                    /// The cursor of the next page; `None` at the end of the listing.
                    pub next: Option<String>,
                }
            }
        }
    }
}
