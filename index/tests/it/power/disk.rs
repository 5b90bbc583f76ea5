//! A disk that forgets: what of a recorded sequence of changes is there after the power was cut.
//!
//! What is assumed is what FORMAT.md assumes and no more: content is durable once its file was synced, a name once its
//! directory was, and a rename is one step. Everything else may be there, be missing, or be there in part, for every file
//! and every directory apart from the others. Journalling file systems keep more order than that.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A file or a directory, whatever its names; 0 is the directory that was watched.
pub type Node = usize;

/// One change, or the promise that earlier ones last.
#[derive(Debug, Clone)]
pub enum Op {
    /// Bytes written into a file.
    Write { file: Node, at: u64, bytes: Vec<u8> },
    /// The length of a file set.
    Length { file: Node, to: u64 },
    /// Names given and taken, all of them or none.
    Names(Vec<Name>),
    /// What was written into this file so far, or the names in this directory, are durable.
    Sync(Node),
}

/// What a name in a directory stands for from now on.
#[derive(Debug, Clone)]
pub struct Name {
    pub dir: Node,
    pub name: String,
    /// A file or directory, or nothing any more.
    pub now: Option<Node>,
}

/// What happens to changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// All of them are lost.
    NothingUnsynced,
    /// Names are kept and contents lost: files without content, the common surprise.
    NamesOnly,
    /// Names and lengths are kept, contents are zeros.
    Zeros,
    /// Contents are kept, names are lost.
    ContentsOnly,
    /// Of every file some of the writes, the last of them torn; of every directory some of the names.
    Some(u64),
    /// Everything is there: a process that was killed, no power cut.
    Everything,
}

/// All files (with content) and directories (without) by their path from the watched directory.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// The tree that a cut after these changes leaves. `is_dir` tells directories from files.
pub fn cut(ops: &[Op], is_dir: &[bool], luck: Luck) -> Tree {
    let mut rng = ChaCha8Rng::seed_from_u64(if let Luck::Some(seed) = luck { seed } else { 0 });
    let mut files: HashMap<Node, (Vec<u8>, Vec<&Op>)> = HashMap::new();
    let mut steps: Vec<(&[Name], bool)> = Vec::new();
    for op in ops {
        match op {
            Op::Write { file, .. } | Op::Length { file, .. } => files.entry(*file).or_default().1.push(op),
            Op::Names(names) => steps.push((names, false)),
            Op::Sync(node) if is_dir[*node] => {
                for (names, durable) in &mut steps {
                    *durable |= names.iter().any(|name| name.dir == *node);
                }
            }
            Op::Sync(node) => {
                let (durable, waiting) = files.entry(*node).or_default();
                waiting.drain(..).for_each(|op| apply(durable, op));
            }
        }
    }
    let mut names: HashMap<Node, BTreeMap<&str, Node>> = HashMap::new();
    let kept = kept(&steps, luck, &mut rng);
    for name in steps.iter().zip(kept).filter(|(_, kept)| *kept).flat_map(|((names, _), _)| *names) {
        let dir = names.entry(name.dir).or_default();
        match name.now {
            Some(node) => dir.insert(&name.name, node),
            None => dir.remove(name.name.as_str()),
        };
    }
    let mut contents: HashMap<Node, Vec<u8>> = HashMap::new();
    let mut order: Vec<&Node> = files.keys().collect();
    order.sort();
    for node in order {
        let (durable, waiting) = &files[node];
        contents.insert(*node, content(durable.clone(), waiting, luck, &mut rng));
    }
    let mut tree = Tree::new();
    let mut open = vec![(0, PathBuf::new())];
    while let Some((dir, path)) = open.pop() {
        for (name, node) in names.get(&dir).into_iter().flatten() {
            let path = path.join(name);
            if is_dir[*node] {
                tree.insert(path.clone(), None);
                open.push((*node, path));
            } else {
                tree.insert(path, Some(contents.get(node).cloned().unwrap_or_default()));
            }
        }
    }
    tree
}

/// Which steps among names are there: of every directory a beginning of those that were not synced, since no file system
/// keeps a later change of a directory and loses an earlier one.
fn kept(steps: &[(&[Name], bool)], luck: Luck, rng: &mut ChaCha8Rng) -> Vec<bool> {
    let mut left: BTreeMap<Node, usize> = BTreeMap::new();
    for (names, _) in steps.iter().filter(|(_, durable)| !durable) {
        *left.entry(names[0].dir).or_default() += 1;
    }
    for count in left.values_mut() {
        *count = match luck {
            Luck::NothingUnsynced | Luck::ContentsOnly => 0,
            Luck::NamesOnly | Luck::Zeros | Luck::Everything => *count,
            Luck::Some(_) => rng.random_range(0..=*count),
        };
    }
    let mut kept = Vec::new();
    for (names, durable) in steps {
        let left = left.entry(names[0].dir).or_default();
        kept.push(*durable || *left > 0);
        *left -= usize::from(!durable && *left > 0);
    }
    kept
}

fn content(mut durable: Vec<u8>, waiting: &[&Op], luck: Luck, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let all = |mut content: Vec<u8>, ops: &[&Op]| {
        ops.iter().for_each(|op| apply(&mut content, op));
        content
    };
    match luck {
        Luck::NothingUnsynced | Luck::NamesOnly => durable,
        Luck::ContentsOnly | Luck::Everything => all(durable, waiting),
        Luck::Zeros => {
            let length = all(durable.clone(), waiting).len();
            durable.resize(length, 0);
            durable
        }
        Luck::Some(_) => {
            let whole = rng.random_range(0..=waiting.len());
            let mut content = all(durable, &waiting[..whole]);
            if let Some(Op::Write { file, at, bytes }) = waiting.get(whole) {
                let part = rng.random_range(0..=bytes.len() / 512) * 512;
                apply(
                    &mut content,
                    &Op::Write { file: *file, at: *at, bytes: bytes[..part.min(bytes.len())].to_vec() },
                );
            }
            content
        }
    }
}

fn apply(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { at, bytes, .. } => {
            let (from, to) = (*at as usize, *at as usize + bytes.len());
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(bytes);
        }
        Op::Length { to, .. } => content.resize(*to as usize, 0),
        Op::Names(_) | Op::Sync(_) => {}
    }
}

/// Writes a tree into a new directory.
pub fn restore(tree: &Tree, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (path, content) in tree {
        match content {
            None => std::fs::create_dir_all(to.join(path)).unwrap(),
            Some(content) => std::fs::write(to.join(path), content).unwrap(),
        }
    }
}

#[test]
fn what_was_synced_stays_and_the_rest_goes() {
    let name = |name: &str, now| Name { dir: 0, name: name.into(), now };
    let write = |at, bytes: &[u8]| Op::Write { file: 1, at, bytes: bytes.to_vec() };
    let ops = [
        Op::Names(vec![name(".tmp-a", Some(1))]),
        write(0, b"one"),
        Op::Sync(1),
        write(3, b"two"),
        Op::Names(vec![name("a", Some(1)), name(".tmp-a", None)]),
        Op::Sync(0),
        Op::Names(vec![name("a", None)]),
    ];
    let is_dir = [true, false];
    let file = |name: &str, content: &[u8]| Tree::from([(PathBuf::from(name), Some(content.to_vec()))]);
    assert_eq!(cut(&ops[..5], &is_dir, Luck::NothingUnsynced), Tree::new());
    assert_eq!(cut(&ops[..2], &is_dir, Luck::NamesOnly), file(".tmp-a", b""));
    assert_eq!(cut(&ops[..5], &is_dir, Luck::NamesOnly), file("a", b"one"));
    assert_eq!(cut(&ops[..5], &is_dir, Luck::Zeros), file("a", b"one\0\0\0"));
    assert_eq!(cut(&ops[..6], &is_dir, Luck::NothingUnsynced), file("a", b"one"));
    assert_eq!(cut(&ops[..6], &is_dir, Luck::ContentsOnly), file("a", b"onetwo"));
    assert_eq!(cut(&ops, &is_dir, Luck::NothingUnsynced), file("a", b"one"));
    assert_eq!(cut(&ops, &is_dir, Luck::Everything), Tree::new());
}
