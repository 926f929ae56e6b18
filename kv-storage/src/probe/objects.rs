//! What is tried with objects.

use super::trial::{Trial, said};
use crate::health::PROBE_NAMESPACE;
use crate::{ErrorKind, Publication};

/// Races that are run: a lost one that shows in one of two is missed once in a thousand probes.
const RACES: usize = 10;

/// Nothing is seen before the commit; all of it right after.
pub(super) async fn published_whole(trial: &Trial) -> Result<String, String> {
    let (name, bytes) = (trial.name(), trial.buffer(300_001)?);
    let unseen = |when: &str, seen: bool| {
        if seen { Err(format!("an object is visible {when}")) } else { Ok(()) }
    };
    unseen("before it was begun", trial.store.head(&name).await.map_err(said)?.is_some())?;
    let upload = trial.upload(&name, &bytes).await?;
    unseen("before its commit, to a head", trial.store.head(&name).await.map_err(said)?.is_some())?;
    unseen("before its commit, to a read", trial.read(&name, 0, 1).await.map_err(said)?.is_some())?;
    match upload.commit().await.map_err(said)? {
        Publication::Published => {}
        Publication::AlreadyExists => return Err("a commit of a free name answered AlreadyExists".to_owned()),
    }
    trial.expect(&name, &bytes).await?;
    Ok(format!("{} bytes, compared", bytes.len()))
}

/// Of two commits of one name one publishes, and its object is the one that stays.
pub(super) async fn create_only(trial: &Trial) -> Result<String, String> {
    for _ in 0..RACES {
        let name = trial.name();
        let bodies = [trial.buffer(5000)?, trial.buffer(6000)?];
        let uploads = [trial.upload(&name, &bodies[0]).await?, trial.upload(&name, &bodies[1]).await?];
        let [first, second] = uploads;
        let (first, second) = tokio::join!(first.commit(), second.commit());
        let winner = match (first.map_err(said)?, second.map_err(said)?) {
            (Publication::Published, Publication::AlreadyExists) => &bodies[0],
            (Publication::AlreadyExists, Publication::Published) => &bodies[1],
            answers => return Err(format!("two racing commits of one name answered {answers:?}")),
        };
        trial.expect(&name, winner).await.map_err(|error| format!("after a race: {error}"))?;
        // And later, without a race.
        let late = trial.upload(&name, &bodies[0]).await?.commit().await.map_err(said)?;
        if late != Publication::AlreadyExists {
            return Err("a commit of a taken name answered Published".to_owned());
        }
        trial.expect(&name, winner).await.map_err(|error| format!("after a late commit: {error}"))?;
    }
    Ok(format!("{RACES} races"))
}

/// Reads at odd offsets are exact, and those behind the end are refused.
pub(super) async fn exact_ranges(trial: &Trial) -> Result<String, String> {
    let (name, bytes) = (trial.name(), trial.buffer(3 * 4096 + 17)?);
    trial.publish(&name, &bytes).await?;
    for (offset, len) in [(0, 1), (1, 4096), (4095, 2), (4096, 4096), (8191, 4114), (bytes.len(), 0)] {
        let read = trial.read(&name, offset as u64, len).await.map_err(said)?;
        if read.as_deref() != bytes.get(offset..offset + len) {
            return Err(format!("{len} bytes at {offset} are not those that were written there"));
        }
    }
    match trial.read(&name, bytes.len() as u64 - 1, 2).await {
        Err(error) if error.kind() == ErrorKind::OutOfRange => Ok(String::new()),
        other => {
            Err(format!("a range behind the end answered {:?} instead of OutOfRange", other.map_err(said)))
        }
    }
}

/// A deleted object is a miss, and its name can be used again.
pub(super) async fn deleted(trial: &Trial) -> Result<String, String> {
    let (name, first, second) = (trial.name(), trial.buffer(1000)?, trial.buffer(2000)?);
    let delete = || async { trial.store.delete(&name).await.map_err(said) };
    if delete().await? {
        return Err("an object that never was could be deleted".to_owned());
    }
    trial.publish(&name, &first).await?;
    if !delete().await? {
        return Err("deleting a published object answered that there was none".to_owned());
    }
    if trial.store.head(&name).await.map_err(said)?.is_some()
        || trial.read(&name, 0, 1).await.map_err(said)?.is_some()
    {
        return Err("a deleted object is still there".to_owned());
    }
    trial.publish(&name, &second).await?;
    trial.expect(&name, &second).await?;
    Ok(String::new())
}

/// A listing has every object that was published before it.
pub(super) async fn listed(trial: &Trial) -> Result<String, String> {
    trial.publish(&trial.name(), &trial.buffer(100)?).await?;
    let mut missing = Vec::new();
    for name in trial.names() {
        if trial.store.head(&name).await.map_err(said)?.is_some() {
            missing.push(name);
        }
    }
    let (published, mut after) = (missing.len(), None);
    loop {
        let page = trial.store.list(&PROBE_NAMESPACE, after.as_ref(), 1000).await.map_err(said)?;
        missing.retain(|name| page.iter().all(|meta| meta.name != *name));
        match page.last() {
            Some(last) if after.is_none_or(|after| last.name > after) => after = Some(last.name),
            _ if missing.is_empty() => return Ok(format!("{published} of {published}")),
            _ => return Err(format!("{} of {published} published objects are not listed", missing.len())),
        }
    }
}
