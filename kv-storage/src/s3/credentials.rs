//! Credentials that can be thrown away: when a server says that they have expired, others are fetched once.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, Result};

/// Where credentials come from.
#[derive(Debug)]
enum Source {
    /// The caller's own, asked each time.
    Given(AwsCredentialProvider),
    /// What the environment names; it keeps what it fetched until that should expire, so it is made anew to forget it.
    System(Box<AmazonS3Builder>),
}

/// A provider that forgets what it has when it is told to.
#[derive(Debug)]
pub(super) struct Refreshing {
    source: Source,
    current: Mutex<Option<AwsCredentialProvider>>,
}

impl Refreshing {
    /// The caller's provider, or what `builder` finds.
    pub(super) fn new(given: Option<AwsCredentialProvider>, builder: AmazonS3Builder) -> Self {
        let source = given.map_or_else(|| Source::System(Box::new(builder)), Source::Given);
        Self { source, current: Mutex::new(None) }
    }

    /// Forgets what was fetched.
    pub(super) fn forget(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn provider(&self) -> Result<AwsCredentialProvider> {
        match &self.source {
            Source::Given(provider) => Ok(Arc::clone(provider)),
            Source::System(builder) => {
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(provider) = &*current {
                    return Ok(Arc::clone(provider));
                }
                let provider = Arc::clone(builder.as_ref().clone().build()?.credentials());
                Ok(Arc::clone(current.insert(provider)))
            }
        }
    }
}

#[async_trait]
impl CredentialProvider for Refreshing {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        self.provider()?.get_credential().await
    }
}
