//! Which passages matter most when only some are embedded anew.

use super::By;

/// What is known of one passage since the last time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its ordinal.
    pub ordinal: u32,
    /// How often it was read for a question.
    pub retrieved: u32,
    /// How often it was among the candidates of a question.
    pub near: u32,
    /// 1 - cosine of its stored and its live vector; 0 where no live one is known.
    pub drift: f32,
}

/// The first `most` passages in the order asked for; what ties is ordered by how often it was read, then how often it was
/// near, then by ordinal. Ordinals ascend.
pub fn choose(mut rows: Vec<Row>, by: By, most: usize) -> Vec<u32> {
    rows.sort_by(|a, b| {
        let first = match by {
            By::Retrieved => b.retrieved.cmp(&a.retrieved),
            By::Near => b.near.cmp(&a.near),
            By::Drifted => b.drift.total_cmp(&a.drift),
        };
        first.then(b.retrieved.cmp(&a.retrieved)).then(b.near.cmp(&a.near)).then(a.ordinal.cmp(&b.ordinal))
    });
    let mut chosen: Vec<u32> = rows.into_iter().take(most).map(|row| row.ordinal).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_order() {
        let row = |ordinal, retrieved, near, drift| Row { ordinal, retrieved, near, drift };
        let rows = vec![row(9, 0, 5, 0.1), row(2, 3, 3, 0.0), row(4, 3, 4, 0.3), row(7, 1, 9, 0.2), row(1, 0, 5, 0.1)];
        let table: [(By, usize, &[u32]); 7] = [
            (By::Retrieved, 1, &[4]),
            (By::Retrieved, 3, &[2, 4, 7]),
            (By::Near, 1, &[7]),
            (By::Near, 3, &[1, 7, 9]),
            (By::Near, 2, &[1, 7]),
            (By::Drifted, 2, &[4, 7]),
            (By::Drifted, 99, &[1, 2, 4, 7, 9]),
        ];
        for (by, most, expected) in table {
            assert_eq!(choose(rows.clone(), by, most), expected, "{by:?} {most}");
        }
    }
}
