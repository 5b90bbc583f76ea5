//! Brings the files of one model into the cache and says where they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::cache::{CachedRepo, is_commit, missing};
use super::listing::{File, Listing, join, split};
use super::name::Name;
use super::refusals::status;
use super::settings::Settings;
use super::{Located, Origin, Progress};
use crate::error::{Context, Error, Result};
use crate::models::weights;

/// How often a file is asked for again when the connection breaks; each time it goes on where it stopped.
const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; the third waits twice as long.
const WAIT: Duration = Duration::from_millis(400);

/// The folder of a model of the hub, with every file a loader reads.
pub(super) fn snapshot(settings: &Settings, name: &Name, observe: &mut dyn FnMut(Progress<'_>)) -> Result<Located> {
    let cached = CachedRepo::new(&settings.cache, &name.repo);
    if settings.offline {
        return offline(settings, name, &cached);
    }
    if is_commit(name.revision()) && missing(&cached.snapshot(name.revision()))?.is_none() {
        return Ok(located(name, &cached, name.revision()));
    }
    let hub = Hub { settings, name, cached, api: api(settings)? };
    let listing = hub.listing()?;
    hub.fetch(&listing, observe)?;
    Ok(located(name, &hub.cached, &listing.sha))
}

fn located(name: &Name, cached: &CachedRepo, commit: &str) -> Located {
    let origin = Origin { repo: name.repo.clone(), revision: name.revision().to_owned(), commit: commit.to_owned() };
    Located { folder: cached.snapshot(commit), origin: Some(origin) }
}

/// What the cache alone has.
fn offline(settings: &Settings, name: &Name, cached: &CachedRepo) -> Result<Located> {
    let Some(commit) = cached.commit(name.revision()) else {
        return Err(Error::new(format!(
            "`{}` is no folder here, and the cache `{}` has no such model at revision `{}`; `HF_HUB_OFFLINE` forbids asking the hub",
            name.repo,
            settings.cache.display(),
            name.revision()
        ))
        .hint("check the path; or unset HF_HUB_OFFLINE and run this once with a connection"));
    };
    match missing(&cached.snapshot(&commit))? {
        None => Ok(located(name, cached, &commit)),
        Some(file) => Err(Error::new(format!(
            "the cache `{}` has only a part of `{}` at commit `{commit}`: `{file}` is missing, and `HF_HUB_OFFLINE` forbids asking the hub",
            settings.cache.display(),
            name.repo
        ))
        .hint("unset HF_HUB_OFFLINE and run this once with a connection: what is there is kept")),
    }
}

fn api(settings: &Settings) -> Result<Api> {
    ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_progress(false)
        // The crate's own retries may append to a file what it has already.
        .with_retries(0)
        .with_user_agent("ragtune", env!("CARGO_PKG_VERSION"))
        .build()
        .map_err(|source| Error::new("the connection to the hub cannot be set up").because(source))
}

/// One model on one hub.
pub(super) struct Hub<'a> {
    pub(super) settings: &'a Settings,
    pub(super) name: &'a Name,
    pub(super) cached: CachedRepo,
    api: Api,
}

/// Bytes here and bytes in all, over the files that were missing.
#[derive(Default)]
struct Tally {
    before: u64,
    total: u64,
}

impl Hub<'_> {
    /// The model at a revision.
    pub(super) fn repo(&self, revision: &str) -> ApiRepo {
        self.api.repo(Repo::with_revision(self.name.repo.clone(), RepoType::Model, revision.to_owned()))
    }

    /// The files of the revision and the commit it stands for.
    fn listing(&self) -> Result<Listing> {
        // With `blobs` the hub adds the size and the content's name of every file.
        let answer = self.repo(self.name.revision()).info_request().query("blobs", "true").call();
        let mut answer = answer.map_err(|error| self.refused(&error.to_string()))?;
        let listing: Listing = answer.body_mut().read_json().map_err(|error| {
            Error::new(format!(
                "the hub at `{}` did not list the files of `{}`",
                self.settings.endpoint, self.name.repo
            ))
            .because(error.to_string())
            .hint("check HF_ENDPOINT, or try again later")
        })?;
        listing.check()
    }

    /// Brings every file that a loader reads and the cache lacks, then notes what the revision stands for.
    fn fetch(&self, listing: &Listing, observe: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        if listing.pickled_only() {
            return Err(Error::new(format!("`{}` has its weights only in PyTorch's own format (.bin)", self.name.repo))
                .hint(format!(
                    "look for a revision with safetensors (`{0}@refs/pr/...`), or make a folder of it: python3 -c \
                     'from transformers import AutoModel as A, AutoTokenizer as T; A.from_pretrained(\"{0}\").save_pretrained(\"DIR\"); \
                     T.from_pretrained(\"{0}\").save_pretrained(\"DIR\")'",
                    self.name.repo
                )));
        }
        let mut tally = Tally::default();
        let wanted = listing.wanted();
        self.bring(&wanted, listing, &mut tally, observe)?;
        for index in wanted.iter().filter(|file| file.path.ends_with(weights::INDEX)) {
            let shards = weights::shards(&self.cached.snapshot(&listing.sha).join(&index.path))?;
            let mut files = Vec::with_capacity(shards.len());
            for shard in shards {
                let path = join(split(&index.path).0, &shard);
                files.push(listing.file(&path).ok_or_else(|| {
                    Error::new(format!("`{}` lacks the shard `{path}` that `{}` names", self.name.repo, index.path))
                        .hint("tell the model's owner, or choose another revision with `@revision`")
                })?);
            }
            self.bring(&files, listing, &mut tally, observe)?;
        }
        let repo = Repo::with_revision(self.name.repo.clone(), RepoType::Model, self.name.revision().to_owned());
        Cache::new(self.settings.cache.clone())
            .repo(repo)
            .create_ref(&listing.sha)
            .context(|| format!("cannot write in the cache `{}`", self.settings.cache.display()))
    }

    fn bring(
        &self,
        files: &[&File],
        listing: &Listing,
        tally: &mut Tally,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let mut lacking = Vec::new();
        for file in files {
            if !self.has(file, &listing.sha)? {
                tally.total += file.size.unwrap_or(0);
                lacking.push(*file);
            }
        }
        for file in lacking {
            self.download(file, &listing.sha, tally, observe)?;
        }
        Ok(())
    }

    /// Whether a file of the commit is in the cache, perhaps under another commit that has the same content.
    fn has(&self, file: &File, commit: &str) -> Result<bool> {
        let path = self.cached.snapshot(commit).join(&file.path);
        let whole = |path: &Path| fs::metadata(path).ok().map(|found| found.len());
        if let Some(found) = whole(&path) {
            return match file.size {
                Some(size) if size != found => Err(Error::new(format!(
                    "`{}` in the cache has {found} bytes, the hub says {size}: it is damaged",
                    path.display()
                ))
                .hint(format!("remove it and run this again: rm \"$(readlink -f {0})\" {0}", path.display()))),
                _ => Ok(true),
            };
        }
        if path.symlink_metadata().is_ok() {
            // A link whose content was removed.
            fs::remove_file(&path).context(|| format!("cannot remove `{}`", path.display()))?;
        }
        match file.content().filter(|content| file.size.is_some() && whole(&self.cached.blob(content)) == file.size) {
            Some(content) => self.cached.link(content, commit, &file.path).map(|()| true),
            None => Ok(false),
        }
    }

    /// Fetches one file; goes on with what an earlier attempt left of it.
    fn download(
        &self,
        file: &File,
        commit: &str,
        tally: &mut Tally,
        observe: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        // By commit, so that all files belong together even when the branch moves meanwhile.
        let repo = self.repo(commit);
        let mut known = file.size;
        for attempt in 1.. {
            let mut watch = |done: u64, size: u64| {
                if known.is_none() {
                    known = Some(size);
                    tally.total += size;
                }
                let (done, total) = (tally.before + done, tally.total);
                observe(Progress { repo: &self.name.repo, file: &file.path, done, total });
            };
            let outcome = match repo.download_with_progress(&file.path, Watch { done: 0, size: 0, tell: &mut watch }) {
                Ok(path) => self.check(&path, known)?,
                Err(error) => Outcome::Broken(error),
            };
            match outcome {
                Outcome::Whole(size) => {
                    tally.before += size;
                    return Ok(());
                }
                Outcome::Broken(error) if attempt < ATTEMPTS => {
                    if !self.mend(&repo, file, commit, &error)? {
                        return Err(self.broken(file, error));
                    }
                    if self.has(file, commit)? {
                        tally.before += known.unwrap_or(0);
                        return Ok(());
                    }
                    std::thread::sleep(WAIT * attempt);
                }
                Outcome::Broken(error) => return Err(self.broken(file, error)),
            }
        }
        Ok(())
    }

    /// A connection that ends early can look like the end of a file: what came is kept as a part.
    fn check(&self, path: &Path, expected: Option<u64>) -> Result<Outcome> {
        let found = fs::metadata(path).context(|| format!("cannot read `{}`", path.display()))?.len();
        match expected {
            Some(size) if found != size => {
                let blob = fs::canonicalize(path).context(|| format!("cannot read `{}`", path.display()))?;
                fs::remove_file(path).context(|| format!("cannot remove `{}`", path.display()))?;
                // Too long it is when a server that knows no ranges sent the whole file to be appended to its beginning.
                let moved = if found < size { fs::rename(&blob, part_of(&blob)) } else { fs::remove_file(&blob) };
                moved.context(|| format!("cannot move `{}`", blob.display()))?;
                let message = format!("{found} bytes came, expected {size}");
                let early = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message);
                Ok(Outcome::Broken(ApiError::IoError(early)))
            }
            _ => Ok(Outcome::Whole(found)),
        }
    }

    /// Makes another attempt possible; false where none would help.
    fn mend(&self, repo: &ApiRepo, file: &File, commit: &str, error: &ApiError) -> Result<bool> {
        match error {
            ApiError::IoError(source) => Ok(source.kind() != std::io::ErrorKind::StorageFull),
            ApiError::InvalidResume => self.drop_part(repo, file, commit),
            ApiError::RequestError(source) => match status(&source.to_string()) {
                None => Ok(true),
                // Nothing is left to send: the part is whole, or longer than the file.
                Some(416) => self.drop_part(repo, file, commit),
                Some(code) => Ok(code >= 500),
            },
            _ => Ok(false),
        }
    }

    /// A part that cannot be gone on with: whole it becomes the file, else it is removed.
    fn drop_part(&self, repo: &ApiRepo, file: &File, commit: &str) -> Result<bool> {
        let Ok(about) = self.api.metadata(&repo.url(&file.path)) else { return Ok(false) };
        let blob = self.cached.blob(about.etag());
        let part = part_of(&blob);
        match fs::metadata(&part) {
            Ok(found) if found.len() == about.size() as u64 => {
                fs::rename(&part, &blob).context(|| format!("cannot rename `{}`", part.display()))?;
                self.cached.link(about.etag(), commit, &file.path)?;
            }
            Ok(_) => fs::remove_file(&part).context(|| format!("cannot remove `{}`", part.display()))?,
            Err(_) => return Ok(false),
        }
        Ok(true)
    }
}

/// How one attempt at a file ended.
enum Outcome {
    /// It is here, with so many bytes.
    Whole(u64),
    /// The connection broke, or the hub refused.
    Broken(ApiError),
}

/// Counts what the crate reads for us.
struct Watch<'a> {
    done: u64,
    size: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl hf_hub::api::Progress for Watch<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        (self.done, self.size) = (0, size as u64);
        (self.tell)(self.done, self.size);
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.tell)(self.done, self.size);
    }

    fn finish(&mut self) {}
}

/// Where the crate keeps a content that is not whole yet.
fn part_of(blob: &Path) -> PathBuf {
    blob.with_extension("part")
}
