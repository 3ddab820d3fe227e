//! What the targets of connectors share: answers of a service, made of an input.

use raic_sdk::{
    Page, Request, Result,
    testing::{Answer, Host},
};

/// Headers that connectors read.
const HEADERS: [&str; 20] = [
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "retry-after",
    "x-account-bytes-used",
    "x-amz-bucket-region",
    "x-amz-delete-marker",
    "x-amz-request-id",
    "x-auth-token-expires",
    "x-container-meta-quota-bytes",
    "x-container-object-count",
    "x-goog-generation",
    "x-guploader-uploadid",
    "x-ms-error-code",
    "x-ms-retry-after-ms",
    "x-storage-url",
    "x-trans-id",
];

/// Statuses of answers.
const STATUSES: [u16; 25] = [
    200, 201, 202, 203, 204, 206, 301, 304, 307, 400, 401, 403, 404, 405, 409, 412, 413, 416, 422,
    429, 498, 500, 501, 503, 507,
];

/// The status of a second answer. No answer of an input has it.
const SECOND: u16 = 418;

/// An answer that was made of an input.
#[derive(Clone, Debug)]
pub struct Given {
    /// The answer.
    pub answer: Answer,
    /// Its status.
    pub status: u16,
    /// The bytes of the input.
    pub size: usize,
}

impl Given {
    /// Makes an answer: of the status that the first byte chooses, of headers, each a byte that
    /// chooses its name and a line with its value, and of a body behind any other byte.
    pub fn new(data: &[u8]) -> Self {
        let (first, mut rest) = data.split_first().unwrap_or((&0, &[]));
        let status = STATUSES[usize::from(*first) % STATUSES.len()];
        let mut answer = Answer::new(status);
        while let Some((byte, after)) = rest.split_first() {
            let Some(name) = HEADERS.get(usize::from(*byte)) else {
                answer = answer.body(after);
                break;
            };
            let mut lines = after.splitn(2, |b| *b == b'\n');
            let value = String::from_utf8_lossy(lines.next().unwrap_or_default());
            answer = answer.header(name, &value);
            rest = lines.next().unwrap_or_default();
        }
        Self {
            answer,
            status,
            size: data.len(),
        }
    }

    /// Runs a call that sends one request, and is answered by this.
    pub fn run<T>(&self, host: Host, call: impl FnOnce() -> Result<T>) {
        let (returned, sent) = host.answer(self.answer.clone()).run(call);
        assert_eq!(sent.len(), 1);
        self.check(&returned);
    }

    /// Runs a call that sends one request, and perhaps another if the first is answered by this.
    pub fn run_two<T>(&self, host: Host, call: impl FnOnce() -> Result<T>) {
        let host = host.answer(self.answer.clone());
        let (returned, _) = host.answer(Answer::new(SECOND)).run(|| {
            let returned = call();
            let is_taken = matches!(&returned, Err(e) if e.http_status == Some(SECOND));
            if !is_taken {
                let left = Request::new("GET", "https://left.example/".to_owned()).send(None);
                left.expect("the second answer is left");
            }
            returned
        });
        self.check(&returned);
    }

    /// Runs a call that logs in and sends one request. If the service refuses the token, the
    /// connector does both again.
    pub fn run_after<T>(&self, host: Host, login: &Answer, call: impl FnOnce() -> Result<T>) {
        let mut host = host.answer(login.clone()).answer(self.answer.clone());
        if self.status == 401 {
            host = host.answer(login.clone()).answer(self.answer.clone());
        }
        self.check(&host.run(call).0);
    }

    /// Checks that an error is not longer than the answer allows.
    fn check<T>(&self, returned: &Result<T>) {
        if let Err(e) = returned {
            // What is not UTF-8 takes three bytes for one.
            assert!(e.message.len() <= 3 * self.size + 500, "{}", e.message);
        }
    }

    /// Checks that a listing is not longer than the answer, and returns it.
    pub fn checked(&self, listed: Result<Page>) -> Result<Page> {
        if let Ok(page) = &listed {
            let keys: usize = page.entries.iter().map(|entry| entry.key.len()).sum();
            assert!(keys <= self.size);
            assert!(
                page.next
                    .as_ref()
                    .is_none_or(|next| next.len() <= self.size)
            );
        }
        listed
    }
}
