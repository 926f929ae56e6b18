//! What is tried with records.

use super::trial::{Trial, said};

/// Of two creators one succeeds, and its body is the one that stays.
pub(super) async fn created_once(trial: &Trial) -> Result<String, String> {
    for _ in 0..10 {
        let name = trial.record();
        let create = |body: &'static [u8]| trial.store.create_record(&name, body);
        let (first, second) = tokio::join!(create(b"first"), create(b"second"));
        let winner: &[u8] = match (first.map_err(said)?, second.map_err(said)?) {
            (Some(_), None) => b"first",
            (None, Some(_)) => b"second",
            answers => return Err(format!("two racing creations of one record answered {answers:?}")),
        };
        let read = trial.store.read_record(&name).await.map_err(said)?;
        if read.map(|record| record.body).as_deref() != Some(winner) {
            return Err("a record is not what its creator wrote".to_owned());
        }
    }
    Ok("10 races".to_owned())
}

/// The expected version is replaced, and no other.
pub(super) async fn replaced_if_expected(trial: &Trial) -> Result<String, String> {
    let name = trial.record();
    let missing = trial.store.read_record(&name).await.map_err(said)?;
    let created = trial.store.create_record(&name, b"first").await.map_err(said)?;
    let (None, Some(first)) = (missing, created) else {
        return Err("a record that never was is there".to_owned());
    };
    let replace = |expected, body: &'static [u8]| trial.store.replace_record(&name, expected, body);
    let second = replace(&first, b"second").await.map_err(said)?;
    if second.is_none_or(|second| second == first) {
        return Err(
            "a record was not replaced although it was the expected one, or kept its version".to_owned()
        );
    }
    if replace(&first, b"third").await.map_err(said)?.is_some() {
        return Err("a record was replaced although it was no longer the expected one".to_owned());
    }
    let read = trial.store.read_record(&name).await.map_err(said)?;
    match read.map(|record| record.body).as_deref() {
        Some(b"second") => Ok(String::new()),
        other => Err(format!(
            "a replaced record has a body of {:?} bytes, and not the new one",
            other.map(<[u8]>::len)
        )),
    }
}
