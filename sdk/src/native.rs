//! The contract's types and calls in a native build: what `wit-bindgen` generates for a guest,
//! answered by the [`testing`](crate::testing) host of the thread.

/// What the host gives a connector.
pub mod raic {
    /// Package `raic:connector`.
    pub mod connector {
        /// Errors and what is known of objects.
        pub mod types {
            /// Open vocabulary: pairs of texts.
            pub type Extra = Vec<(String, String)>;

            /// What went wrong, as far as the host acts on it differently. `wit/connector.wit` has
            /// the rule of each.
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

            /// A failure.
            #[derive(Clone, Debug)]
            pub struct Error {
                /// What the host does next depends on it.
                pub kind: ErrorKind,
                /// One line for a person, without secrets.
                pub message: String,
                /// The provider's own code (`SlowDown`, `BlobNotFound`).
                pub provider_code: Option<String>,
                /// The HTTP status.
                pub http_status: Option<u16>,
                /// The provider's name for the request.
                pub request_id: Option<String>,
                /// How long to wait, in milliseconds.
                pub retry_after_ms: Option<u64>,
                /// More, by names of the connector's choice.
                pub extra: Extra,
            }

            /// A part of an object, in bytes.
            #[derive(Clone, Copy, Debug)]
            pub struct ByteRange {
                /// Where it begins.
                pub offset: u64,
                /// 1 or more; what lies past the object's end is cut.
                pub length: u64,
            }

            /// What is known of a whole object.
            #[derive(Clone, Debug)]
            pub struct ObjectInfo {
                /// In bytes.
                pub size: u64,
                /// A text that changes with the content, the same from put, get, head and list.
                pub etag: Option<String>,
                /// When it was written, by the provider's clock.
                pub last_modified_unix_ms: Option<u64>,
                /// More, by names of the connector's choice.
                pub extra: Extra,
            }
        }

        /// Objects' bytes, which stay in the host.
        pub mod payloads {
            /// An object's bytes on their way up.
            #[derive(Debug)]
            pub struct Payload(pub(crate) Vec<u8>);

            impl Payload {
                /// In bytes.
                pub fn size(&self) -> u64 {
                    self.0.len() as u64
                }
                /// A digest of all of it: `sha256`, `sha1`, `md5` or `crc32c` (big-endian); none
                /// for another name.
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
                /// In bytes, where it is known.
                pub fn size(&self) -> Option<u64> {
                    Some(self.0.len() as u64)
                }
            }
        }

        /// Parts of credentials that only the host can read.
        pub mod secrets {
            use super::types::Error;
            use crate::testing;

            /// A secret, as a handle.
            #[derive(Clone, Debug)]
            pub struct Secret(pub(crate) String);

            impl Secret {
                /// HMAC of a message, with the hash `sha256`.
                ///
                /// # Errors
                /// `refused-by-host` for another hash.
                pub fn hmac(&self, hash: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
                    testing::hmac(&self.0, hash, message)
                }
                /// The signature of a canonical request, by the scheme `AWS4` or `GOOG4`.
                ///
                /// # Errors
                /// `refused-by-host` for what is none.
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
                /// A signature by RSASSA-PKCS1-v1_5 with SHA-256. The test host's is the SHA-256 of
                /// key and message.
                ///
                /// # Errors
                /// None in a test.
                pub fn rsa_sha256(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
                    Ok(crate::sha256(&[self.0.as_bytes(), message].concat()))
                }
                /// A text in whose place the host sends the secret, in the form `raw`, `json`,
                /// `form` or `query`.
                ///
                /// # Errors
                /// `refused-by-host` for another form.
                pub fn placeholder(&self, form: &str) -> Result<String, Error> {
                    testing::placeholder(&self.0, form)
                }
                /// A text in whose place the host sends base64(user:value).
                ///
                /// # Errors
                /// None in a test.
                pub fn basic_auth(&self, user: &str) -> Result<String, Error> {
                    Ok(testing::issue(
                        crate::BASE64.encode(format!("{user}:{}", self.0).as_bytes()),
                    ))
                }
            }

            /// The secret of that name, `CREDENTIAL.PART` of the manifest; none where the
            /// credential has none.
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
                /// As a URL parser would write it.
                pub url: String,
                /// Names and values.
                pub headers: Vec<(String, Vec<u8>)>,
                /// A small body; empty where a payload goes up.
                pub content: Vec<u8>,
                /// How long to wait for an answer.
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
                /// A header by its name, in any case; several are joined by `, `.
                pub fn header(&self, name: &str) -> Option<String> {
                    let same = self
                        .0
                        .headers
                        .iter()
                        .filter(|(n, _)| n.eq_ignore_ascii_case(name));
                    let values: Vec<&str> = same.map(|(_, value)| value.as_str()).collect();
                    (!values.is_empty()).then(|| values.join(", "))
                }
                /// The whole answer, where it is an error's or one that the manifest calls a
                /// document.
                ///
                /// # Errors
                /// `too-large` past the limit.
                pub fn read(&self, limit: u32) -> Result<Vec<u8>, Error> {
                    testing::bounded(&self.0.body, limit)
                }
                /// The object's bytes out of an answer of 200 or 206.
                ///
                /// # Errors
                /// `protocol` where it is another.
                pub fn into_body(this: Self) -> Result<Body, Error> {
                    match this.0.status {
                        200 | 206 => Ok(Body(this.0.body)),
                        other => Err(crate::error(
                            super::types::ErrorKind::Protocol,
                            format!("an answer of {other} has no object's bytes"),
                        )),
                    }
                }
                /// The token that the manifest has under that name, out of this answer.
                ///
                /// # Errors
                /// `protocol` where the test gave none.
                pub fn take_secret(&self, name: &str) -> Result<Secret, Error> {
                    testing::token(name).map(Secret)
                }
            }

            /// Sends a request.
            ///
            /// # Errors
            /// What the test gave in the place of an answer.
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
            /// Tells an endpoint that was learned at login; gives its URL back as requests are to
            /// be made of it.
            ///
            /// # Errors
            /// None in a test; outside of one, until the operator has pinned it.
            pub fn endpoint(_name: &str, url: &str) -> Result<String, Error> {
                Ok(url.trim_end_matches('/').to_owned())
            }
            /// The time, in milliseconds since 1970.
            pub fn now_unix_ms() -> u64 {
                testing::now_unix_ms()
            }
            /// Random bytes; the same in every test.
            pub fn random_bytes(len: u32) -> Vec<u8> {
                (0..len).map(|i| i as u8).collect()
            }

            /// A value of a login.
            #[derive(Debug)]
            pub enum Value {
                /// Readable.
                Text(String),
                /// A handle.
                Secret(Secret),
            }
            /// What one login gave.
            #[derive(Debug)]
            pub struct Hit {
                /// By names of the connector's choice.
                pub values: Vec<(String, Value)>,
                /// Which login it is.
                pub generation: u64,
            }
            /// The right to log in.
            #[derive(Debug)]
            pub struct Ticket(pub(crate) String);

            impl Ticket {
                /// Stores what the login gave.
                pub fn fill(this: Self, values: Vec<(String, Value)>, _ttl_ms: u64) -> Hit {
                    testing::fill_login(&this.0, values)
                }
                /// Tells all who wait that it failed.
                pub fn fail(_this: Self, _error: &Error, _ttl_ms: u64) {}
            }
            /// What asking for a login gave.
            #[derive(Debug)]
            pub enum Acquired {
                /// It is there.
                Hit(Hit),
                /// It is to be made.
                Refresh(Ticket),
            }
            /// Asks for a login of the manifest.
            ///
            /// # Errors
            /// None in a test.
            pub fn cache_acquire(name: &str) -> Result<Acquired, Error> {
                Ok(testing::acquire_login(name))
            }
            /// Drops a login, if it is still that one.
            pub fn cache_invalidate(name: &str, generation: u64) {
                testing::drop_login(name, generation);
            }
        }

        /// The host's log.
        pub mod log {
            /// How much a line matters.
            #[derive(Clone, Copy, Debug)]
            #[allow(missing_docs, reason = "as everywhere")]
            pub enum Level {
                Trace,
                Debug,
                Info,
                Warn,
                Error,
            }
            /// Writes a line.
            pub fn write(level: Level, message: &str) {
                eprintln!("{level:?}: {message}");
            }
        }
    }
}

/// What a connector exports.
pub mod exports {
    /// Its own package.
    pub mod raic {
        /// Package `raic:connector`.
        pub mod connector {
            /// Usage.
            pub mod account {
                use crate::Extra;

                /// What the provider says this account uses, none where it does not say.
                #[derive(Clone, Debug)]
                pub struct Usage {
                    /// In bytes.
                    pub bytes_used: Option<u64>,
                    /// How many objects.
                    pub objects: Option<u64>,
                    /// The most it may use, in bytes.
                    pub quota_bytes: Option<u64>,
                    /// More, by names of the connector's choice.
                    pub extra: Extra,
                }
            }

            /// Objects.
            pub mod object_store {
                use crate::ObjectInfo;

                /// How a put treats an object that is there.
                #[derive(Clone, Debug)]
                pub enum WriteMode {
                    /// Replaces it.
                    Overwrite,
                    /// Is refused.
                    CreateOnly,
                    /// Replaces it only while it has this etag.
                    IfMatch(String),
                }
                /// One entry of a listing.
                #[derive(Clone, Debug)]
                pub struct Listed {
                    /// As the provider has it.
                    pub key: String,
                    /// What the listing says of it.
                    pub info: ObjectInfo,
                }
                /// A page of a listing.
                #[derive(Clone, Debug)]
                pub struct Page {
                    /// At most the entries asked.
                    pub entries: Vec<Listed>,
                    /// Where the next page begins; none at the end.
                    pub next: Option<String>,
                }
            }
        }
    }
}
