//! A graph that finds too little, said when it is made.

use ragtune_index::{Corpus, Generation, GraphInfo};

use crate::error::Result;

/// Recall@10 below which a graph is worth a warning.
const POOR: f32 = 0.9;

/// Says so of a graph that was just made.
pub(super) fn announce(generation: &Generation) {
    if let Some(what) = generation.graph().and_then(|graph| poor(graph, generation.len())) {
        eprintln!("warning: {what}");
    }
}

/// Says so of the newest graph of an index, where that was just made.
pub(super) fn announce_newest(corpus: &Corpus) -> Result<()> {
    let newest = corpus.generations()?.pop();
    let graph = newest.as_ref().and_then(|newest| Some((newest.graph.as_ref()?, newest.len)));
    if let Some(what) = graph.and_then(|(graph, len)| poor(graph, len)) {
        eprintln!("warning: {what}");
    }
    Ok(())
}

fn poor(graph: &GraphInfo, passages: usize) -> Option<String> {
    if graph.recall_at_10 >= POOR {
        return None;
    }
    let (recall, probes, ef) = (100.0 * graph.recall_at_10, graph.probes, graph.ef);
    let mut text = format!("the graph finds {recall:.1} % of what exact search does ({probes} probes, `--ef {ef}`)");
    if graph.unreachable_relinked > 0 {
        text += &format!(
            "; its construction left {} of {passages} passages unreachable, as where many more passages resemble each other than \
             the {} that one of them is linked to",
            graph.unreachable_relinked,
            2 * graph.links
        );
    }
    Some(
        text + "\nhint: build it with more `--links` (for near copies 48) or a larger `--ef-construction`, or search with a larger \
                `--ef` or `--exact`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_poor_graph_is_warned_of_and_why_it_may_be_so() {
        let graph = |recall_at_10, unreachable_relinked| GraphInfo {
            recall_at_10,
            probes: 200,
            ef: 64,
            links: 16,
            ef_construction: 32,
            origin: "build".into(),
            built_recall_at_10: None,
            unreachable_relinked,
            bytes: 9,
        };
        assert_eq!(poor(&graph(0.95, 40), 100), None);
        let plain = poor(&graph(0.775, 0), 100).unwrap();
        assert!(
            plain.contains("77.5 %") && plain.contains("`--ef-construction`") && !plain.contains("unreachable"),
            "{plain}"
        );
        let islands = poor(&graph(0.5, 40), 100).unwrap();
        assert!(islands.contains("40 of 100 passages unreachable") && islands.contains("the 32 that one"), "{islands}");
    }
}
