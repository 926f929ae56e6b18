//! How an S3 store is opened.

use std::time::Duration;

use kv_memory::StagingPool;
use object_store::aws::AwsCredentialProvider;

use crate::env::Environment;
use crate::parts::{DEFAULT_STRANDED_BOUND, one_thread_per_core};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Longest times of one request; whoever exceeds one is retried or reported, and nothing waits for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until a connection stands, name resolution and TLS included. Default 5 s.
    pub connect: Duration,
    /// Until the head of an answer is there, and between two pieces of a body. Default 15 s.
    pub first_byte: Duration,
    /// Until an upload is answered, from its first byte. Default 120 s.
    pub whole: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            whole: Duration::from_secs(120),
        }
    }
}

/// How often a failed request is repeated. The only retries there are: those of `object_store` are switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Most attempts of one request, the first included. Default 5.
    pub attempts: u32,
    /// Bound of the first pause; it doubles with each attempt, and a random part of it is waited. Default 50 ms.
    pub base: Duration,
    /// Bound of every pause. Default 5 s.
    pub cap: Duration,
    /// Retries that the whole store may have in hand; each success earns a tenth of one back. When a server is down, this and not
    /// the number of callers bounds what it is sent. Default 100.
    pub budget: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 5, base: Duration::from_millis(50), cap: Duration::from_secs(5), budget: 100 }
    }
}

/// What protects a body on its way, beside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum BodyChecksum {
    /// CRC-64/NVME of the whole body in a header that the server checks, if the probe finds that it takes one.
    #[default]
    Crc64Nvme,
    /// None: what a server stores is what arrived.
    None,
}

/// Options of [`S3Store::open`](super::S3Store::open). What the URL says goes before the environment, and what stands here before both.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct S3Options {
    /// Threads for requests, each with connections of its own. Default: one per core, at most 4.
    pub threads: usize,
    /// Most requests in flight, and connections kept. Fewer when the server says that it has too many. Default 64.
    pub concurrency: usize,
    /// Memory in which objects wait to be uploaded: an upload holds its whole object until the commit, or up to 32 MiB of one that is
    /// larger than all of this. `None`, the default: a pool of 256 MiB in parts of 1 MiB, allocated at the first upload. Give it what all
    /// uploads hold that are open at one time.
    pub staging: Option<StagingPool>,
    /// Longest times of a request.
    pub deadlines: Deadlines,
    /// How often a failed request is repeated.
    pub retries: Retries,
    /// What protects bodies. Default CRC-64/NVME.
    pub checksum: BodyChecksum,
    /// Sign requests without a SHA-256 of their body, which costs more than half of the speed. Default `true`: bodies are protected by
    /// [`checksum`](Self::checksum), TLS, and the checksums inside the objects.
    pub unsigned_payload: bool,
    /// Whether opening tries what the server can do, by writing an object of its own. Without it the server is believed to do all that AWS
    /// does. Default `true`; a consumer without the right to write switches it off.
    pub probe: bool,
    /// Age at which opening gives up uploads in parts that nobody completed, in the background; `None` leaves them. Default one day.
    pub sweep_older_than: Option<Duration>,
    /// Where credentials come from, asked for every request. `None`, the default: the environment, a web identity, the container's or
    /// the machine's role, as `object_store` finds them.
    pub credentials: Option<AwsCredentialProvider>,
    /// Stranded operations at which the store is marked down. Default 64.
    pub stranded_bound: usize,
    /// Time and randomness.
    pub environment: Environment,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            threads: one_thread_per_core(4),
            concurrency: 64,
            staging: None,
            deadlines: Deadlines::default(),
            retries: Retries::default(),
            checksum: BodyChecksum::default(),
            unsigned_payload: true,
            probe: true,
            sweep_older_than: Some(DAY),
            credentials: None,
            stranded_bound: DEFAULT_STRANDED_BOUND,
            environment: Environment::default(),
        }
    }
}

impl S3Options {
    /// Sets the number of threads.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the most requests in flight.
    #[must_use]
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests;
        self
    }

    /// Sets the memory of uploads.
    #[must_use]
    pub fn staging(mut self, pool: StagingPool) -> Self {
        self.staging = Some(pool);
        self
    }

    /// Sets the longest times of a request.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Sets how often a failed request is repeated.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Sets what protects bodies.
    #[must_use]
    pub fn checksum(mut self, checksum: BodyChecksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Sets whether bodies are left out of signatures.
    #[must_use]
    pub fn unsigned_payload(mut self, unsigned: bool) -> Self {
        self.unsigned_payload = unsigned;
        self
    }

    /// Sets whether opening tries what the server can do.
    #[must_use]
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// Sets the age at which opening gives up uploads in parts.
    #[must_use]
    pub fn sweep_older_than(mut self, age: Option<Duration>) -> Self {
        self.sweep_older_than = age;
        self
    }

    /// Sets where credentials come from.
    #[must_use]
    pub fn credentials(mut self, credentials: AwsCredentialProvider) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Sets how many operations may hang before the store is down.
    #[must_use]
    pub fn stranded_bound(mut self, bound: usize) -> Self {
        self.stranded_bound = bound;
        self
    }

    /// Sets time and randomness.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }
}
