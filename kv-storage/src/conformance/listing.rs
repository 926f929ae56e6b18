//! Listing, deletion, quarantine.

use kv_format::{NamespaceDigest, ObjectName};

use super::subject::Subject;
use super::{Failure, ensure};
use crate::{ObjectMeta, Version};

/// Listings are in the order of the names, page by page, and of one namespace.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-list
pub async fn list_in_order_and_in_pages(subject: &Subject) -> Result<(), Failure> {
    let shared = subject.key(0x80);
    let mut names = vec![
        subject.name_of(shared, 10, 0),
        subject.name_of(shared, 9, 0),
        subject.name_of(shared, 9, 11),
        subject.name_of(shared, 9, 2),
    ];
    for first in [0xff, 0x00, 0x80, 0x01, 0x7f, 0x00] {
        names.push(subject.name_of(subject.key(first), 0, 0));
    }
    // Neighbours in the order of the names, so that a listing that runs over the namespace's ends is seen.
    for stranger in [NamespaceDigest([0; 32]), NamespaceDigest([0xff; 32])] {
        let name = subject.remember(ObjectName { namespace: stranger, ..names[0] });
        subject.publish(&name, b"stranger").await?;
    }
    for (i, name) in names.iter().enumerate() {
        subject.publish(name, &subject.bytes(i)).await?;
    }
    drop(subject.upload(&subject.name(), b"not published").await?);
    names.sort_unstable();
    let namespace = subject.namespace();
    for limit in [1, 3, names.len(), 1000] {
        let mut listed: Vec<ObjectMeta> = Vec::new();
        loop {
            let after = listed.last().map(|meta| meta.name);
            let page = subject.reader().list(&namespace, after.as_ref(), limit).await?;
            ensure!(page.len() <= limit, "a page of {} for a limit of {limit}", page.len());
            if page.is_empty() || listed.len() > names.len() {
                break;
            }
            listed.extend(page);
        }
        let found: Vec<ObjectName> = listed.iter().map(|meta| meta.name).collect();
        ensure!(
            found == names,
            "in pages of {limit}: expected {} names in order, found {found:?}",
            names.len()
        );
        for meta in listed {
            let head = subject.reader().head(&meta.name).await?;
            ensure!(head.as_ref() == Some(&meta), "list says {meta:?}, head {head:?}");
        }
    }
    // `after` need not exist, nor be of the namespace.
    let absent =
        ObjectName { chunk_index: 9, slice: 3, ..names[names.partition_point(|name| name.key != shared)] };
    let page = subject.reader().list(&namespace, Some(&absent), 1).await?;
    let next = page.first().map(|meta| meta.name);
    let expected = names.iter().copied().find(|name| *name > absent);
    ensure!(next == expected, "behind an absent name: expected {expected:?}, found {next:?}");
    for (stranger, expected) in [(NamespaceDigest([0; 32]), names.len()), (NamespaceDigest([0xff; 32]), 0)] {
        let after = ObjectName { namespace: stranger, ..absent };
        let found = subject.reader().list(&namespace, Some(&after), 1000).await?.len();
        ensure!(
            found == expected,
            "behind a name of another namespace: expected {expected} objects, found {found}"
        );
    }
    Ok(())
}

/// A deleted object is gone, its name is free, and what is published there is another version.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-delete
//= SEMANTICS.md#any-version
pub async fn delete_frees_the_name(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(500));
    let mut versions: Vec<Version> = Vec::new();
    for _ in 0..30 {
        subject.publish(&name, &bytes).await?;
        let version = subject.expect(&name, &bytes).await?.version;
        ensure!(!versions.contains(&version), "two objects under one name had the version {version:?}");
        versions.push(version);
        ensure!(subject.writer().delete(&name).await?, "delete of an object answered false");
        subject.expect_nothing(&name, "after the delete").await?;
        ensure!(!subject.writer().delete(&name).await?, "a second delete answered true");
    }
    Ok(())
}

/// Quarantine takes away the version that was read and no other, and the next save heals the name.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-quarantine
pub async fn quarantine_checks_the_version(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(500));
    subject.publish(&name, &bytes).await?;
    let version = subject.expect(&name, &bytes).await?.version;
    let other = Version(format!("{}x", version.0));
    let taken = subject.writer().quarantine(&name, &other).await?;
    ensure!(!taken, "another version was quarantined");
    subject.expect(&name, &bytes).await?;
    let taken = subject.writer().quarantine(&name, &version).await?;
    ensure!(taken, "the version that was read was not quarantined");
    subject.expect_nothing(&name, "after the quarantine").await?;
    let healed = subject.bytes(500);
    subject.publish(&name, &healed).await?;
    let taken = subject.writer().quarantine(&name, &version).await?;
    ensure!(!taken, "the healed object was quarantined by the version of the corrupt one");
    subject.expect(&name, &healed).await?;
    Ok(())
}
