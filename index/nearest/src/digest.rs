//! The blake3 of bytes in memory, by all threads: the hash is that of a tree, whose branches can be hashed apart.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

/// Bytes that one thread hashes at a time: many enough that handing them out costs nothing.
const PIECE: usize = 1 << 20;

/// The blake3 of these bytes, the same as [`blake3::hash`] gives. Runs on all threads of rayon's pool.
pub fn digest(bytes: &[u8]) -> Hash {
    if bytes.len() <= PIECE {
        return blake3::hash(bytes);
    }
    let (left, right) = branches(bytes, 0);
    merge_subtrees_root(&left, &right, Mode::Hash)
}

/// The two branches of what begins at `offset`; it is longer than a piece.
fn branches(bytes: &[u8], offset: u64) -> (ChainingValue, ChainingValue) {
    let first = left_subtree_len(bytes.len() as u64);
    let (left, right) = bytes.split_at(first as usize);
    rayon::join(|| branch(left, offset), || branch(right, offset + first))
}

fn branch(bytes: &[u8], offset: u64) -> ChainingValue {
    if bytes.len() <= PIECE {
        return Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root();
    }
    let (left, right) = branches(bytes, offset);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hash_that_one_thread_finds() {
        let bytes: Vec<u8> = (0..5 * PIECE + 77).map(|at| (at * 31 % 251) as u8).collect();
        for length in [0, 1, 1024, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 1025, bytes.len()] {
            assert_eq!(digest(&bytes[..length]), blake3::hash(&bytes[..length]), "{length}");
        }
    }
}
