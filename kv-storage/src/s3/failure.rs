//! What a failed request means, and what its caller is told.

use std::error::Error as StdError;
use std::fmt::{self, Display};

use object_store::Error as StoreError;

use super::observe::Answer;
use crate::{Error, ErrorKind};

/// What is done about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// There is no such object.
    Missing,
    /// A condition did not hold (412): the name is taken, or its object is another.
    Refused,
    /// Another request on the same name was in progress (409): try again.
    Busy,
    /// The server has too many requests (503, 429): fewer, and later.
    Throttled,
    /// The server failed or went away, perhaps after it did what it was asked: try again.
    Transient,
    /// Nobody could be reached, and trying at once again would not help: a name that does not resolve, a certificate that is not believed.
    Unreachable,
    /// The credentials have expired: fetch others once.
    Expired,
    /// The range does not lie in the object (416).
    Range,
    /// The server lacks space or quota.
    Full,
    /// The credentials are wrong or do not suffice.
    Denied,
    /// The bucket, the region or the endpoint is not the one that was named.
    Misdirected,
    /// The server does not know this request.
    Unknown,
    /// Another object took the name under a read.
    Changed,
    /// The server has no longer what was uploaded in parts: it was completed, aborted, swept or lost.
    Gone,
    /// Anything else: not tried again.
    Other,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// Whether it was tried again as often as it may be: whoever made the request of a larger operation does not begin anew.
    pub(super) spent: bool,
    /// S3's own word, such as `SlowDown`.
    code: Option<String>,
    status: Option<u16>,
    region: Option<String>,
    message: String,
    source: Option<StoreError>,
}

impl Failure {
    /// Of an error and the head of the answer, if there was one.
    pub(super) fn new(error: StoreError, answer: Answer) -> Self {
        let text = chain(&error);
        let code = code_in(&text);
        let class = classify(&error, answer.status, code.as_deref(), &text);
        let Answer { status, region } = answer;
        Self { class, spent: false, code, status, region, message: short(&text), source: Some(error) }
    }

    /// Of something that is seen here, not answered.
    pub(super) fn local(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { class, spent: false, code: None, status: None, region: None, message, source: None }
    }

    /// The same failure of a class that its place knows better.
    pub(super) fn with_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// Whether the request may have been carried out all the same.
    pub(super) fn ambiguous(&self) -> bool {
        matches!(self.class, Class::Transient | Class::Throttled)
    }

    /// The error for the caller: what was asked, what came instead, what to do.
    pub(super) fn error(self, store: impl Display, asked: &str) -> Error {
        let ((kind, advice), found) = (self.advice(), self.to_string());
        let error = Error::new(kind, store, format!("cannot {asked}: {found}; {advice}"));
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    fn advice(&self) -> (ErrorKind, String) {
        let (kind, advice) = match self.class {
            Class::Throttled => (ErrorKind::Unavailable, "the server has too many requests: try again later"),
            Class::Transient | Class::Busy => (ErrorKind::Unavailable, "try again later"),
            Class::Unreachable => (
                ErrorKind::Unavailable,
                "check the endpoint, its scheme (http or https), name resolution, and the certificates (AWS_CA_BUNDLE)",
            ),
            Class::Changed => (ErrorKind::Unavailable, "read it again"),
            Class::Gone => (ErrorKind::Unavailable, "the server has lost the upload: save the object again"),
            Class::Expired => (ErrorKind::PermissionDenied, "the credentials have expired: renew them"),
            Class::Denied => (ErrorKind::PermissionDenied, self.what_is_denied()),
            Class::Full => (ErrorKind::NoSpace, "the server is full or a quota is reached: delete objects"),
            Class::Range => (ErrorKind::OutOfRange, "expected a range within the object"),
            Class::Unknown => (ErrorKind::Unsupported, "this server does not speak enough of S3"),
            Class::Misdirected => {
                let advice = match &self.region {
                    Some(region) => format!("the bucket is in the region {region}: set region={region}"),
                    None => "check the bucket's name, its region and the endpoint".to_owned(),
                };
                return (ErrorKind::Invalid, advice);
            }
            Class::Missing | Class::Refused => (ErrorKind::Backend, "somebody else changed it meanwhile"),
            Class::Other => (ErrorKind::Backend, "the source of this error says more"),
        };
        (kind, advice.to_owned())
    }

    fn what_is_denied(&self) -> &'static str {
        match self.code.as_deref() {
            Some("SignatureDoesNotMatch") => "the secret key is not the one of this access key",
            Some("InvalidAccessKeyId" | "NotSignedUp") => "the server does not know this access key",
            Some("RequestTimeTooSkewed") => "the clock of this machine is wrong",
            _ => {
                "the credentials lack a right to this bucket (s3:GetObject, PutObject, DeleteObject, ListBucket)"
            }
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        match (&self.code, self.status) {
            (Some(code), Some(status)) => write!(f, "{code} ({status}): {message}"),
            (Some(code), None) => write!(f, "{code}: {message}"),
            (None, Some(status)) if status >= 300 => write!(f, "HTTP status {status}: {message}"),
            _ => f.write_str(message),
        }
    }
}

/// The messages of an error and all its sources, each once.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = error.source();
    }
    text
}

/// What stands between `<Code>` and `</Code>` of an answer's body.
fn code_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    Some(code.trim().to_owned())
}

/// One line of a message: the server's own if it gave one.
fn short(text: &str) -> String {
    let own = text.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
    let line = own.map_or(text, |(message, _)| message).trim();
    let line: String = line.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(400).collect()
}

fn classify(error: &StoreError, status: Option<u16>, code: Option<&str>, text: &str) -> Class {
    if let Some(class) = code.and_then(class_of_code) {
        return class;
    }
    match status {
        Some(404) => return Class::Missing,
        Some(409) => return Class::Busy,
        Some(304 | 412) => return Class::Refused,
        Some(416) => return Class::Range,
        Some(429 | 503) => return Class::Throttled,
        Some(507) => return Class::Full,
        Some(501 | 405) => return Class::Unknown,
        Some(401 | 403) => return Class::Denied,
        Some(300..=308) => return Class::Misdirected,
        Some(408 | 500..=599) => return Class::Transient,
        _ => {}
    }
    match error {
        StoreError::NotFound { .. } => Class::Missing,
        StoreError::AlreadyExists { .. }
        | StoreError::Precondition { .. }
        | StoreError::NotModified { .. } => Class::Refused,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Class::Denied,
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => Class::Unknown,
        _ => class_of_connection(text),
    }
}

/// S3's words are more exact than the status that carries them: expired credentials are a 400, a missing bucket is a 404.
fn class_of_code(code: &str) -> Option<Class> {
    Some(match code {
        "NoSuchKey" => Class::Missing,
        "NoSuchUpload" | "InvalidPart" => Class::Gone,
        "PreconditionFailed" => Class::Refused,
        "ConditionalRequestConflict" | "OperationAborted" => Class::Busy,
        "SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "Throttling" | "RequestLimitExceeded" => {
            Class::Throttled
        }
        "InternalError" | "RequestTimeout" | "BadDigest" | "IncompleteBody" => Class::Transient,
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => Class::Expired,
        "InvalidRange" => Class::Range,
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => Class::Full,
        "AccessDenied"
        | "SignatureDoesNotMatch"
        | "InvalidAccessKeyId"
        | "RequestTimeTooSkewed"
        | "NotSignedUp" => Class::Denied,
        "NoSuchBucket"
        | "InvalidBucketName"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed" => Class::Misdirected,
        "NotImplemented" | "MethodNotAllowed" => Class::Unknown,
        _ => return None,
    })
}

/// Without an answer only the messages tell: which names and certificates cannot be mended by waiting, and what else a connection died
/// of.
fn class_of_connection(text: &str) -> Class {
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&[
        "dns error",
        "failed to lookup address",
        "invalid peer certificate",
        "corrupt message",
        "handshake",
    ]) {
        return Class::Unreachable;
    }
    if has(&[
        "error sending request",
        "http error",
        "error decoding response body",
        "connection",
        "timed out",
    ]) {
        return Class::Transient;
    }
    Class::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn the_servers_word_goes_before_the_status() {
        for (status, text, class) in [
            (400, "<Code>ExpiredToken</Code>", Class::Expired),
            (404, "<Code>NoSuchBucket</Code>", Class::Misdirected),
            (403, "<Code>QuotaExceeded</Code>", Class::Full),
            (404, "", Class::Missing),
            (409, "<Code>ConditionalRequestConflict</Code>", Class::Busy),
            (412, "", Class::Refused),
            (503, "", Class::Throttled),
            (429, "no XML", Class::Throttled),
            (500, "<Code>InternalError</Code>", Class::Transient),
            (301, "", Class::Misdirected),
            (400, "<Code>Strange</Code>", Class::Other),
        ] {
            let answer = Answer { status: Some(status), region: None };
            assert_eq!(Failure::new(generic(text), answer).class, class, "{status} {text}");
        }
    }

    #[test]
    fn without_an_answer_the_connection_tells() {
        for (text, class) in [
            ("error sending request: dns error: failed to lookup address information", Class::Unreachable),
            ("client error: invalid peer certificate: UnknownIssuer", Class::Unreachable),
            ("error sending request: connection closed before message completed", Class::Transient),
            ("HTTP error: error decoding response body", Class::Transient),
            ("no idea", Class::Other),
        ] {
            assert_eq!(Failure::new(generic(text), Answer::default()).class, class, "{text}");
        }
    }

    #[test]
    fn messages_say_what_came_and_what_to_do() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code>\n<Message>They differ.</Message></Error>";
        let failure = Failure::new(generic(body), Answer { status: Some(403), region: None });
        let error = failure.error("s3://bucket", "read v1/x");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "s3://bucket: cannot read v1/x: SignatureDoesNotMatch (403): They differ.; the secret key is not the one of this access key"
        );
        let answer = Answer { status: Some(301), region: Some("eu-west-1".to_owned()) };
        let error = Failure::new(generic("moved"), answer).error("s3://bucket", "write x");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("set region=eu-west-1"), "{error}");
    }
}
