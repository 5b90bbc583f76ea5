//! `ragtune index release`: gives up what keeps a generation from being removed.

use ragtune_index::GenerationInfo;
use serde::Serialize;

use super::index_change::open;
use super::{print_json, print_text};
use crate::cli::IndexReleaseArgs;
use crate::error::{Error, Result};

/// A protection that was given up.
#[derive(Debug, PartialEq, Serialize)]
struct Released {
    generation: u32,
    owner: String,
}

pub fn run(args: &IndexReleaseArgs) -> Result<u8> {
    let (corpus, lock) = open(&args.index, "release")?;
    let released = chosen(&corpus.generations()?, args.generation, args.owner.as_deref()).map_err(|error| {
        error.hint(format!("`ragtune index versions --index {}` lists who keeps what", args.index.display()))
    })?;
    for one in &released {
        corpus.unprotect(&lock, one.generation, &one.owner)?;
    }
    if args.json {
        return print_json(&released).map(|()| 0);
    }
    for Released { generation, owner } in &released {
        print_text(&format!("{}: `{owner}` no longer keeps generation {generation}", args.index.display()))?;
    }
    print_text(&format!(
        "next: ragtune index gc --index {}    # frees what nobody keeps any more",
        args.index.display()
    ))?;
    Ok(0)
}

/// The protections that are meant: of a generation, of an owner, or the one of both.
fn chosen(there: &[GenerationInfo], generation: Option<u32>, owner: Option<&str>) -> Result<Vec<Released>> {
    if let Some(number) = generation
        && !there.iter().any(|info| info.number == number)
    {
        let numbers: Vec<String> = there.iter().map(|info| info.number.to_string()).collect();
        return Err(Error::new(format!("there is no generation {number}; there are {}", numbers.join(", "))));
    }
    let all = there.iter().filter(|info| generation.is_none_or(|number| info.number == number)).flat_map(|info| {
        info.protected_by.iter().map(|owner| Released { generation: info.number, owner: owner.clone() })
    });
    let (meant, others): (Vec<_>, Vec<_>) = all.partition(|one| owner.is_none_or(|owner| one.owner == owner));
    if meant.is_empty() {
        let what = generation.map_or("anything".to_owned(), |number| format!("generation {number}"));
        let by = owner.map_or("nobody keeps".to_owned(), |owner| format!("`{owner}` does not keep"));
        let others: Vec<String> =
            others.iter().map(|one| format!("`{}` (generation {})", one.owner, one.generation)).collect();
        let instead = if others.is_empty() { String::new() } else { format!(", but {} do", others.join(", ")) };
        return Err(Error::new(format!("{by} {what}{instead}: there is nothing to release")));
    }
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ragtune_index::Fingerprint;

    fn generation(number: u32, owners: &[&str]) -> GenerationInfo {
        GenerationInfo {
            number,
            fingerprint: Fingerprint::new(std::collections::BTreeMap::new()),
            dataset_version: u64::from(number),
            dim: 4,
            len: 10,
            current: false,
            protected_by: owners.iter().map(|owner| (*owner).to_owned()).collect(),
            graph: None,
        }
    }

    #[test]
    fn a_generation_an_owner_or_both_name_what_is_released() {
        let there = [generation(1, &["base"]), generation(2, &["run-a", "run-b"]), generation(3, &["run-a"])];
        let of = |generation, owner| {
            let found = chosen(&there, generation, owner).unwrap();
            found.into_iter().map(|one| (one.generation, one.owner)).collect::<Vec<_>>()
        };
        let pair = |number, owner: &str| (number, owner.to_owned());
        assert_eq!(of(Some(2), None), [pair(2, "run-a"), pair(2, "run-b")]);
        assert_eq!(of(None, Some("run-a")), [pair(2, "run-a"), pair(3, "run-a")]);
        assert_eq!(of(Some(2), Some("run-b")), [pair(2, "run-b")]);
        for (generation, owner, words) in [
            (Some(7), None, vec!["generation 7", "1, 2, 3"]),
            (Some(1), Some("run-a"), vec!["`run-a`", "generation 1", "`base`"]),
            (None, Some("run-c"), vec!["`run-c`", "`run-b` (generation 2)"]),
        ] {
            let error = chosen(&there, generation, owner).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        assert!(
            chosen(&[generation(4, &[])], Some(4), None).unwrap_err().to_string().contains("nobody keeps generation 4")
        );
    }
}
