//! How the vectors of an index are held while it is searched: what may be typed, and where it makes no sense.
//!
//! Only searches and evaluations choose. What trains holds float32 in memory: passages are embedded again while it runs, and what
//! is derived from one generation would be made anew for each.

use ragtune_index::Vectors;

use super::retriever::Kind;
use crate::error::{Error, Result};

/// The holding of that name.
pub fn parse(name: &str) -> Result<Vectors> {
    Vectors::ALL.into_iter().find(|vectors| vectors.name() == name).ok_or_else(|| {
        let names = Vectors::ALL.map(Vectors::name).join(", ");
        Error::new(format!("unknown vectors `{name}`, expected one of: {names}")).hint(
            "leave `--vectors` out for memory; `mapped` opens large indices faster, `int8` also searches them faster",
        )
    })
}

/// How vectors are held for a search: by this retriever, and with every passage compared or not.
pub fn wanted(typed: Option<&str>, retriever: Kind, exact: bool) -> Result<Vectors> {
    let Some(typed) = typed else { return Ok(Vectors::Memory) };
    let vectors = parse(typed)?;
    if retriever == Kind::Bm25 {
        return Err(Error::new(format!(
            "`--vectors {typed}` says how vectors are held, and `--retriever bm25` looks at none"
        ))
        .hint("leave `--vectors` out, or use `--retriever dense` or `hybrid`"));
    }
    if exact && matches!(vectors, Vectors::F16 | Vectors::Int8) {
        return Err(Error::new(format!(
            "`--vectors {typed}` is what a graph is walked by, and `--exact` compares float32 with every passage"
        ))
        .hint("use `--vectors mapped` with `--exact`, or leave `--exact` out"));
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_are_typed_and_what_cannot_be_meant_is_refused() {
        for vectors in Vectors::ALL {
            assert_eq!(parse(vectors.name()).unwrap(), vectors);
            assert_eq!(wanted(Some(vectors.name()), Kind::Hybrid, false).unwrap(), vectors);
        }
        assert_eq!(wanted(None, Kind::Bm25, true).unwrap(), Vectors::Memory);
        assert_eq!(wanted(Some("mapped"), Kind::Dense, true).unwrap(), Vectors::Mapped);
        for (typed, retriever, exact) in [
            ("int4", Kind::Dense, false),
            ("", Kind::Dense, false),
            ("int8", Kind::Dense, true),
            ("f16", Kind::Hybrid, true),
            ("mapped", Kind::Bm25, false),
        ] {
            let error = wanted(Some(typed), retriever, exact).unwrap_err();
            assert!(error.to_string().contains(&format!("`{typed}`")) || error.to_string().contains(typed), "{error}");
        }
    }
}
