//! Writing the passages, once.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchReader, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use lance::dataset::{Dataset, WriteParams};

use super::{DATASET, Table, uri};
use crate::error::{Error, Result};
use crate::passage::Passage;
use crate::table::runtime::{store, wait};

/// A batch is full at this many passages or bytes: memory stays constant however long the passages are.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;
/// Batches that wait for the writer.
const BATCHES_WAITING: usize = 2;

/// Writes a new dataset of these passages into `dir`. Streams: a few batches are in memory at a time.
///
/// The passages are pulled on the calling thread; the first error among them stops the writing and is returned. Whatever
/// was written by then stays behind and is the caller's to remove.
pub(crate) fn create(
    dir: &Path,
    passages: &mut dyn Iterator<Item = Result<Passage>>,
    rows_per_fragment: usize,
) -> Result<Table> {
    let path = dir.join(DATASET);
    let target = uri(&path)?;
    let (sender, receiver) = sync_channel(BATCHES_WAITING);
    let (sent, written) = thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let parameters =
                WriteParams { max_rows_per_file: rows_per_fragment, store_params: Some(store()), ..Default::default() };
            wait(Dataset::write(Batches { receiver, schema: schema() }, target, Some(parameters)))
        });
        let sent = send(passages, sender);
        (sent, writer.join())
    });
    // An error among the passages is the cause of whatever the writer says.
    sent?;
    let written = written.map_err(|_| Error::Storage {
        doing: "writing the passages".into(),
        source: "the writing thread panicked".into(),
    })?;
    let dataset = written?.map_err(Error::storage("writing the passages"))?;
    Ok(Table { dataset: Arc::new(dataset), path })
}

/// Passages as batches of a size that a file is written in.
pub(super) fn batches(passages: &[Passage]) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut done = Vec::new();
    let mut batch = Batch::default();
    for passage in passages {
        batch.push(passage.clone());
        if batch.full() {
            done.push(std::mem::take(&mut batch).finish()?);
        }
    }
    if !batch.ids.is_empty() {
        done.push(batch.finish()?);
    }
    Ok(done)
}

type Message = Result<RecordBatch, ArrowError>;

/// Sends the passages in batches. Stops without an error when the writer has gone: then its error is the one to tell.
fn send(passages: &mut dyn Iterator<Item = Result<Passage>>, sender: SyncSender<Message>) -> Result<()> {
    let mut batch = Batch::default();
    for passage in passages {
        match passage {
            Ok(passage) => batch.push(passage),
            Err(error) => {
                let told = ArrowError::ExternalError("the passages ended with an error".into());
                let _ = sender.send(Err(told));
                return Err(error);
            }
        }
        if batch.full() && sender.send(std::mem::take(&mut batch).finish()).is_err() {
            return Ok(());
        }
    }
    if !batch.ids.is_empty() {
        let _ = sender.send(batch.finish());
    }
    Ok(())
}

#[derive(Default)]
struct Batch {
    ids: Vec<String>,
    titles: Vec<String>,
    texts: Vec<String>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, passage: Passage) {
        self.bytes += passage.id.len() + passage.title.len() + passage.text.len();
        self.ids.push(passage.id);
        self.titles.push(passage.title);
        self.texts.push(passage.text);
    }

    fn full(&self) -> bool {
        self.ids.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    fn finish(self) -> Message {
        let columns = [self.ids, self.titles, self.texts]
            .into_iter()
            .map(|column| Arc::new(StringArray::from(column)) as ArrayRef)
            .collect();
        RecordBatch::try_new(schema(), columns)
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(["id", "title", "text"].map(|name| Field::new(name, DataType::Utf8, false)).to_vec()))
}

struct Batches {
    receiver: Receiver<Message>,
    schema: SchemaRef,
}

impl Iterator for Batches {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.receiver.recv().ok()
    }
}

impl RecordBatchReader for Batches {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
