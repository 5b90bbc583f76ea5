//! What is said when the hub has no such model, gives none out, or cannot be reached: what was asked, and what to do.

use hf_hub::api::sync::ApiError;

use super::cache::missing;
use super::fetch::Hub;
use super::listing::File;
use crate::error::Error;

impl Hub<'_> {
    /// Why a file did not come.
    pub(super) fn broken(&self, file: &File, error: ApiError) -> Error {
        let what = format!("`{}` of `{}` could not be fetched", file.path, self.name.repo);
        if let ApiError::RequestError(source) = &error
            && status(&source.to_string()).is_some_and(|code| matches!(code, 401 | 403))
        {
            return Error::new(what).because(error).hint(format!(
                "the model is private or gated: accept its terms at {}/{} and set HF_TOKEN",
                self.settings.endpoint, self.name.repo
            ));
        }
        let full = matches!(&error, ApiError::IoError(source) if source.kind() == std::io::ErrorKind::StorageFull);
        let hint = match &error {
            _ if full => {
                format!("free some space in `{}`, or set HF_HOME to a larger disk", self.settings.cache.display())
            }
            ApiError::LockAcquisition(_) => "another process is fetching the same file: wait until it ends".to_owned(),
            _ => "run the same command again: it goes on where the connection broke".to_owned(),
        };
        Error::new(what).because(error).hint(hint)
    }

    /// Why the hub did not say what the model holds.
    pub(super) fn refused(&self, error: &str) -> Error {
        let (repo, revision, endpoint) = (&self.name.repo, self.name.revision(), &self.settings.endpoint);
        match status(error) {
            Some(404) if self.name.asked_for_revision() && self.repo("main").info().is_ok() => {
                Error::new(format!("`{repo}` has no revision `{revision}` at `{endpoint}`"))
                    .hint(format!("leave out `@{revision}` for the newest, or see {endpoint}/{repo}/tree/main"))
            }
            // The hub answers 401 for what does not exist, too.
            Some(401 | 403 | 404) => Error::new(format!(
                "`{repo}` is no folder here, and the hub at `{endpoint}` gives out no model of that name"
            ))
            .because(error.to_owned())
            .hint("check the path or the name; a private or gated model needs its terms accepted and HF_TOKEN set"),
            Some(_) => Error::new(format!("the hub at `{endpoint}` refused the request for `{repo}`"))
                .because(error.to_owned())
                .hint("try again later"),
            None => {
                let hint = match self.cached.commit(revision).filter(|commit| self.is_whole(commit)) {
                    Some(commit) => format!("HF_HUB_OFFLINE=1 takes the model from the cache, at commit {commit}"),
                    None => "check the connection and HF_ENDPOINT; or give the folder of a model".to_owned(),
                };
                Error::new(format!(
                    "`{repo}` is no folder here, and the hub at `{endpoint}` cannot be reached for a model of that name"
                ))
                .because(error.to_owned())
                .hint(hint)
            }
        }
    }

    fn is_whole(&self, commit: &str) -> bool {
        missing(&self.cached.snapshot(commit)).is_ok_and(|lost| lost.is_none())
    }
}

/// The status that the hub answered with; none where the connection itself failed. The crate hands on its HTTP client's
/// error, whose type is not ours to name.
pub(super) fn status(error: &str) -> Option<u16> {
    error.rsplit_once("http status: ")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_out_of_the_clients_error() {
        assert_eq!(status("http status: 404"), Some(404));
        assert_eq!(status("request error: http status: 503"), Some(503));
        assert_eq!(status("io: Connection refused (os error 111)"), None);
    }
}
