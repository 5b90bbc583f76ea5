//! An index on a disk that cannot be written: whatever only reads works, whatever writes is refused and changes nothing.

use crate::support::*;

#[test]
fn a_read_only_index_is_read_and_not_written() {
    let Some(disk) = Tmpfs::mount(8 * 1024) else { return };
    let folder = folder();
    let index = disk.path().join("index");
    copy(base_index(), &index);
    disk.writable(false);
    assert_eq!(search(&index, "red bull", 5, &[]), search(base_index(), "red bull", 5, &[]));
    assert!(is_clean(&index));
    ragtune(&["index", "stats", "--json"]).with("--index", &index).run().json();
    train("generator", &index, &folder.path().join("run")).and(&["--steps", "1"]).run().done();
    let writes = [
        ragtune(&["index", "check", "--mend"]).with("--index", &index),
        build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &index),
        build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &disk.path().join("new")),
        train("embedder", &index, &folder.path().join("other")).and(&["--train-passages", "true", "--steps", "1"]),
    ];
    for write in writes {
        write.run().refused(&["Read-only file system", "only read"]);
    }
    disk.writable(true);
    assert!(is_clean(&index));
    ragtune(&["index", "check", "--mend"]).with("--index", &index).run().done();
}
