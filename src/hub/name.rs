//! What can be the name of a model on a hub.

use std::path::Path;

/// The branch that is meant where none is named.
const MAIN: &str = "main";
/// The longest name a hub gives out.
const LONGEST: usize = 96;

/// A model on a hub as it is typed: `owner/name` or `name`, with `@revision` where a certain one is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `owner/name` or `name`.
    pub repo: String,
    /// Branch, tag or commit.
    asked: Option<String>,
}

impl Name {
    /// Understands a name; `None` for what can only be a path.
    pub fn parse(typed: &Path) -> Option<Self> {
        let typed = typed.to_str()?;
        let (repo, asked) = match typed.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (typed, None),
        };
        let parts: Vec<&str> = repo.split('/').collect();
        let named = parts.len() <= 2 && repo.len() <= LONGEST && parts.iter().all(|part| is_part(part));
        let revised = asked.is_none_or(is_revision);
        (named && revised).then(|| Self { repo: repo.to_owned(), asked: asked.map(str::to_owned) })
    }

    /// The branch, tag or commit asked for; `main` where none was.
    pub fn revision(&self) -> &str {
        self.asked.as_deref().unwrap_or(MAIN)
    }

    /// Whether a revision was named.
    pub fn asked_for_revision(&self) -> bool {
        self.asked.is_some()
    }
}

/// Owner or name: letters, digits, `-`, `_` and `.`, the rules of the hub for `-` and `.`.
fn is_part(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| !matches!(c, '-' | '.');
    !part.is_empty()
        && part.chars().all(inner)
        && part.starts_with(edge)
        && part.ends_with(edge)
        && !part.contains("--")
        && !part.contains("..")
}

/// A branch, tag or commit whose name is safe as a path of the cache.
fn is_revision(revision: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    revision.chars().all(known)
        && revision.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !revision.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        let parsed =
            |typed: &str| Name::parse(Path::new(typed)).map(|name| (name.repo.clone(), name.revision().into()));
        let is = |repo: &str, revision: &str| Some((repo.to_owned(), revision.to_owned()));
        assert_eq!(
            parsed("sentence-transformers/all-MiniLM-L6-v2"),
            is("sentence-transformers/all-MiniLM-L6-v2", "main")
        );
        assert_eq!(parsed("gpt2"), is("gpt2", "main"));
        assert_eq!(parsed("owner/name@v1.0"), is("owner/name", "v1.0"));
        assert_eq!(parsed("owner/name@refs/pr/3"), is("owner/name", "refs/pr/3"));
        for path in [
            "",
            "/models/a",
            "./a",
            "../a",
            "a/b/c",
            "a/",
            "~/a",
            "a b/c",
            "owner/name@",
            "owner/name@../x",
            "-a/b",
            "a/b.",
            "a--b",
            "a..b",
            "owner/name@a//b",
            "owner/name@-x",
            "owner/@x",
            "a/b@c@d",
            "\u{e4}/b",
        ] {
            assert_eq!(parsed(path), None, "`{path}`");
        }
        assert_eq!(parsed(&"x".repeat(97)), None);
    }
}
