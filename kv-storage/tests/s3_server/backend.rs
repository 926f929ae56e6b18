//! Objects in memory behind s3s' trait: what a bucket does, with a few ways to do it badly.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use kv_format::Checksum;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopySource, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition, GetObjectInput,
    GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput,
    PutObjectOutput, StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::uploads::Uploads;

pub(crate) const BUCKET: &str = "kv-bucket";

/// One object, in the pieces in which it came.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) pieces: Arc<Vec<Bytes>>,
    pub(crate) len: usize,
    pub(crate) etag: String,
    pub(crate) metadata: Option<HashMap<String, String>>,
    pub(crate) modified: SystemTime,
}

/// What the server does badly.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) ignores_if_none_match: AtomicBool,
    pub(crate) ignores_if_match: AtomicBool,
    /// Uploads in parts replace whatever the name holds, as on most servers.
    pub(crate) completes_always: AtomicBool,
    pub(crate) knows_no_parts: AtomicBool,
    /// A part of this number is answered, and lost.
    pub(crate) loses_part: AtomicI32,
    pub(crate) drops_metadata: AtomicBool,
    pub(crate) knows_no_checksum: AtomicBool,
    /// Listings show what was there when this was set.
    pub(crate) listing_lags: Mutex<Option<BTreeMap<String, Stored>>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Backend {
    pub(crate) objects: Arc<Mutex<BTreeMap<String, Stored>>>,
    pub(crate) uploads: Arc<Mutex<Uploads>>,
    pub(crate) faults: Arc<Faults>,
}

impl Backend {
    /// The bytes of a body, whose checksum is what the request says.
    pub(super) async fn receive(
        &self,
        body: Option<StreamingBlob>,
        said: Option<String>,
    ) -> S3Result<(Vec<Bytes>, u64)> {
        if said.is_some() && self.faults.knows_no_checksum.load(Ordering::Relaxed) {
            return Err(s3_error!(InvalidRequest, "x-amz-checksum-crc64nvme is not known here"));
        }
        let mut pieces = Vec::new();
        if let Some(mut body) = body {
            while let Some(piece) = body.next().await {
                pieces.push(piece.map_err(|error| s3_error!(IncompleteBody, "{error}"))?);
            }
        }
        let crc = crc_of(&pieces);
        if said.is_some_and(|said| said != base64(&crc.to_be_bytes())) {
            return Err(s3_error!(BadDigest, "the body's CRC-64/NVME is another"));
        }
        Ok((pieces, crc))
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        if bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket, "there is no bucket {bucket}"));
        }
        self.objects.lock().unwrap().get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// Whether the conditions of a write hold; called under the lock of the write.
    pub(super) fn allows(
        &self,
        now: Option<&Stored>,
        if_none_match: Option<&ETagCondition>,
        if_match: Option<&ETagCondition>,
    ) -> S3Result<()> {
        let on = |fault: &AtomicBool| fault.load(Ordering::Relaxed);
        if if_none_match.is_some() && now.is_some() && !on(&self.faults.ignores_if_none_match) {
            return Err(s3_error!(PreconditionFailed));
        }
        if let Some(ETagCondition::ETag(expected)) = if_match
            && !on(&self.faults.ignores_if_match)
        {
            return match now {
                None => Err(s3_error!(NoSuchKey)),
                Some(now) if now.etag != expected.value() => Err(s3_error!(PreconditionFailed)),
                Some(_) => Ok(()),
            };
        }
        Ok(())
    }
}

pub(super) fn crc_of(pieces: &[Bytes]) -> u64 {
    let mut crc = Checksum::new();
    pieces.iter().for_each(|piece| crc.update(piece));
    crc.value()
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.begin(request.input).map(S3Response::new)
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.take_part(request.input).await.map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.complete(&request.input).map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.abort(&request.input).map(S3Response::new)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        Ok(S3Response::new(self.list_uploads(request.input)))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        if input.bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket, "there is no bucket {}", input.bucket));
        }
        let (pieces, crc) = self.receive(input.body, input.checksum_crc64nvme).await?;
        let len = pieces.iter().map(Bytes::len).sum();
        let etag = format!("{crc:016x}{len:016x}"); // the same for the same bytes, as MD5 would be
        let keeps = !self.faults.drops_metadata.load(Ordering::Relaxed);
        let stored = Stored {
            pieces: Arc::new(pieces),
            len,
            etag: etag.clone(),
            metadata: input.metadata.filter(|_| keeps),
            modified: now(),
        };
        let mut objects = self.objects.lock().unwrap();
        self.allows(objects.get(&input.key), input.if_none_match.as_ref(), input.if_match.as_ref())?;
        objects.insert(input.key, stored);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let stored = self.find(&input.bucket, &input.key)?;
        if let Some(ETagCondition::ETag(expected)) = &input.if_match
            && expected.value() != stored.etag
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let whole = 0..stored.len as u64;
        let range = match &input.range {
            Some(range) => range.check(stored.len as u64).map_err(|_| s3_error!(InvalidRange))?,
            None => whole,
        };
        let content_range =
            input.range.map(|_| format!("bytes {}-{}/{}", range.start, range.end - 1, stored.len));
        let output = GetObjectOutput {
            content_length: Some(i64::try_from(range.end - range.start).unwrap()),
            content_range,
            e_tag: Some(ETag::Strong(stored.etag.clone())),
            last_modified: Some(Timestamp::from(stored.modified)),
            metadata: stored.metadata.clone(),
            body: Some(body_of(&stored, range)),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let stored = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(i64::try_from(stored.len).unwrap()),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(Timestamp::from(stored.modified)),
            metadata: stored.metadata,
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.objects.lock().unwrap().remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let CopySource::Bucket { bucket, key, .. } = &request.input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let stored = self.find(bucket, key)?;
        self.objects.lock().unwrap().insert(request.input.key, stored);
        Ok(S3Response::new(CopyObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let objects = self.faults.listing_lags.lock().unwrap().clone();
        let objects = objects.unwrap_or_else(|| self.objects.lock().unwrap().clone());
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after).unwrap_or_default();
        // Few per page, so that paging is always tried.
        let page = 7;
        let mut matching = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let contents: Vec<Object> = matching
            .by_ref()
            .take(page)
            .map(|(key, stored)| Object {
                key: Some(key.clone()),
                size: Some(i64::try_from(stored.len).unwrap()),
                e_tag: Some(ETag::Strong(stored.etag.clone())),
                last_modified: Some(Timestamp::from(stored.modified)),
                ..Default::default()
            })
            .collect();
        let more = matching.next().is_some();
        let last = contents.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_| more),
            contents: Some(contents),
            ..Default::default()
        }))
    }
}

#[expect(clippy::disallowed_methods, reason = "a server's clock is the system's")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// A range as views of the pieces that were stored.
fn body_of(stored: &Stored, range: std::ops::Range<u64>) -> StreamingBlob {
    let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
    let (mut at, mut views) = (0, Vec::new());
    for piece in &*stored.pieces {
        let (from, to) = (start.max(at), end.min(at + piece.len()));
        if from < to {
            views.push(Ok::<_, std::io::Error>(piece.slice(from - at..to - at)));
        }
        at += piece.len();
    }
    StreamingBlob::wrap(stream::iter(views))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}
