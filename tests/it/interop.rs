//! The other programs load what this one writes and give the same numbers, and the other way round: `tests/interop/run.sh`,
//! where Python with sentence-transformers, transformers and peft is there.

use std::path::Path;
use std::process::Command;

use crate::support::*;

#[test]
fn python_gives_the_same_numbers() {
    let python = std::env::var("RAGTUNE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let usable = Command::new(&python).args(["-c", "import sentence_transformers, peft"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: `{python}` cannot import sentence_transformers and peft; name one that can in RAGTUNE_PYTHON"
        );
        return;
    }
    let folder = folder();
    let output = Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/run.sh"))
        .env("RAGTUNE", env!("CARGO_BIN_EXE_ragtune"))
        .env("RAGTUNE_PYTHON", &python)
        .env("RAGTUNE_INTEROP", folder.path())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("interop: all equal") && !said.contains("skipped"), "{said}\n{errors}");
    eprintln!("{said}");
}
