//! What an HTTP exchange said that `object_store`'s errors leave out, and the one condition that its requests leave out.
//!
//! `object_store` turns 412 and 409 into one error and keeps the status of others to itself; what is done about them differs. Requests
//! pass through here on their way, and the attempt that made one reads its status afterwards. It completes uploads in parts
//! unconditionally; the header that S3 knows for that is added here, behind the signature, which need not cover it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};
use reqwest::header::{HeaderValue, IF_NONE_MATCH};

use super::straight::Straight;

tokio::task_local! {
    /// Where the attempt that runs as this task wants its answer noted.
    static ATTEMPT: Observed;
    /// Set for requests that the server shall refuse if the name is taken.
    static ONLY_IF_FREE: ();
}

/// Makes the requests of `attempt` create or be refused.
pub(super) async fn only_if_free<T>(attempt: impl Future<Output = T>) -> T {
    ONLY_IF_FREE.scope((), attempt).await
}

/// The last answer of an attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed(Arc<Mutex<Answer>>);

/// Parts of an answer's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    /// The HTTP status; `None` if there was no answer.
    pub(super) status: Option<u16>,
    /// The region that a wrong one was answered with.
    pub(super) region: Option<String>,
}

impl Observed {
    /// Runs one attempt and notes what is answered.
    pub(super) async fn scope<T>(&self, attempt: impl Future<Output = T>) -> T {
        ATTEMPT.scope(self.clone(), attempt).await
    }

    /// What was noted.
    pub(super) fn answer(&self) -> Answer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client that notes the head of every answer, and adds the condition where one is wanted.
#[derive(Debug)]
pub(super) struct Observing {
    pub(super) client: HttpClient,
    /// Who is asked instead for bodies that may be handed over.
    pub(super) straight: Option<Arc<Straight>>,
}

#[async_trait]
impl HttpService for Observing {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if ONLY_IF_FREE.try_with(|()| ()).is_ok() {
            request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let response = match &self.straight {
            None => self.client.execute(request).await,
            Some(straight) => match straight.connection(&request).await {
                None => self.client.execute(request).await,
                Some(connection) => straight.ask(connection, request).await,
            },
        };
        let noted = response.as_ref().map_or_else(
            |_| Answer::default(),
            |response| Answer {
                status: Some(response.status().as_u16()),
                region: response
                    .headers()
                    .get("x-amz-bucket-region")
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
            },
        );
        // Requests outside an attempt, such as for credentials, are nobody's.
        let _ = ATTEMPT.try_with(|observed| {
            *observed.0.lock().unwrap_or_else(PoisonError::into_inner) = noted;
        });
        response
    }
}
