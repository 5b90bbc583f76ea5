//! JSON with other values in it: what a fuzzer that replaces bytes seldom makes and a program with a mistake does.

use serde_json::{Value, json};

use crate::input::Input;

/// Changes up to four values, each somewhere.
pub(crate) fn bend(value: &mut Value, input: &mut Input<'_>) {
    for _ in 0..1 + input.below(4) {
        bend_one(value, input);
    }
}

fn bend_one(value: &mut Value, input: &mut Input<'_>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let at = input.below(fields.len());
            let Some(key) = fields.keys().nth(at).cloned() else { return };
            match input.byte() {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert(format!("{key}s"), json!(1))),
                2 => fields[&key] = odd(input),
                _ => bend_one(&mut fields[&key], input),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = input.below(items.len());
            match input.byte() {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                2 => items[at] = odd(input),
                _ => bend_one(&mut items[at], input),
            }
        }
        other => *other = odd(input),
    }
}

fn odd(input: &mut Input<'_>) -> Value {
    match input.below(20) {
        0 => json!(null),
        1 => json!(true),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(1),
        5 => json!(2),
        6 => json!(u64::MAX),
        7 => json!(u64::from(u32::MAX) + 1),
        8 => json!(1e39),
        9 => json!(f64::MAX),
        10 => json!(-0.0),
        11 => json!(0.1),
        12 => json!(""),
        13 => json!("../../etc"),
        14 => json!("x".repeat(300)),
        15 => json!("\u{0}\n\u{fffd}"),
        16 => json!([]),
        17 => json!({}),
        18 => json!([[1, {"a": null}]]),
        _ => json!(input.byte()),
    }
}
