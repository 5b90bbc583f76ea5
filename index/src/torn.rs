//! A newest manifest that a power cut left half-written, set aside so that the dataset opens.

use std::path::Path;
use std::time::Duration;

use crate::durable::{name, sync_dir};
use crate::error::{Error, Result};
use crate::lock::WriterLock;
use crate::table::{DATASET, Table};
use crate::vouch;

/// Name of the directory for damaged files that were set aside.
pub(crate) const DAMAGED: &str = "damaged";

/// How often and after what pause the lock is asked for while another process that opened the index has it for this: renaming
/// a file takes no longer.
const ATTEMPTS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(2);

/// Moves half-written newest manifests to [`DAMAGED`]; one line for each. One that was whole when its checksum was written down is
/// no such manifest: its commit was reported, and what cut it short came later. It is left where it is, as an error.
pub(crate) fn set_torn_manifest_aside(dir: &Path) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    match Table::torn_manifest(dir)? {
        None => return Ok(notices),
        Some(torn) => was_never_whole(dir, &torn)?,
    }
    // Under the lock, so that two who open at once do not both do it; looked for again, since the other may have done it.
    let mut attempts = 0;
    let _lock = loop {
        match WriterLock::take(dir, "mending a torn manifest") {
            Err(Error::Locked { .. }) if attempts < ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(PAUSE);
                if Table::torn_manifest(dir)?.is_none() {
                    return Ok(notices);
                }
            }
            taken => break taken?,
        }
    };
    while let Some(torn) = Table::torn_manifest(dir)? {
        was_never_whole(dir, &torn)?;
        let aside = dir.join(DAMAGED);
        std::fs::create_dir_all(&aside).map_err(Error::io("creating", &aside))?;
        let target = aside.join(name(&torn));
        std::fs::rename(&torn, &target).map_err(Error::io("renaming to", &target))?;
        sync_dir(&aside)?;
        sync_dir(torn.parent().unwrap_or(dir))?;
        notices.push(format!(
            "the newest manifest was half-written and was set aside as `{DAMAGED}/{}`: the last commit before a power cut is lost",
            name(&torn)
        ));
    }
    Ok(notices)
}

/// Refuses to take a manifest whose checksum is known for one that a power cut left half-written.
fn was_never_whole(dir: &Path, torn: &Path) -> Result<()> {
    if !vouch::knows(dir, torn)? {
        return Ok(());
    }
    let bytes = torn.metadata().map_or(0, |metadata| metadata.len());
    let what = format!(
        "it is cut short at {bytes} bytes and was whole when its commit was reported, so that no power cut left it so: a copy that \
         is not complete, or a disk that fails"
    );
    Err(Error::corrupt(format!("{DATASET}/_versions/{}", name(torn)), what))
}
