//! How quantities are written for people: one place, so that every table reads alike.

/// Seconds, with the precision that its size deserves: `0 s`, `12 µs`, `3.4 ms`, `2.31 s`, `75.2 s`, `4 min 05 s`, `2 h 03 min`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() {
        return seconds.to_string();
    }
    let size = seconds.abs();
    if size == 0.0 {
        "0 s".to_owned()
    } else if size < 0.999_5e-3 {
        format!("{:.0} µs", seconds * 1e6)
    } else if size < 0.999_5 {
        format!("{} ms", significant(seconds * 1e3))
    } else if size < 119.95 {
        format!("{} s", significant(seconds))
    } else if size < 3_599.5 {
        let whole = seconds.round() as i64;
        format!("{} min {:02} s", whole / 60, (whole % 60).abs())
    } else {
        let minutes = (seconds / 60.0).round() as i64;
        format!("{} h {:02} min", minutes / 60, (minutes % 60).abs())
    }
}

/// A count with three significant digits and a decimal prefix: `950`, `12.3 k`, `4.56 M`.
pub fn count(count: u64) -> String {
    if count < 1000 { count.to_string() } else { prefixed(count as f64, "", 1000.0) }
}

/// Bytes with a binary prefix: `512 B`, `1.50 KiB`, `2.25 GiB`.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    for prefix in ["Ki", "Mi", "Gi"] {
        if value < 1023.5 {
            return format!("{} {prefix}B", significant(value));
        }
        value /= 1024.0;
    }
    format!("{} TiB", significant(value))
}

/// Floating-point operations with an SI prefix: `0 FLOP`, `3.20 TFLOP`.
pub fn flops(flops: f64) -> String {
    prefixed(flops, "FLOP", 1000.0)
}

/// A share of 1 as per cent with one decimal: `12.3 %`.
pub fn share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A quantity per second with three significant digits: `52.1 passages/s`; `-` when no time passed.
pub fn rate(quantity: f64, seconds: f64, unit: &str) -> String {
    if seconds > 0.0 { format!("{} {unit}/s", significant(quantity / seconds)) } else { "-".to_owned() }
}

fn prefixed(value: f64, unit: &str, base: f64) -> String {
    if !value.is_finite() {
        return format!("{value} {unit}").trim_end().to_owned();
    }
    let (mut value, mut prefix) = (value, "");
    for next in ["k", "M", "G", "T", "P", "E", "Z"] {
        if value.abs() < base - 0.5 {
            break;
        }
        value /= base;
        prefix = next;
    }
    let number = if prefix.is_empty() && value.fract() == 0.0 { format!("{value}") } else { significant(value) };
    format!("{number} {prefix}{unit}").trim_end().to_owned()
}

/// Three significant digits for 1 <= |value| < 1000; whole numbers above.
fn significant(value: f64) -> String {
    let size = value.abs();
    let decimals = if size < 9.995 {
        2
    } else if size < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_read_naturally_and_never_round_to_sixty() {
        for (value, expected) in [
            (0.0, "0 s"),
            (0.000_012, "12 µs"),
            (0.003_4, "3.40 ms"),
            (0.999_6, "1.00 s"),
            (2.314, "2.31 s"),
            (75.24, "75.2 s"),
            (119.96, "2 min 00 s"),
            (245.0, "4 min 05 s"),
            (3_599.6, "1 h 00 min"),
            (7_380.0, "2 h 03 min"),
        ] {
            assert_eq!(seconds(value), expected, "{value}");
        }
    }

    #[test]
    fn prefixes_change_at_their_power() {
        assert_eq!(count(950), "950");
        assert_eq!(count(12_345), "12.3 k");
        assert_eq!(count(999_999), "1.00 M");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(1 << 20), "1.00 MiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(flops(0.0), "0 FLOP");
        assert_eq!(flops(3.2e12), "3.20 TFLOP");
        assert_eq!(share(0.1234), "12.3 %");
        assert_eq!(rate(521.0, 10.0, "passages"), "52.1 passages/s");
        assert_eq!(rate(5.0, 0.0, "passages"), "-");
    }
}
