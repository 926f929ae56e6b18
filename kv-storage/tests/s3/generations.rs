//! A server that compares generations, not entity tags, as Google's does.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use kv_storage::s3::{S3Options, S3Store};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UpdateVersion,
};

use crate::contract::check;

/// The memory's own entity tags are its generations; those that it shows are all the same.
#[derive(Debug, Clone, Default)]
struct Generations(Arc<InMemory>);

const SHOWN: &str = "\"the same for all\"";

impl fmt::Display for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("generations")
    }
}

#[async_trait]
impl ObjectStore for Generations {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if let PutMode::Update(expected) = options.mode {
            let missing = || Error::NotSupported { source: "no generation".into() };
            let e_tag = Some(expected.version.ok_or_else(missing)?);
            options.mode = PutMode::Update(UpdateVersion { e_tag, version: None });
        }
        let stored = self.0.put_opts(path, payload, options).await?;
        Ok(PutResult { e_tag: Some(SHOWN.to_owned()), version: stored.e_tag, ..stored_nothing() })
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> Result<GetResult> {
        if let Some(shown) = options.if_match.take() {
            assert_eq!(shown, SHOWN);
        }
        let mut result = self.0.get_opts(path, options).await?;
        result.meta.version = result.meta.e_tag.replace(SHOWN.to_owned());
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

fn stored_nothing() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() }
}

//= SEMANTICS.md#s3-any-object-store
#[tokio::test(flavor = "multi_thread")]
async fn records_are_replaced_by_their_generation_where_entity_tags_tell_nothing() {
    let server = Arc::new(Generations::default());
    let open = || S3Store::over(Arc::<Generations>::clone(&server), "generations", "a", S3Options::default());
    let (writer, reader) = (open().await.unwrap(), open().await.unwrap());
    assert!(writer.conditions().create && writer.conditions().replace);
    check(Arc::new(writer), Arc::new(reader)).await;
}
