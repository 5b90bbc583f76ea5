//! How passages are read in training and in evaluations, also where nobody says so.

use super::TrainConfig;
use crate::error::Result;
use crate::pipeline::answer::{AnswerReader, Order};
use crate::strategies::Passages;

impl TrainConfig {
    /// How answers are read off in evaluations: as asked for, else as the generator was trained last: all passages in one prompt,
    /// a mixture for every token, or one for the whole answer.
    pub fn eval_reader(&self) -> Result<AnswerReader> {
        if let Some(reader) = self.eval_reader {
            return Ok(reader);
        }
        let stages = self.stages()?;
        if stages.iter().any(|stage| stage.lists.is_some()) {
            return Ok(AnswerReader::Concat);
        }
        let Some(last) = stages.iter().rfind(|stage| stage.trains.generator) else { return Ok(self.reader.into()) };
        Ok(match last.objective.name() {
            _ if last.objective.needs().concat => AnswerReader::Concat,
            "rag-sequence" => AnswerReader::SequenceThorough,
            _ => AnswerReader::Mixture,
        })
    }

    /// In which order passages are read in evaluations; see [`TrainConfig::order_of`].
    pub fn eval_order(&self) -> Result<Order> {
        self.order_of(self.eval_reader()?)
    }

    /// In which order a reader of all passages in one prompt is given them: as asked for, else as the generator learnt last to
    /// read them. Other readers are given them one by one.
    pub fn order_of(&self, reader: AnswerReader) -> Result<Order> {
        if reader != AnswerReader::Concat {
            return Ok(Order::BestFirst);
        }
        if let Some(order) = self.eval_order {
            return Ok(order);
        }
        let stages = self.stages()?;
        let last = stages.iter().rfind(|stage| stage.trains.generator);
        let ends = last.is_some_and(|stage| stage.passages == Passages::BothEnds);
        Ok(if ends { Order::BothEnds } else { Order::BestFirst })
    }

    /// The name of the reader whose answers are learnt from, where any are: `concat`, `mixture`, or both.
    pub fn training_reader(&self) -> Result<Option<&'static str>> {
        let needs: Vec<_> = self.stages()?.iter().map(|stage| stage.objective.needs()).collect();
        let concat = needs.iter().any(|needs| needs.concat || needs.leave_one_out || needs.attention);
        let mixture = needs.iter().any(|needs| needs.single_prompts);
        Ok(match (concat, mixture) {
            (true, true) => Some("concat and mixture"),
            (true, false) => Some("concat"),
            (false, true) => Some("mixture"),
            (false, false) => None,
        })
    }
}
