//! Uploads in parts: begun, filled, completed only if the name is free, or aborted.
//!
//! Nothing is visible before the completion, which the server carries out whole or not at all. Until it is completed or aborted an upload
//! takes room on the server; what processes leave behind there is swept ([`sweep`](super::sweep)).

use std::sync::Arc;

use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{PutMultipartOptions, PutPayload};

use super::client::PartsClient;
use super::core::{Core, Ended};
use super::failure::{Class, Failure};
use super::lanes::Lane;
use super::observe::only_if_free;
use super::publish::{Only, Put, marked};

/// An upload that the server knows.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) path: Path,
    id: String,
    mark: String,
}

impl Lane {
    async fn parts(&self) -> Result<&PartsClient, Failure> {
        let unknown = || Failure::local(Class::Unknown, "this store knows no uploads in parts");
        self.parts.as_ref().ok_or_else(unknown)
    }
}

impl Core {
    /// Begins an upload. One whose answer was lost stays on the server until it is swept.
    pub(super) async fn begin_parts(&self, lane: &Lane, path: Path) -> Result<Begun, Failure> {
        let (client, mark) = (lane.parts().await?, self.mark());
        let ended = self.attempts(self.deadlines.first_byte, || {
            let (s3, path) = (Arc::clone(&client.s3), path.clone());
            let options = PutMultipartOptions { attributes: marked(&mark), ..PutMultipartOptions::default() };
            async move { s3.create_multipart_opts(&path, options).await }
        });
        let id = ended.await.result?;
        Ok(Begun { path, id, mark })
    }

    /// Sends part `index` (from 0), again if need be: the server keeps the last of each number.
    pub(super) async fn put_part(
        &self,
        lane: &Lane,
        upload: &Begun,
        index: usize,
        payload: PutPayload,
    ) -> Result<PartId, Failure> {
        let client = lane.parts().await?;
        let ended = self.attempts(self.deadlines.whole, || {
            let (s3, upload, payload) = (Arc::clone(&client.s3), upload.clone(), payload.clone());
            async move { s3.put_part(&upload.path, &upload.id, index, payload).await }
        });
        ended.await.result.map_err(gone)
    }

    /// Makes the parts, in their order, the object of its name if that is free.
    pub(super) async fn complete_parts(
        &self,
        lane: &Lane,
        upload: &Begun,
        parts: Vec<PartId>,
    ) -> Result<Put, Failure> {
        let client = lane.parts().await?;
        let ended = self.attempts(self.deadlines.whole, || {
            let (s3, upload, parts) = (Arc::clone(&client.s3), upload.clone(), parts.clone());
            async move { only_if_free(s3.complete_multipart(&upload.path, &upload.id, parts)).await }
        });
        let Ended { result, doubtful } = ended.await;
        // An upload that was completed is gone, too: the name tells.
        let ended = Ended { result: result.map_err(gone), doubtful };
        self.decide(lane, &upload.path, &upload.mark, &Only::IfFree, ended).await
    }

    /// Gives up an upload; one that is gone already is fine.
    pub(super) async fn abort_parts(&self, lane: &Lane, path: &Path, id: &str) -> Result<(), Failure> {
        let client = lane.parts().await?;
        let ended = self.attempts(self.deadlines.first_byte, || {
            let (s3, path, id) = (Arc::clone(&client.s3), path.clone(), id.to_owned());
            async move { s3.abort_multipart(&path, &id).await }
        });
        match ended.await.result.map_err(gone) {
            Err(failure) if failure.class != Class::Gone => Err(failure),
            _ => Ok(()),
        }
    }

    /// Gives up an upload of this process.
    pub(super) async fn abort(&self, lane: &Lane, upload: &Begun) -> Result<(), Failure> {
        self.abort_parts(lane, &upload.path, &upload.id).await
    }

    /// Tries whether an upload in parts is completed under a free name, with its mark, and refused under a taken one.
    ///
    /// # Errors
    /// What the server says, or does instead.
    pub(super) async fn probe_parts(&self, lane: &Lane) -> Result<(), Failure> {
        let path = self.path(&format!("probe/{}", self.mark()));
        let tried = self.try_parts(lane, &path).await;
        let removed = self.remove(lane, &path).await;
        tried.and(removed.map(|_| ()))
    }

    async fn try_parts(&self, lane: &Lane, path: &Path) -> Result<(), Failure> {
        let unfit = |what: &str| Failure::local(Class::Unknown, what.to_owned());
        let first = self.one_part(lane, path, b"kvbridge probe of parts: safe to delete").await?;
        let Put::Stored(_) = first.0 else {
            return Err(unfit("it refuses to complete an upload in parts under a free name"));
        };
        if !matches!(self.one_part(lane, path, b"another").await?.0, Put::Refused) {
            return Err(unfit("it ignores If-None-Match when an upload in parts is completed"));
        }
        match self.head(lane, path).await? {
            Some(head) if head.mark.as_ref() == Some(&first.1.mark) => Ok(()),
            Some(_) => Err(unfit("it does not keep the metadata of an upload in parts")),
            None => Err(unfit("an upload in parts is gone when it was completed")),
        }
    }

    /// An upload of one part, completed or aborted.
    async fn one_part(
        &self,
        lane: &Lane,
        path: &Path,
        bytes: &'static [u8],
    ) -> Result<(Put, Begun), Failure> {
        let upload = self.begin_parts(lane, path.clone()).await?;
        let completed = async {
            let part = self.put_part(lane, &upload, 0, PutPayload::from_static(bytes)).await?;
            self.complete_parts(lane, &upload, vec![part]).await
        };
        let completed = completed.await;
        if !matches!(completed, Ok(Put::Stored(_))) {
            let _ = self.abort(lane, &upload).await; // what it leaves is swept
        }
        Ok((completed?, upload))
    }
}

/// What is missing is the upload, not the object.
fn gone(failure: Failure) -> Failure {
    if failure.class == Class::Missing { failure.with_class(Class::Gone) } else { failure }
}
