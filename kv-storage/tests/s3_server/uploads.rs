//! Uploads in parts, as S3 has them: nothing is visible before the completion, which wants every part that it names and refuses small ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, MultipartUpload, Timestamp, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Result, s3_error};

use super::backend::{BUCKET, Backend, Stored, now};

/// Fewest bytes of a part that is not the last.
const LEAST_PART: usize = 5 << 20;
/// Few per page, so that paging is always tried.
const PAGE: usize = 2;

/// Uploads on their way, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    pub(crate) begun: BTreeMap<String, Begun>,
    last: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) key: String,
    pub(crate) initiated: SystemTime,
    pub(crate) parts: BTreeMap<i32, (String, Vec<Bytes>)>,
    metadata: Option<HashMap<String, String>>,
}

impl Begun {
    /// An old one of another program.
    pub(crate) fn of_somebody_else(key: &str) -> Self {
        let (initiated, parts) = (SystemTime::UNIX_EPOCH, BTreeMap::new());
        Self { key: key.to_owned(), initiated, parts, metadata: None }
    }
}

impl Backend {
    pub(super) fn begin(&self, input: CreateMultipartUploadInput) -> S3Result<CreateMultipartUploadOutput> {
        if input.bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket, "there is no bucket {}", input.bucket));
        }
        if self.faults.knows_no_parts.load(Ordering::Relaxed) {
            return Err(s3_error!(NotImplemented, "no uploads in parts here"));
        }
        let keeps = !self.faults.drops_metadata.load(Ordering::Relaxed);
        let mut uploads = self.uploads.lock().unwrap();
        uploads.last += 1;
        let id = format!("upload-{:08}", uploads.last);
        let begun = Begun {
            key: input.key.clone(),
            initiated: now(),
            parts: BTreeMap::new(),
            metadata: input.metadata.filter(|_| keeps),
        };
        uploads.begun.insert(id.clone(), begun);
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        })
    }

    pub(super) async fn take_part(&self, input: UploadPartInput) -> S3Result<UploadPartOutput> {
        let said = input.checksum_crc64nvme;
        let (pieces, crc) = self.receive(input.body, said.clone()).await?;
        let etag = format!("{crc:016x}");
        let mut uploads = self.uploads.lock().unwrap();
        let found = uploads.begun.get_mut(&input.upload_id).filter(|upload| upload.key == input.key);
        let Some(upload) = found else { return Err(s3_error!(NoSuchUpload)) };
        if self.faults.loses_part.load(Ordering::Relaxed) != input.part_number {
            upload.parts.insert(input.part_number, (etag.clone(), pieces));
        }
        Ok(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc64nvme: said,
            ..Default::default()
        })
    }

    pub(super) fn complete(
        &self,
        input: &CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let mut objects = self.objects.lock().unwrap();
        let mut uploads = self.uploads.lock().unwrap();
        let found = uploads.begun.get(&input.upload_id).filter(|upload| upload.key == input.key);
        let Some(upload) = found else { return Err(s3_error!(NoSuchUpload)) };
        let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_ref());
        let Some(named) = named.filter(|named| !named.is_empty()) else {
            return Err(s3_error!(MalformedXML, "no parts"));
        };
        if !named.iter().map(|part| part.part_number).is_sorted_by(|one, next| one < next) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let (mut pieces, mut len) = (Vec::new(), 0);
        for (index, part) in named.iter().enumerate() {
            let kept = part.part_number.and_then(|number| upload.parts.get(&number));
            let kept = kept.filter(|(etag, _)| part.e_tag.as_ref().is_some_and(|said| said.value() == etag));
            let Some((_, bytes)) = kept else { return Err(s3_error!(InvalidPart)) };
            let part_len: usize = bytes.iter().map(Bytes::len).sum();
            if part_len < LEAST_PART && index + 1 < named.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            pieces.extend(bytes.iter().cloned());
            len += part_len;
        }
        if !self.faults.completes_always.load(Ordering::Relaxed) {
            self.allows(objects.get(&input.key), input.if_none_match.as_ref(), input.if_match.as_ref())?;
        }
        let etag = format!("{:016x}{len:016x}-{}", super::backend::crc_of(&pieces), named.len());
        let Some(upload) = uploads.begun.remove(&input.upload_id) else {
            return Err(s3_error!(NoSuchUpload));
        };
        let stored = Stored {
            pieces: Arc::new(pieces),
            len,
            etag: etag.clone(),
            metadata: upload.metadata,
            modified: now(),
        };
        objects.insert(input.key.clone(), stored);
        Ok(CompleteMultipartUploadOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() })
    }

    pub(super) fn abort(&self, input: &AbortMultipartUploadInput) -> S3Result<AbortMultipartUploadOutput> {
        let aborted = self.uploads.lock().unwrap().begun.remove(&input.upload_id);
        aborted.map(|_| AbortMultipartUploadOutput::default()).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    pub(super) fn list_uploads(&self, input: ListMultipartUploadsInput) -> ListMultipartUploadsOutput {
        let uploads = self.uploads.lock().unwrap();
        let prefix = input.prefix.unwrap_or_default();
        let after = (input.key_marker.unwrap_or_default(), input.upload_id_marker.unwrap_or_default());
        let mut sorted: Vec<_> = uploads.begun.iter().map(|(id, begun)| (&begun.key, id, begun)).collect();
        sorted.sort_by_key(|(key, id, _)| (*key, *id));
        let behind = |(key, id): (&String, &String)| (key.as_str(), id.as_str()) > (&*after.0, &*after.1);
        let mut matching =
            sorted.into_iter().filter(|(key, id, _)| key.starts_with(&prefix) && behind((key, id)));
        let listed: Vec<MultipartUpload> = matching
            .by_ref()
            .take(PAGE)
            .map(|(key, id, begun)| MultipartUpload {
                key: Some(key.clone()),
                upload_id: Some(id.clone()),
                initiated: Some(Timestamp::from(begun.initiated)),
                ..Default::default()
            })
            .collect();
        let more = matching.next().is_some();
        let last = listed.last().filter(|_| more);
        ListMultipartUploadsOutput {
            is_truncated: Some(more),
            next_key_marker: last.and_then(|upload| upload.key.clone()),
            next_upload_id_marker: last.and_then(|upload| upload.upload_id.clone()),
            uploads: Some(listed),
            ..Default::default()
        }
    }
}
