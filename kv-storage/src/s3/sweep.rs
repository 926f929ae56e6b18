//! Uploads in parts that nobody will complete: listed, and aborted once they are old.
//!
//! `object_store` has no call for the listing, so its request is signed by `object_store` and read here. The server's own list also has the
//! uploads whose ids never reached the process that began them.

use std::time::Duration;

use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

use super::core::Core;
use super::failure::{Class, Failure};
use super::lanes::Lane;

/// How long a signature holds; longer than a request may take.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);

/// One page of the server's answer.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    #[serde(rename = "Upload")]
    uploads: Vec<Listed>,
}

/// An upload that was begun.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
    initiated: String,
}

impl Listed {
    /// When it was begun, in milliseconds since 1970; `None` for what is no time, and never for what would be taken for old.
    fn begun(&self) -> Option<i64> {
        let time = chrono::DateTime::parse_from_rfc3339(&self.initiated).ok()?;
        Some(time.timestamp_millis())
    }
}

fn page(body: &str) -> Result<Page, quick_xml::DeError> {
    quick_xml::de::from_str(body)
}

impl Core {
    /// Aborts the uploads of objects beneath the prefix that were begun longer ago than `older_than`; how many there were. Clocks of
    /// host and server differ by less than that.
    pub(super) async fn sweep_parts(&self, lane: &Lane, older_than: Duration) -> Result<u64, Failure> {
        let age = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
        let now = i64::try_from(self.environment.clock.unix_millis()).unwrap_or(i64::MAX);
        let before = now.saturating_sub(age);
        let mut swept = 0;
        for place in ["v1", "probe"] {
            let prefix = format!("{}/", self.path(place));
            let mut after: Option<(String, String)> = None;
            loop {
                let page = self.uploads(lane, &prefix, after.as_ref()).await?;
                for listed in &page.uploads {
                    let Ok(path) = Path::parse(&listed.key) else { continue };
                    // What is no name of ours is somebody else's.
                    let ours = place == "probe" || self.name_of(&path).is_some();
                    if ours && listed.begun().is_some_and(|begun| begun <= before) {
                        self.abort_parts(lane, &path, &listed.upload_id).await?;
                        swept += 1;
                    }
                }
                let next = (page.next_key_marker, page.next_upload_id_marker);
                if !page.is_truncated || next.0.is_empty() || after.as_ref() == Some(&next) {
                    break;
                }
                after = Some(next);
            }
        }
        Ok(swept)
    }

    /// One page of the uploads that are on their way.
    async fn uploads(
        &self,
        lane: &Lane,
        prefix: &str,
        after: Option<&(String, String)>,
    ) -> Result<Page, Failure> {
        let Some(client) = &lane.parts else { return Ok(Page::default()) };
        let mut query = vec![("uploads", ""), ("prefix", prefix)];
        if let Some((key, id)) = after {
            query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
        }
        let options = SignedUrlOptions::new().with_query(query);
        let ended = self.attempts(self.deadlines.first_byte, || {
            let (client, options) = (client.clone(), options.clone());
            async move {
                let generic = |source: Box<dyn std::error::Error + Send + Sync>| {
                    object_store::Error::Generic { store: "S3", source }
                };
                let bucket = Path::default();
                let url =
                    client.s3.signed_url_opts(reqwest::Method::GET, &bucket, SIGNED_FOR, &options).await?;
                let mut request = HttpRequest::new(HttpRequestBody::empty());
                *request.uri_mut() = url.as_str().parse().map_err(|error| generic(Box::new(error)))?;
                let response = client.http.execute(request).await.map_err(|error| generic(error.into()))?;
                let (head, body) = response.into_parts();
                let body = body.bytes().await.map_err(|error| generic(error.into()))?;
                let body = String::from_utf8_lossy(&body).into_owned();
                if head.status.is_success() { Ok(body) } else { Err(generic(body.into())) }
            }
        });
        page(&ended.await.result?).map_err(|error| {
            Failure::local(Class::Other, format!("expected a list of uploads, found what is none: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_answers_is_read() {
        let body = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Bucket>b</Bucket><KeyMarker/><UploadIdMarker/><NextKeyMarker>k&amp;1</NextKeyMarker><NextUploadIdMarker>i1</NextUploadIdMarker>
<MaxUploads>1000</MaxUploads><IsTruncated>true</IsTruncated>
<Upload><Key>k&amp;1</Key><UploadId>i1</UploadId><Initiator><ID>x</ID></Initiator><StorageClass>STANDARD</StorageClass>
<Initiated>2026-11-30T17:00:00.250Z</Initiated></Upload>
<Upload><Key>k2</Key><UploadId>i2</UploadId><Initiated>yesterday</Initiated></Upload>
</ListMultipartUploadsResult>"#;
        let page = page(body).unwrap();
        assert!(page.is_truncated);
        assert_eq!((page.next_key_marker.as_str(), page.next_upload_id_marker.as_str()), ("k&1", "i1"));
        let begun: Vec<_> = page.uploads.iter().map(Listed::begun).collect();
        assert_eq!(begun, [Some(1_796_058_000_250), None], "what has no time is left alone");
        assert_eq!(page.uploads[0].key, "k&1");
    }

    #[test]
    fn an_empty_list_is_empty_and_what_is_no_list_is_an_error() {
        assert_eq!(page("<ListMultipartUploadsResult/>").unwrap(), Page::default());
        assert!(page("no such page").is_err());
    }
}
