//! How a generation's vectors are held when it is opened: read into memory, or mapped from files derived from them, as they are or
//! as codes in fewer bits.
//!
//! The files lie in the sidecar and are disposable like a graph: the first command that asks for one makes it, under the lock;
//! where the lock is taken or nothing may be written it is made in memory, and that is said. They belong to exactly the vectors
//! of one state, by the names of its vector files.

use std::path::{Path, PathBuf};

use ragtune_nearest::{Codes, Coding, FlatGraph, Kind, VectorFile, Wanted, not_of_length_one, recall_of_codes};

use crate::durable::{name, write_atomic_parts};
use crate::error::Result;
use crate::generation::{LENGTH_TOLERANCE, load_vectors};
use crate::lexical::Keep;
use crate::lock::WriterLock;
use crate::manifest::{GraphInfo, belongs_to};
use crate::mapped::{CodeBytes, Floats, Mapped};
use crate::survey::Known;
use crate::vectors::{CodesInfo, DerivedVectors, Held, NO_FILE, Vectors};

/// The files there may be: name, what is in it, what it is held as.
pub(crate) const FILES: [(&str, Kind, Vectors); 3] = [
    ("vectors.bin", Kind::Vectors, Vectors::Mapped),
    ("vectors-f16.bin", Kind::Codes(Coding::F16), Vectors::F16),
    ("vectors-int8.bin", Kind::Codes(Coding::Int8), Vectors::Int8),
];

fn file_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Vectors => FILES[0].0,
        Kind::Codes(Coding::F16) => FILES[1].0,
        Kind::Codes(Coding::Int8) => FILES[2].0,
    }
}

/// Codes to walk by.
#[derive(Debug)]
pub(crate) struct HeldCodes {
    coding: Coding,
    n: usize,
    dim: usize,
    bytes: CodeBytes,
}

impl HeldCodes {
    /// `None` never: what is held was viewed before.
    pub(crate) fn view(&self) -> Option<Codes<'_>> {
        Codes::view(self.coding, &self.bytes, self.n, self.dim).ok()
    }
}

/// The vectors of a generation as they were asked for.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) floats: Floats,
    pub(crate) codes: Option<HeldCodes>,
    pub(crate) held: Held,
}

impl From<ragtune_nearest::Aligned<f32>> for Holding {
    fn from(vectors: ragtune_nearest::Aligned<f32>) -> Self {
        Self { floats: Floats::Memory(vectors), codes: None, held: Held::default() }
    }
}

/// What files of a state have in common.
struct Place<'a> {
    known: &'a Known,
    /// The sidecar of this very state.
    sidecar: Option<&'a Path>,
    belongs: [u8; 32],
    n: usize,
}

impl<'a> Place<'a> {
    fn of(uuid: &str, known: &'a Known) -> Self {
        let sidecar = known.sidecar.as_deref().filter(|sidecar| belongs_to(sidecar, &known.files));
        let belongs = blake3::hash(format!("vectors\n{uuid}\n{}", known.files.join("\n")).as_bytes()).into();
        Self { known, sidecar, belongs, n: known.rows.len() }
    }

    fn wanted(&self, kind: Kind) -> Wanted<'_> {
        Wanted { kind, n: self.n, dim: self.known.dim, belongs: &self.belongs }
    }

    fn path(&self, kind: Kind) -> Option<PathBuf> {
        Some(self.sidecar?.join(file_of(kind)))
    }

    /// A file that fits, mapped; its rows are not verified yet.
    fn map(&self, kind: Kind) -> Result<(VectorFile, Mapped), String> {
        let path = self.path(kind).ok_or(NO_FILE)?;
        Mapped::open(&path, self.wanted(kind)).map_err(|what| match what.as_str() {
            NO_FILE => what,
            _ => format!("`{}`: {what}", file_of(kind)),
        })
    }

    /// The vectors mapped, with the guarantee that reading them from the dataset gives: each is finite and of length one.
    fn map_vectors(&self) -> Result<Floats, String> {
        let (_, rows) = self.map(Kind::Vectors)?;
        let floats = Floats::Mapped(rows);
        match not_of_length_one(&floats, self.known.dim, LENGTH_TOLERANCE) {
            None => Ok(floats),
            Some(at) => Err(format!("`{}`: the vector of passage {at} is not of length one", file_of(Kind::Vectors))),
        }
    }

    /// Codes mapped and verified.
    fn map_codes(&self, coding: Coding) -> Result<(HeldCodes, CodesInfo), String> {
        let (header, rows) = self.map(Kind::Codes(coding))?;
        let damaged = |what| format!("`{}`: {what}", file_of(Kind::Codes(coding)));
        header.verify(&rows).map_err(damaged)?;
        let codes = HeldCodes { coding, n: self.n, dim: self.known.dim, bytes: CodeBytes::Mapped(rows) };
        Codes::view(coding, &codes.bytes, codes.n, codes.dim).map_err(damaged)?;
        let info = CodesInfo::of(&header).ok_or_else(|| damaged("it holds no codes".into()))?;
        Ok((codes, info))
    }
}

/// Writes files where that may be: asks for the lock once, when it is first needed.
struct Keeper<'a> {
    dir: &'a Path,
    keep: Keep<'a>,
    lock: Option<WriterLock>,
    not_kept: Option<String>,
}

impl Keeper<'_> {
    /// Whether the file was written. An error only where it was to be written under a lock.
    fn write(&mut self, place: &Place<'_>, header: &VectorFile, rows: &[u8]) -> Result<bool> {
        // Files are mapped as they are: a machine with another order of bytes has none.
        if self.not_kept.is_some() || matches!(self.keep, Keep::No) || cfg!(target_endian = "big") {
            return Ok(false);
        }
        let Some(path) = place.path(header.kind) else {
            self.not_kept = Some(format!(
                "generation {} has no sidecar of its own to keep files in; `ragtune index check --mend` makes it",
                place.known.number
            ));
            return Ok(false);
        };
        let written = match (self.keep, &self.lock) {
            (Keep::IfFree, None) => WriterLock::take(self.dir, "deriving files of vectors").map(|lock| {
                self.lock = Some(lock);
            }),
            _ => Ok(()),
        }
        .and_then(|()| write_atomic_parts(&path, &[&header.encode(), rows]));
        match (written, self.keep) {
            (Ok(()), _) => Ok(true),
            (Err(error), Keep::IfFree) => {
                self.not_kept = Some(error.in_full());
                Ok(false)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// The vectors of a state, held as asked; files that are missing or do not fit are made and kept as `keep` says.
pub(crate) fn hold(
    (dir, uuid): (&Path, &str),
    known: &Known,
    graph: Option<&(FlatGraph, GraphInfo)>,
    vectors: Vectors,
    keep: Keep<'_>,
) -> Result<Holding> {
    if vectors == Vectors::Memory {
        return Ok(load_vectors(known, known.rows.len())?.into());
    }
    let place = Place::of(uuid, known);
    let mut keeper = Keeper { dir, keep, lock: None, not_kept: None };
    let mut made = Vec::new();
    let floats = match place.map_vectors() {
        Ok(floats) => floats,
        Err(why) => {
            made.push(why);
            let loaded = load_vectors(known, known.rows.len())?;
            let header = describe_vectors(&place, &loaded);
            match keeper.write(&place, &header, bytemuck::cast_slice(&loaded))? {
                // Read back from memory that the system may give away; should that fail, they are here.
                true => place.map_vectors().unwrap_or(Floats::Memory(loaded)),
                false => Floats::Memory(loaded),
            }
        }
    };
    let (mut codes, mut info) = (None, None);
    if let (Some(coding), Some(graph)) = (vectors.coding(), graph) {
        let (held, known) = match place.map_codes(coding) {
            Ok(found) => found,
            Err(why) => {
                made.push(why);
                make_codes(&place, coding, &floats, graph, &mut keeper)?
            }
        };
        (codes, info) = (Some(held), Some(known));
    }
    let held = Held { vectors, made, not_kept: keeper.not_kept, codes: info };
    Ok(Holding { floats, codes, held })
}

fn make_codes(
    place: &Place<'_>,
    coding: Coding,
    floats: &[f32],
    graph: &(FlatGraph, GraphInfo),
    keeper: &mut Keeper<'_>,
) -> Result<(HeldCodes, CodesInfo)> {
    let (n, dim) = (place.n, place.known.dim);
    let bytes = coding.encode(floats, dim);
    let header = describe_codes(place, coding, &bytes, floats, graph)?;
    let info = CodesInfo::of(&header);
    let written = keeper.write(place, &header, &bytes)?;
    if written && let Ok(found) = place.map_codes(coding) {
        return Ok(found);
    }
    let info = info.unwrap_or(CodesInfo { recall_at_10: 0.0, probes: 0, ef: 0, code_bytes: bytes.len() as u64 });
    Ok((HeldCodes { coding, n, dim, bytes: CodeBytes::Memory(bytes) }, info))
}

fn describe_vectors(place: &Place<'_>, vectors: &[f32]) -> VectorFile {
    VectorFile::describing(place.wanted(Kind::Vectors), bytemuck::cast_slice(vectors), (1.0, 0, 0))
}

/// The header of codes, for which their recall is measured: on as many probes and with a beam as wide as for the graph.
fn describe_codes(
    place: &Place<'_>,
    coding: Coding,
    bytes: &[u8],
    floats: &[f32],
    graph: &(FlatGraph, GraphInfo),
) -> Result<VectorFile> {
    let (graph, GraphInfo { probes, ef, .. }) = graph;
    let dim = place.known.dim;
    let codes = Codes::view(coding, bytes, place.n, dim).map_err(crate::Error::storage("laying out codes"))?;
    let (recall, probes) = recall_of_codes(graph, &codes, floats, dim, *probes, *ef);
    let recall = (recall, probes as u32, *ef as u32);
    Ok(VectorFile::describing(place.wanted(Kind::Codes(coding)), bytes, recall))
}

/// What is wrong with the files that the sidecar of this state has, in their order: with `vectors` (N, D) they are compared
/// number by number.
pub(crate) fn defects(uuid: &str, known: &Known, vectors: &[f32]) -> Vec<(&'static str, String)> {
    let place = Place::of(uuid, known);
    let mut found = Vec::new();
    for (file, kind, _) in FILES {
        let Some(path) = place.path(kind).filter(|path| path.exists()) else { continue };
        let what = Mapped::open(&path, place.wanted(kind)).and_then(|(header, rows)| {
            header.verify(&rows)?;
            let same = match kind {
                Kind::Vectors => *rows == *bytemuck::cast_slice::<f32, u8>(vectors),
                Kind::Codes(coding) => *rows == *coding.encode(vectors, known.dim),
            };
            if same { Ok(()) } else { Err("it does not hold what the vectors give".into()) }
        });
        found.extend(what.err().map(|what| (file, what)));
    }
    found
}

/// Makes one of the files anew. The caller holds the lock.
pub(crate) fn remake(
    uuid: &str,
    known: &Known,
    file: &str,
    vectors: &[f32],
    graph: &(FlatGraph, GraphInfo),
) -> Result<()> {
    let place = Place::of(uuid, known);
    for (_, kind, _) in FILES.iter().filter(|(one, _, _)| *one == file) {
        let Some(path) = place.path(*kind) else { continue };
        match kind {
            Kind::Vectors => {
                let header = describe_vectors(&place, vectors);
                write_atomic_parts(&path, &[&header.encode(), bytemuck::cast_slice(vectors)])?;
            }
            Kind::Codes(coding) => {
                let bytes = coding.encode(vectors, known.dim);
                let header = describe_codes(&place, *coding, &bytes, vectors, graph)?;
                write_atomic_parts(&path, &[&header.encode(), &bytes])?;
            }
        }
    }
    Ok(())
}

/// The files that the sidecar of this state has and that fit, by their headers.
pub(crate) fn derived(uuid: &str, known: &Known) -> Vec<DerivedVectors> {
    let place = Place::of(uuid, known);
    let mut found = Vec::new();
    for (file, kind, vectors) in FILES {
        let header = place.path(kind).and_then(|path| crate::mapped::header(&path).ok());
        if let Some(header) = header.filter(|header| header.must_be(place.wanted(kind)).is_ok()) {
            let bytes = header.file_bytes().unwrap_or(0);
            found.push(DerivedVectors { file: file.into(), vectors, bytes, codes: CodesInfo::of(&header) });
        }
    }
    found
}

/// Whether a file in a sidecar is one of these.
pub(crate) fn is_derived(path: &Path) -> bool {
    FILES.iter().any(|(file, _, _)| *file == name(path))
}
