//! One rank's connection to the store, for code that is not asynchronous: every call blocks, and every long wait ends
//! when the rank must stop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kv_pipeline::{
    Canceller, Handoff, LoadPolicy, LoadRequest, Loaded, Pipeline, Request, SaveRequest, Saved,
};
use kv_storage::KvStore;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::device::RankDevice;
use super::geometry::geometry;
use super::identity::namespace;
use super::memory::DeviceMemory;
use super::registration::Registration;
use super::{CacheDescription, LoadReport, SaveReport, store};
use crate::cluster::job::Job;
use crate::cluster::link::Lost;
use crate::cluster::stop::Stop;
use crate::engine::memory::CacheMemory;
use crate::model::config::ModelConfig;

/// All the staging memory of a rank.
const STAGING_BYTES: usize = 16 << 20;
/// A rank that must stop has a few seconds for everything; telling the consumer takes no more than this of them.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long the store may take at the end to remove what was not finished.
const SETTLING: Duration = Duration::from_secs(2);

/// A rank's device, store, and pipeline.
#[derive(Debug)]
pub struct Transport {
    /// Dropped before the runtime, on which dropping it starts a task.
    request: Option<Request>,
    memory: Option<Arc<DeviceMemory>>,
    device: RankDevice,
    store: Arc<dyn KvStore>,
    pipeline: Pipeline,
    rank: u32,
    ranks: u32,
    request_id: String,
    deadline: Duration,
    stop: Stop,
    runtime: Runtime,
}

impl Transport {
    /// Opens the job's store.
    ///
    /// # Errors
    /// The store cannot be used, or there is no memory.
    pub fn connect(job: &Job, model: &ModelConfig, stop: &Stop) -> Result<Self> {
        // One worker: pipelines mostly wait, for the threads of the device and of the store.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let namespace = namespace(model, job.weights_digest)?;
        let device = RankDevice::open(job.device, job.rank)?;
        let (store, pipeline) = runtime.block_on(async {
            // Not interrupted: opening tries out the store with a file, which it also removes.
            let store = store::open(&job.store, job.deadline).await?;
            let pipeline = Pipeline::builder(namespace)
                .device(device.device())
                .store(Arc::clone(&store))
                .staging_bytes(STAGING_BYTES)
                .build()
                .map_err(plain)?;
            anyhow::Ok((store, pipeline))
        })?;
        Ok(Self {
            request: None,
            memory: None,
            device,
            store,
            pipeline,
            rank: u32::try_from(job.rank)?,
            ranks: u32::try_from(job.tp)?,
            request_id: job.request_id.clone(),
            deadline: job.deadline,
            stop: stop.clone(),
            runtime,
        })
    }

    /// Device memory for the rank's KV cache: one region per byte length.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn allocate(&mut self, regions: &[u64]) -> Result<Arc<dyn CacheMemory>> {
        let memory = Arc::new(self.device.allocate(regions)?);
        self.memory = Some(Arc::clone(&memory));
        Ok(memory)
    }

    /// Announces this rank's part of the request. Comes before anybody is told the request's id.
    ///
    /// # Errors
    /// The store cannot take the record.
    pub fn announce(&mut self) -> Result<()> {
        let producer = self.pipeline.producer();
        let open = producer.open_request(&self.request_id, self.rank, self.ranks, self.deadline);
        // Not interrupted: a call that was dropped may have created the record, and nobody could abort it.
        let opened = self.runtime.block_on(open);
        self.request = Some(opened.map_err(plain).context("announcing the request")?);
        Ok(())
    }

    /// Saves the KV of `tokens`, which fill the cache from its first token on, and tells the consumer.
    ///
    /// # Errors
    /// The KV is not in the store, or the rank must stop.
    pub fn save(&mut self, cache: &CacheDescription, tokens: &[u32]) -> Result<SaveReport> {
        let registration = self.register(cache)?;
        let saved = self.runtime.block_on(async {
            let saved = self.run_save(&registration, cache, tokens).await;
            let closed = registration.close().await;
            saved.and_then(|saved| closed.map(|()| saved))
        })?;
        if let Some(request) = self.request.take() {
            let complete = request.complete(&saved, self.deadline);
            self.runtime.block_on(complete).map_err(plain).context("completing the request")?;
        }
        Ok(SaveReport {
            saved_tokens: usize::try_from(saved.tokens)?,
            objects: saved.objects,
            deduplicated: saved.deduplicated,
            kv_bytes: saved.bytes,
            seconds: saved.elapsed.as_secs_f64(),
        })
    }

    /// Tells the consumer why it will get nothing. Does nothing if the request was never announced, or is complete.
    pub fn give_up(&mut self, reason: &str) {
        if let Some(request) = self.request.take() {
            let timeout = self.deadline.min(LAST_WORD);
            // The rank's own error is the one to report; a consumer that hears nothing has a deadline.
            let _ = self.runtime.block_on(request.abort(reason, timeout));
        }
    }

    /// Waits for the producer, then puts the KV of as many of `tokens` as it can into the cache. Less than all of them
    /// is a report, not an error.
    ///
    /// # Errors
    /// The producer gave up or is silent, the device failed, or the rank must stop.
    pub fn load(&self, cache: &CacheDescription, tokens: &[u32]) -> Result<LoadReport> {
        let registration = self.register(cache)?;
        let (handoff, loaded) = self.runtime.block_on(async {
            let loaded = self.run_load(&registration, cache, tokens).await;
            let closed = registration.close().await;
            loaded.and_then(|loaded| closed.map(|()| loaded))
        })?;
        Ok(LoadReport {
            loaded_tokens: usize::try_from(loaded.tokens)?,
            verified_sections: loaded.verified_sections,
            load_bytes: loaded.bytes,
            seconds: loaded.elapsed.as_secs_f64(),
            stopped: why_stopped(&handoff, &loaded),
        })
    }

    fn register(&self, cache: &CacheDescription) -> Result<Registration> {
        let memory = self.memory.as_ref().context("the cache is not in this transport's memory")?;
        let geometry = geometry(cache, memory.regions())?;
        Registration::new(&self.pipeline, geometry, memory)
    }

    async fn run_save(
        &self,
        registration: &Registration,
        cache: &CacheDescription,
        tokens: &[u32],
    ) -> Result<Saved> {
        let request = SaveRequest::new(tokens).blocks(&cache.block_ids).with_tail().timeout(self.deadline);
        let save = self.pipeline.producer().save(registration.registered(), request).map_err(plain)?;
        let canceller = save.canceller();
        finish_or_cancel(&self.stop, &canceller, save.finish()).await
    }

    async fn run_load(
        &self,
        registration: &Registration,
        cache: &CacheDescription,
        tokens: &[u32],
    ) -> Result<(Handoff, Loaded)> {
        let consumer = self.pipeline.consumer();
        let wait = consumer.wait_request(&self.request_id, self.deadline);
        let handoff = unless_stopped(&self.stop, wait).await?.map_err(plain)?;
        // Whether a part will do is the role's decision, and that of all ranks together.
        let request = LoadRequest::new(tokens)
            .blocks(&cache.block_ids)
            .handoff(&handoff)
            .policy(LoadPolicy::Recompute)
            .timeout(self.deadline);
        let load = consumer.load(registration.registered(), request).map_err(plain)?;
        let canceller = load.canceller();
        let loaded = finish_or_cancel(&self.stop, &canceller, load.finish()).await?;
        Ok((handoff, loaded))
    }
}

impl Drop for Transport {
    /// A process that ends takes its threads with it: whatever they still have to remove is removed first.
    fn drop(&mut self) {
        self.give_up("the producer ended before it had saved everything");
        // A store that hangs has had its time; what it holds is swept by a later process.
        let _ = self.runtime.block_on(async { timeout(SETTLING, self.store.idle()).await });
    }
}

/// Waits for `call`, or for the order to stop, which drops it.
async fn unless_stopped<T>(stop: &Stop, call: impl Future<Output = T>) -> Result<T> {
    ensure!(!stop.is_set(), Lost::Told);
    tokio::select! {
        biased;
        () = stop.told() => Err(Lost::Told.into()),
        output = call => Ok(output),
    }
}

/// Waits for the end of a transfer. The order to stop cancels it, and then its end is waited for as well: no transfer
/// runs afterwards, and nothing partial is stored.
async fn finish_or_cancel<T>(
    stop: &Stop,
    canceller: &Canceller,
    finish: impl Future<Output = kv_pipeline::Result<T>>,
) -> Result<T> {
    let mut finish = pin!(finish);
    tokio::select! {
        biased;
        output = &mut finish => return output.map_err(plain),
        () = stop.told() => canceller.cancel(),
    }
    // It may have come to its end meanwhile; the order stands.
    let _ = finish.await;
    Err(Lost::Told.into())
}

/// The message is the whole sentence; its sources only repeat parts of it.
fn plain(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// Why not everything was loaded, in words.
fn why_stopped(handoff: &Handoff, loaded: &Loaded) -> Option<String> {
    if loaded.tokens == loaded.requested {
        return None;
    }
    let reasons: Vec<String> = loaded.failures.iter().map(ToString::to_string).collect();
    Some(if reasons.is_empty() {
        format!(
            "the request hands over {} tokens of another prompt; only full chunks are shared",
            handoff.tokens
        )
    } else {
        reasons.join("; ")
    })
}
