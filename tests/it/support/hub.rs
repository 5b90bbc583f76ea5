//! A model hub of one process: the part of the hub's API that is needed to list and fetch files, over HTTP.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A model on the hub: what its revisions stand for, and the folder of each commit.
#[derive(Clone, Default)]
pub struct Model {
    /// Commit by branch, tag or commit.
    pub revisions: BTreeMap<String, String>,
    /// Folder by commit.
    pub commits: BTreeMap<String, PathBuf>,
}

impl Model {
    /// A model with one commit, called `main`.
    pub fn of(folder: &Path, commit: &str) -> Self {
        Self::default().with("main", commit, folder)
    }

    /// With a commit more, under a name of its own and that of the commit.
    pub fn with(mut self, revision: &str, commit: &str, folder: &Path) -> Self {
        self.revisions.insert(revision.to_owned(), commit.to_owned());
        self.revisions.insert(commit.to_owned(), commit.to_owned());
        self.commits.insert(commit.to_owned(), folder.to_path_buf());
        self
    }
}

/// What a test may change while the hub runs.
#[derive(Default)]
struct State {
    models: BTreeMap<String, Model>,
    token: Option<String>,
    /// After so many bytes of weights the hub hangs up, and is gone.
    breaks_after: Option<usize>,
    gone: bool,
    /// Method and path of every request, and its authorisation.
    requests: Vec<(String, Option<String>)>,
    /// The first byte asked for of each file that was sent.
    sent_from: Vec<(String, usize)>,
}

/// A running hub; it ends with the test.
pub struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Starts one that has these models.
    pub fn start(models: impl IntoIterator<Item = (&'static str, Model)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let models = models.into_iter().map(|(name, model)| (name.to_owned(), model)).collect();
        let state = Arc::new(Mutex::new(State { models, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { address, state }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on only who sends this token is answered.
    pub fn asks_for(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    /// Puts another model, or a newer state of it, on the hub.
    pub fn put(&self, name: &str, model: Model) {
        self.state.lock().unwrap().models.insert(name.to_owned(), model);
    }

    /// The hub hangs up after so many bytes of a file of weights and answers nobody any more.
    pub fn break_after(&self, bytes: usize) {
        self.state.lock().unwrap().breaks_after = Some(bytes);
    }

    /// It answers again.
    pub fn come_back(&self) {
        let mut state = self.state.lock().unwrap();
        (state.breaks_after, state.gone) = (None, false);
    }

    /// Requests since the last call: path and authorisation of each.
    pub fn requests(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// Files whose content was sent since the last call, with the first byte that was asked for.
    pub fn sent(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.state.lock().unwrap().sent_from)
    }
}

/// Answers one request and closes the connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() || first.is_empty() {
        return;
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let (gone, allowed) = {
        let mut state = state.lock().unwrap();
        let authorisation = headers.get("authorization").cloned();
        let allowed = state.token.as_ref().is_none_or(|token| authorisation == Some(format!("Bearer {token}")));
        if !state.gone {
            state.requests.push((path.clone(), authorisation));
        }
        (state.gone, allowed)
    };
    if gone {
        return;
    }
    if !allowed {
        return reply(&mut stream, "401 Unauthorized", &[], b"{\"error\": \"Invalid credentials\"}");
    }
    match path.strip_prefix("/api/models/").and_then(|rest| rest.split_once("/revision/")) {
        Some((name, revision)) => list(&mut stream, state, name, revision, target.contains("blobs=true")),
        None => match path.strip_prefix('/').and_then(|rest| rest.split_once("/resolve/")) {
            Some((name, rest)) => send(&mut stream, state, name, rest, headers.get("range").map(String::as_str)),
            None => reply(&mut stream, "404 Not Found", &[], b""),
        },
    }
}

fn list(stream: &mut TcpStream, state: &Mutex<State>, name: &str, revision: &str, blobs: bool) {
    let found = find(state, name, &revision.replace("%2F", "/"));
    let Some((commit, folder)) = found else { return reply(stream, "404 Not Found", &[], b"{}") };
    let siblings: Vec<Value> = super::files(&folder)
        .iter()
        .map(|file| {
            let mut sibling = json!({"rfilename": file.to_str().unwrap()});
            if blobs {
                sibling["size"] = std::fs::metadata(folder.join(file)).unwrap().len().into();
                sibling["blobId"] = content(&folder.join(file)).into();
            }
            sibling
        })
        .collect();
    let body = json!({"id": name, "sha": commit, "siblings": siblings}).to_string();
    reply(stream, "200 OK", &[], body.as_bytes());
}

fn send(stream: &mut TcpStream, state: &Mutex<State>, name: &str, rest: &str, range: Option<&str>) {
    let Some((revision, file)) = rest.split_once('/') else { return reply(stream, "404 Not Found", &[], b"") };
    let found = find(state, name, &revision.replace("%2F", "/"));
    let found = found.map(|(commit, folder)| (commit, folder.join(file))).filter(|(_, path)| path.is_file());
    let Some((commit, path)) = found else { return reply(stream, "404 Not Found", &[], b"") };
    let bytes = std::fs::read(&path).unwrap();
    let (from, to) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap();
    let to = to.parse::<usize>().map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
    let total = bytes.len();
    if from >= total {
        return reply(stream, "416 Range Not Satisfiable", &[("Content-Range", format!("bytes */{total}"))], b"");
    }
    let headers = [
        ("ETag", format!("\"{}\"", content(&path))),
        ("X-Repo-Commit", commit),
        ("Accept-Ranges", "bytes".to_owned()),
        ("Content-Range", format!("bytes {from}-{}/{total}", to - 1)),
    ];
    let part = &bytes[from..to];
    // One byte is asked for to learn name and size of the content.
    if part.len() == 1 && total > 1 {
        return reply(stream, "206 Partial Content", &headers, part);
    }
    let breaks = {
        let mut state = state.lock().unwrap();
        state.sent_from.push((file.to_owned(), from));
        let breaks = state.breaks_after.filter(|limit| file.ends_with(".safetensors") && *limit < part.len());
        state.gone |= breaks.is_some();
        breaks
    };
    let _ = stream.write_all(head("206 Partial Content", &headers, part.len()).as_bytes());
    let _ = stream.write_all(&part[..breaks.unwrap_or(part.len())]);
}

fn find(state: &Mutex<State>, name: &str, revision: &str) -> Option<(String, PathBuf)> {
    let state = state.lock().unwrap();
    let model = state.models.get(name)?;
    let commit = model.revisions.get(revision)?;
    Some((commit.clone(), model.commits.get(commit)?.clone()))
}

/// What a content is called: git's hash has 40 digits, and so has this.
fn content(path: &Path) -> String {
    super::digest(path)[..40].to_owned()
}

fn head(status: &str, headers: &[(&str, String)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

fn reply(stream: &mut TcpStream, status: &str, headers: &[(&str, String)], body: &[u8]) {
    let _ = stream.write_all(head(status, headers, body.len()).as_bytes());
    let _ = stream.write_all(body);
}
